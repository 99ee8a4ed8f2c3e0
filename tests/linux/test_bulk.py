"""A thousand routes at once are, message by message, what another library reads and writes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from socket import inet_ntop, inet_pton
from typing import Any

import pytest

if sys.platform != "linux":
    pytest.skip("netlink is Linux's", allow_module_level=True)

from hypothesis import given
from hypothesis import strategies as st
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from coentro.netops.linux import framing, routes
from coentro.netops.linux.bulk import TableReader, encode_routes
from coentro.netops.linux.routes import THROW, UNICAST, UNREACHABLE
from coentro.networks import AF, BITS, FAMILIES, SIZE, Family
from coentro.plan import Op, Packed

families: st.SearchStrategy[Family] = st.sampled_from(FAMILIES)
u32 = st.integers(0, 2**32 - 1)
kinds = st.sampled_from((UNICAST, UNREACHABLE, THROW))
Entries = dict[bytes, int]

TABLE, IFINDEX = 0x636F0001, 0x01020304


@st.composite
def tables(draw: st.DrawFn) -> tuple[Family, Entries]:
    family: Family = draw(families)
    address = st.binary(min_size=SIZE[family], max_size=SIZE[family])
    length = st.integers(0, BITS[family]).map(lambda n: bytes((n,)))
    keys = st.tuples(address, length).map(b"".join)
    return family, draw(st.dictionaries(keys, kinds, max_size=12))


def pack(family: Family, entries: Entries) -> bytes:
    return Packed.of(SIZE[family] + 1, entries).data


def decoded(chunk: bytes) -> list[Any]:
    """Each message as pyroute2 reads it."""
    found = []
    for offset, length in framing.iter_spans(chunk):
        message = rtmsg(chunk[offset : offset + length])
        message.decode()
        found.append(message)
    return found


@given(tables(), st.sampled_from(Op), u32, st.integers(1, 2**31 - 1), st.integers(1, 2**31))
def test_each_entry_is_one_message_with_all_marks_of_its_route(
    given_: tuple[Family, Entries], op: Op, table: int, ifindex: int, first: int
) -> None:
    family, entries = given_
    chunk = encode_routes(op, family, table, ifindex, pack(family, entries), first)
    told = decoded(chunk)
    assert len(told) == len(entries)
    kind, flags = {Op.ADD: (24, 0x601), Op.SET: (24, 0x501), Op.DELETE: (25, 0x1)}[op]
    for number, (message, key) in enumerate(zip(told, sorted(entries), strict=True)):
        route = entries[key]
        last = number == len(entries) - 1
        header = message["header"]
        assert (header["type"], header["flags"]) == (kind, flags | (4 if last else 0))
        assert header["sequence_number"] == first + number
        assert (message["family"], message["dst_len"], message["src_len"]) == (AF[family], key[-1], 0)
        assert (message["type"], message["scope"], message["tos"]) == (route, 0, 0)
        assert message["proto"] == (206 if route == UNICAST else 2)
        assert message.get_attr("RTA_TABLE") == table
        assert inet_pton(AF[family], message.get_attr("RTA_DST")) == key[:-1]
        nowhere = 1 if family == 6 and op is Op.DELETE else 0
        assert message.get_attr("RTA_OIF") == (ifindex if route == UNICAST else nowhere)
        assert message.get_attr("RTA_PRIORITY") == (1024 if family == 6 else None)


@pytest.mark.parametrize("data", [b"\x0a\0\0\0\x08", b"\x0a\0\0\0\x08\x02", b"\x0a\0\0\0\x08\x01\x01"])
def test_what_is_no_entry_of_a_table_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="not packed entries"):
        encode_routes(Op.ADD, 4, TABLE, IFINDEX, data, 1)


def theirs(family: Family, **changed: Any) -> bytes:
    """One route as pyroute2 writes it: a device route of ours, but for what is changed."""
    fields: dict[str, Any] = {
        "family": AF[family],
        "dst": {4: "10.0.0.0", 6: "2001:db8::"}[family],
        "dst_len": 32,
        "src_len": 0,
        "tos": 0,
        "table": 252,
        "proto": 206,
        "scope": 0,
        "type": UNICAST,
        "flags": 0,
        "RTA_TABLE": TABLE,
        "RTA_PRIORITY": 1024 if family == 6 else None,
        "RTA_OIF": IFINDEX,
        **changed,
    }
    message = rtmsg()
    message["header"]["type"] = routes.RTM_NEWROUTE
    for name in ("family", "dst_len", "src_len", "tos", "table", "proto", "scope", "type", "flags"):
        message[name] = fields[name]
    attrs = [("RTA_TABLE", fields["RTA_TABLE"]), ("RTA_DST", fields["dst"])]
    attrs += [(n, fields[n]) for n in fields if n.startswith("RTA_") and n != "RTA_TABLE"]
    message["attrs"] = [(name, value) for name, value in attrs if value is not None]
    message.encode()
    return framing.message(routes.RTM_NEWROUTE, 0, bytes(message.data)[16:] + fields.get("more", b""))


def spans(*datagrams: bytes) -> Iterator[tuple[bytes, int, int]]:
    for datagram in datagrams:
        for offset, length in framing.iter_spans(datagram):
            yield datagram, offset, length


def read(family: Family, *datagrams: bytes) -> tuple[Packed, list[routes.Route]]:
    reader = TableReader(family, TABLE, IFINDEX)
    reader.feed(spans(*datagrams))
    return reader.result()


@given(tables(), st.data())
def test_a_dump_in_any_order_is_the_table_again(given_: tuple[Family, Entries], data: st.DataObject) -> None:
    family, entries = given_
    dump = [
        theirs(
            family,
            # The kernel leaves RTA_DST out of a default route.
            dst=inet_ntop(AF[family], key[:-1]) if key[-1] or any(key[:-1]) else None,
            dst_len=key[-1],
            type=kind,
            proto=206 if kind == UNICAST else 2,
            RTA_OIF=IFINDEX if kind == UNICAST else 1 if family == 6 else None,
            # A device without a carrier: linkdown.
            flags=data.draw(st.sampled_from((0, 16))) if kind == UNICAST else 0,
        )
        for key, kind in data.draw(st.permutations(sorted(entries.items())))
    ]
    assert read(family, *dump, b"".join(dump)[:0]) == (Packed.of(SIZE[family] + 1, entries), [])


FOREIGN: dict[str, dict[str, Any]] = {
    "another protocol": {"proto": 4},
    "another device": {"RTA_OIF": IFINDEX + 1},
    "no device": {"RTA_OIF": None},
    "another metric": {"RTA_PRIORITY": 5},
    "link scope": {"scope": 253},
    "a type of service": {"tos": 8},
    "a gateway": {"RTA_GATEWAY": {4: "10.9.9.9", 6: "fe80::1"}},
    "a source": {"RTA_PREFSRC": {4: "10.9.9.9", 6: "fe80::1"}},
    # pyroute2's rtmsg does not know RTA_NH_ID.
    "a nexthop object": {"more": framing.attribute(routes.RTA_NH_ID, framing.U32.pack(7))},
    "an MTU": {"RTA_METRICS": {"attrs": [("RTAX_MTU", 1300)]}},
    "blackhole": {"type": 6, "proto": 2, "RTA_OIF": None},
    "throw of our device routes' protocol": {"type": THROW, "RTA_OIF": None},
    "throw with a device": {"type": THROW, "proto": 2},
    "the last resort": {"type": UNREACHABLE, "proto": 2, "RTA_OIF": 1, "RTA_PRIORITY": 4294967294},
}


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("what", FOREIGN)
def test_a_route_that_is_not_ours_to_the_last_mark_is_foreign(family: Family, what: str) -> None:
    changed = {
        name: value[family] if isinstance(value, dict) and family in value else value
        for name, value in FOREIGN[what].items()
    }
    dump = [theirs(family), theirs(family, **changed), theirs(family, dst_len=24)]
    ours, foreign = read(family, *dump)
    assert len(ours) == 2
    assert foreign == [routes.decode_route(dump[1][16:])]


def test_what_another_table_or_family_or_the_cache_has_is_not_told() -> None:
    elsewhere = [theirs(4, RTA_TABLE=254), theirs(6), theirs(4, flags=0x200), framing.message(3, 0, bytes(4))]
    assert read(4, *elsewhere) == (Packed(5, b""), [])


@given(st.binary(max_size=60), families)
def test_any_bytes_in_a_dump_are_read_or_malformed(junk: bytes, family: Family) -> None:
    whole = theirs(family)
    for cut, _ in pairwise((*range(16, len(whole), 5), len(whole))):
        data = framing.message(routes.RTM_NEWROUTE, 0, whole[16:cut] + junk)
        with suppress(framing.Malformed):
            read(family, whole, data)

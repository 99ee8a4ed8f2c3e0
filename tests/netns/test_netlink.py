"""The request socket on the real kernel: what is refused, lost, forged or interrupted."""

from __future__ import annotations

import errno
import json
import socket
import struct
from collections.abc import Iterator
from typing import Any

import pytest

from coentro.netops.linux import framing, host, messages, routes
from coentro.netops.linux.bulk import TableReader
from coentro.netops.linux.netlink import DUMP_TRIES, Interrupted, Netlink, Overrun, Span
from coentro.netops.linux.routes import THROW, UNICAST, UNREACHABLE
from coentro.networks import FAMILIES, SIZE, Family, Network, network
from coentro.plan import Op, Packed
from tests import sandbox

TABLE = 0x636F0001
OTHER = 0x636F0002


@pytest.fixture
def netlink() -> Iterator[Netlink]:
    with Netlink() as opened:
        yield opened


@pytest.fixture
def device() -> int:
    """The index of a device that is up."""
    sandbox.veth("e0", "e1")
    return socket.if_nametoindex("e0")


def ip(*argv: str) -> Any:
    output = sandbox.run("ip", "-j", "-d", *argv, check=False).stdout
    return json.loads(output) if output.strip() not in ("", "[") else []


def shown(family: Family, table: int = TABLE) -> dict[str, tuple[str, str, str | None]]:
    """A table as iproute2 tells it: destination -> (type, protocol, device)."""
    return {
        r["dst"]: (r.get("type", "unicast"), r["protocol"], r.get("dev"))
        for r in ip(f"-{family}", "route", "show", "table", str(table))
    }


def many(family: Family, count: int, kinds: tuple[int, ...] = (UNICAST,)) -> Packed:
    """Neighbouring networks, the kinds in turn."""
    base = {4: 10 << 24, 6: 0x20010DB8 << 96}[family]
    size, length = SIZE[family], {4: 24, 6: 64}[family]
    step = 1 << size * 8 - length
    keys = ((base + i * step).to_bytes(size, "big") + bytes((length,)) for i in range(count))
    return Packed.of(size + 1, {key: kinds[i % len(kinds)] for i, key in enumerate(keys)})


def put(netlink: Netlink, op: Op, family: Family, ifindex: int, table: Packed) -> list[tuple[int, int]]:
    """All entries in chunks, as `apply` does."""
    width, failed = table.width + 1, []
    for start in range(0, len(table), netlink.chunk):
        chunk = table.data[start * width : (start + netlink.chunk) * width]
        failed += [(start + i, e) for i, e in netlink.routes(op, family, TABLE, ifindex, chunk)]
    return failed


@pytest.mark.parametrize("family", FAMILIES)
def test_entries_become_routes_with_the_marks_of_their_kind(
    netlink: Netlink, device: int, family: Family
) -> None:
    width = SIZE[family] + 1
    everything = bytes(width)
    table = many(family, 2500, (UNICAST, THROW, UNREACHABLE)).merge(Packed.of(width, {everything: UNICAST}))
    assert put(netlink, Op.ADD, family, device, table) == []
    marks: dict[int, tuple[str, str, str | None]] = {UNICAST: ("unicast", "206", "e0")}
    nowhere = "lo" if family == 6 else None
    marks |= {k: (routes.KIND_NAMES[k], "kernel", nowhere) for k in (THROW, UNREACHABLE)}
    expected = {str(Network(e[:-2], e[-2])): marks[e[-1]] for e in table.entries()}
    expected["default"] = expected.pop(str(Network(everything[:-1], 0)))
    assert shown(family) == expected
    raw = ip(f"-{family}", "route", "show", "table", str(TABLE))
    if family == 4:
        assert {r["scope"] for r in raw} == {"global"}
        assert not any("metric" in r for r in raw)
    else:
        assert {r["metric"] for r in raw} == {1024}
    assert put(netlink, Op.DELETE, family, device, table) == []
    assert shown(family) == {}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_replacement_turns_a_route_into_the_other_kind_and_back(
    netlink: Netlink, device: int, family: Family
) -> None:
    there, back = (many(family, 3, (kind,)) for kind in (UNICAST, THROW))
    put(netlink, Op.ADD, family, device, there)
    for table, kind in ((back, "throw"), (there, "unicast")):
        assert put(netlink, Op.SET, family, device, table) == []
        assert {told[0] for told in shown(family).values()} == {kind}
        assert len(shown(family)) == 3


@pytest.mark.parametrize("family", FAMILIES)
def test_an_error_names_its_entry_and_the_others_are_done(
    netlink: Netlink, device: int, family: Family
) -> None:
    table = many(family, 2200)
    taken = [0, 999, 1000, 1777, 2199]
    entries = list(table.entries())
    foreign = Packed(table.width, b"".join(entries[i][:-1] + bytes((UNREACHABLE,)) for i in taken))
    assert put(netlink, Op.ADD, family, device, foreign) == []
    assert put(netlink, Op.ADD, family, device, table) == [(i, errno.EEXIST) for i in taken]
    assert len(shown(family)) == 2200


def test_a_whole_chunk_may_fail_and_every_error_arrives(netlink: Netlink, device: int) -> None:
    table = many(4, netlink.chunk)
    assert put(netlink, Op.DELETE, 4, device, table) == [(i, errno.ESRCH) for i in range(netlink.chunk)]


FOREIGN = {
    4: (
        "10.0.0.0/24 dev e0 proto static scope global metric 7",
        "10.0.0.0/24 dev e1 proto 206 scope global metric 8",
        "unreachable 10.0.0.0/24 proto kernel metric 9",
    ),
    6: (
        "2001:db8::/64 dev e0 proto static metric 1024",
        "2001:db8::/64 dev e0 proto kernel metric 1024",
        "2001:db8::/64 dev e1 proto 206 metric 1024",
        "2001:db8::/64 dev e0 proto 206 metric 5",
        "throw 2001:db8::/64 proto kernel metric 5",
    ),
}


@pytest.mark.parametrize("kind", [UNICAST, THROW])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_delete_takes_no_route_that_lacks_one_of_our_marks(
    netlink: Netlink, device: int, family: Family, kind: int
) -> None:
    for route in FOREIGN[family]:
        sandbox.run("ip", f"-{family}", "route", "flush", "table", str(TABLE), check=False)
        sandbox.run("ip", f"-{family}", "route", "add", *route.split(), "table", str(TABLE))
        before = ip(f"-{family}", "route", "show", "table", str(TABLE))
        assert put(netlink, Op.DELETE, family, device, many(family, 1, (kind,))) == [(0, errno.ESRCH)], route
        assert ip(f"-{family}", "route", "show", "table", str(TABLE)) == before


@pytest.mark.parametrize("family", FAMILIES)
def test_the_last_resort_stands_behind_a_default_route_and_goes_alone(
    netlink: Netlink, device: int, family: Family
) -> None:
    default = Packed.of(SIZE[family] + 1, {bytes(SIZE[family] + 1): UNICAST})
    last = routes.last_resort(family, TABLE)
    netlink.request(routes.encode_route(Op.ADD, last))
    assert put(netlink, Op.ADD, family, device, default) == []
    told = ip(f"-{family}", "route", "show", "table", str(TABLE))
    assert [(r["type"], r.get("metric", 0)) for r in told] == [
        ("unicast", routes.DEFAULT_METRIC[family]),
        ("unreachable", 4294967294),
    ]
    netlink.request(routes.encode_route(Op.DELETE, last))
    assert [r["type"] for r in ip(f"-{family}", "route", "show", "table", str(TABLE))] == ["unicast"]


def test_a_gateway_without_a_device_does_not_resolve_through_a_tunnels_routes(
    netlink: Netlink, device: int
) -> None:
    sandbox.run("ip", "address", "add", "192.168.5.2/24", "dev", "e1")
    entries = {network("192.168.5.0/24").packed: THROW, bytes(5): UNICAST}
    assert put(netlink, Op.ADD, 4, device, Packed.of(5, entries)) == []
    netlink.request(messages.encode_rule_add(4, 10100, TABLE))
    sandbox.run("ip", "route", "add", "203.0.113.0/24", "via", "192.168.5.1")
    (added,) = ip("-4", "route", "show", "203.0.113.0/24")
    assert added["dev"] == "e1"


def test_a_refusal_has_the_kernels_errno_and_words(netlink: Netlink) -> None:
    with pytest.raises(OSError, match=r"No such device") as refusal:
        netlink.request(messages.encode_link_set(77, up=True))
    assert refusal.value.errno == errno.ENODEV
    lo = socket.if_nametoindex("lo")
    with pytest.raises(OSError, match=r"Invalid argument: .*mtu") as refusal:
        netlink.request(messages.encode_link_set(lo, mtu=0xFFFFFFFF))
    assert refusal.value.errno == errno.EINVAL


def test_a_batch_tells_which_of_its_requests_failed_and_does_the_others(netlink: Netlink) -> None:
    rules = [messages.encode_rule_add(4, 10100 + i, TABLE) for i in range(5)]
    assert netlink.batch([rules[1], rules[3]]) == []
    assert netlink.batch(rules) == [(1, errno.EEXIST), (3, errno.EEXIST)]
    ours = [r.priority for r in host.rules(netlink) if r.table == TABLE]
    assert ours == [10100, 10101, 10102, 10103, 10104]
    assert netlink.batch([]) == []


def test_a_batch_longer_than_a_chunk_counts_on(device: int) -> None:
    with Netlink(receive_bytes=4096) as small:
        assert small.chunk < 20
        rules = [messages.encode_rule_add(6, 10100 + i, TABLE) for i in range(50)]
        assert small.batch([rules[41]]) == []
        assert small.batch(rules) == [(41, errno.EEXIST)]
        table = many(4, small.chunk)
        assert put(small, Op.DELETE, 4, device, table) == [(i, errno.ESRCH) for i in range(small.chunk)]
        with pytest.raises(ValueError, match="in a chunk of"):
            small.routes(Op.ADD, 4, TABLE, device, many(4, small.chunk + 1).data)


def test_what_succeeds_is_answered_once_for_all(netlink: Netlink, device: int) -> None:
    netlink.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)  # no room for a second answer or third
    assert put(netlink, Op.ADD, 4, device, many(4, 900)) == []
    assert netlink.batch([messages.encode_rule_add(4, 10100 + i, TABLE) for i in range(300)]) == []


def test_lost_answers_are_said_and_what_was_asked_is_done_all_the_same(netlink: Netlink, device: int) -> None:
    table = many(4, 900)
    half = Packed(5, table.data[: 450 * 6])
    put(netlink, Op.ADD, 4, device, half)
    netlink.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)  # the kernel's smallest
    with pytest.raises(Overrun):
        put(netlink, Op.ADD, 4, device, table)
    # The socket is none the worse, and its next answer is the next question's.
    assert host.packed_table(netlink, 4, TABLE, device) == (table, [])
    assert netlink.batch([messages.encode_rule_add(4, 10100, TABLE)]) == []


def test_an_answer_that_never_comes_does_not_hold_the_thread_for_ever(netlink: Netlink) -> None:
    netlink.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", 0, 10_000))
    rule = messages.encode_rule_add(4, 10100, TABLE)
    silent = framing.message(messages.RTM_NEWRULE, framing.NLM_F_CREATE, rule[16:])
    with pytest.raises(Overrun, match="no answer"):
        netlink.request(silent)
    assert [r.priority for r in host.rules(netlink) if r.table == TABLE] == [10100]


def test_what_is_refused_is_counted_over_the_end_of_the_sequence_numbers(
    netlink: Netlink, device: int
) -> None:
    table = many(4, 10)
    netlink._next = 2**32 - 5
    assert put(netlink, Op.DELETE, 4, device, table) == [(i, errno.ESRCH) for i in range(10)]
    netlink._next = 2**32 - 10
    assert put(netlink, Op.DELETE, 4, device, table) == [(i, errno.ESRCH) for i in range(10)]


def test_what_another_process_sends_is_no_answer(netlink: Netlink) -> None:
    port, _ = netlink.sock.getsockname()
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as forger:
        forger.bind((0, 0))
        for sequence in range(netlink._next, netlink._next + 3):
            refusal = framing.I32.pack(-errno.EPERM) + bytes(16)
            forger.sendto(framing.message(framing.NLMSG_ERROR, 0, refusal, sequence), (port, 0))
        assert netlink.batch([messages.encode_rule_add(4, 10100, TABLE)]) == []
        netlink.request(messages.encode_rule_delete(4, 10100, TABLE))
        assert host.links(netlink)[0].name == "lo"


def test_the_kernel_itself_leaves_out_what_was_not_asked_for(netlink: Netlink, device: int) -> None:
    put(netlink, Op.ADD, 4, device, many(4, 5, (UNICAST, THROW)))
    netlink.request(routes.encode_route(Op.ADD, routes.last_resort(4, OTHER)))
    for request, count in (
        (routes.encode_route_dump(4, TABLE), 5),
        (routes.encode_route_dump(4, OTHER), 1),
        (routes.encode_route_dump(4, TABLE, kind=THROW), 2),
        (routes.encode_route_dump(4, protocol=206), 3),
    ):
        flags = [f for f, _ in _flags(netlink, request)]
        assert len(flags) == count
        assert all(f & framing.NLM_F_DUMP_FILTERED for f in flags)


def _flags(netlink: Netlink, request: bytes) -> list[tuple[int, int]]:
    def collect(spans: Iterator[Span]) -> list[tuple[int, int]]:
        return [(framing.HEADER.unpack_from(b, at)[2], size) for b, at, size in spans]

    return netlink.read(request, collect)


def test_a_table_that_does_not_exist_is_told_as_an_error(netlink: Netlink) -> None:
    for family in FAMILIES:
        with pytest.raises(FileNotFoundError):
            netlink.dump(routes.encode_route_dump(family, 12345))


def add_addresses(netlink: Netlink, device: int, first: int, count: int) -> None:
    numbers = range(first, first + count)
    added = (messages.encode_address_add(device, (10 << 24 | n).to_bytes(4, "big"), 32) for n in numbers)
    assert netlink.batch(list(added)) == []


def test_a_list_that_changed_while_it_was_read_is_read_again(netlink: Netlink, device: int) -> None:
    add_addresses(netlink, device, 1, 1500)
    times = 0
    with Netlink() as other:

        def consume(spans: Iterator[Span]) -> int:
            nonlocal times
            times += 1
            next(spans)
            if times == 1:
                add_addresses(other, device, 5000, 1)
            return 1 + sum(1 for _ in spans)

        assert netlink.read(messages.encode_address_dump(4), consume) == 1502  # with that of lo
    assert times == 2


def test_a_list_that_never_stands_still_is_given_up(netlink: Netlink, device: int) -> None:
    add_addresses(netlink, device, 1, 1500)
    times = 0
    with Netlink() as other:

        def consume(spans: Iterator[Span]) -> None:
            nonlocal times
            times += 1
            next(spans)
            add_addresses(other, device, 5000 + times, 1)
            for _ in spans:
                pass

        with pytest.raises(Interrupted):
            netlink.read(messages.encode_address_dump(4), consume)
    assert times == DUMP_TRIES
    assert len(host.addresses(netlink, device)) >= 1500


def test_a_reader_that_fails_half_way_leaves_the_socket_usable(netlink: Netlink, device: int) -> None:
    put(netlink, Op.ADD, 4, device, many(4, 3000))

    def consume(spans: Iterator[Span]) -> TableReader:
        next(spans)
        raise LookupError

    with pytest.raises(LookupError):
        netlink.read(routes.encode_route_dump(4, TABLE), consume)
    assert len(host.packed_table(netlink, 4, TABLE, device)[0]) == 3000


def test_addresses_make_no_route_in_main_and_need_no_detection(netlink: Netlink, device: int) -> None:
    for text in ("10.1.2.3/24", "2001:db8::3/64"):
        address, _, length = text.partition("/")
        packed = network(text).address
        netlink.request(messages.encode_address_add(device, packed, int(length)))
        with pytest.raises(FileExistsError):
            netlink.request(messages.encode_address_add(device, packed, int(length)))
        family = 6 if ":" in text else 4
        (told,) = [
            a
            for link in ip("address", "show", "dev", "e0")
            for a in link["addr_info"]
            if a["local"] == address
        ]
        assert told["noprefixroute"]
        assert "tentative" not in told
        assert told["prefixlen"] == int(length)
        main = [r for r in ip(f"-{family}", "route", "show", "table", "main") if r["dst"] != "fe80::/64"]
        assert main == []
        netlink.request(messages.encode_address_delete(device, packed, int(length)))
        with pytest.raises(OSError, match="Cannot assign"):
            netlink.request(messages.encode_address_delete(device, packed, int(length)))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_rule_carries_protocol_kernel_and_its_delete_spares_anothers(
    netlink: Netlink, family: Family
) -> None:
    netlink.request(messages.encode_rule_add(family, 10100, TABLE))
    (told,) = [r for r in ip(f"-{family}", "rule", "show") if r["priority"] == 10100]
    assert told == {"priority": 10100, "src": "all", "table": str(TABLE), "protocol": "kernel"}
    with pytest.raises(FileExistsError):
        netlink.request(messages.encode_rule_add(family, 10100, TABLE))
    netlink.request(messages.encode_rule_delete(family, 10100, TABLE))
    for foreign in (
        f"pref 10100 lookup {TABLE} protocol static",
        f"pref 10101 lookup {TABLE} protocol kernel",
        f"pref 10100 lookup {OTHER} protocol kernel",
        "pref 10100 unreachable protocol kernel",
    ):
        sandbox.run("ip", f"-{family}", "rule", "add", *foreign.split())
        with pytest.raises(FileNotFoundError):
            netlink.request(messages.encode_rule_delete(family, 10100, TABLE))
        sandbox.run("ip", f"-{family}", "rule", "del", *foreign.split())


def test_a_link_is_renamed_by_alias_resized_raised_lowered_and_removed(netlink: Netlink, device: int) -> None:
    netlink.request(messages.encode_link_set(device, mtu=1420, alias="coentro:abc", up=False))
    (told,) = ip("link", "show", "dev", "e0")
    assert (told["mtu"], told["ifalias"], "UP" in told["flags"]) == (1420, "coentro:abc", False)
    netlink.request(messages.encode_link_set(device, mtu=1300))
    (told,) = ip("link", "show", "dev", "e0")
    assert (told["mtu"], told["ifalias"], "UP" in told["flags"]) == (1300, "coentro:abc", False)
    netlink.request(messages.encode_link_addr_gen(device))
    netlink.request(messages.encode_link_set(device, up=True, alias=""))
    (told,) = ip("link", "show", "dev", "e0")
    assert "ifalias" not in told
    assert "UP" in told["flags"]
    assert told["inet6_addr_gen_mode"] == "none"
    assert [a for a in host.addresses(netlink, device) if a.family == 6] == []
    netlink.request(messages.encode_link_delete(device))
    assert [link["ifname"] for link in ip("link", "show")] == ["lo"]

"""The netlink codec against pyroute2's: what one writes the other reads, and junk is only Malformed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address
from socket import AF_BRIDGE, AF_INET, AF_INET6
from typing import Any

import pytest

if sys.platform != "linux":
    pytest.skip("netlink is Linux's", allow_module_level=True)

from hypothesis import given
from hypothesis import strategies as st
from pyroute2.netlink.rtnl.fibmsg import fibmsg
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from coentro.netops.interface import Stats
from coentro.netops.linux import framing, messages, routes
from coentro.netops.linux.messages import Address, Link, Rule
from coentro.netops.linux.routes import Hop, Route
from coentro.networks import AF, BITS, FAMILIES, SIZE, Family, Network
from coentro.plan import Op

u8 = st.integers(0, 2**8 - 1)
u32 = st.integers(0, 2**32 - 1)
u64 = st.integers(0, 2**64 - 1)
index = st.integers(1, 2**31 - 1)
families: st.SearchStrategy[Family] = st.sampled_from(FAMILIES)
names = st.text("abcdefghijklmnopqrstuvwxyz0123456789-", min_size=1, max_size=15)


def addresses(family: Family) -> st.SearchStrategy[bytes]:
    return st.binary(min_size=SIZE[family], max_size=SIZE[family])


def text(address: bytes) -> str:
    """The other library's own writing of an address."""
    return str(IPv4Address(address) if len(address) == 4 else IPv6Address(address))


def packed(written: str) -> bytes:
    return (IPv6Address if ":" in written else IPv4Address)(written).packed


def theirs(cls: type[Any], kind: int, **fields: Any) -> bytes:
    """The payload of a message as pyroute2 writes it."""
    message = cls()
    message["header"]["type"] = kind
    written = fields.pop("attrs")
    for name, value in fields.items():
        message[name] = value
    message["attrs"] = [(name, value) for name, value in written if value is not None]
    message.encode()
    ((told, _, _, _, payload),) = framing.iter_messages(bytes(message.data))
    assert told == kind
    return payload


def read(cls: type[Any], ours: bytes) -> Any:
    """Our message as pyroute2 reads it."""
    message = cls(ours)
    message.decode()
    assert message["header"]["length"] == len(ours)
    return message


def attrs(message: Any) -> list[tuple[str, Any]]:
    return [(slot[0], slot[1]) for slot in message["attrs"]]


@given(index, names, names, u32, st.booleans(), st.booleans(), st.booleans(), st.tuples(u64, u64, u64, u64))
def test_a_link_is_read_as_written_by_another_library(
    number: int,
    name: str,
    alias: str,
    mtu: int,
    up: bool,
    running: bool,
    loopback: bool,
    counters: tuple[int, int, int, int],
) -> None:
    fields = ("rx_packets", "tx_packets", "rx_bytes", "tx_bytes")
    payload = theirs(
        ifinfmsg,
        messages.RTM_NEWLINK,
        index=number,
        ifi_type=0xFFFE,
        flags=0x1 * up | 0x8 * loopback | 0x10000 * running | 0x1000,
        attrs=[
            ("IFLA_IFNAME", name),
            ("IFLA_TXQLEN", 500),
            ("IFLA_MTU", mtu),
            ("IFLA_IFALIAS", alias),
            ("IFLA_LINKINFO", {"attrs": [("IFLA_INFO_KIND", "tun")]}),
            ("IFLA_STATS64", dict(zip(fields, counters, strict=True))),
        ],
    )
    packets_in, packets_out, bytes_in, bytes_out = counters
    assert messages.decode_link(payload) == Link(
        number,
        name,
        alias,
        mtu,
        up,
        running,
        loopback,
        "tun",
        Stats(bytes_in, bytes_out, packets_in, packets_out),
        hardware=0xFFFE,
    )


def test_news_of_a_bridges_port_is_told_from_news_of_the_device() -> None:
    payload = theirs(ifinfmsg, messages.RTM_DELLINK, family=AF_BRIDGE, index=3, attrs=[("IFLA_IFNAME", "p0")])
    assert messages.decode_link(payload).family == AF_BRIDGE


def test_a_name_that_is_not_utf_8_can_still_be_written_as_json() -> None:
    body = framing.attribute(messages.IFLA_IFNAME, b"t\xff0\0")
    assert messages.decode_link(bytes(16) + body).name == "t\\xff0"


@given(index, st.none() | st.booleans(), st.none() | u32, st.none() | names)
def test_what_is_set_of_a_link_is_that_and_no_more(
    number: int, up: bool | None, mtu: int | None, alias: str | None
) -> None:
    message = read(ifinfmsg, messages.encode_link_set(number, up=up, mtu=mtu, alias=alias))
    assert message["header"]["type"] == messages.RTM_NEWLINK
    assert message["header"]["flags"] == framing.NLM_F_REQUEST | framing.NLM_F_ACK
    assert message["index"] == number
    assert (message["flags"], message["change"]) == ((0, 0) if up is None else (int(up), 1))
    asked = [("IFLA_MTU", mtu), ("IFLA_IFALIAS", alias)]
    assert attrs(message) == [(n, v) for n, v in asked if v is not None]


def test_no_link_local_address_is_asked_for_in_a_nest_per_family() -> None:
    message = read(ifinfmsg, messages.encode_link_addr_gen(7))
    inet6 = message.get_attr("IFLA_AF_SPEC").get_attr("AF_INET6")
    assert attrs(inet6) == [("IFLA_INET6_ADDR_GEN_MODE", 1)]
    assert (message["index"], message["change"]) == (7, 0)


@given(st.data(), families, index, u8)
def test_an_address_is_read_as_written_by_another_library(
    data: st.DataObject, family: Family, number: int, scope: int
) -> None:
    near, far = data.draw(addresses(family)), data.draw(st.none() | addresses(family))
    length = data.draw(st.integers(0, BITS[family]))
    flags = data.draw(u32)
    only_address = family == 6 and far is None
    payload = theirs(
        ifaddrmsg,
        messages.RTM_NEWADDR,
        family=AF[family],
        prefixlen=length,
        flags=flags & 0xFF,
        scope=scope,
        index=number,
        attrs=[
            ("IFA_ADDRESS", text(far or near)),
            ("IFA_LOCAL", None if only_address else text(near)),
            ("IFA_FLAGS", flags),
        ],
    )
    peer = None if far == near else far
    assert messages.decode_address(payload) == Address(number, family, near, length, flags, scope, peer)


@given(st.data(), families, index)
def test_an_address_is_written_without_a_route_of_its_prefix(
    data: st.DataObject, family: Family, number: int
) -> None:
    address = data.draw(addresses(family))
    length = data.draw(st.integers(1, BITS[family]))
    message = read(ifaddrmsg, messages.encode_address_add(number, address, length))
    assert message["header"]["flags"] == 0x605  # REQUEST, ACK, CREATE, EXCL
    assert (message["family"], message["index"], message["prefixlen"]) == (AF[family], number, length)
    assert packed(message.get_attr("IFA_LOCAL")) == packed(message.get_attr("IFA_ADDRESS")) == address
    assert message.get_attr("IFA_FLAGS") == (0x200 if family == 4 else 0x202)
    gone = read(ifaddrmsg, messages.encode_address_delete(number, address, length))
    assert gone["header"]["type"] == messages.RTM_DELADDR
    assert (gone["family"], gone["index"], gone["prefixlen"]) == (AF[family], number, length)
    assert packed(gone.get_attr("IFA_LOCAL")) == address


SELECTORS: dict[str, dict[str, Any]] = {
    "plain": {},
    "to": {"dst_len": 8, "attrs": [("FRA_DST", "10.0.0.0")]},
    "from": {"src_len": 8, "attrs": [("FRA_SRC", "10.0.0.0")]},
    "tos": {"tos": 8},
    "not": {"flags": 2},
    "mark": {"attrs": [("FRA_FWMARK", 1), ("FRA_FWMASK", 1)]},
    "iif": {"attrs": [("FRA_IIFNAME", "lo")]},
    "oif": {"attrs": [("FRA_OIFNAME", "lo")]},
    "suppressed": {"attrs": [("FRA_SUPPRESS_PREFIXLEN", 0)]},
    "uids": {"attrs": [("FRA_UID_RANGE", "0:5")]},
    "protocol": {"attrs": [("FRA_IP_PROTO", 17)]},
}


@pytest.mark.parametrize("selector", SELECTORS)
def test_a_rule_with_any_selector_is_not_plain(selector: str) -> None:
    fields = dict(SELECTORS[selector])
    noise = [
        ("FRA_TABLE", 0x636F0001),
        ("FRA_PRIORITY", 10100),
        ("FRA_PROTOCOL", 2),
        ("FRA_SUPPRESS_PREFIXLEN", 0xFFFFFFFF),
    ]
    told = noise + fields.pop("attrs", [])
    payload = theirs(fibmsg, messages.RTM_NEWRULE, family=AF_INET, table=252, action=1, attrs=told, **fields)
    assert messages.decode_rule(payload) == Rule(4, 10100, 0x636F0001, 2, 1, selector == "plain")


def test_a_rule_without_attributes_has_priority_0_and_the_headers_table() -> None:
    payload = theirs(fibmsg, messages.RTM_NEWRULE, family=AF_INET6, table=255, action=1, attrs=[])
    assert messages.decode_rule(payload) == Rule(6, 0, 255, 0, 1, True)


@given(families, u32, u32)
def test_a_rule_is_written_as_its_table_for_every_packet(family: Family, priority: int, table: int) -> None:
    added = messages.encode_rule_add(family, priority, table)
    message = read(fibmsg, added)
    assert message["header"]["flags"] == 0x605
    assert (message["family"], message["action"]) == (AF[family], 1)
    assert attrs(message) == [("FRA_PRIORITY", priority), ("FRA_TABLE", table), ("FRA_PROTOCOL", 2)]
    gone = read(fibmsg, messages.encode_rule_delete(family, priority, table))
    assert gone["header"]["type"] == messages.RTM_DELRULE
    assert (gone["action"], attrs(gone)) == (1, attrs(message))
    assert messages.decode_rule(added[16:]) == Rule(family, priority, table, 2, 1, True)


@st.composite
def any_routes(draw: st.DrawFn) -> Route:
    family: Family = draw(families)
    some = addresses(family)
    return Route(
        family,
        draw(u32),
        Network(draw(some), draw(st.integers(0, BITS[family]))),
        draw(st.sampled_from((1, 2, 6, 7, 8, 9))),
        draw(u8),
        draw(u8),
        draw(st.integers(0, 2**31 - 1)),
        draw(st.none() | some),
        draw(u32),
        draw(st.none() | some),
        draw(st.builds(tuple, st.lists(st.builds(Hop, index, st.none() | some), max_size=3))),
        draw(u32),
        draw(u8),
        draw(st.integers(0, BITS[family])),
        draw(u32),
    )


@given(any_routes())
def test_a_route_is_read_as_written_by_another_library(route: Route) -> None:
    hops = [
        {"oif": hop.oif, "hops": 0, "attrs": [("RTA_GATEWAY", text(hop.gateway))] if hop.gateway else []}
        for hop in route.hops
    ]
    payload = theirs(
        rtmsg,
        routes.RTM_NEWROUTE,
        family=AF[route.family],
        dst_len=route.destination.length,
        src_len=route.source_length,
        tos=route.tos,
        table=252,
        proto=route.protocol,
        scope=route.scope,
        type=route.kind,
        flags=route.flags,
        attrs=[
            ("RTA_TABLE", route.table),
            ("RTA_DST", text(route.destination.address)),
            ("RTA_PRIORITY", route.metric or None),
            ("RTA_PREFSRC", route.source and text(route.source)),
            ("RTA_METRICS", {"attrs": [("RTAX_MTU", 1400)]}),
            ("RTA_GATEWAY", route.gateway and text(route.gateway)),
            ("RTA_OIF", route.oif or None),
            ("RTA_MULTIPATH", hops or None),
        ],
    )
    if route.nexthop:  # which pyroute2's rtmsg does not know
        payload += framing.attribute(routes.RTA_NH_ID, framing.U32.pack(route.nexthop))
    assert routes.decode_route(payload) == route


def test_a_gateway_may_be_of_the_other_family() -> None:
    via = framing.attribute(routes.RTA_VIA, AF_INET6.to_bytes(2, sys.byteorder) + packed("fe80::1"))
    route = routes.decode_route(routes.RTMSG.pack(AF_INET, 0, 0, 0, 254, 3, 0, 1, 0) + via)
    assert route.gateway == packed("fe80::1")


@given(any_routes(), st.sampled_from(Op))
def test_a_route_is_written_with_its_exact_metric_and_device(route: Route, op: Op) -> None:
    message = read(rtmsg, routes.encode_route(op, route))
    kind, flags = {Op.ADD: (24, 0x605), Op.SET: (24, 0x505), Op.DELETE: (25, 0x5)}[op]
    assert (message["header"]["type"], message["header"]["flags"]) == (kind, flags)
    assert (message["family"], message["dst_len"]) == (AF[route.family], route.destination.length)
    assert (message["tos"], message["table"], message["src_len"]) == (route.tos, 0, 0)
    assert (message["proto"], message["scope"], message["type"]) == (route.protocol, route.scope, route.kind)
    assert message.get_attr("RTA_TABLE") == route.table
    assert packed(message.get_attr("RTA_DST")) == route.destination.address
    assert (message.get_attr("RTA_OIF") or 0) == route.oif
    assert (message.get_attr("RTA_PRIORITY") or 0) == (route.metric or {4: 0, 6: 1024}[route.family])
    for name, value in (("RTA_GATEWAY", route.gateway), ("RTA_PREFSRC", route.source)):
        written = message.get_attr(name)
        assert (None if written is None else packed(written)) == value


@given(families, st.none() | u32, st.none() | u8, st.none() | u8)
def test_a_dump_asks_the_kernel_to_choose(
    family: Family, table: int | None, kind: int | None, protocol: int | None
) -> None:
    message = read(rtmsg, routes.encode_route_dump(family, table, kind, protocol))
    assert message["header"]["flags"] == 0x301
    assert (message["type"], message["proto"], message["scope"]) == (kind or 0, protocol or 0, 0)
    assert message.get_attr("RTA_TABLE") == table


DECODERS: tuple[Callable[[bytes], object], ...] = (
    messages.decode_link,
    messages.decode_address,
    messages.decode_rule,
    routes.decode_route,
    framing.error_code,
    lambda data: framing.error_text(0x300, data),
    lambda data: list(framing.iter_messages(data)),
)
real = [
    theirs(ifinfmsg, 16, index=3, attrs=[("IFLA_IFNAME", "t0"), ("IFLA_LINKINFO", {"attrs": []})]),
    messages.encode_address_add(3, bytes(16), 64)[16:],
    messages.encode_rule_add(4, 1, 2)[16:],
    theirs(
        rtmsg,
        24,
        family=AF_INET,
        attrs=[
            ("RTA_GATEWAY", "10.0.0.1"),
            ("RTA_MULTIPATH", [{"oif": 3, "hops": 0, "attrs": [("RTA_GATEWAY", "10.0.0.1")]}]),
        ],
    ),
]


@given(st.data(), st.sampled_from(DECODERS))
def test_any_bytes_are_read_or_malformed(data: st.DataObject, decode: Callable[[bytes], object]) -> None:
    payload = bytearray(data.draw(st.binary(max_size=120) | st.sampled_from(real)))
    for place in data.draw(st.lists(st.integers(0, max(0, len(payload) - 1)), max_size=4)):
        payload[place : place + 1] = data.draw(st.binary(max_size=2))
    with suppress(framing.Malformed):
        decode(bytes(payload))


@given(st.lists(st.tuples(st.integers(16, 200), st.binary(max_size=20)), max_size=5), u32)
def test_messages_of_one_datagram_are_told_apart(sent: list[tuple[int, bytes]], sequence: int) -> None:
    datagram = b""
    for kind, body in sent:
        one = framing.message(kind, 0, body, sequence)
        datagram += one + bytes(-len(one) & 3)
    told = list(framing.iter_messages(datagram))
    assert told == [(kind, 1, sequence, 0, body) for kind, body in sent]


def test_a_length_that_reaches_beyond_the_datagram_is_malformed() -> None:
    whole = framing.message(24, 0, b"12345678")
    for wrong in (whole[:-1], whole[:10], b"\x0f" + whole[1:], b"\xff" + whole[1:]):
        with pytest.raises(framing.Malformed):
            list(framing.iter_messages(wrong))

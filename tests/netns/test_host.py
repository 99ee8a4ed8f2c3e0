"""The host as read through netlink is the host as iproute2 tells it."""

from __future__ import annotations

import errno
import json
import socket
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Any, Final

import pytest

from coentro.netops.linux import host, routes
from coentro.netops.linux.netlink import Netlink
from coentro.netops.linux.routes import THROW, UNICAST, UNREACHABLE
from coentro.networks import FAMILIES, SIZE, Family, Network, Networks, network, parse_address
from coentro.plan import Op, Packed
from tests import sandbox

TABLE: Final = 0x636F0001
SCOPES: Final = {"global": 0, "site": 200, "link": 253, "host": 254}


@pytest.fixture
def netlink() -> Iterator[Netlink]:
    with Netlink() as opened:
        yield opened


@pytest.fixture(autouse=True)
def lan() -> None:
    """A host with a public and a private network, a gateway in each family, and rules of its own."""
    sandbox.veth("e0", "e1")
    sandbox.veth("e2", "e3")
    for line in (
        "address add 192.0.2.2/24 dev e0",
        "address add 192.168.5.2/24 dev e2",
        "address add 192.168.5.3/24 dev e2",
        "address add 10.77.0.1 peer 10.77.0.2/32 dev e2",
        "address add 2001:db8:1::2/64 dev e0 nodad",
        "address add fd00:5::2/64 dev e2 nodad noprefixroute",
        "route add default via 192.0.2.1 metric 100",
        "route add default via 192.168.5.1 metric 600",
        "-6 route add default via 2001:db8:1::1",
        "route add 10.9.0.0/16 via 192.168.5.1",
        "route add 172.0.0.0/11 dev e2",
        "route add 172.20.0.0/16 dev e2",
        "-6 route add fd00:6::/64 dev e2",
        "route add 10.10.0.0/16 nexthop via 192.0.2.1 dev e0 nexthop dev e2",
        "nexthop add id 7 dev e2",
        "route add 10.11.0.0/16 nhid 7",
        "route add unreachable 10.12.0.0/16",
        "route add 198.51.100.0/24 via inet6 fe80::9 dev e0 src 192.0.2.2 table 77 proto static",
        "-6 route add blackhole 2001:db8:bad::/48 table 77 metric 5",
        "-6 route add 2001:db8:f::/48 nexthop via 2001:db8:1::7 nexthop via 2001:db8:1::8",
        "rule add pref 100 lookup 77 protocol static",
        "rule add pref 101 from 10.0.0.0/8 fwmark 5 lookup 77",
        "rule add pref 102 to 10.200.0.0/16 unreachable",
        "rule add pref 103 lookup main suppress_prefixlength 0",
        "-6 rule add pref 104 not fwmark 7 lookup 77",
        "-6 rule add pref 105 uidrange 0-0 lookup 77",
    ):
        sandbox.run("ip", *line.split())


def ip(*argv: str) -> Any:
    output = sandbox.run("ip", "-j", *argv, check=False).stdout
    return json.loads(output) if output.strip() not in ("", "[") else []


def index(name: str | None) -> int:
    return 0 if name is None else socket.if_nametoindex(name)


def packed(text: str | None) -> bytes | None:
    return None if text is None else ip_address(text).packed


def test_links_are_those_of_the_namespace_with_their_counters(netlink: Netlink) -> None:
    sandbox.run("ip", "link", "set", "e1", "alias", "coentro:x", "mtu", "1400", "down")
    sandbox.run("ping", "-c", "1", "-W", "1", "127.0.0.1")
    told = {link["ifindex"]: link for link in ip("-d", "-s", "link", "show")}
    found = {link.index: link for link in host.links(netlink)}
    assert found.keys() == told.keys()
    for number, theirs in told.items():
        ours = found[number]
        assert (ours.name, ours.mtu, ours.alias) == (
            theirs["ifname"],
            theirs["mtu"],
            theirs.get("ifalias", ""),
        )
        flags = set(theirs["flags"])
        assert (ours.up, ours.running, ours.loopback) == tuple(
            f in flags for f in ("UP", "LOWER_UP", "LOOPBACK")
        )
        assert ours.kind == theirs.get("linkinfo", {}).get("info_kind", "")
        assert ours.family == socket.AF_UNSPEC
        assert host.link(netlink, number) is not None
    lo, counters = found[1].stats, told[1]["stats64"]
    assert lo.rx_packets > 0
    assert (lo.rx_bytes, lo.tx_bytes) == (counters["rx"]["bytes"], counters["tx"]["bytes"])
    assert (lo.rx_packets, lo.tx_packets) == (counters["rx"]["packets"], counters["tx"]["packets"])


def test_one_link_is_asked_for_by_its_index(netlink: Netlink) -> None:
    found = host.link(netlink, index("e2"))
    assert found is not None
    assert found.name == "e2"
    assert host.link(netlink, 4711) is None


def test_addresses_are_those_of_the_namespace(netlink: Netlink) -> None:
    found = host.addresses(netlink)
    told = {
        (link["ifindex"], packed(a["local"]), a["prefixlen"], packed(a.get("address")), SCOPES[a["scope"]])
        for link in ip("address", "show")
        for a in link["addr_info"]
    }
    assert {(a.index, a.address, a.length, a.peer, a.scope) for a in found} == told
    assert len(found) == len(told)
    of_e2 = host.addresses(netlink, index("e2"))
    assert of_e2 == [a for a in found if a.index == index("e2")]
    flags = {str(ip_address(a.address)): a.flags for a in of_e2}
    assert flags["192.168.5.3"] & 0x1  # secondary
    assert flags["fd00:5::2"] & 0x200  # noprefixroute
    assert not flags["192.168.5.2"] & 0x201
    assert host.addresses(netlink, 4711) == []


def test_rules_are_those_of_the_namespace_and_plain_ones_are_told(netlink: Netlink) -> None:
    found = host.rules(netlink)
    told = [(f, r["priority"], r) for f in FAMILIES for r in ip(f"-{f}", "-N", "-d", "rule", "show")]
    assert [(r.family, r.priority) for r in found] == [(f, p) for f, p, _ in told]
    for ours, (_, _, theirs) in zip(found, told, strict=True):
        if "table" in theirs:
            assert str(ours.table) == theirs["table"]
        assert ours.protocol == int(theirs["protocol"])
        assert (ours.action == 1) == ("table" in theirs)
    plain = {(r.family, r.priority) for r in found if r.plain}
    standard = {(4, 0), (4, 32766), (4, 32767), (6, 0), (6, 32766)}
    assert plain == {(4, 100), *standard}


@pytest.mark.parametrize("family", FAMILIES)
def test_routes_are_those_of_the_namespace(netlink: Netlink, family: Family) -> None:
    told = {}
    for r in ip(f"-{family}", "-d", "-N", "route", "show", "table", "all"):
        text = {"default": "0.0.0.0/0" if family == 4 else "::/0"}.get(r["dst"], r["dst"])
        net = network(text if "/" in text else f"{text}/{SIZE[family] * 8}")
        gateway = r.get("gateway") or r.get("via", {}).get("host")
        told[net, int(r.get("table", 254)), r.get("metric", 0), r.get("dev")] = (
            int(r["type"]),
            int(r["protocol"]),
            packed(gateway),
            packed(r.get("prefsrc")),
            tuple((h.get("dev"), packed(h.get("gateway"))) for h in r.get("nexthops", ())),
            r.get("nhid", 0),
        )
    found = {}
    for r in host.routes(netlink, family):
        name = None if not r.oif else socket.if_indextoname(r.oif)
        hops = tuple((socket.if_indextoname(h.oif), h.gateway) for h in r.hops)
        key = r.destination, r.table, r.metric, name
        found[key] = r.kind, r.protocol, r.gateway, r.source, hops, r.nexthop
    assert found == told
    assert any(hops for *_, hops, _ in found.values())
    assert len(host.routes(netlink, family)) == len(found)


def test_routes_are_chosen_by_table_kind_and_protocol(netlink: Netlink) -> None:
    for family in FAMILIES:
        everything = host.routes(netlink, family)
        assert {r.table for r in everything} == {77, 254, 255}
        assert host.routes(netlink, family, table=77) == [r for r in everything if r.table == 77] != []
        assert host.routes(netlink, family, kind=2) == [r for r in everything if r.kind == 2] != []
        assert host.routes(netlink, family, protocol=3) == [r for r in everything if r.protocol == 3] != []
        both = host.routes(netlink, family, table=254, kind=UNICAST, protocol=3)
        assert both == [r for r in everything if (r.table, r.kind, r.protocol) == (254, UNICAST, 3)]
        assert host.routes(netlink, family, table=12345) == []


def table_of(family: Family) -> Packed:
    """3,000 networks of all kinds and lengths, not in the kernel's order, and a default route."""
    size = SIZE[family]
    entries = {bytes(size + 1): UNICAST}
    for i in range(1, 1500):
        head = ((10 << 16 | i) if family == 4 else (0x2001 << 16 | i)).to_bytes(4, "big")
        address = head[1:] + b"\0" if family == 4 else head + bytes(12)
        entries[address + bytes((24 if family == 4 else 32,))] = (UNICAST, THROW, UNREACHABLE)[i % 3]
        entries[address + bytes((32 if family == 4 else 64,))] = (UNICAST, UNICAST, THROW)[i % 3]
    return Packed.of(size + 1, entries)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_tunnels_table_is_read_back_as_it_was_written_beside_foreign_routes(
    netlink: Netlink, family: Family
) -> None:
    table, device = table_of(family), index("e2")
    assert host.packed_table(netlink, family, TABLE, device) == (Packed(table.width, b""), [])
    for start in range(0, len(table), netlink.chunk):
        width = table.width + 1
        chunk = table.data[start * width : (start + netlink.chunk) * width]
        assert netlink.routes(Op.ADD, family, TABLE, device, chunk) == []
    assert host.packed_table(netlink, family, TABLE, device) == (table, [])
    far, gateway = {4: ("198.51.100.0/24", "192.168.5.1"), 6: ("2001:db8:9::/48", "fe80::1")}[family]
    strange = (
        f"{far} dev e2 proto static",
        f"{far} dev e2 proto 206 metric 9",
        f"{far} dev e0 proto 206 metric 10",
        f"{far} via {gateway} dev e2 proto 206 metric 11",
        f"throw {far} proto 206 metric 12",
        f"unreachable default proto kernel metric {routes.LAST_METRIC}",
    )
    for route in strange:
        sandbox.run("ip", f"-{family}", "route", "add", *route.split(), "table", str(TABLE))
    ours, foreign = host.packed_table(netlink, family, TABLE, device)
    assert ours == table
    assert len(foreign) == len(strange)
    last = [r for r in foreign if r.kind == UNREACHABLE]
    assert [(r.metric, r.protocol, r.destination.length) for r in last] == [(routes.LAST_METRIC, 2, 0)]
    assert host.packed_table(netlink, family, TABLE, index("e0"))[0] == table.keep(
        frozenset({THROW, UNREACHABLE})
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_a_device_without_carrier_keeps_its_entries(netlink: Netlink, family: Family) -> None:
    table, device = table_of(family), index("e2")
    some = Packed(table.width, table.data[: 900 * (table.width + 1)])
    assert netlink.routes(Op.ADD, family, TABLE, device, some.data) == []
    sandbox.run("ip", "link", "set", "e3", "down")
    link = host.link(netlink, device)
    assert link is not None
    assert not link.running
    assert host.packed_table(netlink, family, TABLE, device) == (some, [])
    sandbox.run("ip", "link", "set", "e2", "down")
    left, _ = host.packed_table(netlink, family, TABLE, device)
    assert left == some.keep(frozenset({THROW, UNREACHABLE}))


def test_onlink_networks_are_private_ones_that_need_no_gateway(netlink: Netlink) -> None:
    # Not 192.0.2.0/24 (public), 10.9/16 (gateway), 10.10/16 (multipath), 10.11/16 (nexthop object),
    # 10.12/16 (unreachable), 172.0.0.0/11 (not wholly private), fd00:5::/64 (no route of it).
    expected = ["10.77.0.2/32", "172.20.0.0/16", "192.168.5.0/24", "fd00:6::/64", "fe80::/64"]
    assert host.onlink(netlink).first(99) == expected
    assert host.onlink(netlink, {index("e2")}).first(99) == ["fe80::/64"]
    assert host.onlink(netlink, [index(f"e{i}") for i in range(4)]) == Networks()


def test_default_routes_come_with_the_preferred_first(netlink: Netlink) -> None:
    found = [(r.family, r.gateway, r.metric, r.oif) for r in host.default_routes(netlink)]
    assert found == [
        (4, packed("192.0.2.1"), 100, index("e0")),
        (4, packed("192.168.5.1"), 600, index("e2")),
        (6, packed("2001:db8:1::1"), 1024, index("e0")),
    ]


@pytest.mark.parametrize(
    ("text", "prefix"),
    [
        ("203.0.113.9", "0.0.0.0/0"),
        ("192.168.5.9", "192.168.5.0/24"),
        ("10.9.1.1", "10.9.0.0/16"),
        ("192.168.5.2", "192.168.5.2/32"),
        ("198.51.100.7", "198.51.100.0/24"),
        ("192.0.2.255", "192.0.2.255/32"),
        ("255.255.255.255", "0.0.0.0/0"),
        ("2001:db8:ffff::1", "::/0"),
        ("2001:db8:1::9", "2001:db8:1::/64"),
        ("2001:db8:1::2", "2001:db8:1::2/128"),
        ("ff02::1", "ff00::/8"),
    ],
)
def test_a_lookup_is_the_kernels_own_answer(netlink: Netlink, text: str, prefix: str) -> None:
    way = host.lookup(netlink, parse_address(text))
    (told,) = ip("-N", "route", "get", text)
    assert way.errno == 0
    assert way.oif == index(told["dev"])
    assert way.gateway == packed(told.get("gateway") or told.get("via", {}).get("host"))
    assert way.source == packed(told.get("prefsrc"))
    assert way.kind == int(told.get("type", UNICAST))
    assert way.matched == network(prefix)


def test_a_lookup_tells_the_table_that_it_was_answered_from(netlink: Netlink) -> None:
    assert host.lookup(netlink, parse_address("198.51.100.7")).table == 77
    assert host.lookup(netlink, parse_address("203.0.113.9")).table == 254
    assert host.lookup(netlink, parse_address("2001:db8:1::9")).table == 254


NO_WAYS: Final = {
    "unreachable": errno.EHOSTUNREACH,
    "prohibit": errno.EACCES,
    "blackhole": errno.EINVAL,
    "throw": errno.ENETUNREACH,
}


@pytest.mark.parametrize("kind", NO_WAYS)
@pytest.mark.parametrize("net", ["198.18.0.0/15", "2001:db8:99::/48"])
def test_a_lookup_that_leads_nowhere_is_a_result(netlink: Netlink, net: str, kind: str) -> None:
    family = f"-{6 if ':' in net else 4}"
    for _ in range(2):
        sandbox.run("ip", family, "route", "del", "default", check=False)
    sandbox.run("ip", family, "route", "add", kind, net, "table", "77")
    sandbox.run("ip", family, "rule", "add", "pref", "99", "lookup", "77")
    assert host.lookup(netlink, network(net).address) == host.Way(NO_WAYS[kind])


def test_what_is_on_link_may_be_longer_than_one_answer_of_the_kernel(netlink: Netlink) -> None:
    nets = [Network(bytes((10, 100, i // 256, i % 256)), 32) for i in range(2000)]
    lines = "".join(f"route add {n} dev e2\n" for n in nets)
    sandbox.run("ip", "-batch", "-", stdin=lines)
    assert set(nets) < set(host.onlink(netlink))

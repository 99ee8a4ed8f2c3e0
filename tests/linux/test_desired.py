"""What a Linux host shall have: precedence, numbers, and that a hundred thousand routes cost nothing."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import pytest

from coentro.model import Dns, Endpoint, InterfaceAddress, Server, Spec, TunnelId
from coentro.netops.interface import Wanted
from coentro.netops.linux.desired import (
    Address,
    Floor,
    Ipv6,
    Link,
    LinkSettings,
    Ranges,
    Rule,
    Table,
    Up,
    want,
    without_link,
)
from coentro.netops.linux.routes import THROW, UNICAST, UNREACHABLE
from coentro.networks import Family, Network, Networks, network
from coentro.plan import Packed

RANGES = Ranges()
TABLE = 0x636F0001
KINDS = {UNICAST: "unicast", THROW: "throw", UNREACHABLE: "unreachable"}


def nets(*texts: str) -> Networks:
    return Networks.of(network(t) for t in texts)


def spec(*addresses: str, **fields: Any) -> Spec:
    return Spec(addresses=tuple(map(InterfaceAddress.parse, addresses)), **fields)


def table(
    what: Spec, family: Family = 4, onlink: Networks = Networks(), others: Sequence[Spec] = (), **more: Any
) -> dict[str, str]:
    """A tunnel's table in words, beside other tunnels."""
    tunnels = [
        Wanted(TunnelId(f"t{i}"), i, s, **(more if i == 0 else {})) for i, s in enumerate((what, *others))
    ]
    shall = want(RANGES, onlink, tunnels)
    packed = shall.get(Table("t0", family, TABLE))
    if packed is None:
        return {}
    return {str(Network(e[:-2], e[-2])): KINDS[e[-1]] for e in packed.entries()}


def test_a_split_tunnel_has_its_routes_and_its_prefix() -> None:
    found = table(spec("10.9.0.2/24", routes=nets("192.0.2.0/24")))
    assert found == {"10.9.0.0/24": "unicast", "192.0.2.0/24": "unicast"}


def test_equal_networks_are_settled_in_the_protocols_order() -> None:
    place = "192.168.7.7/32"
    everything: dict[str, Any] = {
        "endpoints": (Endpoint.parse("192.168.7.7"),),
        "exclude": nets(place),
        "block": nets(place),
        "dns": Dns(servers=(Server.parse("192.168.7.7"),)),
        "routes": nets(place),
    }
    kinds = []
    for name in [*everything, None]:
        what = spec("192.168.7.7/32" if name is None else "10.9.0.2/24", **everything)
        kinds.append(table(what, onlink=nets(place)).get(place))
        everything.pop(name, None)  # type: ignore[arg-type]  # the last has nothing to take away
    assert kinds == ["throw", "throw", "unreachable", "unicast", "unicast", "unicast"]
    assert table(spec("10.9.0.2/24"), onlink=nets(place))[place] == "throw"


def test_every_tunnels_endpoints_are_outside_of_every_tunnel() -> None:
    one = spec("10.9.0.2/24", routes=nets("0.0.0.0/0"), endpoints=(Endpoint.parse("203.0.113.7"),))
    two = spec("10.8.0.2/24", endpoints=(Endpoint.parse("203.0.113.8"), Endpoint.parse("2001:db8::8")))
    found = table(one, others=[two])
    assert found["203.0.113.7/32"] == found["203.0.113.8/32"] == "throw"
    assert table(one, 6, others=[two]) == {}


@pytest.mark.parametrize(
    ("family", "address", "all_", "link_only"),
    [
        (4, "10.9.0.2/24", ["0.0.0.0/0"], ["224.0.0.0/4", "169.254.0.0/16", "255.255.255.255/32"]),
        (4, "10.9.0.2/24", ["0.0.0.0/1", "128.0.0.0/1"], ["224.0.0.0/4", "169.254.0.0/16"]),
        (6, "fd00::2/64", ["::/0"], ["ff00::/8", "fe80::/10"]),
    ],
)
def test_a_full_tunnel_leaves_out_what_never_leaves_a_link(
    family: Family, address: str, all_: list[str], link_only: list[str]
) -> None:
    what = spec(address, routes=nets(*all_))
    found = table(what, family)
    assert {found[n] for n in link_only} == {"throw"}
    assert not any(n in table(spec(address), family) for n in link_only)
    shall = want(RANGES, Networks(), [Wanted(TunnelId("t0"), 3, what)])
    assert Floor("t0", family, TABLE + 3) in shall
    assert Rule("t0", family, 10500, TABLE + 3) in shall


def test_a_blocked_family_is_taken_whole_without_an_address_of_it() -> None:
    what = spec("10.9.0.2/24", routes=nets("0.0.0.0/0"), block=nets("::/0"))
    assert table(what, 6)["::/0"] == "unreachable"
    shall = want(RANGES, Networks(), [Wanted(TunnelId("t0"), 0, what)])
    assert Rule("t0", 6, 10500, TABLE) in shall
    assert Ipv6("t0") not in shall


def test_a_withdrawn_family_keeps_its_prefix_and_loses_routes_and_blocks() -> None:
    what = spec("10.9.0.2/24", "fd00::2/64", routes=nets("0.0.0.0/0", "::/0"), block=nets("192.0.2.0/24"))
    found = table(what, withdrawn=frozenset({4}))
    assert found == {"10.9.0.0/24": "unicast"}
    wanted = Wanted(TunnelId("t0"), 5, what, frozenset({4}))
    shall = want(RANGES, Networks(), [wanted])
    rules = {(k.family, k.priority) for k in shall if isinstance(k, Rule)}
    assert rules == {(4, 10105), (6, 10500)}
    assert {k.family for k in shall if isinstance(k, Floor)} == {6}


def test_a_host_route_to_the_dns_server_goes_into_the_tunnel_past_its_excluded_network() -> None:
    dns = Dns(servers=(Server.parse("10.1.0.53"),))
    found = table(spec("10.9.0.2/24", exclude=nets("10.1.0.0/16"), dns=dns))
    assert found["10.1.0.53/32"] == "unicast"
    assert found["10.1.0.0/16"] == "throw"


def test_onlink_networks_only_go_where_there_is_a_table() -> None:
    what = spec("10.9.0.2/24", routes=nets("192.168.0.0/16"))
    found = table(what, onlink=nets("192.168.1.0/24", "fd00:1::/64"))
    assert found["192.168.1.0/24"] == "throw"
    assert table(what, 6, onlink=nets("fd00:1::/64")) == {}


def test_the_objects_of_one_tunnel() -> None:
    shall = want(RANGES, Networks(), [Wanted(TunnelId("t0"), 0, spec("10.9.0.2/24", "fd00::2/64", mtu=1300))])
    assert shall == {
        Link("t0"): LinkSettings(1300),
        Up("t0"): True,
        Ipv6("t0"): True,
        Address("t0", 4, network("10.9.0.2/32").address, 24): True,
        Address("t0", 6, network("fd00::2/128").address, 64): True,
        Table("t0", 4, TABLE): Packed(5, network("10.9.0.0/24").packed + bytes((UNICAST,))),
        Table("t0", 6, TABLE): Packed(17, network("fd00::/64").packed + bytes((UNICAST,))),
        Rule("t0", 4, 10100, TABLE): True,
        Rule("t0", 6, 10100, TABLE): True,
    }


@pytest.mark.parametrize(
    ("old", "new", "disrupts"),
    [(1280, 1279, True), (1279, 1280, True), (1280, 1500, False), (576, 1279, False)],
)
def test_only_an_mtu_that_crosses_ipv6s_minimum_disrupts(old: int, new: int, disrupts: bool) -> None:
    assert Link("t0").disrupts(LinkSettings(old), LinkSettings(new)) is disrupts


def test_what_of_a_table_stands_without_its_device() -> None:
    key = Table("t0", 4, TABLE)
    kinds = {network(f"10.{k}.0.0/16").packed: k for k in KINDS}
    assert {e[-1] for e in without_link(key, Packed.of(5, kinds)).entries()} == {THROW, UNREACHABLE}
    only_device = Packed.of(5, {network("10.0.0.0/8").packed: UNICAST})
    assert key.left_by_link(only_device) is None
    assert len(without_link(key, only_device)) == 0


def test_slots_are_tables_and_rules_alike() -> None:
    assert RANGES.slots == 400
    assert RANGES.priority(399, False) == 10499
    for slot in (0, 7, 399):
        assert RANGES.slot_of_table(RANGES.table(slot)) == slot
        assert RANGES.slot_of_rule(RANGES.priority(slot, False)) == slot
    assert RANGES.slot_of_table(TABLE - 1) is None
    assert RANGES.slot_of_rule(10500) is None


def test_a_hundred_thousand_routes_are_wanted_in_no_time() -> None:
    entries = [(0x0B000000 + (i << 8)).to_bytes(4, "big") + b"\x18" for i in range(100_000)]
    wanted = [Wanted(TunnelId("t0"), 0, spec("10.9.0.2/24", routes=Networks(b"".join(entries))))]
    start = time.process_time()
    shall = want(RANGES, Networks(), wanted)
    assert time.process_time() - start < 1.0  # 0.05 s; ten per-route Python objects would be more
    assert len(shall[Table("t0", 4, TABLE)]) == 100_001

"""The host's routing as people ask for it: routes, interfaces, and which way a packet goes and why.

For one worker thread; changes nothing. Errors: those of `Netlink`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from socket import inet_ntop
from typing import Any, Final

from coentro.model import TunnelId
from coentro.netops.interface import HostRoute, Interface, Lookup, NetworkStatus, Step
from coentro.netops.linux import host
from coentro.netops.linux.desired import Table
from coentro.netops.linux.host import Way
from coentro.netops.linux.messages import Rule as HostRule
from coentro.netops.linux.netlink import Netlink
from coentro.netops.linux.routes import (
    DEFAULT_METRIC,
    KIND_NAMES,
    TABLE_LOCAL,
    TABLE_MAIN,
    THROW,
    UNICAST,
    Hop,
    Route,
)
from coentro.networks import AF, BITS, SIZE, Family, Network
from coentro.plan import Packed

_RTNH_F_DEAD: Final = 1  # linux/rtnetlink.h
_RTNH_F_LINKDOWN: Final = 16
_TABLE_NAMES: Final = {253: "default", TABLE_MAIN: "main", TABLE_LOCAL: "local"}

Tables = Mapping[Table, Packed]


def tables(state: Mapping[Any, Any]) -> dict[Table, Packed]:
    """The tables among the objects of a state."""
    return {key: value for key, value in state.items() if isinstance(key, Table)}


def interfaces(netlink: Netlink) -> list[Interface]:
    addresses = host.addresses(netlink)
    return [
        Interface(
            link.name,
            link.index,
            link.mtu,
            link.up,
            tuple(str(Network(a.address, a.length)) for a in addresses if a.index == link.index),
            link.stats,
        )
        for link in host.links(netlink)
    ]


def status(netlink: Netlink) -> NetworkStatus:
    """Whether a default route leads somewhere that is up and has a carrier."""
    links = {link.index: link for link in host.links(netlink)}
    names = {index: link.name for index, link in links.items()}
    alive = {index for index, link in links.items() if link.up and link.running}
    defaults = host.default_routes(netlink)
    online = any(
        hop.oif in alive and not route.flags & (_RTNH_F_DEAD | _RTNH_F_LINKDOWN)
        for route in defaults
        for hop in _hops(route)
    )
    return NetworkStatus(online, tuple(told for r in defaults for told in _told(r, names, None)))


def routes(
    netlink: Netlink, families: Sequence[Family], ours: Tables, indexes: Mapping[str, int]
) -> list[HostRoute]:
    """Main's routes, then each of our tables' by number; within a table by family and destination."""
    names = {link.index: link.name for link in host.links(netlink)}
    found: list[HostRoute] = []
    for family in families:
        main = host.routes(netlink, family, TABLE_MAIN)
        for route in sorted(main, key=lambda r: (r.destination.packed, r.metric, r.oif)):
            found += _told(route, names, None)
    for key in sorted(ours, key=lambda key: (key.number, key.family)):
        if key.family not in families:
            continue
        index = indexes.get(key.tunnel or "", 0)
        packed, others = host.packed_table(netlink, key.family, key.number, index)
        found += _entries(key, packed, names.get(index))
        for route in others:
            found += _told(route, names, key.tunnel)
    return found


def lookup(netlink: Netlink, address: bytes, ours: Tables) -> Lookup:
    """What the kernel answers, and the rules and routes on the way there."""
    family: Family = 4 if len(address) == 4 else 6
    way = host.lookup(netlink, address)
    links = {link.index: link.name for link in host.links(netlink)}
    by_number = {key.number: (key, packed) for key, packed in ours.items() if key.family == family}
    rules = [rule for rule in host.rules(netlink) if rule.family == family]
    steps, answering = _steps(address, way, rules, by_number)
    tunnel = _id(answering.tunnel) if answering is not None else None
    name = links.get(way.oif)
    gateway = inet_ntop(AF[4 if len(way.gateway) == 4 else 6], way.gateway) if way.gateway else None
    return Lookup(
        inet_ntop(AF[family], address),
        name,
        gateway,
        inet_ntop(AF[family], way.source) if way.source else None,
        tunnel,
        _reason(way, name, tunnel, steps),
        tuple(steps),
    )


def _id(tunnel: str | None) -> TunnelId | None:
    return TunnelId(tunnel) if tunnel is not None else None


def _hops(route: Route) -> Iterable[Hop]:
    return route.hops or (Hop(route.oif, route.gateway),)


def _told(route: Route, names: Mapping[int, str], tunnel: str | None) -> Iterator[HostRoute]:
    for hop in _hops(route):
        gateway = hop.gateway
        yield HostRoute(
            str(route.destination),
            inet_ntop(AF[4 if len(gateway) == 4 else 6], gateway) if gateway else None,
            names.get(hop.oif) if route.kind == UNICAST else None,
            route.metric,
            KIND_NAMES.get(route.kind, str(route.kind)),
            _id(tunnel),
        )


def _entries(key: Table, packed: Packed, name: str | None) -> Iterator[HostRoute]:
    metric = DEFAULT_METRIC[key.family]
    family = AF[key.family]
    for entry in packed.entries():
        kind = entry[-1]
        yield HostRoute(
            f"{inet_ntop(family, entry[:-2])}/{entry[-2]}",
            None,
            name if kind == UNICAST else None,
            metric,
            KIND_NAMES[kind],
            _id(key.tunnel),
        )


def _steps(
    address: bytes, way: Way, rules: Sequence[HostRule], ours: Mapping[int, tuple[Table, Packed]]
) -> tuple[list[Step], Table | None]:
    """Every table of ours that was asked before the one that answered, then that one; and that
    one again if it is ours. The kernel does not name the table of a route that leads nowhere."""
    steps: list[Step] = []
    for rule in rules:
        key, packed = ours.get(rule.table, (None, None))
        match = longest_match(packed, address) if packed is not None else None
        thrown = match is not None and match[1] == THROW
        ends = match is not None and not thrown
        answers = rule.plain and (rule.table == way.table or (ends and not way.table))
        if not (answers or thrown):
            continue
        tunnel = _id(key.tunnel) if key is not None else None
        who = "from all" if rule.plain else "selected packets"
        steps.append(Step("rule", f"{rule.priority}: {who} lookup {_table(rule.table)}", tunnel))
        if match is not None and not answers:
            steps.append(Step("route", f"throw {match[0]}", tunnel))
            continue
        steps.append(Step("table", _table(rule.table), tunnel))
        if way.matched is not None:
            steps.append(Step("route", f"{KIND_NAMES.get(way.kind, way.kind)} {way.matched}", tunnel))
        elif match is not None:
            steps.append(Step("route", f"{KIND_NAMES[match[1]]} {match[0]}", tunnel))
        return steps, key
    return steps, None


def longest_match(packed: Packed, address: bytes) -> tuple[Network, int] | None:
    """The narrowest entry that holds the address, and its kind."""
    family: Family = 4 if len(address) == 4 else 6
    bits, size = BITS[family], SIZE[family]
    number = int.from_bytes(address, "big")
    for length in range(bits, -1, -1):
        base = (number >> bits - length << bits - length).to_bytes(size, "big")
        kind = _find(packed, base + bytes((length,)))
        if kind is not None:
            return Network(base, length), kind
    return None


def _find(packed: Packed, key: bytes) -> int | None:
    """The kind of one entry, by bisection of the packed bytes."""
    step = packed.width + 1
    low, high = 0, len(packed)
    while low < high:
        middle = (low + high) // 2
        if packed.data[middle * step : middle * step + packed.width] < key:
            low = middle + 1
        else:
            high = middle
    found = packed.data[low * step : low * step + step]
    return found[-1] if found[:-1] == key else None


def _reason(way: Way, name: str | None, tunnel: str | None, steps: Iterable[Step]) -> str:
    if way.errno:
        who = "the tunnel" if tunnel is not None else "the host"
        return f"it goes nowhere: {who} answers {os.strerror(way.errno)}"
    if way.table == TABLE_LOCAL:
        return "the address is this host's own"
    if tunnel is not None:
        return f"it goes into the tunnel by {way.matched or 'a route'}"
    if any(step.text.startswith("throw ") for step in steps):
        return f"it is kept outside of the tunnels, and the host's own routes send it to {name}"
    return f"no tunnel takes it, and the host's own routes send it to {name}"


def _table(number: int) -> str:
    return _TABLE_NAMES.get(number) or f"{number:#x}"

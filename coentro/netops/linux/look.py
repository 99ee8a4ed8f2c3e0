"""Reading back what of a Linux host is ours, by our marks alone.

Devices bear an alias, rules lie in our ranges, tables are ours by their number and their routes
by protocol and device (docs/architecture.md, "Linux routing"). What bears no mark is somebody
else's, even in our table or on our device. For one worker thread.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from attrs import frozen

from coentro.netops.interface import Device, Host
from coentro.netops.linux import host, sysctl
from coentro.netops.linux.apply import ALIAS, is_ours
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
    without_link,
)
from coentro.netops.linux.framing import HEADER_BYTES
from coentro.netops.linux.messages import FR_ACT_TO_TBL, IFA_F_NOPREFIXROUTE, RTPROT_KERNEL
from coentro.netops.linux.messages import Address as HostAddress
from coentro.netops.linux.messages import Link as HostLink
from coentro.netops.linux.messages import Rule as HostRule
from coentro.netops.linux.netlink import Netlink, Span
from coentro.netops.linux.routes import (
    PROTOCOL,
    RTM_NEWROUTE,
    THROW,
    UNICAST,
    UNREACHABLE,
    Route,
    decode_route,
    encode_route_dump,
    last_resort,
)
from coentro.networks import FAMILIES, SIZE, Family

State = dict[Any, Any]


@frozen
class Found:
    """What was read; `devices` by tunnel, with those that a helper before us left."""

    host: Host
    devices: Mapping[str, Device]


def read(
    netlink: Netlink, ranges: Ranges, devices: Mapping[str, Device], remembered: State, everything: bool
) -> Found:
    """Devices, addresses and rules as they are; tables too if `everything`, else as remembered.

    Errors: those of `Netlink`.
    """
    links = host.links(netlink)
    ours = _devices(links, devices, everything)
    state: State = {}
    by_index = {link.index: link for link in links}
    # Once for all devices: the kernel is asked for those of every link anyhow.
    addresses = host.addresses(netlink) if ours else []
    for tunnel, device in ours.items():
        link = by_index.get(device.index)
        if link is not None and is_ours(link) and link.alias == ALIAS + tunnel:
            _device(state, tunnel, link, [a for a in addresses if a.index == link.index], remembered)
    rules = host.rules(netlink)
    tables = _tables(netlink, ranges, ours) if everything else _as_remembered(remembered, state)
    state.update(tables)
    owners = {key.number: key.tunnel for key in tables if key.tunnel is not None}
    state.update(_rules(ranges, rules, owners))
    skip = {link.index for link in links if is_ours(link)}
    found = Host(state, host.onlink(netlink, skip), _taken(ranges, rules, state))
    return Found(found, ours)


def free_slot(netlink: Netlink, ranges: Ranges, taken: Collection[int]) -> int | None:
    """The first slot that is not taken and in whose table no route of anyone stands."""
    for slot in range(ranges.slots):
        number = ranges.table(slot)
        if slot not in taken and not any(host.routes(netlink, family, number) for family in FAMILIES):
            return slot
    return None


def _devices(links: list[HostLink], known: Mapping[str, Device], everything: bool) -> dict[str, Device]:
    """Those that are known, and those left behind: the oldest, if two claim one tunnel.

    One that has gone is known until its descriptors are closed.
    """
    there = {link.index for link in links}
    devices = {tunnel: device for tunnel, device in known.items() if device.fds or device.index in there}
    if everything:
        for link in sorted(links, key=lambda link: link.index):
            if is_ours(link):
                device = Device(link.name, link.index, ())
                devices.setdefault(link.alias.removeprefix(ALIAS), device)
    return devices


def _device(
    state: State, tunnel: str, link: HostLink, addresses: Sequence[HostAddress], remembered: State
) -> None:
    opened = remembered.get(Link(tunnel), LinkSettings(link.mtu))
    state[Link(tunnel)] = LinkSettings(link.mtu, opened.queues, opened.vnet_hdr, opened.packet_info)
    if link.up:
        state[Up(tunnel)] = True
    if sysctl.has_ipv6(link.name):
        state[Ipv6(tunnel)] = True
    for address in addresses:
        if address.flags & IFA_F_NOPREFIXROUTE and address.peer is None:
            state[Address(tunnel, address.family, address.address, address.length)] = True


def _as_remembered(remembered: State, state: State) -> State:
    """Tables as last applied, less what the kernel has dropped with a device since."""
    tables: State = {}
    for key, value in remembered.items():
        if isinstance(key, Floor):
            tables[key] = value
        elif isinstance(key, Table):
            left = value if _carries(state, key.tunnel or "", key.family) else without_link(key, value)
            if left:
                tables[key] = left
    return tables


def _carries(state: State, tunnel: str, family: Family) -> bool:
    """Whether routes with this device can be: IPv4's go with its last address (fib_del_ifaddr),
    IPv6's when that is switched off, both when it is set down."""
    if Up(tunnel) not in state:
        return False
    if family == 6:
        return Ipv6(tunnel) in state
    return any(isinstance(key, Address) and (key.tunnel, key.family) == (tunnel, 4) for key in state)


def _tables(netlink: Netlink, ranges: Ranges, devices: Mapping[str, Device]) -> State:
    """Every table in our range that has routes of ours."""
    tunnels = {device.index: tunnel for tunnel, device in devices.items()}
    tables: State = {}
    for family in FAMILIES:
        for number, index in _marked(netlink, ranges, family).items():
            tunnel = tunnels.get(index)
            packed, others = host.packed_table(netlink, family, number, index if tunnel is not None else 0)
            if packed:
                tables[Table(tunnel, family, number)] = packed
            if any(_is_floor(other, family, number) for other in others):
                tables[Floor(tunnel, family, number)] = True
    return tables


def _is_floor(route: Route, family: Family, number: int) -> bool:
    floor = last_resort(family, number)
    marks = (floor.destination, floor.kind, floor.protocol, floor.metric)
    return (route.destination, route.kind, route.protocol, route.metric) == marks


def _marked(netlink: Netlink, ranges: Ranges, family: Family) -> dict[int, int]:
    """The tables of our range with routes that may be ours, and the device of these (0: none).

    The kernel filters; of a hundred thousand routes that differ in their destination alone only
    one is decoded.
    """
    found: dict[int, int] = {}
    # What stands around the destination: headers, the table, which the kernel writes first, then the rest.
    table_end = HEADER_BYTES + 20
    rest = table_end + 4 + SIZE[family]

    def collect(spans: Iterator[Span]) -> None:
        seen: set[tuple[bytes, bytes]] = set()
        for buffer, offset, length in spans:
            layout = (
                buffer[offset + HEADER_BYTES + 2 : offset + table_end],
                buffer[offset + rest : offset + length],
            )
            if layout in seen or buffer[offset + 4] != RTM_NEWROUTE:
                continue
            seen.add(layout)
            route = decode_route(buffer[offset + HEADER_BYTES : offset + length])
            if route.family == family and ranges.is_table(route.table):
                device = route.oif if route.kind == UNICAST else 0
                found[route.table] = found.get(route.table) or device

    for kind, protocol in ((UNICAST, PROTOCOL), (THROW, RTPROT_KERNEL), (UNREACHABLE, RTPROT_KERNEL)):
        netlink.read(encode_route_dump(family, kind=kind, protocol=protocol), collect)
    return found


def _is_our_rule(ranges: Ranges, rule: HostRule) -> bool:
    return (
        rule.plain
        and (rule.action, rule.protocol) == (FR_ACT_TO_TBL, RTPROT_KERNEL)
        and ranges.is_table(rule.table)
        and ranges.is_rule(rule.priority)
    )


def _rules(ranges: Ranges, rules: list[HostRule], owners: Mapping[int, str | None]) -> State:
    return {
        Rule(owners.get(rule.table), rule.family, rule.priority, rule.table): True
        for rule in rules
        if _is_our_rule(ranges, rule)
    }


def _taken(ranges: Ranges, rules: list[HostRule], state: State) -> frozenset[int]:
    """Slots whose table or priority any rule names, or whose table has routes that are known."""
    named = {ranges.slot_of_rule(rule.priority) for rule in rules}
    named |= {ranges.slot_of_table(rule.table) for rule in rules}
    named |= {ranges.slot_of_table(key.number) for key in state if isinstance(key, Table | Floor)}
    return frozenset(slot for slot in named if slot is not None)

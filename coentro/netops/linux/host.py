"""Reading the host through netlink: devices, addresses, rules, routes, and where a packet goes.

Functions over a `Netlink`, for its worker thread. The kernel itself filters where it can
(NETLINK_GET_STRICT_CHK); what comes is filtered again, since for a family that it lacks the
kernel answers with every family it has. Errors of all: those of `Netlink`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from errno import EACCES, EHOSTUNREACH, EINVAL, ENETUNREACH, ENODEV, ENOENT
from typing import Final, TypeVar

from attrs import frozen

from coentro.netops.linux.bulk import TableReader
from coentro.netops.linux.framing import HEADER_BYTES, Malformed
from coentro.netops.linux.messages import (
    RTM_NEWADDR,
    RTM_NEWLINK,
    RTM_NEWRULE,
    Address,
    Link,
    Rule,
    decode_address,
    decode_link,
    decode_rule,
    encode_address_dump,
    encode_link_dump,
    encode_link_get,
    encode_rule_dump,
)
from coentro.netops.linux.netlink import Netlink, Span
from coentro.netops.linux.routes import (
    RTM_F_CLONED,
    RTM_NEWROUTE,
    TABLE_MAIN,
    UNICAST,
    Route,
    decode_route,
    encode_route_dump,
    encode_route_get,
)
from coentro.networks import AF, FAMILIES, Family, Network, Networks, network
from coentro.plan import Packed

PRIVATE: Final = tuple(
    network(text)
    for text in (
        "10.0.0.0/8",  # RFC 1918
        "172.16.0.0/12",
        "192.168.0.0/16",
        "169.254.0.0/16",  # RFC 3927
        "fc00::/7",  # RFC 4193
        "fe80::/10",  # RFC 4291 2.5.6
    )
)

# What a kind of route that leads nowhere answers with (fib_props in net/ipv4/fib_semantics.c): the
# kernel says it instead of the route.
_NO_WAY: Final = frozenset({EHOSTUNREACH, ENETUNREACH, EACCES, EINVAL})

V = TypeVar("V", Address, Rule)


@frozen
class Way:
    """Which way a packet goes. `errno` is what sendto(2) would fail with, 0 when it goes.

    `matched` is the route's own prefix; None and 0 for what the kernel does not say, which is all of
    it when the packet does not go.
    """

    errno: int
    kind: int = 0
    table: int = 0
    matched: Network | None = None
    oif: int = 0
    gateway: bytes | None = None
    source: bytes | None = None


def links(netlink: Netlink) -> list[Link]:
    """All devices of the namespace."""
    return [decode_link(p) for kind, p in netlink.dump(encode_link_dump()) if kind == RTM_NEWLINK]


def link(netlink: Netlink, index: int) -> Link | None:
    """One device with its counters; None: there is none of that index."""
    try:
        replies = netlink.request(encode_link_get(index))
    except OSError as error:
        if error.errno == ENODEV:
            return None
        raise
    return next((decode_link(p) for kind, p in replies if kind == RTM_NEWLINK), None)


def addresses(netlink: Netlink, index: int = 0) -> list[Address]:
    """All addresses, or those of one device; none where there is no such device."""
    found: list[Address] = []
    for family in FAMILIES:
        found += _dump(netlink, encode_address_dump(family), family, RTM_NEWADDR, decode_address)
    return [a for a in found if index in (0, a.index)]


def rules(netlink: Netlink) -> list[Rule]:
    """All policy routing rules, in the order in which the kernel asks them."""
    found: list[Rule] = []
    for family in FAMILIES:
        found += _dump(netlink, encode_rule_dump(family), family, RTM_NEWRULE, decode_rule)
    return found


def _dump(
    netlink: Netlink, request: bytes, family: Family, kind: int, decode: Callable[[bytes], V]
) -> list[V]:
    family_byte = bytes((AF[family],))
    return [decode(p) for k, p in netlink.dump(request) if k == kind and p.startswith(family_byte)]


def routes(
    netlink: Netlink,
    family: Family,
    table: int | None = None,
    kind: int | None = None,
    protocol: int | None = None,
    length: int | None = None,
) -> list[Route]:
    """Routes of a family, of what is given alone, without cached ones; `length` is the prefix's.

    A table that does not exist has none. The kernel does not say when routes changed while they
    were listed: what was there all the time is in the list, what came or went may be.
    """
    family_byte = AF[family]

    def collect(spans: Iterator[Span]) -> list[Route]:
        return [
            decode_route(buffer[offset + HEADER_BYTES : offset + size])
            for buffer, offset, size in spans
            if size > HEADER_BYTES + 1
            and buffer[offset + 4] == RTM_NEWROUTE
            and buffer[offset + HEADER_BYTES] == family_byte
            and length in (None, buffer[offset + HEADER_BYTES + 1])
        ]

    try:
        found = netlink.read(encode_route_dump(family, table, kind, protocol), collect)
    except OSError as error:
        if error.errno == ENOENT:
            return []
        raise
    return [
        route
        for route in found
        if table in (None, route.table)
        and kind in (None, route.kind)
        and protocol in (None, route.protocol)
        and not route.flags & RTM_F_CLONED
    ]


def packed_table(netlink: Netlink, family: Family, table: int, ifindex: int) -> tuple[Packed, list[Route]]:
    """A tunnel's table: entries of ours as `bulk` writes them for that device, and all else."""

    def collect(spans: Iterator[Span]) -> TableReader:
        reader = TableReader(family, table, ifindex)
        reader.feed(spans)
        return reader

    try:
        return netlink.read(encode_route_dump(family, table), collect).result()
    except OSError as error:
        if error.errno == ENOENT:
            return TableReader(family, table, ifindex).result()
        raise


def default_routes(netlink: Netlink) -> list[Route]:
    """Default routes of the main table that lead somewhere, the preferred one of a family first."""
    found = [r for f in FAMILIES for r in routes(netlink, f, TABLE_MAIN, UNICAST, length=0)]
    return sorted(found, key=lambda route: (route.family, route.metric))


def onlink(netlink: Netlink, skip: Collection[int] = ()) -> Networks:
    """Networks of the main table that are reached without a gateway and lie in private ranges.

    `skip`: devices whose networks do not count, such as the tunnels' own.
    """
    return Networks.of(
        route.destination
        for family in FAMILIES
        for route in routes(netlink, family, TABLE_MAIN, UNICAST)
        if route.oif  # which a route of several ways has not
        and route.oif not in skip
        and route.gateway is None
        and not route.nexthop
        and any(range_.covers(route.destination) for range_ in PRIVATE)
    )


def lookup(netlink: Netlink, address: bytes) -> Way:
    """Which way the kernel itself would send a packet of this host to `address`."""
    try:
        route = _get(netlink, encode_route_get(address))
    except OSError as error:
        if error.errno not in _NO_WAY:
            raise
        return Way(error.errno)
    return Way(0, route.kind, route.table, _matched(netlink, address), route.oif, route.gateway, route.source)


def _matched(netlink: Netlink, address: bytes) -> Network | None:
    """The prefix behind an answer, which itself is for one address; None: it is gone meanwhile."""
    try:
        return _get(netlink, encode_route_get(address, match=True)).destination
    except OSError as error:
        if error.errno not in _NO_WAY:
            raise
        return None


def _get(netlink: Netlink, request: bytes) -> Route:
    for kind, payload in netlink.request(request):
        if kind == RTM_NEWROUTE:
            return decode_route(payload)
    raise Malformed("an answer without a route")

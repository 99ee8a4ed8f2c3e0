"""One route at a time as an rtnetlink message, and the requests that list or look up routes.

Pure. For a tunnel's many routes see `bulk`, which writes the same messages a thousand at once.
The layouts and numbers are those of rtnetlink(7) and linux/rtnetlink.h.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

from attrs import frozen

from coentro.netops.linux.framing import (
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    U32,
    Attributes,
    Malformed,
    attribute,
    attributes,
    fixed,
    message,
    number,
)
from coentro.netops.linux.messages import RTPROT_KERNEL, family_of
from coentro.networks import AF, BITS, SIZE, Family, Network
from coentro.plan import Op

RTM_NEWROUTE: Final = 24
RTM_DELROUTE: Final = 25
RTM_GETROUTE: Final = 26

RTA_DST: Final = 1
RTA_OIF: Final = 4
RTA_GATEWAY: Final = 5
RTA_PRIORITY: Final = 6
RTA_PREFSRC: Final = 7
RTA_MULTIPATH: Final = 9
RTA_CACHEINFO: Final = 12
RTA_TABLE: Final = 15
RTA_VIA: Final = 18
RTA_PREF: Final = 20
RTA_NH_ID: Final = 30

UNICAST: Final = 1
LOCAL: Final = 2
BROADCAST: Final = 3
ANYCAST: Final = 4
MULTICAST: Final = 5
BLACKHOLE: Final = 6
UNREACHABLE: Final = 7
PROHIBIT: Final = 8
THROW: Final = 9
KIND_NAMES: Final = {
    UNICAST: "unicast",
    LOCAL: "local",
    BROADCAST: "broadcast",
    ANYCAST: "anycast",
    MULTICAST: "multicast",
    BLACKHOLE: "blackhole",
    UNREACHABLE: "unreachable",
    PROHIBIT: "prohibit",
    THROW: "throw",
}

PROTOCOL: Final = 206
"""Of our device routes (rtnetlink(7): above RTPROT_STATIC a number is for whoever takes it)."""

TABLE_MAIN: Final = 254
TABLE_LOCAL: Final = 255

RTM_F_CLONED: Final = 0x200
RTM_F_LOOKUP_TABLE: Final = 0x1000
RTM_F_FIB_MATCH: Final = 0x2000

DEFAULT_METRIC: Final[dict[Family, int]] = {4: 0, 6: 1024}
"""What a route has whose metric is not given: IPv6 has no 0 (IP6_RT_PRIO_USER)."""
LAST_METRIC: Final = 4294967294
"""For a route that comes after all others of its prefix; `ip -6 route flush` skips the number after it."""

RTMSG: Final = Struct("=BBBBBBBBI")
# family, dst and src length, tos, table, protocol, scope, type, flags
_NEXTHOP: Final = Struct("=HBBi")  # struct rtnexthop: length, flags, hops, interface
_VIA: Final = Struct("=H")  # struct rtvia: family, then the address

OP: Final[dict[Op, tuple[int, int]]] = {
    Op.ADD: (RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL),
    Op.SET: (RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE),
    Op.DELETE: (RTM_DELROUTE, 0),
}


@frozen
class Hop:
    """One way of a route that has several."""

    oif: int
    gateway: bytes | None


@frozen
class Route:
    """A route as the kernel tells it. `oif` 0: no device. `gateway` may be IPv6 for an IPv4 route.

    `hops` has the ways of a multipath route, `nexthop` the id of a nexthop object.
    """

    family: Family
    table: int
    destination: Network
    kind: int
    protocol: int
    scope: int = 0
    oif: int = 0
    gateway: bytes | None = None
    metric: int = 0
    source: bytes | None = None
    hops: tuple[Hop, ...] = ()
    nexthop: int = 0
    tos: int = 0
    source_length: int = 0
    flags: int = 0


def decode_route(payload: bytes) -> Route:
    """From the payload of RTM_NEWROUTE or RTM_DELROUTE."""
    head = fixed(RTMSG, payload)
    af, length, source_length, tos, table, protocol, scope, kind, flags = head
    family = family_of(af)
    size = SIZE[family]
    found = attributes(payload, RTMSG.size)
    address = found.get(RTA_DST, bytes(size))
    source = found.get(RTA_PREFSRC)
    if len(address) != size or length > BITS[family] or (source is not None and len(source) != size):
        raise Malformed(f"a route of IPv{family} to {len(address)} bytes of address, /{length}")
    return Route(
        family,
        number(U32, found.get(RTA_TABLE), table),
        Network(address, length),
        kind,
        protocol,
        scope,
        number(U32, found.get(RTA_OIF)),
        _gateway(found),
        number(U32, found.get(RTA_PRIORITY)),
        source,
        _hops(found.get(RTA_MULTIPATH, b"")),
        number(U32, found.get(RTA_NH_ID)),
        tos,
        source_length,
        flags,
    )


def _gateway(found: Attributes) -> bytes | None:
    if (plain := found.get(RTA_GATEWAY)) is not None:
        gateway = plain
    elif (via := found.get(RTA_VIA)) is not None:
        family_of(*fixed(_VIA, via))
        gateway = via[_VIA.size :]
    else:
        return None
    if len(gateway) not in (4, 16):
        raise Malformed(f"a gateway of {len(gateway)} bytes")
    return gateway


def _hops(data: bytes) -> tuple[Hop, ...]:
    hops = []
    offset = 0
    while offset < len(data):
        length, _, _, oif = fixed(_NEXTHOP, data[offset:])
        if not _NEXTHOP.size <= length <= len(data) - offset:
            raise Malformed(f"a next hop of {length} bytes in the {len(data) - offset} that are left")
        hops.append(Hop(oif, _gateway(attributes(data[offset : offset + length], _NEXTHOP.size))))
        offset += length + 3 & ~3
    return tuple(hops)


def encode_route(op: Op, route: Route) -> bytes:
    """One route with its exact metric, such as the `unreachable default` that ends a table.

    A delete names all that the kernel compares, so that only this route goes.
    """
    kind, flags = OP[op]
    destination = route.destination
    head = RTMSG.pack(
        AF[route.family],
        destination.length,
        0,
        route.tos,
        0,
        route.protocol,
        route.scope,
        route.kind,
        0,
    )
    body = head + attribute(RTA_TABLE, U32.pack(route.table))
    body += attribute(RTA_DST, destination.address)
    if route.oif:
        body += attribute(RTA_OIF, U32.pack(route.oif))
    if route.gateway is not None:
        body += attribute(RTA_GATEWAY, route.gateway)
    if metric := route.metric or DEFAULT_METRIC[route.family]:
        body += attribute(RTA_PRIORITY, U32.pack(metric))
    if route.source is not None:
        body += attribute(RTA_PREFSRC, route.source)
    return message(kind, flags | NLM_F_ACK, body)


def last_resort(family: Family, table: int) -> Route:
    """`unreachable default` behind everything else in a table, so that no packet leaves it when
    its device routes are gone (a link that goes down takes them without a word)."""
    everything = Network(bytes(SIZE[family]), 0)
    return Route(family, table, everything, UNREACHABLE, RTPROT_KERNEL, metric=LAST_METRIC)


def encode_route_dump(
    family: Family, table: int | None = None, kind: int | None = None, protocol: int | None = None
) -> bytes:
    """Routes of a family that the kernel itself chooses, given NETLINK_GET_STRICT_CHK.

    The kernel answers ENOENT for a table that it does not have.
    """
    body = RTMSG.pack(AF[family], 0, 0, 0, 0, protocol or 0, 0, kind or 0, 0)
    if table is not None:
        body += attribute(RTA_TABLE, U32.pack(table))
    return message(RTM_GETROUTE, NLM_F_DUMP, body)


def encode_route_get(address: bytes, *, match: bool = False) -> bytes:
    """Which way a packet of this host to `address` goes; `match` asks for the route's own prefix."""
    family: Family = 4 if len(address) == 4 else 6
    # IPv6 always says the table that it found, and refuses to be asked for it.
    flags = (RTM_F_LOOKUP_TABLE if family == 4 else 0) | (RTM_F_FIB_MATCH if match else 0)
    head = RTMSG.pack(AF[family], BITS[family], 0, 0, 0, 0, 0, 0, flags)
    return message(RTM_GETROUTE, NLM_F_ACK, head + attribute(RTA_DST, address))

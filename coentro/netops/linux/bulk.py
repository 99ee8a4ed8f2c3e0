"""A tunnel's many routes: a thousand messages at once out of packed entries, and back.

Pure. All messages of a family have one layout and one length, so they are a template repeated,
into which each column of the entries (an address byte, the prefix length, the kind) is copied
with one strided slice; a dump is read by remembering what everything but the destination of a
message means. An entry is that of coentro.plan.Packed: address, prefix length, then the kind as
rtnetlink numbers it. Its route is ours by its marks: a `unicast` one has our protocol and the
tunnel's device, a `throw` or `unreachable` one has protocol kernel and no device, since
systemd-networkd removes device-less routes of any other.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from typing import Final

from coentro.netops.linux.framing import (
    FLAGS_AT,
    HEADER,
    HEADER_BYTES,
    NLM_F_ACK,
    NLM_F_REQUEST,
    SEQUENCE_AT,
    U16,
    U32,
    attribute,
    attributes,
    message,
)
from coentro.netops.linux.messages import RTPROT_KERNEL
from coentro.netops.linux.routes import (
    DEFAULT_METRIC,
    OP,
    PROTOCOL,
    RTA_CACHEINFO,
    RTA_DST,
    RTA_OIF,
    RTA_PREF,
    RTA_PRIORITY,
    RTA_TABLE,
    RTM_F_CLONED,
    RTM_NEWROUTE,
    RTMSG,
    THROW,
    UNICAST,
    UNREACHABLE,
    Route,
    decode_route,
)
from coentro.networks import AF, SIZE, Family
from coentro.plan import Op, Packed

KINDS: Final = frozenset({UNICAST, UNREACHABLE, THROW})

_LENGTH_AT: Final = HEADER_BYTES + 1
_PROTOCOL_AT: Final = HEADER_BYTES + 5
_KIND_AT: Final = HEADER_BYTES + 7
_TABLE_AT: Final = HEADER_BYTES + RTMSG.size
_DST_AT: Final = _TABLE_AT + 12  # after RTA_TABLE and the head of RTA_DST
_LOOPBACK: Final = 1  # LOOPBACK_IFINDEX of the kernel's net/flow.h: lo's in every namespace
_TABLE_HEAD: Final = attribute(RTA_TABLE, bytes(4))[:4]
_DST_HEAD: Final[dict[Family, bytes]] = {
    4: attribute(RTA_DST, bytes(4))[:4],
    6: attribute(RTA_DST, bytes(16))[:4],
}
_USUAL: Final[dict[Family, frozenset[int]]] = {
    4: frozenset({RTA_TABLE, RTA_DST, RTA_OIF}),
    6: frozenset({RTA_TABLE, RTA_DST, RTA_OIF, RTA_PRIORITY, RTA_CACHEINFO, RTA_PREF}),
}
_LAYOUTS: Final = 64  # how many different kinds of message a dump's reader remembers


def encode_routes(op: Op, family: Family, table: int, ifindex: int, data: bytes, sequence: int) -> bytes:
    """One chunk of requests, numbered from `sequence`: an error names its entry by that number.

    `data` is that of a Packed. Only the last message asks for an ACK, and netlink works in order,
    so that one is the answer to all. A delete has all marks of the route, so that of two routes
    with one destination ours goes. ValueError: a kind that is none of ours.
    """
    size = SIZE[family]
    width = size + 2
    count, rest = divmod(len(data), width)
    kinds = data[size + 1 :: width]
    if rest or not KINDS.issuperset(kinds):
        raise ValueError("not packed entries of routes")
    if not count:
        return b""
    template = _template(op, family, table)
    length = len(template)
    buffer = bytearray(template * count)
    for at in range(size):
        buffer[_DST_AT + at :: length] = data[at::width]
    buffer[_LENGTH_AT::length] = data[size::width]
    buffer[_KIND_AT::length] = kinds
    buffer[_PROTOCOL_AT::length] = kinds.translate(_by_kind(PROTOCOL, RTPROT_KERNEL))
    # An RTA_OIF of 0 is none (fib_create_info, ip6_route_info_create). IPv6 hangs a route without
    # a device on lo, and its delete does not look at the kind, so it is told that device instead.
    nowhere = U32.pack(_LOOPBACK if family == 6 and op is Op.DELETE else 0)
    for at, (byte, other) in enumerate(zip(U32.pack(ifindex), nowhere, strict=True)):
        buffer[_DST_AT + size + 4 + at :: length] = kinds.translate(_by_kind(byte, other))
    numbers = array("I", range(sequence, sequence + count)).tobytes()
    for at in range(4):
        buffer[SEQUENCE_AT + at :: length] = numbers[at::4]
    U16.pack_into(buffer, (count - 1) * length + FLAGS_AT, OP[op][1] | NLM_F_REQUEST | NLM_F_ACK)
    return bytes(buffer)


def _template(op: Op, family: Family, table: int) -> bytes:
    kind, flags = OP[op]
    body = RTMSG.pack(AF[family], 0, 0, 0, 0, 0, 0, 0, 0)
    body += attribute(RTA_TABLE, U32.pack(table))
    body += attribute(RTA_DST, bytes(SIZE[family]))
    body += attribute(RTA_OIF, bytes(4))
    if family == 6:
        # What the kernel gives a route without a metric; said, so that a delete compares it.
        body += attribute(RTA_PRIORITY, U32.pack(DEFAULT_METRIC[6]))
    return message(kind, flags, body)


def _by_kind(unicast: int, other: int) -> bytes:
    """A table for bytes.translate from the kind to one byte of what depends on it."""
    return bytes(unicast if kind == UNICAST else other for kind in range(256))


class TableReader:
    """Sorts the messages of one table's dump into entries of ours and other routes.

    Other routes are those that are not, to the last attribute, what `encode_routes` writes; the
    table's `last_resort` is among them.
    """

    def __init__(self, family: Family, table: int, ifindex: int) -> None:
        self.family = family
        self.table = table
        self.ifindex = ifindex
        self.foreign: list[Route] = []
        self._entries: list[bytes] = []
        self._known: dict[bytes, bytes] = {}

    def feed(self, spans: Iterable[tuple[bytes, int, int]]) -> None:
        """Take in messages as `Netlink.read` gives them: (buffer, offset, length). Malformed."""
        size = SIZE[self.family]
        after = _DST_AT + size
        known = self._known
        entries = self._entries
        digits = [bytes((n,)) for n in range(256)]
        for buffer, offset, length in spans:
            start = offset + _DST_AT
            end = start + size
            # The message without its destination: a run of a table's routes has but a few of these.
            layout = (
                buffer[offset : offset + _LENGTH_AT]
                + buffer[offset + _LENGTH_AT + 1 : start]
                + buffer[end : offset + length]
            )
            kind = known.get(layout)
            if kind is None:
                self._learn(buffer[offset : offset + length], layout, after)
            else:
                entries.append(buffer[start:end] + digits[buffer[offset + _LENGTH_AT]] + kind)

    def _learn(self, whole: bytes, layout: bytes, after: int) -> None:
        if HEADER.unpack_from(whole)[1] != RTM_NEWROUTE:
            return
        route = decode_route(whole[HEADER_BYTES:])
        if route.family != self.family or route.table != self.table or route.flags & RTM_F_CLONED:
            return
        if not self._is_ours(route, frozenset(attributes(whole, _TABLE_AT))):
            self.foreign.append(route)
            return
        kind = bytes((route.kind,))
        self._entries.append(route.destination.packed + kind)
        # Remembered only where the destination stands in its place: then nothing else of the
        # message can depend on it. A default route, which has no RTA_DST, is rare enough.
        in_place = whole[_TABLE_AT : _TABLE_AT + 4] == _TABLE_HEAD
        in_place = in_place and whole[_DST_AT - 4 : _DST_AT] == _DST_HEAD[self.family]
        if in_place and len(whole) >= after and len(self._known) < _LAYOUTS:
            self._known[layout] = kind

    def _is_ours(self, route: Route, present: frozenset[int]) -> bool:
        if present - _USUAL[self.family] or route.tos or route.scope or route.source_length:
            return False
        if route.metric != DEFAULT_METRIC[self.family]:
            return False
        if route.kind == UNICAST:
            return route.protocol == PROTOCOL and route.oif == self.ifindex
        nowhere = route.oif == (_LOOPBACK if self.family == 6 else 0)
        return route.kind in KINDS and route.protocol == RTPROT_KERNEL and nowhere

    def result(self) -> tuple[Packed, list[Route]]:
        """Ours, sorted by destination, and the others in the kernel's order."""
        self._entries.sort()
        return Packed(SIZE[self.family] + 1, b"".join(self._entries)), self.foreign

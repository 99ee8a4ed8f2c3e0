"""Where a packet may come out, and how to know that it came out nowhere else.

A datagram names its row in its payload. Everything is watched: descriptors of tunnels as their
client holds them, and the far ends of the host's links. After the packets a last word is sent into
each wire, past all routes, and since a wire keeps its order nothing comes behind it that was
sent before: so no test waits for what does not come.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from typing import Final, Protocol, TypeVar

from tests import enclosure
from tests.sandbox import Namespace

T = TypeVar("T")
Seen = set[tuple[str, str]]
"""What came out, as (wire, what): a row, or `address?` where somebody asks for a neighbour."""

PATIENCE_S: Final = 3.0
MARK: Final = b"this is row "

_ETH_P_ALL: Final = 0x0003
_ETH_P_IP: Final = 0x0800
_ETH_P_ARP: Final = 0x0806
_ETH_P_EXPERIMENT: Final = 0x88B5  # IEEE 802's, local experimental
_IP_EXPERIMENT: Final = 253  # RFC 3692
_NEIGHBOUR_SOLICITATION: Final = 135  # RFC 4861 4.3


class Wire(Protocol):
    """One of them."""

    def fileno(self) -> int: ...

    def say_the_last_word(self) -> None:
        """Send what comes out behind all that was sent before."""

    def take(self) -> tuple[list[str], bool]:
        """What has come out, and whether the last word has."""


def inside(where: Namespace, make: Callable[[], T]) -> T:
    """What is made in another namespace and used from here, such as a socket."""
    with open("/proc/self/ns/net", "rb") as here:
        where.enter()
        try:
            return make()
        finally:
            enclosure.setns(here.fileno(), enclosure.CLONE_NEWNET)


class FarEnd:
    """The other end of a link of the host's; `where` it stands. What it opens goes with `stack`."""

    def __init__(self, stack: ExitStack, device: str, far: str, where: Namespace) -> None:
        self._device = device
        self._tap = stack.enter_context(inside(where, lambda: _packets(_ETH_P_ALL, far)))
        self._mouth = stack.enter_context(_packets(0))

    def fileno(self) -> int:
        return self._tap.fileno()

    def say_the_last_word(self) -> None:
        frame = b"\xff" * 6 + bytes(6) + _ETH_P_EXPERIMENT.to_bytes(2, "big") + bytes(46)
        self._mouth.sendto(frame, (self._device, _ETH_P_EXPERIMENT))

    def take(self) -> tuple[list[str], bool]:
        seen: list[str] = []
        while True:
            try:
                frame, (_, kind, direction, *_) = self._tap.recvfrom(4096)
            except BlockingIOError:
                return seen, False
            if direction == socket.PACKET_OUTGOING:
                continue
            if kind == _ETH_P_EXPERIMENT:
                return seen, True
            seen += _asked(frame[14:]) if kind == _ETH_P_ARP else _told(frame[14:])


class Descriptor:
    """A tunnel's, without anything before a packet. Where the device has no carrier nothing comes."""

    def __init__(self, stack: ExitStack, fd: int, device: str, carrier: bool) -> None:
        self._fd = fd
        self._device = device
        self._carrier = carrier
        self._mouth = stack.enter_context(_packets(0))

    def fileno(self) -> int:
        return self._fd

    def say_the_last_word(self) -> None:
        if self._carrier:
            header = struct.pack("!BBHHHBBH8x", 0x45, 0, 20, 0, 0, 1, _IP_EXPERIMENT, 0)
            self._mouth.sendto(header, (self._device, _ETH_P_IP))

    def take(self) -> tuple[list[str], bool]:
        seen: list[str] = []
        while True:
            try:
                packet = os.read(self._fd, 4096)
            except BlockingIOError:
                return seen, not self._carrier
            if packet[0] >> 4 == 4 and packet[9] == _IP_EXPERIMENT:
                return seen, True
            seen += _told(packet)


def watch(wires: Mapping[str, Wire], expected: Collection[tuple[str, str]]) -> Seen:
    """Everything that comes out, once all that is expected has, or did not in time."""
    seen: Seen = set()
    _take(wires, seen, lambda over: seen.issuperset(expected))
    for wire in wires.values():
        wire.say_the_last_word()
    _take(wires, seen, lambda over: len(over) == len(wires))
    return seen


def _take(wires: Mapping[str, Wire], seen: Seen, done: Callable[[set[str]], bool]) -> None:
    poll = select.poll()
    for wire in wires.values():
        poll.register(wire.fileno(), select.POLLIN)
    over: set[str] = set()
    deadline = time.monotonic() + PATIENCE_S
    while True:
        for name, wire in wires.items():
            told, last = wire.take()
            seen.update((name, what) for what in told)
            if last:
                over.add(name)
        left = deadline - time.monotonic()
        if done(over) or left < 0:
            return
        poll.poll(left * 1000)


def _packets(protocol: int, device: str | None = None) -> socket.socket:
    """A packet(7) socket; one of protocol 0 sends and hears nothing."""
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    made.setblocking(False)
    if device is not None:
        made.bind((device, protocol))
    return made


def _told(packet: bytes) -> list[str]:
    """The row that a datagram names, or the neighbour that IPv6 asks for."""
    version = packet[0] >> 4
    if version == 4:
        protocol, payload = packet[9], packet[(packet[0] & 15) * 4 :]
    elif version == 6:
        protocol, payload = packet[6], packet[40:]
    else:
        return []
    if protocol == socket.IPPROTO_UDP and payload[8:].startswith(MARK):
        # A frame on Ethernet may be filled up behind it.
        return [payload[8 + len(MARK) :].rstrip(b"\0").decode()]
    if protocol == socket.IPPROTO_ICMPV6 and payload[0] == _NEIGHBOUR_SOLICITATION:
        return [socket.inet_ntop(socket.AF_INET6, payload[8:24]) + "?"]
    return []


def _asked(arp: bytes) -> list[str]:
    return [socket.inet_ntop(socket.AF_INET, arp[24:28]) + "?"] if arp[6:8] == b"\0\1" else []

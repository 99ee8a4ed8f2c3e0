"""Which way a packet goes: every cell of ways.txt, by the kernel's own answer and by a real packet.

The answer is RTM_GETROUTE's (`ip route get`, with `oif` for a bound socket and `from … iif …` for
a forwarded packet). The packet is a datagram whose payload names its row, sent by an ordinary
socket and looked for on every wire: the descriptors of the tunnels, as their client holds them,
and the far ends of the host's links. A cell is right when both say it, and nothing else is seen.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import select
import socket
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

import pytest
from attrs import define, field, frozen

from coentro.client import Client
from tests import enclosure, sandbox
from tests.sandbox import Helper, Namespace, Namespaces

pytestmark = pytest.mark.usefixtures("tun_available")

T = TypeVar("T")

PATIENCE_S: Final = 3.0
"""How long a packet may take that comes; one that comes not costs nothing, since the last word is awaited."""

_TUNSETCARRIER: Final = 0x400454E2
_ETH_P_ALL: Final = 3
_ETH_P_IP: Final = 0x0800
_ETH_P_IPV6: Final = 0x86DD
_ETH_P_ARP: Final = 0x0806
_LAST_WORD: Final = 0x88B5  # an EtherType for experiments (IEEE 802)
_PORT: Final = 7777
_MARK: Final = b"way of row "


# The file


def _lines(title: str) -> list[list[str]]:
    """The cells of each line of one part of ways.txt."""
    text = Path(__file__).with_name("ways.txt").read_text()
    part = re.split(r"^== ", text, flags=re.MULTILINE)
    (body,) = (p for p in part if p.startswith(title + "\n"))
    lines = (line.strip() for line in body.splitlines()[1:])
    return [re.split(r"\s{2,}", line) for line in lines if line and not line.startswith("#")]


@frozen
class Destination:
    """One row's packet."""

    name: str
    family: int
    how: str
    address: str

    @property
    def row(self) -> str:
        return f"{self.name} {self.family}"


def _destinations() -> list[Destination]:
    return [
        Destination(name, family, how, address)
        for name, how, *addresses in _lines("Destinations")
        for family, address in zip((4, 6), addresses, strict=True)
    ]


def _specs() -> dict[str, dict[str, list[str]]]:
    specs: dict[str, dict[str, list[str]]] = {}
    for tunnel, name, values in _lines("Tunnels"):
        specs.setdefault(tunnel, {})[name] = values.split()
    return specs


def _ways() -> dict[str, dict[str, str]]:
    """By situation: row -> cell."""
    ways: dict[str, dict[str, str]] = {}
    for title in ("Ways: one owner", "Ways: others, and trouble"):
        (_, *situations), *rows = _lines(title)
        for name, family, *cells in rows:
            for situation, cell in zip(situations, cells, strict=True):
                ways.setdefault(situation, {})[f"{name} {family}"] = cell
    return ways


DESTINATIONS: Final = _destinations()
SPECS: Final = _specs()
WAYS: Final = _ways()
LINKS: Final = {name: (v4, v6) for name, v4, v6, _ in _lines("Devices")}


# The wires


class Wire(Protocol):
    """Somewhere a packet may come out."""

    def fileno(self) -> int: ...

    def say_the_last_word(self) -> bool:
        """Send something that comes out after all that was sent before; False: nothing gets through."""

    def take(self) -> list[str] | None:
        """What came out, as cells `row` or `address?`; None once the last word has."""


@frozen
class Link:
    """The far end of one of the host's links, and the near one for the last word."""

    far: socket.socket
    near: socket.socket

    def fileno(self) -> int:
        return self.far.fileno()

    def say_the_last_word(self) -> bool:
        frame = b"\xff" * 6 + bytes(6) + _LAST_WORD.to_bytes(2, "big") + _MARK
        self.near.send(frame.ljust(64, b"\0"))
        return True

    def take(self) -> list[str] | None:
        seen: list[str] = []
        while True:
            try:
                frame, (_, kind, packet, *_) = self.far.recvfrom(4096)
            except BlockingIOError:
                return seen
            if kind == _LAST_WORD:
                return None
            if packet == socket.PACKET_OUTGOING:
                continue
            told = _asked(frame[14:]) if kind == _ETH_P_ARP else _row(frame[14:])
            if told:
                seen.append(told)


@frozen
class Descriptor:
    """A tunnel's descriptor."""

    fd: int
    near: socket.socket
    carrier: bool = True

    def fileno(self) -> int:
        return self.fd

    def say_the_last_word(self) -> bool:
        if self.carrier:
            # An IPv4 header of a protocol for experiments (RFC 3692); the driver wants no more.
            self.near.send(struct.pack("!BBHHHBBH8s", 0x45, 0, 20, 0, 0, 1, 253, 0, bytes(8)))
        return self.carrier

    def take(self) -> list[str] | None:
        seen: list[str] = []
        while True:
            try:
                packet = os.read(self.fd, 4096)
            except BlockingIOError:
                return seen
            if packet[0] >> 4 == 4 and packet[9] == 253:
                return None
            told = _row(packet)
            if told:
                seen.append(told)


def _row(packet: bytes) -> str:
    """The row that a datagram of ours names, or whose address IPv6 neighbour discovery asks for."""
    version = packet[0] >> 4
    if version == 4:
        protocol, payload = packet[9], packet[(packet[0] & 15) * 4 :]
    elif version == 6:
        protocol, payload = packet[6], packet[40:]
    else:
        return ""
    if protocol == socket.IPPROTO_UDP and payload[8:].startswith(_MARK):
        return payload[8 + len(_MARK) :].rstrip(b"\0").decode()
    if protocol == socket.IPPROTO_ICMPV6 and payload[0] == 135:  # neighbour solicitation
        return socket.inet_ntop(socket.AF_INET6, payload[8:24]) + "?"
    return ""


def _asked(arp: bytes) -> str:
    """The address that an ARP request asks for."""
    return socket.inet_ntop(socket.AF_INET, arp[24:28]) + "?" if arp[6:8] == b"\0\1" else ""


def _tap(device: str) -> socket.socket:
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    made.bind((device, _ETH_P_ALL))
    made.setblocking(False)
    return made


def _mouth(device: str, protocol: int) -> socket.socket:
    """A socket that sends on a device past all routes, and hears nothing."""
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    made.bind((device, 0))
    # The protocol is what send(2) without an address takes, so it is set by connecting nowhere.
    return _Mouth.of(made, device, protocol)


# The host


@define
class Host:
    """The topology of ways.txt, and what stands on it."""

    guest: Namespace
    stack: ExitStack
    wires: dict[str, Wire] = field(factory=dict)
    tunnels: dict[str, Any] = field(factory=dict)

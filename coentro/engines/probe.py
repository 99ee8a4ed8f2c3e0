"""Whether a WireGuard engine understands what it reads from its descriptor.

A device and an engine that disagree about the headers before a packet move nothing, and nothing
says so: handshakes succeed, since they never touch the device. So before the real configuration
the engine has, for a moment, one peer with random keys at a socket of ours on the loopback, and a
packet for that peer is sent into the device. An engine that understands it begins a handshake with
the peer at once, and one that does not can't: what it takes for the destination lies elsewhere in
the packet. Nothing leaves the host, and no real peer is spoken to.

The packet goes to the experimental addresses and port of RFC 4727, link-local multicast, which
the kernel sends out of the interface that it is told, whatever routes there are.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from typing import Final

from coentro.engines.preset import Device, EngineFault, Wait
from coentro.engines.uapi import Uapi, setting

_GROUP_V4: Final = "224.0.0.254"
_GROUP_V6: Final = "ff02::114"
_PORT: Final = 1021
_INITIATION: Final = (b"\x01\0\0\0", 148)  # WireGuard's whitepaper 5.4.2: type, size in bytes

PATIENCE_S: Final = 5.0
_AGAIN_S: Final = 0.2


class Deaf(EngineFault):
    """The engine reads packets and does not understand them."""


class Probe:
    """The peer's socket, and one that speaks into the device."""

    def __init__(self, device: Device) -> None:
        """Errors: OSError."""
        self._v6 = all(":" in address for address in device.addresses)
        self._ear = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._mouth = socket.socket(socket.AF_INET6 if self._v6 else socket.AF_INET, socket.SOCK_DGRAM)
        try:
            self._ear.setblocking(False)
            self._ear.bind(("127.0.0.1", 0))
            if self._v6:
                self._mouth.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, device.ifindex)
                self._mouth.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, 0)
            else:
                request = struct.pack("=4s4si", b"", b"", device.ifindex)  # struct ip_mreqn, ip(7)
                self._mouth.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, request)
                self._mouth.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 0)
        except OSError:
            self.close()
            raise

    def configuration(self) -> bytes:
        """What makes us the engine's only peer. Any 32 bytes are a key (RFC 7748 5)."""
        return setting([
            f"private_key={os.urandom(32).hex()}",
            "listen_port=0",
            "replace_peers=true",
            f"public_key={os.urandom(32).hex()}",
            f"endpoint=127.0.0.1:{self._ear.getsockname()[1]}",
            f"allowed_ip={_GROUP_V6}/128" if self._v6 else f"allowed_ip={_GROUP_V4}/32",
        ])  # fmt: skip

    def speak(self) -> None:
        """Send one packet into the device. Errors: OSError."""
        self._mouth.sendto(b"probe", (_GROUP_V6 if self._v6 else _GROUP_V4, _PORT))

    def heard(self) -> bool:
        """Whether a handshake has begun. Never waits."""
        while True:
            try:
                data = self._ear.recv(2048)
            except BlockingIOError:
                return False
            if (data[:4], len(data)) == _INITIATION:
                return True

    def fileno(self) -> int:
        return self._ear.fileno()

    def close(self) -> None:
        self._ear.close()
        self._mouth.close()


def confirm(device: Device, uapi: Uapi, engine: str, wait: Wait) -> None:
    """Errors: Deaf; EngineFault where no packet was read at all; what `wait` raises."""
    try:
        probe = Probe(device)
    except OSError as fault:
        raise EngineFault(f"the device {device.name} can't be probed: {fault}") from None
    try:
        uapi.set(probe.configuration(), wait, "the peer that probes it", {})
        _converse(probe, device, engine, wait)
    finally:
        probe.close()


def _converse(probe: Probe, device: Device, engine: str, wait: Wait) -> None:
    before = device.stats()["tx_packets"]
    deadline, sent, refused = time.monotonic() + PATIENCE_S, 0, ""
    while time.monotonic() < deadline:
        # More than once: an engine that has just answered may not have seen yet that its device is up.
        try:
            probe.speak()
            sent += 1
        except OSError as fault:
            refused = f" ({fault.strerror or fault})"
        again = time.monotonic() + _AGAIN_S
        while (left := again - time.monotonic()) > 0:
            wait([probe], left)
            if probe.heard():
                return
    if not sent:
        raise EngineFault(f"no packet could be sent into {device.name}{refused}: does a firewall drop it?")
    read = device.stats()["tx_packets"] - before
    if read < sent:
        raise EngineFault(
            f"{engine} does not read the tunnel's descriptor: of {sent} packets for it {read} were taken",
            "another program was started, or a firewall drops packets to 224.0.0.254 or ff02::114",
        )
    raise Deaf(f"{engine} reads the tunnel's packets and understands none of them")

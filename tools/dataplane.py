#!/usr/bin/env python3
"""A small UDP data plane: IP packets from a TUN into datagrams and back.

FOR THE DEMO AND FOR TESTS ONLY. Nothing is encrypted, nobody is authenticated, and whoever sends
a greeting to the server gets the tunnel: run it inside namespaces that are made for it. It stands
here for a real engine and shows what one has to do with the descriptor that the helper gave it.
Standard library alone. The idea is Linux's own Documentation/networking/tuntap.rst.

    dataplane.py client --server HOST:PORT             the TUN is COENTRO_TUN_FD, as `coentroctl run` gives it
    dataplane.py server --listen HOST:PORT --tun NAME  opens a TUN of its own: it needs CAP_NET_ADMIN

A datagram is one IP packet. Two others exist: a greeting, which the client repeats until it is
answered, and its answer; no IP packet begins with their zero byte.
"""

from __future__ import annotations

import argparse
import errno
import fcntl
import os
import select
import signal
import socket
import struct
import sys
import time
from typing import Final, NoReturn

GREETING: Final = b"\0coentro-dataplane 1"
WELCOME: Final = b"\0welcome"
GREET_EVERY_S: Final = 0.1
GREET_FOR_S: Final = 5.0
ROUNDS: Final = 64  # packets of one side before the other is looked at
LARGEST: Final = 65_535 + 64

# linux/if_tun.h
TUNSETIFF: Final = 0x400454CA
IFF_TUN: Final = 0x0001
IFF_NO_PI: Final = 0x1000

Address = tuple[str, int]


class Tun:
    """A TUN's descriptor, with what stands before each packet on this system."""

    def __init__(self, fd: int, header_bytes: int) -> None:
        os.set_blocking(fd, False)
        self.fd = fd
        self.header_bytes = header_bytes

    def read(self) -> bytes | None:
        """One packet without its header, or None if there is none now."""
        try:
            return os.read(self.fd, LARGEST)[self.header_bytes :]
        except BlockingIOError:
            return None

    def write(self, packet: bytes) -> None:
        """A packet that the system refuses is lost, as on any wire."""
        try:
            os.write(self.fd, self._header(packet) + packet)
        except OSError as fault:
            # EINVAL: no IP packet; EIO: the device is down; ENOBUFS, EAGAIN: its queue is full.
            if fault.errno not in (errno.EINVAL, errno.EIO, errno.ENOBUFS, errno.EAGAIN):
                raise

    def _header(self, packet: bytes) -> bytes:
        version = packet[0] >> 4 if packet else 4
        if not self.header_bytes:
            return b""
        if sys.platform == "darwin":  # net/if_utun.h: the address family in network order
            return struct.pack("!I", socket.AF_INET if version == 4 else socket.AF_INET6)
        # tuntap.rst 3.2: flags and EtherType; then an empty virtio_net_hdr, which says a whole packet
        kind = struct.pack("!HH", 0, 0x0800 if version == 4 else 0x86DD) if self.header_bytes % 10 else b""
        return kind.ljust(self.header_bytes, b"\0")


def pump(tun: Tun, wire: socket.socket, peer: Address) -> NoReturn:
    """Packets from the TUN to the peer and back, until the device or the process ends.

    The peer moves to wherever a greeting comes from. Errors: OSError when the device is gone.
    """
    poll = select.poll()
    poll.register(tun.fd, select.POLLIN)
    poll.register(wire, select.POLLIN)
    while True:
        for fd, _ in poll.poll():
            if fd == tun.fd:
                _out(tun, wire, peer)
            else:
                peer = _in(tun, wire, peer)


def _out(tun: Tun, wire: socket.socket, peer: Address) -> None:
    for _ in range(ROUNDS):
        packet = tun.read()
        if packet is None:
            return
        try:
            wire.sendto(packet, peer)
        except (BlockingIOError, ConnectionRefusedError):
            pass  # the wire is full, or nobody is there for the moment: the packet is lost
        except OSError as fault:
            if fault.errno not in (errno.ENOBUFS, errno.EMSGSIZE, errno.ENETUNREACH, errno.EHOSTUNREACH):
                raise


def _in(tun: Tun, wire: socket.socket, peer: Address) -> Address:
    for _ in range(ROUNDS):
        try:
            packet, sender = wire.recvfrom(LARGEST)
        except (BlockingIOError, ConnectionRefusedError):
            return peer
        if packet == GREETING:
            peer = sender
            wire.sendto(WELCOME, peer)
        elif packet[:1] != b"\0" and sender == peer:
            tun.write(packet)
    return peer


def open_tun(name: str) -> tuple[Tun, str]:
    """A TUN of our own (Linux). Errors: OSError."""
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)

    asked = struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI)
    answer = fcntl.ioctl(fd, TUNSETIFF, asked)
    return Tun(fd, 0), answer[:16].rstrip(b"\0").decode()


def wire_socket() -> socket.socket:
    wire = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        wire.setsockopt(socket.SOL_SOCKET, option, 4 << 20)
    return wire


def greet(wire: socket.socket, server: Address) -> None:
    """Until the server answers. Errors: TimeoutError."""
    deadline = time.monotonic() + GREET_FOR_S
    wire.settimeout(GREET_EVERY_S)
    while time.monotonic() < deadline:
        wire.sendto(GREETING, server)
        try:
            packet, sender = wire.recvfrom(LARGEST)
        except (TimeoutError, ConnectionRefusedError):
            continue
        if packet == WELCOME and sender == server:
            wire.setblocking(False)
            return
    raise TimeoutError(f"no answer from {server[0]}:{server[1]} within {GREET_FOR_S:g} s")


def client(server: Address) -> NoReturn:
    fd = os.environ.get("COENTRO_TUN_FD", "")
    if not fd.isdigit():
        sys.exit("dataplane: COENTRO_TUN_FD is not set: start this with `coentroctl run PROFILE.toml -- ...`")
    tun = Tun(int(fd), int(os.environ.get("COENTRO_PACKET_HEADER_BYTES", "0")))
    wire = wire_socket()
    greet(wire, server)
    name = os.environ.get("COENTRO_TUN_NAME", "the tunnel")
    say(f"dataplane: {name} is connected to {server[0]}:{server[1]}")
    pump(tun, wire, server)


def server(listen: Address, name: str) -> NoReturn:
    tun, name = open_tun(name)
    wire = wire_socket()
    wire.bind(listen)
    say(f"dataplane: {name} is open, waiting on {listen[0]}:{listen[1]}")
    packet, peer = b"", listen
    while packet != GREETING:
        packet, peer = wire.recvfrom(LARGEST)
    wire.sendto(WELCOME, peer)
    wire.setblocking(False)
    pump(tun, wire, peer)


def say(text: str) -> None:
    print(text, flush=True)


def address(text: str) -> Address:
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdigit() or not 0 < int(port) < 65536:
        raise argparse.ArgumentTypeError(f"expected HOST:PORT, not {text!r}")
    return host, int(port)


def main() -> None:
    parser = argparse.ArgumentParser(
        description="A small UDP data plane for the demo and for tests: not encrypted."
    )
    ends = parser.add_subparsers(dest="end", required=True)
    ours = ends.add_parser("client")
    ours.add_argument("--server", type=address, required=True, metavar="HOST:PORT")
    theirs = ends.add_parser("server")
    theirs.add_argument("--listen", type=address, required=True, metavar="HOST:PORT")
    theirs.add_argument("--tun", default="", metavar="NAME")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        client(args.server) if args.end == "client" else server(args.listen, args.tun)
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as fault:
        sys.exit(f"dataplane: {fault.strerror or fault}")


if __name__ == "__main__":
    main()

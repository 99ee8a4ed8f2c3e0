"""What whoever holds a tunnel's descriptor may write into it to change the host's way."""

from __future__ import annotations

import struct
from socket import AF_INET6, inet_pton

from tests.netns.linux_host import checksum, icmpv6, ipv4


def hostile() -> list[bytes]:
    """For the host of linux_host.lan() and a tunnel of 10.9.0.2 and fd00:9::2: each kind of packet that
    configures, from a stranger and in the name of the LAN's own gateway."""
    prefix = struct.pack("!BBBBIII", 3, 4, 64, 0xC0, 86400, 86400, 0) + _ip("2001:db8:666::")
    mtu = struct.pack("!BBHI", 5, 1, 0, 1280)
    advertisement = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0x08, 1800, 0, 0) + prefix + mtu
    solicitation = struct.pack("!BBHI", 135, 0, 0, 0) + _ip("fd00:9::2")
    neighbour = struct.pack("!BBHI", 136, 0, 0, 0xE0000000) + _ip("fd00:1::1")
    redirect6 = struct.pack("!BBHI", 137, 0, 0, 0) + _ip("fd00:1::ff") + _ip("2001:db8:ffff::1")
    inner = ipv4("192.168.1.2", "203.0.113.7", 17, struct.pack("!HHHH", 5555, 5555, 8, 0))
    redirect = struct.pack("!BBH4B", 5, 1, 0, 192, 168, 1, 66) + inner
    redirect = redirect[:2] + struct.pack("!H", checksum(redirect)) + redirect[4:]
    return [
        icmpv6("fe80::1", "ff02::1", advertisement),
        icmpv6("fe80::1", "fd00:9::2", advertisement),
        icmpv6("fe80::1", "ff02::1:ff00:2", solicitation),
        icmpv6("fd00:1::1", "fd00:1::2", neighbour),
        icmpv6("fe80::1", "fd00:9::2", redirect6),
        icmpv6("fd00:1::1", "fd00:1::2", redirect6),
        ipv4("192.168.1.1", "192.168.1.2", 1, redirect),
        ipv4("192.168.1.1", "10.9.0.2", 1, redirect),
    ]


def _ip(text: str) -> bytes:
    return inet_pton(AF_INET6, text)

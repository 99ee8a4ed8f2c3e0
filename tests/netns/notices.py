"""What the kernel tells of each change of the network: the steps of a change, seen from outside."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from typing import Final, Self

_GROUPS: Final = (1, 5, 7, 8, 9, 11, 19)  # RTNLGRP_: LINK, IPV4_ and IPV6_ IFADDR, ROUTE, RULE (rtnetlink.h)
_BUFFER: Final = 8 << 20


class Notices:
    """Counts the notices of this namespace, from its making on."""

    def __init__(self, patience_s: float = 20.0) -> None:
        self._news = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._news.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        self._news.settimeout(patience_s)
        self._news.bind((0, sum(1 << group - 1 for group in _GROUPS)))
        self._seen = 0

    def wait_for(self, count: int) -> None:
        """Return once so many have come since this was made. Errors: TimeoutError."""
        while self._seen < count:
            self._seen += sum(1 for _ in _messages(self._news.recv(1 << 16)))

    def so_far(self) -> int:
        """How many have come by now."""
        self._news.setblocking(False)
        try:
            while True:
                self._seen += sum(1 for _ in _messages(self._news.recv(1 << 16)))
        except BlockingIOError:
            return self._seen

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._news.close()


def _messages(data: bytes) -> Iterator[int]:
    """The type of each message in a datagram (netlink(7))."""
    at = 0
    while at < len(data):
        length, kind = struct.unpack_from("=IH", data, at)
        yield kind
        at += (length + 3) & ~3

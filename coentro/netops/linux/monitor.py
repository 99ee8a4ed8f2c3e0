"""Hears of devices that come, change and go (RTNLGRP_LINK), as an async iterator.

What it says is a hint: look again rather than believe it. Routes, rules and addresses have no
groups here, since bulk changes of our own would drown the rest.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Iterator
from errno import ENOBUFS
from typing import Final, Self

import trio
from attrs import frozen

from coentro.netops.linux.framing import Malformed, iter_messages
from coentro.netops.linux.messages import RTM_DELLINK, RTM_NEWLINK, Link, decode_link
from coentro.netops.linux.netlink import DATAGRAM_BYTES, RECEIVE_BYTES, SO_RCVBUFFORCE, enlarge

_RTMGRP_LINK: Final = 1
_TURN: Final = 32  # datagrams thrown away before others get a turn


@frozen
class LinkChange:
    """A device as it is now, or, when `gone`, as it was."""

    link: Link
    gone: bool


@frozen
class Resync:
    """Something was missed: read everything anew."""


class Monitor:
    """Listens from the moment it is made, in the network namespace of the thread that makes it."""

    def __init__(self, receive_bytes: int = RECEIVE_BYTES) -> None:
        self.sock = socket.socket(
            socket.AF_NETLINK,
            socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK,
            socket.NETLINK_ROUTE,
        )
        self._waiting: deque[LinkChange | Resync] = deque()
        self._lost = False
        try:
            enlarge(self.sock, SO_RCVBUFFORCE, socket.SO_RCVBUF, receive_bytes)
            self.sock.bind((0, _RTMGRP_LINK))
        except BaseException:
            self.sock.close()
            raise

    def close(self) -> None:
        """Stop listening; a task that waits gets trio.ClosedResourceError."""
        if self.sock.fileno() >= 0:
            trio.lowlevel.notify_closing(self.sock)
            self.sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> LinkChange | Resync:
        await trio.lowlevel.checkpoint()
        turn = 0
        while not self._waiting:
            if self.sock.fileno() < 0:
                raise trio.ClosedResourceError
            try:
                self._receive()
            except BlockingIOError:
                if self._lost:
                    self._lost = False
                    return Resync()
                await trio.lowlevel.wait_readable(self.sock)
            turn += 1
            if turn % _TURN == 0:
                await trio.lowlevel.checkpoint()
        return self._waiting.popleft()

    def _receive(self) -> None:
        try:
            buffer, _, flags, sender = self.sock.recvmsg(DATAGRAM_BYTES)
        except OSError as error:
            if error.errno != ENOBUFS:
                raise
            # Until its queue is empty the kernel drops what comes without saying so again
            # (NETLINK_S_CONGESTED), so only who has emptied it may look anew.
            self._lost = True
            return
        if self._lost or sender[0] != 0:
            return
        if flags & socket.MSG_TRUNC:
            self._lost = True
            return
        try:
            self._waiting.extend(_changes(buffer))
        except Malformed:
            self._lost = True


def _changes(buffer: bytes) -> Iterator[LinkChange]:
    for kind, _, _, _, payload in iter_messages(buffer):
        if kind in (RTM_NEWLINK, RTM_DELLINK):
            link = decode_link(payload)
            # Of another family it is news of a bridge's port: a DELLINK there removes no device.
            if link.family == socket.AF_UNSPEC:
                yield LinkChange(link, kind == RTM_DELLINK)

"""What waits to be sent to one peer: whole lines, with their descriptors.

Written to the non-blocking socket at once and only then waited for: a pass through the event
loop for each answer would double the price of a call. Answers may pile up to 1 MiB before the
peer is no longer read from; events beyond that are dropped and counted, and said to be lost.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from typing import Final

import trio
from attrs import define, field

from coentro.wire import lines

QUEUED: Final = 1 << 20
TOGETHER: Final = 1 << 16


@define
class _Piece:
    data: bytes
    fds: list[int] = field(factory=list)
    sent: list[Callable[[], None]] = field(factory=list)


class Outbox:
    """The sending side of a connection; never blocks, never raises for a peer that is gone.

    `stuck` is called when the socket takes no more and `run` is not under way: a connection
    that reads its answers, as nearly all do, needs no task for sending. `lost` makes the line
    that stands for so many events.
    """

    def __init__(
        self, sock: socket.socket, lost: Callable[[int], bytes], stuck: Callable[[], None] = lambda: None
    ) -> None:
        self._sock = sock
        self._lost = lost
        self._stuck = stuck
        self._pieces: list[_Piece] = []
        self._queued = 0
        self._dropped = 0
        self._running = False
        self._changed: trio.Event | None = None  # where somebody waits for it
        self.broken = False

    @property
    def full(self) -> bool:
        return self._queued >= QUEUED

    def put(self, data: bytes, fds: Sequence[int] = (), sent: Sequence[Callable[[], None]] = ()) -> None:
        """Queue one line; each of `sent` is called once all of it is in the peer's socket.

        The descriptors are the outbox's from here on: it closes them, sent or not.
        """
        piece = _Piece(data, list(fds), list(sent))
        if self.broken:
            _close(piece.fds)
            return
        self._pieces.append(piece)
        self._queued += len(data)

    def put_event(self, data: bytes) -> None:
        """Queue an event, or count it as lost where too much waits already."""
        if self.full:
            self._dropped += 1
            return
        if self._dropped:
            self.put(self._lost(self._dropped))
            self._dropped = 0
        self.put(data)

    def flush(self) -> None:
        """Send what the socket takes now."""
        while self._pieces and not self.broken:
            piece = self._pieces[0]
            if not piece.fds:
                self._gather()
                piece = self._pieces[0]
            try:
                count = lines.send(self._sock, piece.data, piece.fds)
            except BlockingIOError:
                break
            except OSError:
                self.close()
                return
            self._queued -= count
            # Descriptors travel with the first byte (unix(7)).
            _close(piece.fds)
            if count < len(piece.data):
                piece.data = piece.data[count:]
                break
            del self._pieces[0]
            for call in piece.sent:
                call()
        if not self._pieces and self._dropped:
            self.put(self._lost(self._dropped))
            self._dropped = 0
            self.flush()
            return
        self._tell()
        if self._pieces and not self._running:
            self._running = True
            self._stuck()

    async def drained(self, *, below: int = 1) -> None:
        """Wait until fewer than `below` bytes wait, or nobody will ever take them."""
        while self._queued >= below and not self.broken:
            if self._changed is None:
                self._changed = trio.Event()
            await self._changed.wait()

    async def run(self) -> None:
        """Send on whenever the socket can take more, until nothing waits or it is broken."""
        try:
            while self._pieces and not self.broken:
                await trio.lowlevel.wait_writable(self._sock)
                self.flush()
        finally:
            self._running = False

    def close(self) -> None:
        """Nobody takes any more of this: close the descriptors that were on their way."""
        self.broken = True
        for piece in self._pieces:
            _close(piece.fds)
        self._pieces.clear()
        self._queued = 0
        self._tell()

    def _tell(self) -> None:
        """Wake who waits in `drained`."""
        if self._changed is not None:
            self._changed.set()
            self._changed = None

    def _gather(self) -> None:
        """Join lines without descriptors, so that answers to one read leave in one send."""
        size = count = 0
        for piece in self._pieces:
            if piece.fds or size >= TOGETHER:
                break
            size += len(piece.data)
            count += 1
        if count > 1:
            some = self._pieces[:count]
            sent = [call for piece in some for call in piece.sent]
            self._pieces[:count] = [_Piece(b"".join(piece.data for piece in some), [], sent)]


def _close(fds: list[int]) -> None:
    while fds:
        os.close(fds.pop())

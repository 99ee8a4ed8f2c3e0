"""Lines over a Unix stream socket, and the descriptors that travel beside them.

The splitter is sans-IO after h11 (https://sans-io.readthedocs.io): bytes in, whole lines out.
Descriptors are SCM_RIGHTS (unix(7)); a line that carries some begins its own sendmsg, so a
receiver queues them in order and each line takes as many as it names. Standard library alone,
since the plain client stands on this module.
"""

from __future__ import annotations

import os
import socket
from array import array
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Final

# The kernel's own bound for one sendmsg is SCM_MAX_FD, 253 (unix(7)): with room for as many,
# a message that we take is never cut, whatever its sender meant.
_ROOM: Final = 253
_INT: Final = array("i").itemsize
# Darwin has no flag that makes them close-on-exec at once: there they are set one by one.
_CLOEXEC: Final[int] = getattr(socket, "MSG_CMSG_CLOEXEC", 0)


class TooLong(Exception):
    """A line is longer than allowed. `lines` are the whole ones that stood before it."""

    def __init__(self, max_bytes: int, lines: list[bytes]) -> None:
        super().__init__(f"a line is longer than {max_bytes} bytes")
        self.lines = lines


class TooFew(Exception):
    """A line names more descriptors than came with it."""


class Splitter:
    """Cuts a stream of bytes into lines of at most `max_bytes` each, without their newline."""

    def __init__(self, max_bytes: int) -> None:
        self._max = max_bytes
        self._parts: list[bytes] = []
        self._pending = 0

    @property
    def pending(self) -> int:
        """Bytes of the line that has begun and not ended."""
        return self._pending

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that `data` completes, in order.

        Errors: TooLong as soon as a line, whole or partial, exceeds the bound. What follows
        can't be told apart from that line, so the stream is over: its bytes are dropped.
        """
        *ended, rest = data.split(b"\n")
        lines: list[bytes] = []
        for end in ended:
            line = self._take(end)
            if len(line) > self._max:
                raise TooLong(self._max, lines)
            lines.append(line)
        if rest:
            # Parts are joined once, when the line ends: a line that comes byte by byte is
            # not copied for each.
            self._parts.append(rest)
            self._pending += len(rest)
            if self._pending > self._max:
                self._take(b"")
                raise TooLong(self._max, lines)
        return lines

    def _take(self, end: bytes) -> bytes:
        if not self._parts:
            return end
        self._parts.append(end)
        line = b"".join(self._parts)
        self._parts.clear()
        self._pending = 0
        return line


class Descriptors:
    """Descriptors that have come and that no line has taken yet; whoever holds this owns them."""

    def __init__(self) -> None:
        self._queue: deque[int] = deque()

    def __len__(self) -> int:
        return len(self._queue)

    def put(self, fds: Iterable[int]) -> None:
        self._queue.extend(fds)

    def take(self, count: int) -> list[int]:
        """The next `count`, now the caller's. Errors: TooFew, and none is taken."""
        if count > len(self._queue):
            raise TooFew(f"{count} descriptors are named, {len(self._queue)} came")
        return [self._queue.popleft() for _ in range(count)]

    def close(self) -> None:
        """Close all that nobody took."""
        while self._queue:
            os.close(self._queue.popleft())


def receive(sock: socket.socket, size: int) -> tuple[bytes, list[int], bool]:
    """One recvmsg of at most `size` bytes: (data, descriptors, whether some were lost).

    Data is empty at the end of the stream. The descriptors are close-on-exec and the caller's.
    Errors: OSError as recvmsg(2) has them, BlockingIOError on an idle non-blocking socket.
    """
    data, ancillary, flags, _ = sock.recvmsg(size, socket.CMSG_SPACE(_ROOM * _INT), _CLOEXEC)
    if not ancillary:
        return data, [], bool(flags & socket.MSG_CTRUNC)
    fds = array("i")
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(content[: len(content) // _INT * _INT])
    if not _CLOEXEC:
        for fd in fds:
            os.set_inheritable(fd, False)
    return data, fds.tolist(), bool(flags & socket.MSG_CTRUNC)


def send(sock: socket.socket, data: bytes | memoryview, fds: Sequence[int]) -> int:
    """One send or sendmsg; how many bytes of `data` went. The descriptors went with the first.

    Errors: OSError as sendmsg(2) has them; nothing went then, descriptors neither.
    """
    if not fds:
        return sock.send(data)
    return sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", fds))])

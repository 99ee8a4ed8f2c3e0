"""A blocking netlink socket for requests, for use from one worker thread at a time.

The kernel works on a request inside sendmsg(2), so an answer waits when that returns; what takes
long is the work itself (a rebalance of the IPv4 trie can hold one sendmsg for 145 ms), which is
why this is not for the event loop. Only what the kernel itself says counts: whoever has
CAP_NET_ADMIN may send to a netlink socket, but not with the sender's port 0 (netlink(7)).
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Sequence
from errno import EAGAIN, ENOBUFS
from struct import Struct
from typing import Final, Self, TypeVar

from coentro.netops.linux.bulk import encode_routes
from coentro.netops.linux.framing import (
    FLAGS_AT,
    HEADER,
    HEADER_BYTES,
    NLM_F_ACK,
    NLM_F_DUMP_INTR,
    NLMSG_DONE,
    NLMSG_ERROR,
    NLMSG_NOOP,
    SEQUENCE_AT,
    U16,
    U32,
    Malformed,
    error_code,
    error_text,
    iter_spans,
)
from coentro.networks import SIZE, Family
from coentro.plan import Op

T = TypeVar("T")
Span = tuple[bytes, int, int]
"""A message inside a datagram: buffer, offset, length with its header."""

CHUNK: Final = 1000
RECEIVE_BYTES: Final = 1 << 20
DATAGRAM_BYTES: Final = 1 << 16
"""More than the 32 KiB of a dump's largest datagram, which comes smaller to who asks for less."""
ANSWER_CHARGE: Final = 1024
"""What one error takes of the receive buffer: 832 bytes were seen, however short it is."""
DUMP_TRIES: Final = 8
ANSWER_WITHIN_S: Final = 30

# linux/netlink.h; the socket module has only some of them.
_SOL_NETLINK: Final = 270
_NETLINK_CAP_ACK: Final = 10
_NETLINK_EXT_ACK: Final = 11
_NETLINK_GET_STRICT_CHK: Final = 12
_SO_SNDBUFFORCE: Final = 32
SO_RCVBUFFORCE: Final = 33
_TIMEVAL: Final = Struct("@ll")


class Overrun(Exception):
    """Answers were lost. What was asked may have been done all the same: look again."""


class Interrupted(Overrun):
    """What was listed changed under every attempt to list it."""


class Netlink:
    """A NETLINK_ROUTE socket of the network namespace of the thread that makes it.

    Errors of all methods: OSError with the kernel's errno and words for what it refused; Overrun;
    Malformed.
    """

    def __init__(self, receive_bytes: int = RECEIVE_BYTES) -> None:
        self.sock = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE
        )
        try:
            enlarge(self.sock, SO_RCVBUFFORCE, socket.SO_RCVBUF, receive_bytes)
            enlarge(self.sock, _SO_SNDBUFFORCE, socket.SO_SNDBUF, RECEIVE_BYTES)
            for option in (_NETLINK_CAP_ACK, _NETLINK_EXT_ACK, _NETLINK_GET_STRICT_CHK):
                self.sock.setsockopt(_SOL_NETLINK, option, 1)
            # Not settimeout(), which would poll(2) before every recv.
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _TIMEVAL.pack(ANSWER_WITHIN_S, 0))
            self.sock.bind((0, 0))
        except BaseException:
            self.sock.close()
            raise
        room = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // ANSWER_CHARGE
        self.chunk = max(1, min(CHUNK, room))
        """How many messages one chunk may have: if each fails, the answers still fit."""
        self._next = 1

    def close(self) -> None:
        self.sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def request(self, message: bytes) -> list[tuple[int, bytes]]:
        """Ask for one thing that asks for an ACK: (type, payload) of what is told before that."""
        sequence = self._reserve(1)
        self.sock.send(_numbered(message, sequence))
        replies: list[tuple[int, bytes]] = []
        while True:
            for buffer, offset, length in self._receive():
                _, kind, flags, answers, _ = HEADER.unpack_from(buffer, offset)
                if answers != sequence or kind == NLMSG_NOOP:
                    continue
                payload = buffer[offset + HEADER_BYTES : offset + length]
                if kind != NLMSG_ERROR:
                    replies.append((kind, payload))
                    continue
                _check(flags, payload)
                return replies

    def batch(self, messages: Sequence[bytes]) -> list[tuple[int, int]]:
        """Ask for all of these, in order: (index, errno) of each that the kernel refused."""
        failed: list[tuple[int, int]] = []
        for start in range(0, len(messages), self.chunk):
            some = messages[start : start + self.chunk]
            first = self._reserve(len(some))
            numbered = [_numbered(m, first + i) for i, m in enumerate(some)]
            for one in numbered:
                (flags,) = U16.unpack_from(one, FLAGS_AT)
                last = one is numbered[-1]
                U16.pack_into(one, FLAGS_AT, flags | NLM_F_ACK if last else flags & ~NLM_F_ACK)
            failed += ((start + i, e) for i, e in self._submit(b"".join(numbered), first, len(some)))
        return failed

    def routes(self, op: Op, family: Family, table: int, ifindex: int, data: bytes) -> list[tuple[int, int]]:
        """Add, replace or delete at most `chunk` packed entries: (index, errno) of each refused."""
        count = len(data) // (SIZE[family] + 2)
        if not count:
            return []
        if count > self.chunk:
            raise ValueError(f"{count} routes in a chunk of {self.chunk}")
        first = self._reserve(count)
        requests = encode_routes(op, family, table, ifindex, data, first)
        return self._submit(requests, first, count)

    def dump(self, request: bytes) -> Iterator[tuple[int, bytes]]:
        """Ask for a list: (type, payload) of each, once the list is whole."""

        def collect(spans: Iterator[Span]) -> list[tuple[int, bytes]]:
            return [
                (U16.unpack_from(buffer, offset + 4)[0], buffer[offset + HEADER_BYTES : offset + length])
                for buffer, offset, length in spans
            ]

        return iter(self.read(request, collect))

    def read(self, request: bytes, consume: Callable[[Iterator[Span]], T]) -> T:
        """Ask for a list and give its messages to `consume` as they come.

        `consume` must read to the end and start anew each time it is called: a list that
        changed while it was read is asked for again. Interrupted: that happened every time.
        """
        for _ in range(DUMP_TRIES):
            dump = _Dump(self, request)
            try:
                result = consume(dump.spans())
            finally:
                dump.drain()
            if not dump.interrupted:
                return result
        raise Interrupted(f"the list changed {DUMP_TRIES} times while it was read")

    def _reserve(self, count: int) -> int:
        """The first of `count` sequence numbers that no answer under way can have."""
        if self._next + count > 2**32:
            self._next = 1
        first = self._next
        self._next += count
        return first

    def _submit(self, requests: bytes, first: int, count: int) -> list[tuple[int, int]]:
        self.sock.send(requests)
        last = first + count - 1
        failed: list[tuple[int, int]] = []
        while True:
            for buffer, offset, length in self._receive():
                _, kind, _, answers, _ = HEADER.unpack_from(buffer, offset)
                if kind != NLMSG_ERROR or not first <= answers <= last:
                    continue
                code = error_code(buffer[offset + HEADER_BYTES : offset + length])
                if code:
                    failed.append((answers - first, code))
                if answers == last:
                    return failed

    def _receive(self) -> Iterator[Span]:
        """The messages of the next datagram from the kernel."""
        while True:
            try:
                buffer, _, flags, sender = self.sock.recvmsg(DATAGRAM_BYTES)
            except OSError as error:
                if error.errno == ENOBUFS:
                    self._drain()
                    raise Overrun("the kernel's answers did not fit into the receive buffer") from error
                if error.errno == EAGAIN:
                    raise Overrun(f"no answer of the kernel within {ANSWER_WITHIN_S} s") from error
                raise
            if sender[0] != 0:
                continue
            if flags & socket.MSG_TRUNC:
                raise Malformed(f"a datagram of more than {DATAGRAM_BYTES} bytes")
            return ((buffer, offset, length) for offset, length in iter_spans(buffer))

    def _drain(self) -> None:
        """Throw away what waits: until the queue is empty the kernel drops every further answer
        without a word (NETLINK_S_CONGESTED in net/netlink/af_netlink.c)."""
        while True:
            try:
                self.sock.recv(DATAGRAM_BYTES, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != ENOBUFS:
                    raise


class _Dump:
    """One attempt to list something."""

    def __init__(self, netlink: Netlink, request: bytes) -> None:
        self._netlink = netlink
        self._sequence = netlink._reserve(1)
        self._done = False
        self.interrupted = False
        netlink.sock.send(_numbered(request, self._sequence))

    def spans(self) -> Iterator[Span]:
        while not self._done:
            try:
                datagram = self._netlink._receive()
            except Overrun:
                self._done = True  # what is left of the list was thrown away
                raise
            for buffer, offset, length in datagram:
                _, kind, flags, answers, _ = HEADER.unpack_from(buffer, offset)
                if answers != self._sequence or kind == NLMSG_NOOP:
                    continue
                if flags & NLM_F_DUMP_INTR:
                    self.interrupted = True
                if kind not in (NLMSG_DONE, NLMSG_ERROR):
                    yield buffer, offset, length
                    continue
                # Since Linux 4.20 a dump's errno stands in its NLMSG_DONE.
                self._done = True
                payload = buffer[offset + HEADER_BYTES : offset + length]
                if kind == NLMSG_ERROR or payload:
                    _check(flags, payload)
                return

    def drain(self) -> None:
        """Read to the end: a socket with a dump under way answers the next with EBUSY."""
        for _ in self.spans():
            pass


def enlarge(sock: socket.socket, force: int, option: int, size: int) -> None:
    """Ask for a buffer beyond the system's bound, else within it: forcing needs CAP_NET_ADMIN in
    the first user namespace."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, force, size)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, option, size)


def _numbered(message: bytes, sequence: int) -> bytearray:
    numbered = bytearray(message)
    U32.pack_into(numbered, SEQUENCE_AT, sequence)
    return numbered


def _check(flags: int, payload: bytes) -> None:
    code = error_code(payload)
    if code:
        words = error_text(flags, payload)
        raise OSError(code, f"{os.strerror(code)}: {words}" if words else os.strerror(code))

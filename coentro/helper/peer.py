"""One connection: lines in, answers and events out, and what ends with it.

Reading is sans-IO (coentro.wire.lines); this is the thin trio shell around it. Methods that
need not wait are answered in the pass that read them, all lines of one read in one send; the
others run as tasks of the peer's own nursery and are answered when done. When the connection
ends that nursery is cancelled, which undoes what was half made, and the manager is told.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import socket
from collections.abc import Callable, Sequence
from errno import errorcode
from itertools import count
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

import trio
from attrs import evolve, field, frozen

from coentro.errors import CoentroError, Kernel, Limit, ParseError
from coentro.helper.access import describe
from coentro.helper.config import Scope
from coentro.helper.credentials import Credentials
from coentro.helper.events import Subscription
from coentro.helper.outbox import QUEUED, Outbox
from coentro.tunnels.tunnel import Actor
from coentro.tunnels.turns import Turn
from coentro.wire import jsonrpc, lines
from coentro.wire.jsonrpc import NO_ID, Call, Message, Refused

if TYPE_CHECKING:
    from coentro.helper.daemon import Daemon

log = logging.getLogger("coentro.peer")

READ: Final = 1 << 16
LARGE: Final = 1 << 16  # bytes of a line that is parsed in a worker thread
PARTIAL_S: Final = 10.0
SHARE_S: Final = 0.005  # how long one peer is served before the others get their turn
MOST_FDS: Final = 64  # of one line


@frozen
class Answer:
    """A result with what goes with it: descriptors, and what its delivery or its lack means."""

    result: dict[str, Any]
    fds: tuple[int, ...] = ()
    sent: Callable[[], None] | None = None
    unsent: Callable[[], None] | None = None
    """Called when an error has to be answered instead, since the descriptors can't go."""


@frozen
class Request:
    """What a method knows of its call."""

    peer: Peer
    size: int
    """Bytes of the line it came in."""
    turn: Turn | None = None


@frozen(eq=False)
class Reply:
    """The answers to one line: one, or those of a batch, sent together when all are there."""

    outbox: Outbox
    batch: bool
    parts: list[tuple[Any, Any] | None]
    """(id, Answer, result or CoentroError) by element; None where nothing is answered."""
    waiting: list[int] = field(factory=list)

    def settle(self, index: int, id_: Any, outcome: Any) -> None:
        """Take one element's outcome. The caller flushes: all lines of one read leave in one send."""
        self.parts[index] = None if id_ is NO_ID else (id_, outcome)
        self.waiting.remove(index)
        if not self.waiting:
            self.send()

    def send(self) -> None:
        texts: list[bytes] = []
        fds: list[int] = []
        calls: list[Callable[[], None]] = []
        for part in self.parts:
            if part is None:
                continue
            id_, outcome = part
            if isinstance(outcome, Answer):
                unsent = outcome.unsent
                outcome, copies = self._with_fds(outcome, len(fds))
                fds += copies
                if isinstance(outcome, Answer):
                    calls += [outcome.sent] if outcome.sent is not None else []
                    outcome = outcome.result
                elif unsent is not None:
                    unsent()
            texts.append(_line(id_, outcome))
        if texts:
            self.outbox.put(jsonrpc.join(texts, self.batch), fds, calls)

    def _with_fds(self, answer: Answer, before: int) -> tuple[Answer | CoentroError, list[int]]:
        """The answer with its descriptors copied and numbered over the line, or why not.

        They are copied since the tunnel may go, and the numbers be given to other files,
        before the line is sent.
        """
        if before + len(answer.fds) > MOST_FDS:
            return Limit(f"the answers of one line carry at most {MOST_FDS} descriptors"), []
        copies: list[int] = []
        try:
            for fd in answer.fds:
                copies.append(os.dup(fd))  # noqa: PERF401 - those made before one fails are closed
        except OSError as fault:
            for fd in copies:
                os.close(fd)
            name = errorcode.get(fault.errno or 0, "EIO")
            return Kernel(f"a descriptor can't be passed on: {fault.strerror}", errno=name, op="dup"), []
        named = [{**fd, "index": fd["index"] + before} for fd in answer.result["fds"]]
        return evolve(answer, result={**answer.result, "fds": named}), copies


def _line(id_: Any, outcome: Any) -> bytes:
    """The response to one call: its result, or why there is none."""
    if isinstance(outcome, CoentroError):
        return jsonrpc.error_line(id_, outcome)
    return jsonrpc.result_line(id_, outcome)


class Peer:
    """An authenticated connection."""

    _numbers = count(1)

    def __init__(
        self,
        daemon: Daemon,
        sock: socket.socket,
        credentials: Credentials,
        user: str | None,
    ) -> None:
        self.number = next(self._numbers)
        self.credentials = credentials
        self.user = user
        self.scopes: frozenset[Scope] = daemon.access.scopes_of(credentials)
        self.subscription: Subscription | None = None
        self._daemon = daemon
        self._sock = sock
        self._splitter = lines.Splitter(daemon.config.limits.max_message_bytes)
        self.outbox = Outbox(sock, self._lost, self._stuck)
        self._missed: list[dict[str, Any]] = []
        self._under_way = 0
        self._share_began = 0.0
        self._idle: trio.Event | None = None  # where the end waits for what is under way
        self._nursery: trio.Nursery | None = None

    @property
    def actor(self) -> Actor:
        return Actor(self.credentials.uid, self.user, "admin" in self.scopes)

    def push(self, params: dict[str, Any]) -> None:
        """Send an event, or count it as lost if the peer does not read."""
        self.outbox.put_event(jsonrpc.join([jsonrpc.event_line(params)], False))
        self.outbox.flush()

    def push_after_answer(self, missed: Sequence[dict[str, Any]]) -> None:
        """Send these events once the answer to the call that asks for them is queued."""
        self._missed.extend(missed)

    def end(self) -> None:
        """Hang up, such as after a reload that admits this peer no more."""
        if self._nursery is not None:
            self._nursery.cancel_scope.cancel()

    async def serve(self) -> None:
        """Answer until the connection ends. Errors: none but Cancelled."""
        about = {**describe(self.credentials, self.user), "connection": self.number}
        self._daemon.events.tell("peer.connected", about, self.credentials.uid)
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                await self._read()
                nursery.cancel_scope.cancel()
        finally:
            self.outbox.close()
            self._sock.close()
            if self.subscription is not None:
                self._daemon.events.unsubscribe(self.subscription)
            self._daemon.manager.release(self)
            self._daemon.events.tell("peer.gone", about, self.credentials.uid)

    async def _read(self) -> None:
        """Take lines until the peer hangs up or can't be trusted to speak the protocol."""
        try:
            while True:
                await self._share()
                data = await self._receive()
                if not data:
                    break
                whole, fault = self._split(data)
                for line in whole:
                    await self._take(line)
                    await self._share()
                self.outbox.flush()
                if fault is not None:
                    raise fault
        except ParseError as fault:
            await self._farewell(fault)
            return
        except OSError:
            return
        if self._splitter.pending and not self._hung_up():
            await self._farewell(ParseError("the last line does not end in a newline"))
        # A peer that has only shut its sending side down still waits for its answers.
        while self._under_way and not self._hung_up():
            self._idle = trio.Event()
            await self._idle.wait()
        if not self._hung_up():
            await self.outbox.drained()

    async def _share(self) -> None:
        """Let this peer's answers be taken and the other peers be served, however much it asks.

        Where the socket always has more to read nothing else would ever wait.
        """
        if self.outbox.full:
            self.outbox.flush()
            await self.outbox.drained(below=QUEUED)
        if perf_counter() - self._share_began > SHARE_S:
            self.outbox.flush()
            await trio.lowlevel.checkpoint()
            self._share_began = perf_counter()

    async def _receive(self) -> bytes:
        """The next bytes, b"" at the end. Errors: ParseError, OSError."""
        while (came := self._there()) is None:
            # Most connections rest here for most of their life, so no scope stands around it that is
            # not needed, nor an `except`, which would keep its exception for as long.
            if not self._splitter.pending:
                await trio.lowlevel.wait_readable(self._sock)
            else:
                with trio.move_on_after(PARTIAL_S) as deadline:
                    await trio.lowlevel.wait_readable(self._sock)
                if deadline.cancelled_caught:
                    text = f"{PARTIAL_S:g} s without a byte in the middle of a line"
                    raise ParseError(text, fatal=True)
            self._share_began = perf_counter()
        data, fds, truncated = came
        if fds or truncated:
            for fd in fds:
                os.close(fd)
            log.warning("peer %d sent descriptors unasked: hanging up", self.number)
            raise OSError("descriptors were sent unasked")
        return data

    def _there(self) -> tuple[bytes, list[int], bool] | None:
        """What has come, if anything has. Errors: OSError."""
        try:
            return lines.receive(self._sock, READ)
        except BlockingIOError:
            return None

    def _split(self, data: bytes) -> tuple[Sequence[bytes], ParseError | None]:
        """The whole lines, and what ends the connection after them."""
        try:
            return self._splitter.feed(data), None
        except lines.TooLong as fault:
            limit = self._daemon.config.limits.max_message_bytes
            return fault.lines, ParseError(f"a message has at most {limit} bytes", fatal=True)

    async def _take(self, line: bytes) -> None:
        """Parse one line and answer or begin its calls. Errors: ParseError when fatal."""
        most = self._daemon.config.limits.max_batch
        try:
            if len(line) > LARGE:
                self.outbox.flush()
                message = await trio.to_thread.run_sync(jsonrpc.parse, line, most)
            else:
                message = jsonrpc.parse(line, most)
        except ParseError as fault:
            if fault.fatal:
                raise
            self.outbox.put(jsonrpc.join([jsonrpc.error_line(None, fault)], False))
            return
        self._begin(message, len(line))

    def _begin(self, message: Message, size: int) -> None:
        call = message.items[0]
        if (
            not message.batch
            and isinstance(call, Call)
            and call.id is not NO_ID
            and self._daemon.dispatcher.is_now(call.method)
        ):
            # Of this kind are those that come in numbers, and nothing of them has to wait.
            self.outbox.put(jsonrpc.join([_line(call.id, self._now(call, size))], False))
        else:
            self._begin_all(message, size)
        while self._missed:
            self.push(self._missed.pop(0))

    def _begin_all(self, message: Message, size: int) -> None:
        reply = Reply(self.outbox, message.batch, [None] * len(message.items))
        tasks: list[tuple[int, Call, Turn | None]] = []
        reply.waiting.extend(range(len(message.items)))
        for index, item in enumerate(message.items):
            if isinstance(item, Refused):
                reply.settle(index, item.id, item.error)
            elif item.id is NO_ID and item.method == "tunnel.create":
                log.info("peer %d sent tunnel.create as a notification: refused", self.number)
                reply.settle(index, NO_ID, None)
            elif self._daemon.dispatcher.is_now(item.method):
                reply.settle(index, item.id, self._now(item, size))
            elif self._under_way + len(tasks) >= self._daemon.config.limits.requests_under_way:
                most = self._daemon.config.limits.requests_under_way
                limit = Limit(f"{most} requests of this connection are under way", retry_after_s=0.1)
                reply.settle(index, item.id, limit)
            else:
                turn = self._daemon.manager.turns.take() if self._daemon.changes(item.method) else None
                tasks.append((index, item, turn))
        assert self._nursery is not None
        for index, call, turn in tasks:
            self._under_way += 1
            self._nursery.start_soon(self._later, reply, index, call, Request(self, size, turn))

    def _now(self, call: Call, size: int) -> Any:
        try:
            if not self._daemon.knows(call.method):
                # Looking for the nearest name costs more than most methods do.
                self._daemon.rate.take(self.credentials.uid)
            return self._daemon.dispatcher.call_now(Request(self, size), call)
        except CoentroError as fault:
            return fault

    async def _later(self, reply: Reply, index: int, call: Call, request: Request) -> None:
        try:
            outcome: Any
            try:
                outcome = await self._daemon.dispatcher.call(request, call)
            except CoentroError as fault:
                outcome = fault
            reply.settle(index, call.id, outcome)
            self.outbox.flush()
        finally:
            if request.turn is not None:
                request.turn.drop()
            self._under_way -= 1
            if self._idle is not None:
                self._idle.set()

    def _stuck(self) -> None:
        """The socket takes no more for now: a task goes on when it does."""
        if self._nursery is not None:
            self._nursery.start_soon(self.outbox.run)

    def _lost(self, count: int) -> bytes:
        return jsonrpc.join([jsonrpc.event_line(self._daemon.events.lost(count))], False)

    async def _farewell(self, fault: ParseError) -> None:
        """Say why, then let the connection go: the stream can't be trusted again."""
        self.outbox.put(jsonrpc.join([jsonrpc.error_line(None, fault)], False))
        self.outbox.flush()
        with trio.move_on_after(1):
            await self.outbox.drained()
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)

    def _hung_up(self) -> bool:
        """Whether the peer is gone altogether, not only done with sending."""
        poll = select.poll()
        poll.register(self._sock, 0)
        gone = select.POLLHUP | select.POLLERR
        return self.outbox.broken or any(event & gone for _, event in poll.poll(0))

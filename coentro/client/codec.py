"""The client's side of the protocol without any I/O: calls to bytes, bytes to answers and events.

Both clients stand on it, as httpcore's do on h11. Standard library alone.
"""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from coentro.client.errors import NOT_AUTHORIZED, HelperError, HelperGone, NotAdmitted
from coentro.wire.lines import Descriptors, Splitter, TooFew, TooLong

# The helper may answer at length (many routes, the OpenRPC document); what is longer is no helper.
MAX_LINE: Final = 1 << 26
READ: Final = 1 << 16


class Answer(NamedTuple):
    """A response, and the descriptors that came with it in the order of their index."""

    result: Any
    error: HelperError | None
    fds: list[int]


class Codec:
    """One connection: calls under way, answers and events that have come, and why it is over.

    `events` is the queue of those that nobody has read. `farewells` are lines to be sent when
    it suits, which undo what abandoned calls made.
    """

    def __init__(self) -> None:
        self.events: deque[dict[str, Any]] = deque()
        self.farewells: deque[bytes] = deque()
        self.over: HelperError | HelperGone | None = None
        self._splitter = Splitter(MAX_LINE)
        self._descriptors = Descriptors()
        self._last_id = 0
        self._waited: dict[int, str] = {}
        self._abandoned: dict[int, str] = {}
        self._answers: dict[int, Answer] = {}

    def request(self, method: str, params: Mapping[str, Any] | None) -> tuple[int, bytes]:
        """A call's id and line. Errors: TypeError or ValueError for params that are not JSON."""
        id_ = self._last_id + 1
        line = _line(id=id_, method=method, params=dict(params or {}))
        self._last_id = id_
        self._waited[id_] = method
        return id_, line

    def abandon(self, id_: int) -> None:
        """Nobody waits for this call any more, though it may happen all the same.

        When its answer comes, its descriptors are closed and a tunnel that it made is destroyed.
        """
        answer = self._answers.pop(id_, None)
        method = self._waited.pop(id_, None)
        if answer is not None and method is not None:
            self._forget(method, answer)
        elif method is not None and self.over is None:
            self._abandoned[id_] = method

    def answered(self, id_: int) -> bool:
        """Whether `unwrap` has something to give or to raise."""
        return id_ in self._answers or self.over is not None

    def unwrap(self, id_: int) -> tuple[Any, list[int]]:
        """A call's result and descriptors. Errors: HelperError; HelperGone if none will come."""
        answer = self._answers.pop(id_, None)
        self._waited.pop(id_, None)
        if answer is None:
            raise self.why()
        if answer.error is not None:
            raise answer.error
        return answer.result, answer.fds

    def feed(self, data: bytes, fds: list[int], lost: bool) -> None:
        """What one `lines.receive` gave: empty data is the end."""
        self._descriptors.put(fds)
        if lost:
            self.end(HelperGone("descriptors were lost: this process can't open more of them"))
        if not data:
            self.end(HelperGone("the helper closed the connection"))
        try:
            for line in self._splitter.feed(data):
                self._take(line)
        except (TooLong, TooFew, ValueError, LookupError, TypeError, AttributeError, RecursionError) as fault:
            self.end(HelperGone(f"what answers there is not the helper: {fault}"))

    def why(self) -> HelperError | HelperGone:
        """A new exception that says why it is over: several tasks may raise it."""
        if isinstance(self.over, HelperError):
            return type(self.over)(self.over.code, self.over.message, self.over.data)
        return HelperGone(*(self.over.args if self.over else ()))

    def close(self) -> None:
        """Close every descriptor that nobody took."""
        self.end(HelperGone("this client is closed"))
        self._descriptors.close()
        for answer in self._answers.values():
            _close(answer.fds)
        self._answers.clear()

    def end(self, why: HelperError | HelperGone) -> None:
        """Nothing more comes; calls under way fail with this. Only the first why counts."""
        if self.over is None:
            self.over = why

    def _take(self, line: bytes) -> None:
        tree = json.loads(line)
        # All is checked before any descriptor is taken, so that none is lost to a fault.
        messages = [_read(one) for one in (tree if isinstance(tree, list) else [tree])]
        # In a batch's line `index` counts over all of it (docs/protocol.md, "Transport").
        named = [index for message in messages for index in message.indices]
        if sorted(named) != list(range(len(named))):
            raise ValueError(f"descriptors are named {named}")
        fds = self._descriptors.take(len(named))
        for message in messages:
            self._sort(message, [fds[index] for index in message.indices])

    def _sort(self, message: _Read, fds: list[int]) -> None:
        if message.event is not None:
            if message.event:
                self.events.append(message.event)
            return
        answer = Answer(message.result, message.error, fds)
        if message.id in self._waited:
            self._answers[message.id] = answer
        elif message.id is None and message.error is not None:
            # Not to a call but to the connection, which closes after it.
            self.end(message.error)
        else:
            self._forget(self._abandoned.pop(message.id or 0, ""), answer)

    def _forget(self, method: str, answer: Answer) -> None:
        _close(answer.fds)
        if method == "tunnel.create" and isinstance(answer.result, dict):
            self.farewells.append(_line(method="tunnel.destroy", params={"id": answer.result.get("id")}))


class _Read(NamedTuple):
    """A message of the helper: an event (empty for other notifications), or a response."""

    event: dict[str, Any] | None = None
    id: int | None = None
    result: Any = None
    error: HelperError | None = None
    indices: tuple[int, ...] = ()


def _read(message: dict[str, Any]) -> _Read:
    """Errors: LookupError, TypeError, AttributeError or ValueError for what is no message."""
    if "method" in message:
        return _Read(event=dict(message["params"]) if message["method"] == "event" else {})
    id_, error, result = message["id"], message.get("error"), message.get("result")
    if id_ is not None and type(id_) is not int:
        raise ValueError("an answer to nothing that was asked")
    if error is not None:
        # -32001 to the connection itself, not to a call for want of a scope: not admitted.
        kind = NotAdmitted if id_ is None and error["code"] == NOT_AUTHORIZED else HelperError
        return _Read(id=id_, error=kind(error["code"], str(error["message"]), error.get("data")))
    named = result.get("fds") if isinstance(result, dict) else None
    indices = [entry["index"] for entry in named] if isinstance(named, list) else []
    return _Read(id=id_, result=result, indices=tuple(indices))


def _close(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)


def _line(**members: Any) -> bytes:
    return json.dumps({"jsonrpc": "2.0", **members}, separators=(",", ":"), allow_nan=False).encode() + b"\n"

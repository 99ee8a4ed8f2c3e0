"""Turns: changes run one after another, in the order in which they arrived.

A lock is not enough: a task that is started for each request does not necessarily run in the
order of starting (trio shuffles on purpose). So the reader takes a turn when the line comes,
and the request's task waits for it.
"""

from __future__ import annotations

from collections import deque
from types import TracebackType
from typing import Self

import trio


class Turns:
    """A queue of turns; only the first one is on."""

    def __init__(self) -> None:
        self._queue: deque[Turn] = deque()

    def take(self) -> Turn:
        """The next place in the queue. It must be entered or dropped."""
        turn = Turn(self)
        self._queue.append(turn)
        if len(self._queue) == 1:
            turn.on.set()
        return turn

    def drop(self, turn: Turn) -> None:
        if turn not in self._queue:
            return
        first = self._queue[0] is turn
        self._queue.remove(turn)
        if first and self._queue:
            self._queue[0].on.set()


class Turn:
    """A place in the queue: `async with turn:` waits for it and passes it on at the end."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self.on = trio.Event()

    async def __aenter__(self) -> Self:
        try:
            await self.on.wait()
        except BaseException:
            self.drop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.drop()

    def drop(self) -> None:
        """Give the place up; harmless when it is over already."""
        self._turns.drop(self)

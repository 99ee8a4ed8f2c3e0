"""A set of changes, made whole or taken back.

Steps run one after the other in a worker thread and are never abandoned, so that between two of
them it is known exactly what the host has. The idea is a database's undo log, without the disk:
the journal above has written down what will be done before the first step.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence

import trio
from attrs import frozen

from coentro import errors
from coentro.netops.interface import Failure
from coentro.plan import Change, Packed, undo

log = logging.getLogger("coentro.netops")


@frozen
class Outcome:
    """What a step really did, and what the system refused of it. Both, if it did a part."""

    done: Change | None
    failure: Failure | None = None


Step = Callable[[Change], Outcome]
Remember = Callable[[Change], None]


class _Refused(Exception):
    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


@frozen
class Transaction:
    """`step` does one change of at most `chunk` routes, in a thread; `remember` hears what was done.

    A cancellation waits for one step at most.
    """

    step: Step
    remember: Remember
    chunk: int
    limiter: trio.CapacityLimiter

    async def make(self, changes: Sequence[Change]) -> None:
        """All changes in order, or none. Errors: Kernel for the step that was refused.

        Whatever else ends it, a cancellation above all, what was done is taken back first.
        """
        done: list[Change] = []
        try:
            for change in changes:
                await self._make(change, done)
        except BaseException as cause:
            with trio.CancelScope(shield=True):
                left = await self.force(undo(done))
            if isinstance(cause, _Refused):
                raise _kernel(cause.failure, left) from None
            raise

    async def force(self, changes: Sequence[Change]) -> list[Failure]:
        """Every step of every change, even after one is refused; the refusals."""
        failures: list[Failure] = []
        for change in changes:
            done: list[Change] = []
            try:
                for piece in pieces(change, self.chunk):
                    outcome = await self._run(piece, done)
                    if outcome.failure is not None:
                        failures.append(outcome.failure)
            finally:
                self._remember(done)
        for failure in failures:
            log.error("refused: %s: %s", failure.op, failure.message)
        return failures

    async def _make(self, change: Change, done: list[Change]) -> None:
        parts: list[Change] = []
        try:
            for piece in pieces(change, self.chunk):
                outcome = await self._run(piece, parts)
                if outcome.failure is not None:
                    raise _Refused(outcome.failure)
        finally:
            done += self._remember(parts)

    async def _run(self, piece: Change, done: list[Change]) -> Outcome:
        outcome = await trio.to_thread.run_sync(self.step, piece, limiter=self.limiter)
        if outcome.done is not None:
            done.append(outcome.done)
        return outcome

    def _remember(self, parts: Sequence[Change]) -> list[Change]:
        """The parts of one change as one again."""
        if not parts:
            return []
        whole = parts[0] if len(parts) == 1 else joined(parts)
        self.remember(whole)
        return [whole]


def pieces(change: Change, chunk: int) -> Iterator[Change]:
    """The change in steps of at most `chunk` routes; old and new entries of a SET stay together."""
    some = change.new if isinstance(change.new, Packed) else change.old
    if not isinstance(some, Packed) or len(some) <= chunk:
        yield change
        return
    size = (some.width + 1) * chunk
    for start in range(0, len(some.data), size):
        old, new = (
            None if p is None else Packed(p.width, p.data[start : start + size])
            for p in (change.old, change.new)
        )
        yield Change(change.op, change.key, old, new)


def joined(parts: Sequence[Change]) -> Change:
    """Consecutive pieces of one change of a table."""
    first = parts[0]
    old, new = (
        None if p is None else Packed(p.width, b"".join(getattr(part, side).data for part in parts))
        for side, p in (("old", first.old), ("new", first.new))
    )
    return Change(first.op, first.key, old, new)


def _kernel(failure: Failure, left: Sequence[Failure]) -> errors.Kernel:
    if left:
        rest = f"not all of what had been applied could be undone: {'; '.join(f.op for f in left)}"
    else:
        rest = "what had been applied was undone"
    return errors.Kernel(
        f"the system refused {failure.op}: {failure.message}; {rest}", errno=failure.errno, op=failure.op
    )

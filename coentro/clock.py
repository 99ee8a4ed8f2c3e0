"""Time that counts sleep, on trio.

trio's clock stops while the machine sleeps, so a promise in wall time ("lingers 60 s") is kept
against the boot clock instead: wait on trio, and look again when something says that the
machine woke. Tests give `now=trio.current_time`, so that MockClock moves both.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

import trio

# clock_gettime(2): BOOTTIME counts suspend on Linux, MONOTONIC_RAW does on macOS.
_BOOT: Final = getattr(time, "CLOCK_BOOTTIME", None) or time.CLOCK_MONOTONIC_RAW


def boot_time() -> float:
    """Seconds since boot, time asleep included."""
    return time.clock_gettime(_BOOT)


class BootClock:
    """Waits for points of boot time."""

    def __init__(self, now: Callable[[], float] = boot_time) -> None:
        self.now = now
        self._woke = trio.Event()

    def woke(self) -> None:
        """The machine was asleep: every waiter looks at the boot clock again."""
        self._woke.set()
        self._woke = trio.Event()

    async def sleep_until(self, deadline: float) -> None:
        """Return once `now()` has reached `deadline`, a boot time in seconds."""
        while (left := deadline - self.now()) > 0:
            with trio.move_on_after(left):
                await self._woke.wait()


def rfc3339(seconds: float) -> str:
    """A wall time (seconds since the epoch) as RFC 3339 UTC with milliseconds."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")

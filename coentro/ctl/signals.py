"""Signals as something to select on, so that one loop hears them beside a connection and a child.

The self-pipe of D. J. Bernstein, as CPython's `set_wakeup_fd` offers it: a handler that does
nothing, and the signal's number as a byte to be read.
"""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Collection, Sequence
from types import FrameType, TracebackType
from typing import Any, Final, Protocol, Self

ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class HasFileno(Protocol):
    def fileno(self) -> int: ...


def readable(what: Sequence[HasFileno], timeout_s: float | None = None) -> None:
    """Wait until one of these can be read, or the time is over."""
    poll = select.poll()
    for source in what:
        poll.register(source.fileno(), select.POLLIN)
    poll.poll(None if timeout_s is None else max(0, timeout_s) * 1000)


class Signals:
    """Hold back the signals' own effect while inside.

    A signal that is ignored from the start stays so: nohup(1) and `&` mean it.
    """

    def __init__(self, numbers: Collection[signal.Signals] = ENDING) -> None:
        self._numbers = [n for n in numbers if signal.getsignal(n) is not signal.SIG_IGN]
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(self._write, False)
        self._wakeup = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        for number in self._numbers:
            self._before[number] = signal.signal(number, _nothing)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup)
        os.close(self._read)
        os.close(self._write)

    def fileno(self) -> int:
        return self._read

    def take(self) -> list[signal.Signals]:
        """Those that came since the last time, in order."""
        try:
            came = os.read(self._read, 4096)
        except BlockingIOError:
            return []
        return [signal.Signals(number) for number in came if number in self._numbers]


def _nothing(number: int, frame: FrameType | None) -> None:
    """The byte in the pipe is what counts."""


def typed_at_our_terminal(number: signal.Signals) -> bool:
    """Whether this is Ctrl-C in a terminal that runs us: its other processes have it too.

    There is no portable way to ask a signal where it is from, so the terminal is asked whom it
    would send one to (tcgetpgrp(3)).
    """
    if number is not signal.SIGINT:
        return False
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)

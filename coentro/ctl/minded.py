"""The command of `run` while it lives, and whatever it leaves behind when it has ended.

Its tunnel ends with it, so nothing that it started may stay: orphans become this process's
children (PR_SET_CHILD_SUBREAPER, prctl(2)) and are ended too.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from typing import Final

from coentro.ctl.opened import Opened
from coentro.ctl.signals import HasFileno, Signals, readable, typed_at_our_terminal

GRACE_S: Final = 5.0  # between SIGTERM and SIGKILL, when the tunnel has gone first
STOP_S: Final = 10.0  # the same, when somebody else said SIGTERM: an engine may have goodbyes to say
LOOK_S: Final = 5.0  # after its start, whether it still has the descriptor
SETTLE_S: Final = 0.3  # for children that end together with their parent

_PR_SET_CHILD_SUBREAPER: Final = 36
_DEVICE: Final = "/dev/net/tun"


class Interrupted(Exception):
    """The command's start is over before it was ready: it ended, its tunnel did, or a signal came."""


def adopt_orphans() -> None:
    """Before the command starts. Where the system has no such thing its orphans are init's."""
    if sys.platform != "linux":
        return
    import ctypes

    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"PR_SET_CHILD_SUBREAPER: {os.strerror(ctypes.get_errno())}")


class Minded:
    """`pid` must not have been waited for. `say`: one line for people."""

    def __init__(self, pid: int, tunnel: Opened, signals: Signals, say: Callable[[str], None]) -> None:
        self.pid = pid
        self.code: int | None = None
        self._tunnel = tunnel
        self._signals = signals
        self._say = say
        self._pending: list[signal.Signals] = []
        self._kill_at: float | None = None
        self._grace_s = 0.0
        self._look_at: float | None = None

    def wait(self, sources: Sequence[HasFileno], timeout_s: float) -> None:
        """Until one can be read or the time is over. Errors: Interrupted."""
        readable([self._signals, self._tunnel, *sources], timeout_s)
        self._pending += self._signals.take()
        self._reap()
        others = [number for number in self._pending if number is not signal.SIGCHLD]
        if self.code is not None or others or self._tunnel.ended() is not None:
            raise Interrupted

    def look_later(self) -> None:
        """Say it if the command has soon closed the descriptor."""
        self._look_at = time.monotonic() + LOOK_S

    def until_end(self) -> int:
        """Hand signals on, and end the command when its tunnel goes. Returns its exit code."""
        while True:
            numbers, self._pending = [*self._pending, *self._signals.take()], []
            self._reap()
            if self.code is not None:
                return self.code
            for number in numbers:
                self._hand_on(number)
            if self._kill_at is None and self._tunnel.ended() is not None:
                self._say(f"{self._tunnel.last_line()}; the command is told to end")
                os.kill(self.pid, signal.SIGTERM)
                self._kill_after(GRACE_S)
            now = time.monotonic()
            if self._kill_at is not None and now >= self._kill_at:
                self._say(f"the command did not end within {self._grace_s:g} s of SIGTERM, so it is killed")
                os.kill(self.pid, signal.SIGKILL)
                self._kill_at = float("inf")
            if self._look_at is not None and now >= self._look_at:
                self._look_at = None
                self._look()
            sources: list[HasFileno] = [self._signals]
            if self._tunnel.why_down is None:
                sources.append(self._tunnel)
            times = [at - now for at in (self._kill_at, self._look_at) if at not in (None, float("inf"))]
            readable(sources, min(times, default=None))

    def end(self) -> None:
        """End the command, which is of no use any more."""
        if self.code is None:
            os.kill(self.pid, signal.SIGTERM)
            self._kill_after(GRACE_S)
            self.until_end()

    def end_the_rest(self) -> None:
        """What the command started and left. Returns once none of it is left."""
        if not self._others_until(time.monotonic() + SETTLE_S):
            return
        left = _children()
        what = "a process" if len(left) == 1 else f"{len(left)} processes"
        self._say(
            f"the command has ended but left {what} in the background; a tunnel ends with its command, "
            "so what is left is ended too: an engine must stay in the foreground"
        )
        told: set[int] = set()
        deadline = time.monotonic() + GRACE_S
        while True:
            late = time.monotonic() >= deadline
            for pid in _children():
                if late or pid not in told:
                    # A child that nobody has waited for keeps its pid.
                    os.kill(pid, signal.SIGKILL if late else signal.SIGTERM)
                    told.add(pid)
            # Whoever ends may leave children of its own, which are ours then.
            if not self._others_until(time.monotonic() + 0.1):
                return

    def _others_until(self, deadline: float) -> bool:
        """Whether children are left when the time is over."""
        while self._reap():
            left = deadline - time.monotonic()
            if left <= 0:
                return True
            readable([self._signals], left)
            self._signals.take()
        return False

    def _reap(self) -> bool:
        """Wait for all that has ended; whether there is more."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            if pid == self.pid:
                code = os.waitstatus_to_exitcode(status)
                self.code = code if code >= 0 else 128 - code

    def _hand_on(self, number: signal.Signals) -> None:
        if number is signal.SIGCHLD or typed_at_our_terminal(number):
            return
        os.kill(self.pid, number)
        if number is signal.SIGTERM and self._kill_at is None:
            self._kill_after(STOP_S)

    def _kill_after(self, grace_s: float) -> None:
        self._grace_s = grace_s
        self._kill_at = time.monotonic() + grace_s

    def _look(self) -> None:
        holders = _holders()
        if holders is not None and not holders:
            self._say(
                "the command has closed the tunnel's descriptor, which it had in COENTRO_TUN_FD: "
                "nothing moves the tunnel's packets"
            )


def _children() -> list[int]:
    """Of this process, by /proc; empty where there is none."""
    own = os.getpid()
    return [pid for pid, parent in _parents().items() if parent == own]


def _parents() -> dict[int, int]:
    found: dict[int, int] = {}
    try:
        pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    except FileNotFoundError:
        return found
    for pid in pids:
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:
                # The name in parentheses may hold anything, so what counts stands behind the last one.
                found[pid] = int(file.read().rpartition(b")")[2].split()[1])
        except OSError:
            continue  # it has ended meanwhile
    return found


def _holders() -> list[int] | None:
    """Our descendants that hold a TUN; None where one of them can't be looked at."""
    parents, holders = _parents(), []
    known = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in known and pid not in known}:
        known |= more
    for pid in known - {os.getpid()}:
        try:
            files = {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")}
        except FileNotFoundError:
            continue
        except PermissionError:
            return None
        if _DEVICE in files:
            holders.append(pid)
    return holders

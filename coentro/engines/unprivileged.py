"""Start a command that has given everything away but the descriptors it is meant to have.

fork and exec by hand, since subprocess can't drop capabilities between the two without a
preexec_fn: it is sound here because the caller has one thread, and the child tells through a
close-on-exec pipe which step failed, so a command that can't be started is known at once.
The order of the steps is that of capabilities(7), "Effect of user ID changes".
"""

from __future__ import annotations

import errno
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final, NoReturn

from coentro.engines.confinement import Confinement, Unconfined, Walls
from coentro.engines.identity import Identity

NOT_FOUND: Final = 127  # POSIX 2.8.2: the shell's exit codes for these two
NOT_EXECUTABLE: Final = 126

_PR_SET_PDEATHSIG: Final = 1  # prctl(2), linux/prctl.h
_PR_CAPBSET_DROP: Final = 24
_PR_SET_NO_NEW_PRIVS: Final = 38
_PR_CAP_AMBIENT: Final = 47
_PR_CAP_AMBIENT_CLEAR_ALL: Final = 4
_CAP_VERSION_3: Final = 0x20080522  # linux/capability.h
_HIGHEST_CAP: Final = 63


class NotStarted(Exception):
    """The command could not be started; `code` is what a shell would return."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def start(
    argv: Sequence[str],
    environ: Mapping[str, str],
    descriptors: Collection[int],
    identity: Identity,
    confinement: Confinement = Confinement(),  # noqa: B008 # frozen
    stdout: int | None = None,
) -> int:
    """Start `argv` as `identity` with the standard descriptors and these; returns its pid.

    `stdout`: what stands in for our own. The caller must have no other thread.
    Errors: NotStarted, with no child left.
    """
    if threading.active_count() != 1:
        raise RuntimeError("a process with threads can't fork safely")
    kernel = _Linux() if sys.platform == "linux" else None
    try:
        walls = Walls(confinement) if confinement != Confinement() else None
    except Unconfined as fault:
        raise NotStarted(str(fault), NOT_EXECUTABLE) from None
    told, tell = os.pipe()
    # No handler of ours may run in the child, and no signal may kill it before it has told.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    parent = os.getpid()
    try:
        pid = os.fork()
        if pid == 0:
            _become(argv, environ, descriptors, identity, kernel, walls, stdout, tell, parent)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.close(tell)
    with os.fdopen(told, "rb") as pipe:
        failure = pipe.read().decode(errors="replace")
    if failure:
        os.waitpid(pid, 0)
        code, _, message = failure.partition(" ")
        raise NotStarted(message, int(code))
    return pid


def output(argv: Sequence[str], environ: Mapping[str, str], identity: Identity, limit_s: float) -> bytes:
    """What `argv` prints as `identity`, 64 KiB at most. Errors: NotStarted; TimeoutError."""
    reading, writing = os.pipe()
    try:
        try:
            pid = start(argv, environ, (), identity, stdout=writing)
        finally:
            os.close(writing)
        try:
            return _read(reading, time.monotonic() + limit_s)
        finally:
            os.kill(pid, signal.SIGKILL)  # a child that nobody has waited for keeps its pid
            os.waitpid(pid, 0)
    finally:
        os.close(reading)


def _read(pipe: int, deadline: float) -> bytes:
    poll, data = select.poll(), b""
    poll.register(pipe, select.POLLIN)
    while len(data) < 1 << 16:
        if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            raise TimeoutError("it printed no end in time")
        if not (more := os.read(pipe, 4096)):
            break
        data += more
    return data


def _become(
    argv: Sequence[str],
    environ: Mapping[str, str],
    descriptors: Collection[int],
    identity: Identity,
    kernel: _Linux | None,
    walls: Walls | None,
    stdout: int | None,
    tell: int,
    parent: int,
) -> NoReturn:
    """In the child: give away, then exec. Leaves only by exec or _exit."""
    code, message = NOT_EXECUTABLE, ""
    try:
        _default_signals()
        if stdout is not None:
            os.dup2(stdout, 1)
        _keep_only({0, 1, 2, *descriptors})
        if walls is not None:
            walls.enter()
        if kernel is not None:
            kernel.drop_bounding_set()
        if identity.change:
            os.setgroups(identity.groups)
            os.setgid(identity.gid)
            os.setuid(identity.uid)
            if (os.getresuid() if hasattr(os, "getresuid") else (os.getuid(), os.geteuid())).count(0):
                raise OSError(errno.EPERM, "the kernel left the command root")
        if kernel is not None:
            kernel.drop_capabilities()
        if walls is not None:
            walls.filter()
        if kernel is not None:
            kernel.end_with(parent)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
    except Unconfined as fault:
        message = str(fault)
    except BaseException as fault:  # noqa: BLE001 # nothing may go on in the child but to tell and to end
        message = f"privileges could not be dropped, so the command was not started: {fault}"
    else:
        code, message = _exec(argv, environ, identity)
    os.write(tell, f"{code} {message}".encode(errors="replace"))
    os._exit(code)


def _exec(argv: Sequence[str], environ: Mapping[str, str], identity: Identity) -> tuple[int, str]:
    """Returns only if the command can't be executed: the exit code and a sentence."""
    name, denied = argv[0], False
    try:
        for path in _places(name, environ):
            try:
                os.execve(path, list(argv), dict(environ))  # noqa: S606 # no shell is the point
            except NotADirectoryError:
                continue
            except FileNotFoundError:
                if os.path.lexists(path):
                    return (
                        NOT_EXECUTABLE,
                        f"{path} needs another file that does not exist, such as its interpreter",
                    )
            except PermissionError:
                # execvp(3) takes a directory that may not be searched for a command that may not be run.
                denied |= os.sep in name or os.path.lexists(path)
    except (OSError, ValueError) as fault:  # ValueError: a NUL in an argument
        return NOT_EXECUTABLE, f"{name}: {getattr(fault, 'strerror', None) or fault}"
    if denied:
        return NOT_EXECUTABLE, f"{name}: {identity.name} (uid {identity.uid}) may not execute it"
    return NOT_FOUND, f"{name}: there is no such command"


def _places(name: str, environ: Mapping[str, str]) -> list[str]:
    """Where a shell would look (POSIX 2.9.1.4)."""
    if os.sep in name:
        return [name]
    return [os.path.join(folder, name) for folder in os.get_exec_path(dict(environ))]


def _default_signals() -> None:
    """Python ignores SIGPIPE and SIGXFSZ, which exec would hand on; ours have handlers."""
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)


def _keep_only(kept: Collection[int]) -> None:
    """Everything else is closed by exec, whoever left it open."""
    for name in os.listdir("/dev/fd"):
        fd = int(name)
        try:
            os.set_inheritable(fd, fd in kept)
        except OSError as fault:
            if fault.errno != errno.EBADF:  # listdir's own descriptor stands in the list
                raise
    for fd in kept:
        if fd > 2:
            os.set_inheritable(fd, True)  # raises if the descriptor is not there


class _Linux:
    """prctl(2) and capset(2), looked up before the fork."""

    def __init__(self) -> None:
        import ctypes

        self._ctypes = ctypes
        self._libc: Any = ctypes.CDLL(None, use_errno=True)

    def _prctl(self, option: int, argument: int, second: int = 0) -> int:
        """0, or the errno."""
        ulong = self._ctypes.c_ulong
        if self._libc.prctl(option, ulong(argument), ulong(second), ulong(0), ulong(0)) == 0:
            return 0
        return self._ctypes.get_errno()

    def drop_bounding_set(self) -> None:
        """As far as allowed: without CAP_SETPCAP it can't be, and no_new_privs does it alone."""
        for capability in range(_HIGHEST_CAP + 1):
            failure = self._prctl(_PR_CAPBSET_DROP, capability)
            if failure == errno.EINVAL:
                return
            if failure not in (0, errno.EPERM):
                raise OSError(failure, os.strerror(failure))

    def drop_capabilities(self) -> None:
        """All sets emptied, and no exec gives any back."""
        ulong3 = self._ctypes.c_uint32 * 6
        header = (self._ctypes.c_uint32 * 2)(_CAP_VERSION_3, 0)
        if self._libc.capset(header, ulong3()) != 0:
            failure = self._ctypes.get_errno()
            raise OSError(failure, f"capset: {os.strerror(failure)}")
        # Ambient ones go with the permitted; cleared by name as well where the kernel knows them (4.3).
        failure = self._prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
        if failure not in (0, errno.EINVAL):
            raise OSError(failure, f"PR_CAP_AMBIENT: {os.strerror(failure)}")
        if failure := self._prctl(_PR_SET_NO_NEW_PRIVS, 1):
            raise OSError(failure, f"PR_SET_NO_NEW_PRIVS: {os.strerror(failure)}")

    def end_with(self, parent: int) -> None:
        """SIGTERM when coentroctl is killed. After setuid, which clears it (prctl(2))."""
        if failure := self._prctl(_PR_SET_PDEATHSIG, signal.SIGTERM):
            raise OSError(failure, f"PR_SET_PDEATHSIG: {os.strerror(failure)}")
        if os.getppid() != parent:
            raise OSError(errno.ESRCH, "coentroctl has died")

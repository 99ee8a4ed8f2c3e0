"""What a command can be shut into beside having no privileges: a filter of its calls, a folder of its own.

Both are for programs that insist on something which the helper has done for them, or which root
alone may touch. seccomp(2), BPF as in linux/filter.h, user_namespaces(7), mount_namespaces(7).
Everything is looked up before the fork; what the child calls allocates little and logs nothing.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from struct import Struct
from typing import Any, Final, NamedTuple

SIOCSIFMTU: Final = 0x8922  # linux/sockios.h, the same on every machine

_CLONE_NEWNS: Final = 0x00020000
_CLONE_NEWUSER: Final = 0x10000000
_MS_BIND: Final = 4096
_MS_REC: Final = 16384
_MS_PRIVATE: Final = 1 << 18

_PR_SET_SECCOMP: Final = 22
_SECCOMP_MODE_FILTER: Final = 2
_ALLOW: Final = 0x7FFF0000
_ANSWER: Final = 0x00050000  # SECCOMP_RET_ERRNO; with errno 0 the call seems to have succeeded

_INSTRUCTION: Final = Struct("=HBBI")  # struct sock_filter: code, jt, jf, k
_HOLDER: Final = Struct("@HP")  # struct sock_fprog: how many, where
_LOAD: Final = 0x20  # BPF_LD | BPF_W | BPF_ABS
_IF_EQUAL: Final = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_RETURN: Final = 0x06  # BPF_RET | BPF_K

# struct seccomp_data; both machines are little-endian, so an argument's lower half comes first.
_NUMBER: Final = 0
_ARCHITECTURE: Final = 4
_SECOND_ARGUMENT: Final = 16 + 8

_MACHINES: Final = {
    "x86_64": (0xC000003E, 16),  # AUDIT_ARCH_X86_64, __NR_ioctl (asm/unistd_64.h)
    "aarch64": (0xC00000B7, 29),  # AUDIT_ARCH_AARCH64, __NR_ioctl (asm-generic/unistd.h)
}


class Confinement(NamedTuple):
    """`answered`: ioctl(2) requests that seem to succeed and do nothing.

    `private`: the path of a file that only the command sees, empty, its folder the command's own.
    """

    answered: tuple[int, ...] = ()
    private: str | None = None


class Unconfined(Exception):
    """This machine can't do it: one sentence with what helps."""


def program(machine: str, requests: Sequence[int]) -> bytes:
    """The BPF program that answers these ioctl requests. Errors: Unconfined for an unknown machine.

    A call of another architecture, such as a 32-bit program's, is let through: the filter is no
    barrier, since whoever runs under it may do no more than before.
    """
    if machine not in _MACHINES:
        raise Unconfined(f"no filter of system calls is known for this machine ({machine})")
    architecture, ioctl = _MACHINES[machine]
    count = len(requests)
    steps = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_IF_EQUAL, 0, 3 + count, architecture),
        (_LOAD, 0, 0, _NUMBER),
        (_IF_EQUAL, 0, 1 + count, ioctl),
        (_LOAD, 0, 0, _SECOND_ARGUMENT),
        *((_IF_EQUAL, count - index, 0, request) for index, request in enumerate(requests)),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _ANSWER),
    ]
    return b"".join(_INSTRUCTION.pack(*step) for step in steps)


class Walls:
    """A confinement made ready before the fork, to be put up in the child."""

    def __init__(self, wanted: Confinement) -> None:
        """Errors: Unconfined."""
        import ctypes

        self._ctypes = ctypes
        self._libc: Any = ctypes.CDLL(None, use_errno=True)
        self._wanted = wanted
        self._program = program(platform.machine(), wanted.answered) if wanted.answered else b""

    def enter(self) -> None:
        """In the child, before privileges are given away. Errors: Unconfined."""
        if self._wanted.private is None:
            return
        uid, gid = os.geteuid(), os.getegid()
        if self._libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNS) != 0:
            why = os.strerror(self._ctypes.get_errno())
            raise Unconfined(
                f"no user namespace can be made here ({why}): run coentroctl as root, or allow them "
                "(kernel.apparmor_restrict_unprivileged_userns=0, user.max_user_namespaces)"
            )
        try:
            _write("/proc/self/setgroups", "deny")  # else an ordinary user may not write gid_map
            _write("/proc/self/uid_map", f"{uid} {uid} 1")
            _write("/proc/self/gid_map", f"{gid} {gid} 1")
            self._mount("none", "/", None, _MS_REC | _MS_PRIVATE)
            self._own_folder(self._wanted.private)
        except OSError as fault:
            raise Unconfined(f"no private {self._wanted.private} can be made here: {fault}") from None

    def filter(self) -> None:
        """In the child, last: after no_new_privs, which seccomp(2) asks of the unprivileged."""
        if not self._program:
            return
        ctypes = self._ctypes
        steps = ctypes.create_string_buffer(self._program, len(self._program))
        count = len(self._program) // _INSTRUCTION.size
        holder = ctypes.create_string_buffer(_HOLDER.pack(count, ctypes.addressof(steps)), _HOLDER.size)
        ulong = ctypes.c_ulong
        if self._libc.prctl(_PR_SET_SECCOMP, ulong(_SECCOMP_MODE_FILTER), holder, ulong(0), ulong(0)) != 0:
            raise Unconfined(f"no filter of system calls here: {os.strerror(ctypes.get_errno())}")

    def _own_folder(self, path: str) -> None:
        folder = os.path.dirname(path)
        if not os.path.isdir(folder):
            self._cover(os.path.dirname(folder))
            os.mkdir(folder, 0o755)
        else:
            self._mount("tmpfs", folder, "tmpfs", 0, "mode=0755")
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))

    def _cover(self, folder: str) -> None:
        """Make the folder one that can be written to, with all that it holds still in it."""
        links, held = {}, {}
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_symlink():
                    links[entry.name] = os.readlink(entry.path)
                else:
                    held[entry.name] = (os.open(entry.path, os.O_PATH | os.O_NOFOLLOW), entry.is_dir())
        self._mount("tmpfs", folder, "tmpfs", 0, "mode=0755")
        for name, target in links.items():
            os.symlink(target, os.path.join(folder, name))
        for name, (handle, is_dir) in held.items():
            place = os.path.join(folder, name)
            if is_dir:
                os.mkdir(place, 0o755)
            else:
                os.close(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            self._mount(f"/proc/self/fd/{handle}", place, None, _MS_BIND | _MS_REC)
            os.close(handle)

    def _mount(self, source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
        texts = [None if text is None else os.fsencode(text) for text in (source, target, kind, data)]
        if self._libc.mount(*texts[:3], self._ctypes.c_ulong(flags), texts[3]) != 0:
            number = self._ctypes.get_errno()
            raise OSError(number, os.strerror(number), target)


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)

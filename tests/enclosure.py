"""A network of one's own around a process: namespaces as unshare(1) makes them, from Python.

As root the process leaves for a new network, mount and pid namespace; as anybody else for a
user namespace first, with all of the account's subordinate ids if newuidmap(1) can give them.
os.unshare exists from Python 3.12 on only, so these are libc's calls (unshare(2), mount(2)).
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import pwd
import socket
import struct
import subprocess
import sys
from pathlib import Path
from typing import Final

CLONE_NEWNS: Final = 0x00020000
CLONE_NEWUSER: Final = 0x10000000
CLONE_NEWPID: Final = 0x20000000
CLONE_NEWNET: Final = 0x40000000
MS_BIND: Final = 4096
MS_REC: Final = 16384
MS_PRIVATE: Final = 1 << 18
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_DUMPABLE: Final = 4
_SIGKILL: Final = 9
_SIOCSIFFLAGS: Final = 0x8914
_IFF_UP_LOOPBACK_RUNNING: Final = 0x1 | 0x8 | 0x40

_EVERYTHING: Final = CLONE_NEWNET | CLONE_NEWNS | CLONE_NEWPID


class Refused(Exception):
    """This machine does not allow it; the text says what and what to do."""


def unshare(flags: int) -> None:
    """unshare(2). Errors: OSError."""
    if _libc().unshare(flags) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), f"unshare({flags:#x})")


def setns(fd: int, kind: int) -> None:
    """setns(2). Errors: OSError."""
    if _libc().setns(fd, kind) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), "setns")


def mount(source: str, target: str, kind: str | None, flags: int = 0, data: str | None = None) -> None:
    """mount(2). Errors: OSError with the target."""
    arguments = [None if text is None else text.encode() for text in (source, target, kind, data)]
    if _libc().mount(*arguments[:3], ctypes.c_ulong(flags), arguments[3]) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), target)


def die_with_parent() -> None:
    """Nothing of a test outlives pytest, even when that is killed (PR_SET_PDEATHSIG)."""
    _libc().prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0)


def leave(outside: socket.socket) -> None:
    """Go into new namespaces. `outside` leads to `serve_maps` in a process that stayed behind.

    The new pid namespace is that of the next child. Errors: Refused.
    """
    try:
        unshare(_EVERYTHING)
        return
    except PermissionError:
        if sys.platform != "linux":  # pragma: no cover
            raise
    uid, gid = os.geteuid(), os.getegid()
    _libc().prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)
    try:
        unshare(CLONE_NEWUSER)
        outside.send(b"?")
        if outside.recv(1) != b"y":
            # user_namespaces(7): gid_map is writable for an ordinary user only after this.
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
            Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
        unshare(_EVERYTHING)
    except OSError as fault:
        raise Refused(
            f"no namespaces here ({fault}): run as root, or allow user namespaces "
            "(sysctl kernel.unprivileged_userns_clone=1, kernel.apparmor_restrict_unprivileged_userns=0)"
        ) from fault


def serve_maps(inside: socket.socket, pid: int) -> None:
    """Answer `leave` of the process `pid`: map many ids if newuidmap(1) and /etc/subuid allow it."""
    if inside.recv(1) != b"?":
        return  # it needed no user namespace, or is gone
    mapped = False
    ranges = [_subordinate("/etc/subuid"), _subordinate("/etc/subgid")]
    if all(ranges):
        mapped = all(
            _quiet([tool, str(pid), "0", str(own), "1", "1", *map(str, extra)])
            for tool, own, extra in zip(
                ("newuidmap", "newgidmap"), (os.geteuid(), os.getegid()), ranges, strict=True
            )
            if extra is not None
        )
    inside.send(b"y" if mapped else b"n")


def furnish() -> None:
    """From the first process of the new pid namespace: a private /run, /proc, /sys, and lo up.

    Errors: Refused. /proc and /sys of the machine stay where a container hides parts of them,
    since the kernel then shows no fresh ones to a user namespace (mount_too_revealing).
    """
    try:
        mount("none", "/", None, MS_REC | MS_PRIVATE)
        mount("tmpfs", "/run", "tmpfs", 0, "mode=0755")
    except OSError as fault:
        raise Refused(f"no private mounts here: {fault}") from fault
    for kind, target in (("proc", "/proc"), ("sysfs", "/sys")):
        try:
            mount(kind, target, kind)
        except PermissionError:
            continue
    loopback_up()
    without_dad()


def loopback_up() -> None:
    """lo of this network namespace, up (netdevice(7))."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sH14x", b"lo", _IFF_UP_LOOPBACK_RUNNING)
        fcntl.ioctl(control, _SIOCSIFFLAGS, request)


def without_dad() -> None:
    """Without duplicate address detection an IPv6 address is usable at once, so no test waits."""
    for scope in ("all", "default"):
        path = Path(f"/proc/sys/net/ipv6/conf/{scope}/accept_dad")
        if path.exists():  # not where IPv6 is off (ipv6.disable=1)
            path.write_text("0")


def mapped_ids() -> list[range]:
    """The uids that exist in this user namespace."""
    lines = Path("/proc/self/uid_map").read_text().splitlines()
    return [range(int(first), int(first) + int(count)) for first, _, count in map(str.split, lines)]


def _subordinate(path: str) -> tuple[int, int] | None:
    """First id and count that subuid(5) gives to this account."""
    uid = os.geteuid()
    try:
        names = {str(uid), pwd.getpwuid(uid).pw_name}
        lines = Path(path).read_text().splitlines()
    except (KeyError, OSError):
        return None
    for line in lines:
        name, _, rest = line.partition(":")
        first, _, count = rest.partition(":")
        if name in names and first.isdigit() and count.isdigit():
            return int(first), min(int(count), 65535)
    return None


def _quiet(argv: list[str]) -> bool:
    try:
        return subprocess.run(argv, capture_output=True, timeout=5, check=False).returncode == 0
    except OSError:
        return False


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)

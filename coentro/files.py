"""The door to files: open, replace and lock them without being led elsewhere.

A privileged program that opens a path follows whoever may write on the way there. So a file
is opened without following a link and judged by its descriptor, a folder is looked at before
anything is put in it, and a file is replaced whole or not at all (rename(2)).
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Collection
from contextlib import suppress
from typing import Final

LARGEST: Final = 16 << 20  # bytes; a configuration or a journal's note is never near
_WRITABLE_BY_OTHERS: Final = stat.S_IWGRP | stat.S_IWOTH


class Untrusted(Exception):
    """Someone who shouldn't could change what stands at a path; the text says who may."""


class Locked(Exception):
    """Another process holds the lock. `pid` is what it wrote there, if anything."""

    def __init__(self, path: str, pid: int | None) -> None:
        super().__init__(f"{path} is locked" + (f" by process {pid}" if pid else ""))
        self.path = path
        self.pid = pid


def open_trusted(path: str, owner_uids: Collection[int]) -> bytes:
    """The bytes of a regular file that belongs to one of these uids and that no one else may write.

    The folders above are judged as for `ensure_directory`. Errors: Untrusted, or OSError as open(2)
    and read(2) have it.
    """
    _judge_way(path, owner_uids)
    # Without O_NONBLOCK a FIFO at the path would hold the caller until somebody writes to it.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        fd = os.open(path, flags)
    except OSError as fault:
        if os.path.islink(path):
            raise Untrusted(f"{path} is a symbolic link: name the file itself") from fault
        raise
    try:
        there = os.fstat(fd)
        if not stat.S_ISREG(there.st_mode):
            raise Untrusted(f"{path} is no regular file")
        _judge(path, there, owner_uids)
        with open(fd, "rb", closefd=False) as file:
            data = file.read(LARGEST + 1)
    finally:
        os.close(fd)
    if len(data) > LARGEST:
        raise Untrusted(f"{path} is larger than {LARGEST} bytes")
    return data


def ensure_directory(path: str, mode: int = 0o755, owner: int | None = None) -> None:
    """Make a folder and those above that are missing; judge the one that is there.

    What is made has `mode` whatever the umask. What is there must be a folder and no link,
    belong to root or to `owner` (default: our own uid), and be writable by no one else, so that
    none can put something else in the place of what we make in it. The folders above must be
    such that nobody else can move it away. Errors: Untrusted, OSError.
    """
    path = os.path.abspath(path)
    mine = os.geteuid() if owner is None else owner
    _judge_way(path, {mine})
    try:
        there = os.lstat(path)
    except FileNotFoundError:
        above = os.path.dirname(path)
        if not os.path.isdir(above):
            ensure_directory(above, 0o755, owner)
        with suppress(FileExistsError):  # someone was faster: judged below
            os.mkdir(path, 0o700)
            os.chmod(path, mode)
        there = os.lstat(path)
    if not stat.S_ISDIR(there.st_mode):
        raise Untrusted(f"{path} is no directory" + _link(there))
    _judge(path, there, {0, mine})


def lock(path: str) -> int:
    """A descriptor that holds the one lock at `path` until it is closed or the process ends.

    The file stays: removing a lock file would let two hold one each. Errors: Locked, Untrusted, OSError.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        there = os.fstat(fd)
        if not stat.S_ISREG(there.st_mode):
            raise Untrusted(f"{path} is no regular file")
        _judge(path, there, {0, os.geteuid()})
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Locked(path, _pid(os.pread(fd, 32, 0))) from None
        os.ftruncate(fd, 0)
        os.pwrite(fd, b"%d\n" % os.getpid(), 0)
    except BaseException:
        os.close(fd)
        raise
    return fd


def replace(path: str, data: bytes, mode: int = 0o600) -> None:
    """Put `data` at `path`, so that after a crash the old or the new is there, never a part.

    Errors: OSError; the old file stands then.
    """
    folder = os.path.dirname(os.path.abspath(path))
    directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    name = os.path.basename(path)
    temporary = f".{name}.{os.getpid()}.new"
    try:
        # A crash between open and rename leaves one; its pid may have come round again.
        with suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=directory)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(temporary, flags, 0o600, dir_fd=directory)
        try:
            with open(fd, "wb") as file:
                file.write(data)
                file.flush()
                os.fchmod(fd, mode)
                os.fsync(fd)
            os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=directory)
            raise
        os.fsync(directory)
    finally:
        os.close(directory)


def _judge(path: str, there: os.stat_result, owners: Collection[int]) -> None:
    if there.st_uid not in owners:
        names = " or ".join(f"uid {uid}" for uid in sorted(owners))
        raise Untrusted(f"{path} belongs to uid {there.st_uid}, not to {names}")
    if there.st_mode & _WRITABLE_BY_OTHERS:
        mode = stat.S_IMODE(there.st_mode)
        raise Untrusted(f"{path} is writable by others (mode {mode:04o}): chmod go-w {path}")


def _judge_way(path: str, owners: Collection[int]) -> None:
    """Whether only root and the owners choose what stands at `path`: its folders and links on the way.

    As sshd's safe_path does it, but a sticky folder such as /tmp is fine, and so is a group: macOS's
    /var/run is root's and group daemon's. Whoever owns / counts as root, since in a user namespace
    that is the overflow uid (user_namespaces(7)).
    """
    trusted = {0, os.stat("/").st_uid, *owners}
    above = os.path.dirname(os.path.abspath(path))
    for folder in dict.fromkeys((*_prefixes(above), *_prefixes(os.path.realpath(above)))):
        try:
            there = os.lstat(folder)
        except FileNotFoundError:
            return
        if there.st_uid not in trusted:
            raise Untrusted(f"{folder}, on the way to {path}, belongs to uid {there.st_uid}")
        if there.st_mode & stat.S_IWOTH and not there.st_mode & stat.S_ISVTX and stat.S_ISDIR(there.st_mode):
            raise Untrusted(f"{folder}, on the way to {path}, is writable by everyone: chmod o-w {folder}")


def _prefixes(path: str) -> list[str]:
    """`/`, then each longer part of an absolute path."""
    parts = path.strip("/").split("/")
    return ["/", *("/" + "/".join(parts[:n]) for n in range(1, len(parts) + 1) if parts[0])]


def _link(there: os.stat_result) -> str:
    return " but a symbolic link" if stat.S_ISLNK(there.st_mode) else ""


def _pid(text: bytes) -> int | None:
    digits = text.strip()
    return int(digits) if digits.isdigit() else None

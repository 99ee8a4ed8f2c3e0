"""The listening socket: made with its final mode and group before anyone can connect.

bind(2) takes the mode from the umask, so the socket begins as 0600 and is opened up only
after its group is right; only then does it listen. A socket that is there already is replaced
only if nobody answers on it.
"""

from __future__ import annotations

import errno
import grp
import os
import socket
import stat
from typing import Final

from attrs import frozen

from coentro import files

BACKLOG: Final = 512
LONGEST: Final = 107  # sun_path of unix(7), without the final NUL


class ListenError(Exception):
    """The socket can't be made, and what to do."""


@frozen
class Listening:
    """`problems`: what is not as configured, in words for `helper.status`."""

    socket: socket.socket
    path: str
    identity: tuple[int, int]
    problems: tuple[str, ...]


def bind(path: str, group: str, mode: int | None) -> Listening:
    """Listen at `path` for `group`. `mode` None: 0660, or 0600 where there is no such group."""
    if len(os.fsencode(path)) > LONGEST:
        raise ListenError(f"{path} is longer than the {LONGEST} bytes of a socket's name")
    try:
        files.ensure_directory(os.path.dirname(os.path.abspath(path)), 0o755)
        _clear(path)
        gid, problem = _group(group)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        before = os.umask(0o177)
        try:
            listener.bind(path)
        finally:
            os.umask(before)
        if gid is not None:
            try:
                os.chown(path, -1, gid, follow_symlinks=False)
            except PermissionError:
                gid, problem = None, f"the socket can't be given to group {group} without privilege"
        final = mode if mode is not None else 0o660 if gid is not None else 0o600
        if problem is not None:
            problem += f"; its mode is {final:04o}"
        os.chmod(path, final)
        listener.listen(BACKLOG)
    except (OSError, files.Untrusted) as fault:
        raise ListenError(f"can't listen at {path}: {fault}") from fault
    there = os.lstat(path)
    return Listening(listener, path, (there.st_dev, there.st_ino), (problem,) if problem else ())


def remove(listening: Listening) -> None:
    """Take the socket away, if the one at its path is still ours."""
    try:
        there = os.lstat(listening.path)
        if (there.st_dev, there.st_ino) == listening.identity:
            os.unlink(listening.path)
    except FileNotFoundError:
        pass
    listening.socket.close()


def _group(name: str) -> tuple[int | None, str | None]:
    try:
        return grp.getgrnam(name).gr_gid, None
    except KeyError:
        return None, f"there is no group {name}"


def _clear(path: str) -> None:
    """Make way for the socket. Errors: ListenError where something else, or someone, is there."""
    try:
        there = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(there.st_mode):
        raise ListenError(f"{path} is there and is no socket: move it away")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        refused = probe.connect_ex(path)
    if refused not in (errno.ECONNREFUSED, errno.ENOENT):
        raise ListenError(f"somebody listens at {path} already: stop that helper, or use --socket")
    os.unlink(path)

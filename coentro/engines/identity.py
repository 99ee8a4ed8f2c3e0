"""Who an engine runs as: never root, and with nothing that it could change the host with.

Root becomes the user behind sudo, or `nobody`. In a user namespace with a single uid there is
nobody to become; there, all capabilities are dropped instead (user_namespaces(7)).
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping
from typing import Final, NamedTuple

FALLBACK: Final = "nobody"
_SET_IDS: Final = 1 << 6 | 1 << 7  # CAP_SETGID and CAP_SETUID, linux/capability.h


class Unfit(Exception):
    """There is no such identity, or it can't be taken: one sentence."""


class Identity(NamedTuple):
    """`change`: take uid, gid and groups; else only capabilities are dropped."""

    uid: int
    gid: int
    name: str
    home: str
    groups: tuple[int, ...]
    change: bool
    said: str | None
    """What is done, for people; None where nothing has to be."""


def choose(user: str | None, environ: Mapping[str, str]) -> Identity:
    """The identity for an engine. `user`: a name or a uid, from the command line.

    Errors: Unfit.
    """
    if os.geteuid() != 0:
        return _own(user)
    entry = _named(user) if user is not None else _behind_sudo(environ) or _named(FALLBACK)
    if entry.pw_uid == 0:
        raise Unfit("a command of `run` never runs as root; name another user with --user")
    if _reachable(entry):
        if (able := permitted_capabilities()) is not None and able & _SET_IDS != _SET_IDS:
            raise Unfit(f"root without CAP_SETUID and CAP_SETGID can't become {entry.pw_name}")
        groups = tuple(os.getgrouplist(entry.pw_name, entry.pw_gid))
        said = f"the command runs as {entry.pw_name} (uid {entry.pw_uid}), without capabilities"
        home = entry.pw_dir
        return Identity(entry.pw_uid, entry.pw_gid, entry.pw_name, home, groups, change=True, said=said)
    if user is not None:
        raise Unfit(f"{user} has no uid in this user namespace, so the command can't run as that user")
    said = "there is but one uid in this user namespace: all capabilities are dropped instead of root's uid"
    return _current()._replace(said=said)


def _own(user: str | None) -> Identity:
    own = _current()
    if user is not None and _named(user).pw_uid != own.uid:
        raise Unfit(f"only root can run a command as {user}")
    if permitted_capabilities():
        return own._replace(said="all capabilities are dropped for the command")
    return own


def _current() -> Identity:
    uid, gid = os.geteuid(), os.getegid()
    try:
        entry = pwd.getpwuid(uid)
        name, home = entry.pw_name, entry.pw_dir
    except KeyError:
        name, home = str(uid), "/"
    return Identity(uid, gid, name, home, (), change=False, said=None)


def _named(user: str) -> pwd.struct_passwd:
    try:
        return pwd.getpwuid(int(user)) if user.isascii() and user.isdigit() else pwd.getpwnam(user)
    except (KeyError, OverflowError, ValueError):
        raise Unfit(f"there is no user {user!a}") from None


def _behind_sudo(environ: Mapping[str, str]) -> pwd.struct_passwd | None:
    """The user who called sudo: SUDO_UID is believed only as a user who exists and is not root."""
    uid = environ.get("SUDO_UID", "")
    if not (uid.isascii() and uid.isdigit()) or int(uid) == 0:
        return None
    try:
        return pwd.getpwuid(int(uid))
    except (KeyError, OverflowError):
        raise Unfit(f"SUDO_UID is {uid}, who is no user here; name one with --user") from None


def _reachable(entry: pwd.struct_passwd) -> bool:
    """Whether the user's ids mean something in this user namespace."""
    try:
        with open("/proc/self/setgroups") as file:
            if file.read().strip() == "deny":
                return False
    except FileNotFoundError:
        return True  # no user namespaces in this kernel, or no Linux
    return _mapped("/proc/self/uid_map", entry.pw_uid) and _mapped("/proc/self/gid_map", entry.pw_gid)


def _mapped(path: str, id_: int) -> bool:
    with open(path) as file:
        ranges = [tuple(map(int, line.split())) for line in file]
    return any(first <= id_ < first + length for first, _, length in ranges)


def permitted_capabilities() -> int | None:
    """The process's permitted capabilities as a bit set; None where the system has no such thing."""
    try:
        with open("/proc/self/status") as file:
            return next((int(line.split()[1], 16) for line in file if line.startswith("CapPrm:")), None)
    except FileNotFoundError:
        return None


def environment(identity: Identity, environ: Mapping[str, str]) -> dict[str, str]:
    """The caller's environment as the identity's own: sudo's traces go, the home is the user's."""
    kept = {k: v for k, v in environ.items() if not k.startswith("SUDO_")}
    if identity.change:
        kept |= {"HOME": identity.home, "USER": identity.name, "LOGNAME": identity.name}
    return kept

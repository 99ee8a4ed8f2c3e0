"""Where the helper listens, and what it means when nobody answers there."""

from __future__ import annotations

import errno
import os
import sys

from coentro.client.errors import NOT_AUTHORIZED, NoHelper, NotAdmitted


def socket_path(given: str | None = None) -> str:
    """`given`, else $COENTRO_SOCKET, else the platform's own place."""
    if given:
        return given
    named = os.environ.get("COENTRO_SOCKET")
    if named:
        return named
    return "/var/run/coentrovpn/helper.sock" if sys.platform == "darwin" else "/run/coentrovpn/helper.sock"


def explain(fault: OSError, path: str) -> NoHelper | NotAdmitted:
    """What a failed connect(2) to the helper's socket means, with what to do about it."""
    if isinstance(fault, PermissionError):
        return NotAdmitted(
            NOT_AUTHORIZED, f"you may not use {path}: {_admission(path)}", {"reason": "not_authorized"}
        )
    if fault.errno == errno.ENOENT:
        return NoHelper(f"no helper: {path} does not exist. Start it with: sudo coentro-helper")
    if fault.errno == errno.ECONNREFUSED:
        return NoHelper(f"no helper: nothing listens at {path}. Start it with: sudo coentro-helper")
    return NoHelper(f"no helper at {path}: {fault.strerror or fault}")


def _admission(path: str) -> str:
    from pathlib import Path  # these two for a failure alone
    from pwd import getpwuid

    user, group = "YOU", "coentrovpn"
    try:
        user = getpwuid(os.getuid()).pw_name
        found = Path(path).group()
        group = group if found == "root" else found
    except (KeyError, OSError):
        pass  # a uid without a name, a directory that can't be entered: then as installed
    if sys.platform == "darwin":
        return f"sudo dseditgroup -o edit -a {user} -t user {group}, then log in again"
    return f"sudo usermod -aG {group} {user}, then log in again"

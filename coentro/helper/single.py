"""One helper for each network namespace (Linux).

Routes, rules and links are recognised by marks alone, so two helpers in one namespace would
take each other's down. The lock on the state directory does not see a second helper with
another directory; an abstract socket does, since its names belong to the network namespace
(unix(7)). Anyone may bind such a name, so only one held by root or by our own uid counts.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
from typing import Final

from coentro.helper.credentials import of_peer

log = logging.getLogger("coentro.helper")

NAME: Final = "\0coentro-helper"


class Taken(OSError):
    """Another helper manages this network namespace."""


def claim() -> socket.socket | None:
    """Hold the name until closed. None: somebody without privilege squats on it. Errors: Taken."""
    holder = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        holder.bind(NAME)
        holder.listen(1)
        return holder
    except OSError as fault:
        holder.close()
        if fault.errno != errno.EADDRINUSE:
            raise
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        if probe.connect_ex(NAME) == 0:
            other = of_peer(probe)
            if other.uid in (0, os.geteuid()):
                text = f"another helper (pid {other.pid}) manages this network namespace: stop it first"
                raise Taken(errno.EADDRINUSE, text)
    log.warning("a program without privilege holds the name by which helpers find each other")
    return None

"""Who is calling: what the kernel recorded when the peer connected.

unix(7): SO_PEERCRED and SO_PEERGROUPS give uid, gid and supplementary groups as they were at
connect(2). The pid is information for people: it may be someone else's by now.
"""

from __future__ import annotations

import errno
import socket
import struct
import sys
from typing import Final

from attrs import frozen

from coentro.model import Uid

SO_PEERGROUPS: Final = 59  # asm-generic/socket.h; not in the socket module
_MOST_GROUPS: Final = 65_536  # NGROUPS_MAX


@frozen
class Credentials:
    """A peer. `groups` holds the supplementary groups; `gid` need not be among them."""

    uid: Uid
    gid: int
    groups: frozenset[int]
    pid: int

    @property
    def gids(self) -> frozenset[int]:
        return self.groups | {self.gid}


def of_peer(sock: socket.socket) -> Credentials:
    """The credentials of a connected Unix socket's peer. Errors: OSError."""
    if sys.platform != "linux":
        raise OSError(errno.ENOTSUP, "peers' credentials can't be read on this platform yet")
    pid, uid, gid = struct.unpack("iII", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    size = 256
    while True:
        try:
            raw = sock.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, size)
            break
        except OSError as fault:
            if fault.errno != errno.ERANGE or size >= _MOST_GROUPS * 4:
                raise
            size *= 4
    groups = struct.unpack(f"{len(raw) // 4}I", raw)
    return Credentials(Uid(uid), gid, frozenset(groups), pid)

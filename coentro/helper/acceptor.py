"""The acceptor: a task that takes connections, and the few lines each one passes first.

Who connects is decided from the kernel's word alone, before a byte is read. One who may not is
told so in one line, with the command that would change it.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import resource
import select
import socket
from typing import TYPE_CHECKING, Final

import trio

from coentro.errors import CoentroError, Limit
from coentro.helper.access import describe, user_name
from coentro.helper.credentials import Credentials, of_peer
from coentro.helper.peer import Peer
from coentro.wire import jsonrpc

if TYPE_CHECKING:
    from coentro.helper.daemon import Daemon

log = logging.getLogger("coentro.acceptor")

REFUSED_S: Final = 1.0  # how long a refused peer may take to read why
LOOK_S: Final = 0.05
MOST_REFUSED: Final = 64  # at a time; beyond that they get the line and no time
RESERVE: Final = 128  # descriptors that connections leave to tunnels, to undoing them and to refusals
BACK_OFF_S: Final = 0.1
MINUTE_S: Final = 60.0
_SHORT: Final = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS}


class Acceptor:
    """Takes connections of one listening socket."""

    def __init__(self, daemon: Daemon, nursery: trio.Nursery) -> None:
        self._daemon = daemon
        self._nursery = nursery
        self._refusing = 0
        self._folded: dict[int, int] = {}

    async def run(self, listener: socket.socket) -> None:
        """Accept until cancelled."""
        while True:
            try:
                sock, _ = listener.accept()
            except BlockingIOError:
                await trio.lowlevel.wait_readable(listener)
                continue
            except OSError as fault:
                if fault.errno in _SHORT:
                    log.error("no connection can be taken now: %s", fault.strerror)
                    await trio.sleep(BACK_OFF_S)
                elif fault.errno != errno.ECONNABORTED:
                    raise
                continue
            sock.setblocking(False)
            self._nursery.start_soon(self._serve, sock)
            await trio.lowlevel.checkpoint()

    async def _serve(self, sock: socket.socket) -> None:
        """One connection, from credentials to its end. A fault of ours ends this peer alone."""
        try:
            with sock:
                credentials = of_peer(sock)
                if not self._daemon.access.admits(credentials):
                    await self._not_admitted(sock, credentials)
                    return
                user = await self._user(credentials.uid)
                try:
                    # Without a wait between this and the peer's being counted.
                    self._room(sock, credentials)
                except Limit as limit:
                    await self._refuse(sock, limit)
                    return
                peer = Peer(self._daemon, sock, credentials, user)
                self._daemon.peers.add(peer)
                try:
                    await peer.serve()
                finally:
                    self._daemon.peers.discard(peer)
        except Exception:  # the seam between peers: nothing of one may end another
            log.exception("a peer's task failed; its connection is closed")

    async def _user(self, uid: int) -> str | None:
        """The login name, asked of the name service once for each uid."""
        if uid not in self._daemon.users:
            self._daemon.users[uid] = await trio.to_thread.run_sync(user_name, uid)
        return self._daemon.users[uid]

    def _room(self, sock: socket.socket, credentials: Credentials) -> None:
        limits, peers = self._daemon.config.limits, self._daemon.peers
        if len(peers) >= limits.connections:
            raise Limit(f"all {limits.connections} connections are in use", retry_after_s=1)
        mine = sum(1 for peer in peers if peer.credentials.uid == credentials.uid)
        if credentials.uid != 0 and mine >= limits.connections_per_uid:
            most = limits.connections_per_uid
            raise Limit(f"all {most} connections of your uid are in use", retry_after_s=1)
        # The kernel gives the lowest number that is free (open(2)), so at least as many are in use.
        most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if sock.fileno() >= most - min(RESERVE, most // 2):
            raise Limit("the helper has no descriptors left for connections", retry_after_s=1)

    async def _not_admitted(self, sock: socket.socket, credentials: Credentials) -> None:
        user = await self._user(credentials.uid)
        self._note(credentials, user)
        await self._refuse(sock, self._daemon.access.refusal(user, credentials.uid))

    async def _refuse(self, sock: socket.socket, why: CoentroError) -> None:
        """Say why in one line and read nothing; the peer may take a second to hang up."""
        with contextlib.suppress(OSError):
            sock.send(jsonrpc.join([jsonrpc.error_line(None, why)], False))
            sock.shutdown(socket.SHUT_WR)
            if self._refusing >= MOST_REFUSED:
                return
            self._refusing += 1
            try:
                # Waiting for it to be readable would end at the first byte that the peer sends.
                poll = select.poll()
                poll.register(sock, 0)
                with trio.move_on_after(REFUSED_S):
                    while not poll.poll(0):  # noqa: ASYNC110 - trio waits for reading or writing, not for this
                        await trio.sleep(LOOK_S)
            finally:
                self._refusing -= 1

    def _note(self, credentials: Credentials, user: str | None) -> None:
        """One log line and event for each refused uid and minute, then a count."""
        uid = credentials.uid
        if uid in self._folded:
            self._folded[uid] += 1
            return
        self._folded[uid] = 0
        log.warning("refused uid %d (%s), pid %d: not admitted by [access]", uid, user, credentials.pid)
        self._daemon.events.tell("peer.refused", {**describe(credentials, user), "count": 1}, uid)
        self._nursery.start_soon(self._minute, credentials, user)

    async def _minute(self, credentials: Credentials, user: str | None) -> None:
        await trio.sleep(MINUTE_S)
        more = self._folded.pop(credentials.uid)
        if more:
            log.warning("refused uid %d (%s) %d times more in that minute", credentials.uid, user, more)
            about = {**describe(credentials, user), "count": more}
            self._daemon.events.tell("peer.refused", about, credentials.uid)

"""The helper as a whole: its nurseries, from the first look at the host to the last undo.

The outer nursery holds the manager's own tasks, the inner one acceptor, supervisor and peers.
Stopping ends the listening first, then undoes every tunnel while peers still hear of it, then
hangs up; a second signal finds that under way and changes nothing.
"""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable, Mapping
from typing import Any

import trio

from coentro.clock import BootClock
from coentro.helper.acceptor import Acceptor
from coentro.helper.access import Access
from coentro.helper.config import Config, ConfigError
from coentro.helper.events import Events
from coentro.helper.listen import Listening
from coentro.helper.methods import METHODS, dispatcher
from coentro.helper.peer import Peer
from coentro.helper.rate import Rate
from coentro.helper.supervisor import supervise
from coentro.netops.interface import NetworkOps
from coentro.tunnels.manager import Limits, Manager

log = logging.getLogger("coentro.helper")

LAST_WORDS_S = 1.0


class Daemon:
    """What the methods reach: configuration, tunnels, peers, events. One for each process."""

    manager: Manager

    def __init__(
        self,
        network: NetworkOps,
        config: Config,
        access: Access,
        read: Callable[[], tuple[Config, Access]],
        clock: BootClock | None = None,
        configured: Callable[[Config], None] = lambda config: None,
    ) -> None:
        self.network = network
        self.config = config
        self.access = access
        self.clock = clock or BootClock()
        self.events = Events()
        self.peers: set[Peer] = set()
        self.users: dict[int, str | None] = {}
        self.rate = self._rate()
        self.activation = "self"
        self.listening: Listening | None = None
        self.started_at = time.monotonic()
        self.dispatcher = dispatcher(self)
        self._read = read
        self._configured = configured
        self._stop = trio.Event()

    @property
    def problems(self) -> list[str]:
        """What is not as it should be, in sentences."""
        listening = self.listening.problems if self.listening else ()
        return [*listening, *(f"[access] or [scopes] names {m}: there is none" for m in self.access.missing)]

    def knows(self, method: str) -> bool:
        return method in METHODS

    def changes(self, method: str) -> bool:
        """Whether the method takes a turn among the changes."""
        return METHODS[method].changes

    async def run(
        self,
        listen: Callable[[], Listening],
        closed: Callable[[Listening], None],
        ready: Callable[[], None] = lambda: None,
        *,
        signals: bool = True,
    ) -> None:
        """Settle, listen, serve until `stop`, undo. Errors: what `listen` or the network raise."""
        async with trio.open_nursery() as outer:
            limits = Limits(self.config.limits.tunnels_per_uid, self.config.limits.routes_per_tunnel)
            self.manager = Manager(self.network, outer, self._tell, limits, self.clock)
            if signals:
                await outer.start(self._hear)
            for failure in await self.manager.settle():
                text = f"{failure.op} of an earlier helper can't be taken down: {failure.message}"
                self.manager.problems.append(text)
                log.error("%s", text)
            self.listening = listen()
            for problem in self.problems:
                log.warning("%s", problem)
            try:
                async with trio.open_nursery() as inner:
                    inner.start_soon(supervise, self.network, self.manager)
                    accepting = trio.CancelScope()
                    inner.start_soon(self._accept, inner, accepting, self.listening)
                    ready()
                    await self._stop.wait()
                    accepting.cancel()
                    await self._farewell()
                    inner.cancel_scope.cancel()
            finally:
                # Also when a task of ours failed: no end of the helper leaves a tunnel behind.
                await self.manager.close()
                closed(self.listening)
            outer.cancel_scope.cancel()

    def stop(self) -> None:
        """Begin to end; again is no different."""
        self._stop.set()

    async def _hear(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Hear signals until cancelled: TERM and INT stop, HUP reloads. From then on they do nothing."""
        heard = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
        # trio gives back at the end what was there before, and to that whatever came too late. One more
        # signal after the last undo must not turn exit 0 into a death by it.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, heard)
        for each in heard:
            signal.signal(each, _late)
        try:
            with trio.open_signal_receiver(*heard) as signals:
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)
                task_status.started()
                async for number in signals:
                    await self._on(number)
        finally:
            for each in heard:
                signal.signal(each, signal.SIG_IGN)  # the one handler that outlives the interpreter

    async def _on(self, number: int) -> None:
        if number == signal.SIGHUP:
            try:
                await self.reload()
            except ConfigError as fault:
                log.error("the old configuration stays: %s", fault)
        elif number == signal.SIGUSR1:
            log.warning("handing over (SIGUSR1) is not in this version: nothing is done")
        else:
            log.info("stopping on %s", signal.Signals(number).name)
            self.stop()

    async def reload(self) -> list[str]:
        """Read the configuration again; the old one stays if the new one is bad.

        Returns the tables that changed. Open peers are checked again: scopes follow the new
        configuration, and one who is admitted no more is hung up on. Errors: ConfigError.
        """
        config, access = await trio.to_thread.run_sync(self._read)
        changed = config.changed(self.config)
        self.config, self.access = config, access
        self.rate = self._rate()
        self.manager.limits = Limits(config.limits.tunnels_per_uid, config.limits.routes_per_tunnel)
        self.users.clear()
        self._configured(config)
        for peer in list(self.peers):
            if access.admits(peer.credentials):
                peer.scopes = access.scopes_of(peer.credentials)
            else:
                log.warning("peer %d (uid %d) is admitted no more", peer.number, peer.credentials.uid)
                peer.end()
        log.info("configuration read again; changed: %s", ", ".join(changed) or "nothing")
        return changed

    async def _accept(self, nursery: trio.Nursery, scope: trio.CancelScope, listening: Listening) -> None:
        with scope:
            await Acceptor(self, nursery).run(listening.socket)

    async def _farewell(self) -> None:
        """Undo every tunnel while its clients still hear of it."""
        self.events.tell("helper.stopping", {})
        await self.manager.close()
        with trio.move_on_after(LAST_WORDS_S):
            for peer in list(self.peers):
                await peer.outbox.drained()

    def _tell(self, type_: str, data: Mapping[str, Any], uid: int) -> None:
        self.events.tell(type_, data, uid)

    def _rate(self) -> Rate:
        limits = self.config.limits
        return Rate.of(limits.requests_per_s, limits.burst, trio.current_time)


def _late(number: int, frame: object) -> None:
    """All is undone already."""

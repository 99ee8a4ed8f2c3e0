"""All tunnels together: every change is look, want, diff, apply, one after another.

The manager knows owners, leases and conflicts; it never knows how a platform routes. A change
that fails or is cancelled leaves the tunnels and the host as they were (`NetworkOps.apply`
undoes what it began). Ends that nobody waits for (a client that died, a linger that expired)
run in the manager's own nursery, shielded, so that no peer's task can cut an undo short.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import trio
from attrs import evolve, frozen

from coentro.clock import BootClock
from coentro.errors import (
    Busy,
    CoentroError,
    InvalidParams,
    Kernel,
    Limit,
    NotFound,
    Unsupported,
)
from coentro.model import Spec, TunnelId
from coentro.netops.interface import Failure, Host, NetworkEvent, NetworkOps, Stats, Wanted
from coentro.networks import FAMILIES, Family, Networks
from coentro.plan import Change, diff
from coentro.tunnels.amendments import made_up, rerouted
from coentro.tunnels.conflicts import Verdict, judge
from coentro.tunnels.tunnel import Actor, Lease, Tunnel, TunnelState
from coentro.tunnels.turns import Turn, Turns

log = logging.getLogger("coentro.tunnels")

T = TypeVar("T")
Tell = Callable[[str, Mapping[str, Any], int], None]
"""Tell an event: type, data, and the uid whose it is."""

IN_THE_LOOP = 2_000  # networks that are compared in the loop; more go to a worker thread
RETRY_S = (1, 5, 30, 120)  # after which what could not be taken down is tried again


@frozen
class Limits:
    tunnels_per_uid: int = 8
    routes_per_tunnel: int = 1_000_000


class Manager:
    """The tunnels of one helper. Every method is called from trio's thread."""

    def __init__(
        self, network: NetworkOps, nursery: trio.Nursery, tell: Tell, limits: Limits, clock: BootClock
    ) -> None:
        self.network = network
        self.limits = limits
        self.clock = clock
        self.problems: list[str] = []
        self.turns = Turns()
        self._nursery = nursery
        self._tell = tell
        self._tunnels: dict[TunnelId, Tunnel] = {}
        self._lingering: dict[TunnelId, trio.CancelScope] = {}
        self._stopping = False

    # What is there

    def visible(self, actor: Actor) -> list[Tunnel]:
        return [t for t in self._tunnels.values() if actor.sees(t.owner)]

    def find(self, actor: Actor, id_: str) -> Tunnel:
        """A tunnel that the caller may see. Errors: NotFound, the same for another's."""
        tunnel = self._tunnels.get(TunnelId(id_))
        if tunnel is None or not actor.sees(tunnel.owner):
            raise NotFound("there is no such tunnel; `tunnel.list` shows yours")
        return tunnel

    def named(self, id_: TunnelId) -> Tunnel | None:
        return self._tunnels.get(id_)

    def count(self) -> int:
        return len(self._tunnels)

    async def counters(self) -> Mapping[TunnelId, Stats]:
        """What has gone through the devices. A change whose answer tells them reads them first: one
        that is made must not be answered with an error. Errors: Kernel."""
        return await self.network.stats()

    def info(
        self, tunnel: Tunnel, counters: Mapping[TunnelId, Stats], *, lease: bool = False
    ) -> dict[str, Any]:
        """`T` of one tunnel."""
        header_bytes = self.network.packet_header_bytes(tunnel.spec)
        return tunnel.to_json(header_bytes, counters.get(tunnel.id, Stats()), lease=lease)

    async def infos(self, tunnels: Sequence[Tunnel]) -> list[dict[str, Any]]:
        """`T` of each. Errors: Kernel."""
        counters = await self.counters() if tunnels else {}
        return [self.info(tunnel, counters) for tunnel in tunnels]

    # Changes, each in its turn

    async def create(self, actor: Actor, spec: Spec, holder: object, turn: Turn) -> Tunnel:
        """A new tunnel of the caller, leased to `holder`. Errors: those of the protocol."""
        self._possible(spec)
        async with turn:
            self._running()
            mine = [t for t in self._tunnels.values() if t.owner == actor.uid]
            if len(mine) >= self.limits.tunnels_per_uid:
                raise Limit(f"you have {len(mine)} tunnels, which is all that this helper allows")
            name = spec.name or made_up(t.name for t in mine)
            verdict = await self._judge(spec, name, actor, actor.uid, frozenset(), None)
            verdict.refuse()
            taken = self._take_over(verdict)
            host = await self.network.look()
            id_ = TunnelId(secrets.token_hex(8))
            slot = await self.network.free_slot(host, [t.slot for t in self._tunnels.values()])
            await self.network.apply(await self._changes(host, {**taken, id_: Wanted(id_, slot, spec)}))
            device = self.network.device(id_)
            assert device is not None  # apply made it
            tunnel = Tunnel(
                id_, name, actor.uid, actor.user, slot, evolve(spec, name=name), device, Lease(holder=holder)
            )
            self._tunnels[id_] = tunnel
            self._withdraw(verdict)
            self._tell("tunnel.up", tunnel.about(), tunnel.owner)
            return tunnel

    async def update(self, actor: Actor, tunnel: Tunnel, spec: Spec, reclaims: frozenset[Family]) -> None:
        """Bring a tunnel to a new spec; the caller has the turn in which it read the old one.

        `reclaims`: families whose routes are named anew, which asks again for what root took.
        """
        self._running()
        await self._bring(tunnel, spec, actor, reclaims)

    async def routes(
        self, actor: Actor, id_: str, add: Networks, remove: Networks, allowed: Callable[[Spec], None]
    ) -> dict[str, int]:
        """Add and remove routes of a tunnel, all or nothing; the caller has the turn."""
        self._running()
        tunnel = self.find(actor, id_)
        spec = await _in_thread(len(tunnel.spec.routes) + len(add), rerouted, tunnel.spec, add, remove)
        spec.check()
        allowed(spec)
        named = frozenset(f for f in FAMILIES if add.packed(f) or remove.packed(f))
        await self._bring(tunnel, spec, actor, named)
        return {"added": len(add), "removed": len(remove), "total": len(spec.routes)}

    async def attach(self, actor: Actor, id_: str, secret: str, holder: object, turn: Turn) -> Tunnel:
        """Move the lease to `holder`. Never for anyone but the owner, root included."""
        async with turn:
            self._running()
            tunnel = self._tunnels.get(TunnelId(id_))
            if tunnel is None or tunnel.owner != actor.uid or not tunnel.lease.fits(secret):
                raise NotFound("there is no such tunnel, or this is not its lease")
            if (scope := self._lingering.pop(tunnel.id, None)) is not None:
                scope.cancel()
            if tunnel.lease.holder is not holder and tunnel.lease.holder is not None:
                self._tell("tunnel.changed", {**tunnel.about(), "lease": "moved"}, tunnel.owner)
            tunnel.lease.holder = holder
            tunnel.state, tunnel.ends_at = TunnelState.UP, None
            return tunnel

    async def destroy(self, actor: Actor, id_: str, turn: Turn, why: str = "destroyed") -> None:
        """End a tunnel; returns once the host is as it was before."""
        async with turn:
            tunnel = self.find(actor, id_)
            with trio.CancelScope(shield=True):
                failures = await self._end(tunnel, why)
        if failures:
            raise _left(failures)

    async def plan(
        self, actor: Actor, spec: Spec, tunnel: Tunnel | None, reclaims: frozenset[Family]
    ) -> tuple[list[Change], tuple[dict[str, Any], ...]]:
        """What `create` or `update` would do now, and what would refuse it. Changes nothing."""
        self._possible(spec)
        mine = [t.name for t in self._tunnels.values() if t.owner == actor.uid]
        owner = tunnel.owner if tunnel else actor.uid
        name = tunnel.name if tunnel else spec.name or made_up(mine)
        withdrawn = tunnel.withdrawn - reclaims if tunnel else frozenset()
        verdict = await self._judge(spec, name, actor, owner, withdrawn, tunnel)
        host = await self.network.look()
        taken = self._take_over(verdict)
        if tunnel is not None:
            new = Wanted(tunnel.id, tunnel.slot, spec, withdrawn)
        else:
            slot = await self.network.free_slot(host, [t.slot for t in self._tunnels.values()])
            new = Wanted(TunnelId("planned"), slot, spec)
        return await self._changes(host, {**taken, new.id: new}), verdict.conflicts

    # Ends that nobody asked for

    def release(self, holder: object) -> None:
        """A connection ended: its tunnels go, or linger for their owner to come back."""
        for tunnel in list(self._tunnels.values()):
            if tunnel.lease.holder is not holder:
                continue
            tunnel.lease.holder = None
            if self._stopping:
                continue
            if tunnel.lease.delivered and tunnel.spec.linger_s > 0:
                tunnel.state = TunnelState.LINGERING
                tunnel.ends_at = time.time() + tunnel.spec.linger_s
                self._tell("tunnel.changed", {**tunnel.about(), "lease": "lingering"}, tunnel.owner)
                self._nursery.start_soon(self._linger, tunnel, self.clock.now() + tunnel.spec.linger_s)
            else:
                taken = tunnel.lease.delivered
                why = "its client's connection ended" if taken else "its answer was not taken"
                self._nursery.start_soon(self._abandoned, tunnel, why, self.turns.take(), None)

    def undelivered(self, tunnel: Tunnel) -> None:
        """The answer to the create could not be sent: the tunnel goes, as nobody has its lease."""
        tunnel.lease.holder = None
        self._nursery.start_soon(
            self._abandoned, tunnel, "its answer could not be sent", self.turns.take(), tunnel.ends_at
        )

    async def lost(self, event: NetworkEvent) -> None:
        """The system says that a tunnel's device is gone: end the tunnel if it really is."""
        tunnel = self._tunnels.get(event.tunnel) if event.tunnel else None
        if tunnel is None:
            return
        with trio.CancelScope(shield=True):
            async with self.turns.take():
                try:
                    host = await self.network.look()
                except CoentroError as fault:
                    # The next change of this tunnel meets ENODEV and says so.
                    log.error(
                        "the host can't be read (%s): whether %s stands is not known", fault, tunnel.name
                    )
                    return
                if not any(key.is_link and key.link == tunnel.id for key in host.state):
                    await self._end(tunnel, "its interface was removed")

    async def settle(self) -> list[Failure]:
        """Take down what a helper before us left, recognised by our marks. Before any peer."""
        host = await self.network.look(everything=True)
        changes = diff({}, host.state)
        for change in changes:
            log.warning("left by an earlier helper, taken down: %s", self.network.describe(change).op)
        return await self.network.force(changes)

    async def close(self) -> None:
        """Undo every tunnel; further changes are refused as Busy. Never cut short."""
        self._stopping = True
        with trio.CancelScope(shield=True):
            async with self.turns.take():
                for tunnel in list(self._tunnels.values()):
                    await self._end(tunnel, "the helper is stopping")

    # How

    def _running(self) -> None:
        if self._stopping:
            raise Busy("the helper is shutting down")

    def _possible(self, spec: Spec) -> None:
        for capability in spec.capabilities():
            if capability not in self.network.capabilities:
                raise Unsupported(capability)
        total = len(spec.routes) + len(spec.exclude) + len(spec.block)
        if total > self.limits.routes_per_tunnel:
            raise InvalidParams("$.routes", f"a tunnel has at most {self.limits.routes_per_tunnel} networks")

    async def _judge(
        self, spec: Spec, name: str, actor: Actor, owner: int, withdrawn: frozenset[Any], but: Tunnel | None
    ) -> Verdict:
        others = [t for t in self._tunnels.values() if t is not but]
        size = len(spec.routes) + sum(len(t.spec.routes) for t in others) if others else 0
        return await _in_thread(size, judge, spec, name, actor, owner, others, withdrawn)

    def _take_over(self, verdict: Verdict) -> dict[TunnelId, Wanted]:
        """The tunnels that yield to root, as they shall be then."""
        taken: dict[TunnelId, Wanted] = {}
        for tunnel, family in verdict.takeover:
            before = taken.get(tunnel.id, tunnel.wanted)
            taken[tunnel.id] = evolve(before, withdrawn=before.withdrawn | {family})
        return taken

    def _withdraw(self, verdict: Verdict) -> None:
        for tunnel, family in verdict.takeover:
            tunnel.withdrawn |= {family}
            problem = _taken_over(family)
            tunnel.problems.append(problem)
            self._tell("tunnel.degraded", {**tunnel.about(), "problem": problem}, tunnel.owner)

    async def _changes(self, host: Host, changed: Mapping[TunnelId, Wanted]) -> list[Change]:
        """From what stands to what shall stand for all tunnels, with these changed or new."""
        wanted = list({**{t.id: t.wanted for t in self._tunnels.values()}, **changed}.values())
        size = sum(len(w.spec.routes) + len(w.spec.exclude) + len(w.spec.block) for w in wanted)
        return await _in_thread(size, lambda: diff(self.network.want(host, wanted), host.state))

    async def _bring(self, tunnel: Tunnel, spec: Spec, actor: Actor, reclaims: frozenset[Family]) -> None:
        """Make a tunnel what `spec` says, or leave all as it is."""
        self._possible(spec)
        withdrawn = tunnel.withdrawn - reclaims
        verdict = await self._judge(spec, tunnel.name, actor, tunnel.owner, withdrawn, tunnel)
        verdict.refuse()
        taken = self._take_over(verdict)
        host = await self.network.look()
        new = Wanted(tunnel.id, tunnel.slot, spec, withdrawn)
        await self.network.apply(await self._changes(host, {**taken, tunnel.id: new}))
        for family in tunnel.withdrawn - withdrawn:
            tunnel.problems.remove(_taken_over(family))
        tunnel.spec, tunnel.withdrawn = spec, withdrawn
        self._withdraw(verdict)
        self._tell("tunnel.changed", tunnel.about(), tunnel.owner)

    async def _linger(self, tunnel: Tunnel, deadline: float) -> None:
        ends_at = tunnel.ends_at
        with trio.CancelScope() as scope:
            self._lingering[tunnel.id] = scope
            await self.clock.sleep_until(deadline)
        if not scope.cancelled_caught:
            why = "it lingered and nobody came back"
            await self._abandoned(tunnel, why, self.turns.take(), ends_at)

    async def _abandoned(self, tunnel: Tunnel, why: str, turn: Turn, ends_at: float | None) -> None:
        """End a tunnel unless somebody has attached to it, or it lingers anew, before its turn came."""
        with trio.CancelScope(shield=True):
            async with turn:
                if tunnel.lease.holder is None and tunnel.ends_at == ends_at:
                    await self._end(tunnel, why)

    async def _end(self, tunnel: Tunnel, why: str) -> list[Failure]:
        """Take one tunnel down, step by step, whatever fails; the caller has the turn."""
        if self._tunnels.get(tunnel.id) is not tunnel:
            return []
        try:
            host = await self.network.look()
        except CoentroError as fault:
            # What can't be read is taken to be as it was made: an undo is never given up.
            log.error("the host can't be read (%s): %s is taken down from memory", fault, tunnel.name)
            host = Host(self.network.want(Host({}), [t.wanted for t in self._tunnels.values()]))
        del self._tunnels[tunnel.id]
        failures = await self.network.force(await self._changes(host, {}))
        self.network.release(tunnel.id)
        if (scope := self._lingering.pop(tunnel.id, None)) is not None:
            scope.cancel()
        left = [f"{f.op}: {f.errno}" for f in failures]
        self._tell("tunnel.down", {**tunnel.about(), "why": why, "left": left}, tunnel.owner)
        if failures and not self._stopping:
            self._nursery.start_soon(self._retry, tunnel.name)
        return failures

    async def _retry(self, name: str) -> None:
        """What could not be taken down still bears our marks: a later look finds it again."""
        why = ""
        for pause in RETRY_S:
            await trio.sleep(pause)
            async with self.turns.take():
                try:
                    host = await self.network.look(everything=True)
                except CoentroError as fault:
                    why = fault.message
                    continue
                failures = await self.network.force(await self._changes(host, {}))
            if not failures:
                log.info("what was left of %s is gone", name)
                return
            why = f"{failures[0].op}: {failures[0].message}"
        problem = f"what is left of {name} can't be taken down: {why}"
        self.problems.append(problem)
        log.error("%s", problem)


def _left(failures: Sequence[Failure]) -> Kernel:
    first = failures[0]
    return Kernel(
        f"{first.op} failed ({first.message}); all else was taken down, and this is tried again",
        errno=first.errno,
        op=first.op,
    )


def _taken_over(family: Family) -> str:
    return f"root has taken over everything of IPv{family}; its routes are withdrawn"


async def _in_thread(size: int, work: Callable[..., T], *args: Any) -> T:
    """Small work is done at once; large work must not hold up the other peers."""
    if size <= IN_THE_LOOP:
        return work(*args)
    return await trio.to_thread.run_sync(work, *args)

"""Linux's network ops: what coentro.netops.interface.NetworkOps asks for, over one rtnetlink.

Two sockets, each used by one worker thread at a time: one acts, one reads, so that a listing
never waits for a hundred thousand routes. What stands in the tables is remembered from what was
really done there; everything else is read whenever it is asked for.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from errno import EIO, errorcode
from typing import Any, Final, TypeVar

import trio

from coentro.errors import Kernel, Limit
from coentro.model import Spec, TunnelId
from coentro.netops.interface import (
    Described,
    Device,
    Failure,
    Host,
    HostRoute,
    Interface,
    Lookup,
    NetworkEvent,
    NetworkStatus,
    Stats,
    Wanted,
)
from coentro.netops.linux import host, look, survey, words
from coentro.netops.linux.apply import ALIAS, Applier
from coentro.netops.linux.desired import Link, Ranges, Up, want
from coentro.netops.linux.framing import Malformed
from coentro.netops.linux.messages import Link as HostLink
from coentro.netops.linux.monitor import LinkChange, Monitor, Resync
from coentro.netops.linux.netlink import RECEIVE_BYTES, Netlink, Overrun
from coentro.netops.linux.transaction import Transaction
from coentro.netops.linux.tun import NAME, PACKET_INFO_BYTES, VNET_HDR_BYTES
from coentro.networks import Family
from coentro.plan import Change, State, applied

T = TypeVar("T")
log = logging.getLogger("coentro.netops")

_RANGES: Final = Ranges()


class LinuxNetwork:
    """See coentro.netops.interface.NetworkOps; `receive_bytes` is the acting socket's buffer."""

    platform: Final = "linux"
    capabilities: Final = frozenset({"tun", "tun.queues", "tun.vnet_hdr", "tun.packet_info", "block"})

    def __init__(self, ranges: Ranges = _RANGES, receive_bytes: int = RECEIVE_BYTES) -> None:
        self._ranges = ranges
        self._receive_bytes = receive_bytes
        self._remembered: dict[Any, Any] = {}
        self._changing = trio.Lock()
        self._acting = trio.CapacityLimiter(1)
        self._reading = trio.CapacityLimiter(1)

    async def start(self) -> None:
        with ExitStack() as opened:
            self._netlink = opened.enter_context(Netlink(self._receive_bytes))
            self._reader = opened.enter_context(Netlink())
            self._monitor = opened.enter_context(Monitor())
            self._applier = Applier(self._netlink)
            opened.callback(self._applier.close)
            self._opened = opened.pop_all()

    async def close(self) -> None:
        self._opened.close()

    async def look(self, *, everything: bool = False) -> Host:
        async with self._changing:
            found = await self._act(
                "read the host",
                look.read,
                self._ranges,
                dict(self._applier.devices),
                self._remembered,
                everything,
            )
            # Descriptors may have been released meanwhile: of these the newer word counts.
            now = self._applier.devices
            self._applier.devices = {t: now.get(t, device) for t, device in found.devices.items()}
            self._remembered = dict(found.host.state)
        return found.host

    async def free_slot(self, host: Host, used: Collection[int]) -> int:
        taken = host.taken_slots.union(used)
        slot = await self._read("look for a free table", look.free_slot, self._ranges, taken)
        if slot is None:
            raise Limit(f"all {self._ranges.slots} of the host's routing tables for tunnels are in use")
        return slot

    def want(self, host: Host, tunnels: Sequence[Wanted]) -> State:
        return want(self._ranges, host.onlink, tunnels)

    async def apply(self, changes: Sequence[Change]) -> None:
        async with self._changing:
            await self._transaction().make(changes)

    async def force(self, changes: Sequence[Change]) -> list[Failure]:
        async with self._changing:
            return await self._transaction().force(changes)

    def describe(self, change: Change) -> Described:
        return words.describe(change, self._applier.name_of)

    def device(self, tunnel: TunnelId) -> Device | None:
        return self._applier.devices.get(tunnel)

    def release(self, tunnel: TunnelId) -> None:
        self._applier.release(tunnel)

    def packet_header_bytes(self, spec: Spec) -> int:
        options = spec.tun
        return PACKET_INFO_BYTES * options.packet_info + VNET_HDR_BYTES * options.vnet_hdr

    async def stats(self) -> Mapping[TunnelId, Stats]:
        by_index = {link.index: link.stats for link in await self._read("list the devices", host.links)}
        return {
            TunnelId(tunnel): by_index[device.index]
            for tunnel, device in self._applier.devices.items()
            if device.index in by_index
        }

    async def routes(self, families: Sequence[Family]) -> list[HostRoute]:
        indexes = {tunnel: device.index for tunnel, device in self._applier.devices.items()}
        return await self._read(
            "list the routes", survey.routes, families, survey.tables(self._remembered), indexes
        )

    async def lookup(self, address: bytes) -> Lookup:
        return await self._read("look a route up", survey.lookup, address, survey.tables(self._remembered))

    async def interfaces(self) -> list[Interface]:
        return await self._read("list the interfaces", survey.interfaces)

    async def status(self) -> NetworkStatus:
        return await self._read("read the default routes", survey.status)

    def events(self) -> AsyncIterator[NetworkEvent]:
        return _Events(self._monitor, self._meaning)

    async def _meaning(self, change: LinkChange | Resync) -> list[NetworkEvent]:
        """What the kernel's word about devices means; nothing where it is of our own doing."""
        if isinstance(change, Resync):
            return [*await self._gone(), NetworkEvent("changed")]
        link = change.link
        detail = {"interface": link.name}
        # What is under way is compared once it is done, and not with what it will be.
        async with self._changing:
            devices = self._applier.devices.items()
            tunnel = next((TunnelId(t) for t, device in devices if device.index == link.index), None)
            if tunnel is None:
                # One of our names that is not known any more, or bears no mark yet, is no news.
                ours = link.kind == "tun" and NAME.match(link.name) is not None
                return [] if ours else [NetworkEvent("changed", None, detail)]
            if change.gone:
                return [NetworkEvent("link-gone", tunnel, detail)]
            try:
                now = await self._read("read a device", host.link, link.index)
            except Kernel as fault:
                log.error("a device has changed and can't be read: %s", fault)
                now = link
        # If it has gone meanwhile, that is told next.
        stale = now is None or self._as_applied(tunnel, now)
        return [] if stale else [NetworkEvent("changed", tunnel, detail)]

    async def _gone(self) -> list[NetworkEvent]:
        """The tunnels' devices that are not there any more."""
        try:
            there = {link.index for link in await self._read("list the devices", host.links)}
        except Kernel as fault:
            # A hint that can't be followed now: the next change of any tunnel looks again.
            log.error("events of devices were lost, and they can't be listed: %s", fault)
            return []
        devices = dict(self._applier.devices).items()
        return [NetworkEvent("link-gone", TunnelId(t)) for t, device in devices if device.index not in there]

    def _as_applied(self, tunnel: TunnelId, link: HostLink) -> bool:
        settings = self._remembered.get(Link(tunnel))
        return (
            settings is not None
            and link.mtu == settings.mtu
            and link.up == (Up(tunnel) in self._remembered)
            and link.alias == ALIAS + tunnel
        )

    def _transaction(self) -> Transaction:
        return Transaction(self._applier.step, self._remember, self._netlink.chunk, self._acting)

    def _remember(self, change: Change) -> None:
        self._remembered = applied(self._remembered, [change])

    async def _act(self, what: str, function: Callable[..., T], *args: Any) -> T:
        with _told(what):
            return await trio.to_thread.run_sync(function, self._netlink, *args, limiter=self._acting)

    async def _read(self, what: str, function: Callable[..., T], *args: Any) -> T:
        with _told(what):
            return await trio.to_thread.run_sync(function, self._reader, *args, limiter=self._reading)


class _Events:
    """See NetworkOps.events. No generator: one that is left in the middle has to be closed."""

    def __init__(
        self,
        monitor: Monitor,
        meaning: Callable[[LinkChange | Resync], Awaitable[list[NetworkEvent]]],
    ) -> None:
        self._monitor = monitor
        self._meaning = meaning
        self._waiting: deque[NetworkEvent] = deque()

    def __aiter__(self) -> AsyncIterator[NetworkEvent]:
        return self

    async def __anext__(self) -> NetworkEvent:
        while not self._waiting:
            self._waiting.extend(await self._meaning(await anext(self._monitor)))
        return self._waiting.popleft()


@contextmanager
def _told(what: str) -> Iterator[None]:
    """Foreign exceptions end here: what the system does not let us read is told as Kernel."""
    try:
        yield
    except OSError as fault:
        name = errorcode.get(fault.errno or EIO, "EIO")
        raise Kernel(f"could not {what}: {fault.strerror or fault}", errno=name, op=what) from fault
    except (Overrun, Malformed) as fault:
        raise Kernel(f"could not {what}: {fault}", errno="ENOBUFS", op=what) from fault

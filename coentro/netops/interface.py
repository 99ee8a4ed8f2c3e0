"""What every platform offers to the tunnels: look, want, apply.

The manager never says how. It asks what the host has (`look`), what it shall have for all
tunnels together (`want`, pure), lets coentro.plan find the difference and hands that to
`apply`, which makes all of it true or undoes what it began. Ownership, conflicts between
tunnels and leases are decided above; here nothing is known of peers.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from typing import Any, Literal, Protocol

from attrs import field, frozen

from coentro.model import Spec, TunnelId
from coentro.networks import Family, Networks
from coentro.plan import Change, State


@frozen
class Wanted:
    """A tunnel as network ops see it.

    `slot` is the small number from which a platform makes what must be unique (on Linux the
    table and the rule's priority). `withdrawn`: families whose everything-routes another
    owner has taken over; they are left out.
    """

    id: TunnelId
    slot: int
    spec: Spec
    withdrawn: frozenset[Family] = frozenset()


@frozen
class Device:
    """A tunnel's interface. `fds` are the helper's own copies, one per queue."""

    name: str
    index: int
    fds: tuple[int, ...]


@frozen
class Host:
    """What was found: `state` is only what is ours, by our marks; the rest is for `want`."""

    state: State
    onlink: Networks = Networks()
    """On-link networks in private ranges (RFC 1918, ULA, link-local), of links not ours."""
    taken_slots: frozenset[int] = frozenset()
    """Slots in which something stands, ours or not."""


@frozen
class Described:
    """A change for people: `op` such as `route.add`, and one text per object, at most 20."""

    op: str
    count: int
    first: tuple[str, ...]


@frozen
class Failure:
    """One step that the system refused. `errno` is its name, `op` says which step."""

    op: str
    errno: str
    message: str


@frozen
class Stats:
    rx_bytes: int = 0
    tx_bytes: int = 0
    rx_packets: int = 0
    tx_packets: int = 0


@frozen
class Interface:
    """One of the host's interfaces, as `interface.list` tells it."""

    name: str
    index: int
    mtu: int
    up: bool
    addresses: tuple[str, ...]
    stats: Stats


@frozen
class HostRoute:
    """One route of the host; `tunnel` is set where it stands in a tunnel's own table."""

    destination: str
    gateway: str | None
    interface: str | None
    metric: int
    kind: str = "unicast"
    tunnel: TunnelId | None = None


@frozen
class Step:
    """One step of a lookup."""

    kind: Literal["rule", "table", "route", "dns", "firewall"]
    text: str
    tunnel: TunnelId | None = None
    """The tunnel that made it; None: the host, or someone else."""


@frozen
class Lookup:
    """Which way a packet to `destination` goes. `reason` is one sentence."""

    destination: str
    interface: str | None
    gateway: str | None
    source: str | None
    tunnel: TunnelId | None
    reason: str
    steps: tuple[Step, ...]


@frozen
class NetworkStatus:
    online: bool
    default_routes: tuple[HostRoute, ...]


@frozen
class NetworkEvent:
    """A hint from the system that something changed; look again rather than believe it.

    `kind` is `link-gone` (of a device of ours, with `tunnel`), or `changed`.
    """

    kind: str
    tunnel: TunnelId | None = None
    detail: Mapping[str, Any] = field(factory=dict)


class NetworkOps(Protocol):
    """A platform's network ops. All methods that may block do so in a worker thread.

    Errors of all that wait: Kernel where the system does not let us look.
    """

    @property
    def platform(self) -> str: ...

    @property
    def capabilities(self) -> frozenset[str]:
        """Names as in `session.hello`."""

    async def start(self) -> None:
        """Open what is needed. Errors: OSError with a sentence of what is missing."""

    async def close(self) -> None:
        """Close every descriptor; changes nothing on the host."""

    async def look(self, *, everything: bool = False) -> Host:
        """What the host has that is ours.

        Devices, addresses and rules are read; tables are those last applied, unless
        `everything`, which reads them too and finds what a helper before us left.
        """

    async def free_slot(self, host: Host, used: Collection[int]) -> int:
        """A slot in which nothing of anyone stands. Errors: Limit."""

    def want(self, host: Host, tunnels: Sequence[Wanted]) -> State:
        """What the host shall have for all these tunnels. Pure."""

    async def apply(self, changes: Sequence[Change]) -> None:
        """Make all changes, in order, or undo those made and raise Kernel for the one refused.

        Cancelled between two steps, it undoes what it made (shielded) and lets Cancelled go on.
        """

    async def force(self, changes: Sequence[Change]) -> list[Failure]:
        """Try every change even if one fails, for taking down. What is gone already is no failure."""

    def describe(self, change: Change) -> Described:
        """The change in words."""

    def device(self, tunnel: TunnelId) -> Device | None:
        """The device of a tunnel that stands."""

    def release(self, tunnel: TunnelId) -> None:
        """Close the helper's own copies of a device's descriptors, if it has any left."""

    def packet_header_bytes(self, spec: Spec) -> int:
        """How many bytes stand before each packet read from the descriptor."""

    async def stats(self) -> Mapping[TunnelId, Stats]:
        """Counters of the tunnels' devices."""

    async def routes(self, families: Sequence[Family]) -> list[HostRoute]:
        """The routes of the host's main table and of our tables, in a stable order."""

    async def lookup(self, address: bytes) -> Lookup:
        """What the kernel itself answers for one destination."""

    async def interfaces(self) -> list[Interface]: ...

    async def status(self) -> NetworkStatus: ...

    def events(self) -> AsyncIterator[NetworkEvent]:
        """Hints as they come, until cancelled."""

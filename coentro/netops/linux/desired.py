"""What a Linux host shall have for all tunnels together: a pure function, and its objects.

Every tunnel has a routing table of its own and a rule per family that looks it up before
`main`; what shall not go into the tunnel is a `throw` in that table, so the host's own tables
are never written and everything there goes on as if the tunnel were not. The idea is wg-quick's
and Tailscale's policy routing; the numbers are recognised without any record (docs/architecture.md,
"Linux routing").
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from attrs import field, frozen

from coentro.model import MIN_MTU_V6
from coentro.netops.interface import Wanted
from coentro.netops.linux.routes import THROW, UNICAST, UNREACHABLE
from coentro.networks import FAMILIES, SIZE, Family, Networks, network
from coentro.plan import Packed

_DEVICELESS: Final = frozenset({UNREACHABLE, THROW})
_TO_UNREACHABLE: Final = bytes.maketrans(bytes((UNICAST,)), bytes((UNREACHABLE,)))

# What never leaves a link (RFC 1112, RFC 3927, RFC 4291): a full tunnel does not take it, as on macOS.
_LINK_ONLY: Final = Networks.of(
    network(t) for t in ("224.0.0.0/4", "169.254.0.0/16", "255.255.255.255/32", "ff00::/8", "fe80::/10")
)


@frozen
class Ranges:
    """The numbers that are ours; a slot is an offset into tables and rules alike."""

    first_table: int = 0x636F0001
    last_table: int = 0x636F0FFF
    first_rule: int = 10100
    last_rule: int = 10499
    full_rule: int = 10500

    @property
    def slots(self) -> int:
        """How many slots there are."""
        return 1 + min(self.last_table - self.first_table, self.last_rule - self.first_rule)

    def table(self, slot: int) -> int:
        return self.first_table + slot

    def slot_of_table(self, table: int) -> int | None:
        """The slot of one of our tables; None where it isn't one."""
        slot = table - self.first_table
        return slot if 0 <= slot < self.slots else None

    def slot_of_rule(self, priority: int) -> int | None:
        """The slot whose rule has this priority; None where it isn't one slot's."""
        slot = priority - self.first_rule
        return slot if 0 <= slot < self.slots else None

    def is_table(self, table: int) -> bool:
        return self.first_table <= table <= self.last_table

    def is_rule(self, priority: int) -> bool:
        return self.first_rule <= priority <= self.last_rule or priority == self.full_rule

    def priority(self, slot: int, everything: bool) -> int:
        """A table for everything is looked up last, so that it yields to every other tunnel."""
        return self.full_rule if everything else self.first_rule + slot


@frozen
class LinkSettings:
    """A device's settings. Only the MTU can change while it stands, so only it is compared."""

    mtu: int
    queues: int = field(default=1, eq=False)
    vnet_hdr: bool = field(default=False, eq=False)
    packet_info: bool = field(default=False, eq=False)


class _Object:
    """What most objects answer; see coentro.plan.Key."""

    __slots__ = ()
    tunnel: str | None

    @property
    def link(self) -> str | None:
        return self.tunnel

    @property
    def is_link(self) -> bool:
        return False

    def left_by_link(self, value: Any) -> Any:
        return None

    def disrupts(self, old: Any, new: Any) -> bool:
        return False

    def parked(self, value: Any) -> Any:
        return value


@frozen
class Link(_Object):
    """The TUN device; its value is LinkSettings."""

    tunnel: str

    @property
    def rank(self) -> int:
        return 10

    @property
    def is_link(self) -> bool:
        return True

    def disrupts(self, old: LinkSettings, new: LinkSettings) -> bool:
        # Linux has no IPv6 on a device below RFC 8200's minimum: crossing it in either direction
        # loses addresses, routes and every setting, and up there the defaults come back.
        return (old.mtu < MIN_MTU_V6) != (new.mtu < MIN_MTU_V6)


@frozen
class Ipv6(_Object):
    """IPv6 on the device (`disable_ipv6` 0); a tunnel without an IPv6 address has none."""

    tunnel: str

    @property
    def rank(self) -> int:
        return 15

    def parked(self, value: Any) -> Any:
        return None


@frozen
class Up(_Object):
    """The device is set up. Down takes its IPv6 addresses and its routes away."""

    tunnel: str

    @property
    def rank(self) -> int:
        return 20

    def parked(self, value: Any) -> Any:
        return None


@frozen
class Address(_Object):
    """An address of the device, whose prefix stays out of the host's main table."""

    tunnel: str
    family: Family
    address: bytes
    length: int

    @property
    def rank(self) -> int:
        return 30

    def parked(self, value: Any) -> Any:
        return None if self.family == 6 else value


@frozen
class Table(_Object):
    """A tunnel's routes of a family; its value is Packed with RTN_* kinds.

    The number alone is its identity: of a table that was left behind nobody knows whose it was.
    """

    tunnel: str | None = field(eq=False)
    family: Family
    number: int

    @property
    def rank(self) -> int:
        return 40

    def left_by_link(self, value: Packed) -> Packed | None:
        return value.keep(_DEVICELESS) or None

    def parked(self, value: Packed) -> Packed:
        # The link is down for a moment: a split tunnel's traffic must not leak meanwhile.
        kinds = value.data[value.width :: value.width + 1].translate(_TO_UNREACHABLE)
        data = bytearray(value.data)
        data[value.width :: value.width + 1] = kinds
        return Packed(value.width, bytes(data))


@frozen
class Floor(_Object):
    """`unreachable default` below all else of a table for everything: nothing leaks past it."""

    tunnel: str | None = field(eq=False)
    family: Family
    number: int

    @property
    def rank(self) -> int:
        return 41

    def left_by_link(self, value: Any) -> Any:
        return value


@frozen
class Rule(_Object):
    """The rule that looks a table up."""

    tunnel: str | None = field(eq=False)
    family: Family
    priority: int
    table: int

    @property
    def rank(self) -> int:
        return 50

    def left_by_link(self, value: Any) -> Any:
        return value


Thing = Link | Ipv6 | Up | Address | Table | Floor | Rule


def without_link(key: Table, value: Packed) -> Packed:
    """What of a table stands while its device is down or gone; may be empty."""
    return key.left_by_link(value) or Packed(value.width, b"")


def want(ranges: Ranges, onlink: Networks, tunnels: Sequence[Wanted]) -> dict[Thing, Any]:
    """What the host shall have for these tunnels.

    `onlink`: the host's on-link networks in private ranges, which stay outside where nothing
    narrower is routed.
    """
    outside = Networks.of(e.host for t in tunnels for e in t.spec.endpoints)
    shall: dict[Thing, Any] = {}
    for tunnel in tunnels:
        spec, name = tunnel.spec, tunnel.id
        tun = spec.tun
        shall[Link(name)] = LinkSettings(spec.mtu, tun.queues, tun.vnet_hdr, tun.packet_info)
        shall[Up(name)] = True
        if spec.has(6):
            shall[Ipv6(name)] = True
        for address in spec.addresses:
            shall[Address(name, address.family, address.address, address.prefix.length)] = True
        for family in FAMILIES:
            everything = family not in tunnel.withdrawn and spec.everything(family)
            table = _table(family, tunnel, everything, outside, onlink)
            if not table:
                continue
            number = ranges.table(tunnel.slot)
            shall[Table(name, family, number)] = table
            if everything:
                shall[Floor(name, family, number)] = True
            priority = ranges.priority(tunnel.slot, everything)
            shall[Rule(name, family, priority, number)] = True
    return shall


def _table(family: Family, tunnel: Wanted, everything: bool, endpoints: Networks, onlink: Networks) -> Packed:
    """A table's entries; empty where the tunnel has nothing of the family. `endpoints`: all tunnels'.

    Laid from what yields to what wins (docs/protocol.md, "A tunnel's spec"): of equal networks
    the kernel takes one, so this settles it; a narrower one wins in the kernel itself.
    """
    spec, width = tunnel.spec, SIZE[family] + 1
    served = family not in tunnel.withdrawn
    own = spec.prefixes().union(spec.routes) if served else spec.prefixes()
    block = spec.block if served else Networks()
    table = Packed(width, b"")
    if not own.packed(family) and not block.packed(family):
        return table
    for networks, kind in (
        (_LINK_ONLY if everything else Networks(), THROW),
        (onlink, THROW),
        (own, UNICAST),
        (Networks.of(s.host for s in spec.servers()), UNICAST),
        (block, UNREACHABLE),
        (spec.exclude, THROW),
        (endpoints, THROW),
    ):
        table = table.merge(Packed.alike(width, networks.packed(family), kind))
    return table

"""One tunnel as the helper knows it, and its lease.

The lease ties a tunnel's life to one connection: when that ends, the tunnel lingers for
`linger_s` so that a client that crashed can take it back with the secret, then goes. The idea
is D-Bus name ownership as openvpn3-linux uses it, with a grace period.
"""

from __future__ import annotations

import secrets
import time
from enum import Enum
from hmac import compare_digest
from typing import Any

from attrs import define, field, frozen

from coentro.clock import rfc3339
from coentro.model import Spec, TunnelId, Uid
from coentro.netops.interface import Device, Stats, Wanted
from coentro.networks import Family


class TunnelState(Enum):
    UP = "up"
    LINGERING = "lingering"


@frozen
class Actor:
    """Who asks for a change: the kernel's word on it, and what the configuration allows."""

    uid: Uid
    user: str | None
    admin: bool = False

    @property
    def root(self) -> bool:
        return self.uid == 0

    def sees(self, owner: Uid) -> bool:
        """Whether a tunnel of this owner exists for this caller."""
        return self.admin or owner == self.uid


@define
class Lease:
    """The right to keep one tunnel, held by at most one connection at a time."""

    secret: str = field(factory=lambda: secrets.token_hex(16))
    holder: object | None = None
    delivered: bool = False
    """Whether the answer that carries the secret reached the client's socket."""

    def fits(self, secret: str) -> bool:
        return compare_digest(self.secret.encode(), secret.encode("utf-8", "replace"))


@define(eq=False)
class Tunnel:
    """A tunnel that stands. Changed by the manager alone, in its turn."""

    id: TunnelId
    name: str
    owner: Uid
    user: str | None
    slot: int
    spec: Spec
    device: Device
    lease: Lease
    state: TunnelState = TunnelState.UP
    withdrawn: frozenset[Family] = frozenset()
    problems: list[str] = field(factory=list)
    created_at: float = field(factory=time.time)
    ends_at: float | None = None

    @property
    def wanted(self) -> Wanted:
        return Wanted(self.id, self.slot, self.spec, self.withdrawn)

    def to_json(self, header_bytes: int, stats: Stats, *, lease: bool = False) -> dict[str, Any]:
        """`T` of the protocol; with `lease` the secret too, which is for create's answer alone."""
        spec = self.spec.to_json()
        spec["name"] = self.name
        return {
            "id": self.id,
            "name": self.name,
            "owner": {"uid": self.owner, "user": self.user},
            "state": self.state.value,
            "confirm_by": None,
            "ends_at": rfc3339(self.ends_at) if self.ends_at is not None else None,
            "problems": list(self.problems),
            "interface": {
                "name": self.device.name,
                "index": self.device.index,
                "mtu": self.spec.mtu,
                "addresses": spec["addresses"],
            },
            "packet_header_bytes": header_bytes,
            "spec": spec,
            "routes": {"total": len(self.spec.routes)},
            "dns": spec["dns"],
            "lockdown": spec["lockdown"],
            "lease": self.lease.secret if lease else None,
            "created_at": rfc3339(self.created_at),
            "stats": {
                "rx_bytes": stats.rx_bytes,
                "tx_bytes": stats.tx_bytes,
                "rx_packets": stats.rx_packets,
                "tx_packets": stats.tx_packets,
            },
            "fds": [],
        }

    def about(self) -> dict[str, Any]:
        """What every event about it says."""
        return {
            "id": self.id,
            "name": self.name,
            "owner": {"uid": self.owner, "user": self.user},
            "interface": self.device.name,
        }

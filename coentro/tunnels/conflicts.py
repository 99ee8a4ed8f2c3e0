"""What two tunnels may not both have: the rules of the protocol's "Ownership", pure.

Routes, blocks and address prefixes of two tunnels never overlap, but for everything-routes,
which yield; at most one tunnel holds everything of a family; no endpoint lies inside another
tunnel. Only root may take a host-wide thing over from another user.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, Final

from attrs import frozen

from coentro.errors import Conflict
from coentro.model import Spec
from coentro.networks import FAMILIES, Family, Networks, overlaps
from coentro.tunnels.tunnel import Actor, Tunnel

SHOWN: Final = 20


@frozen
class Verdict:
    """`conflicts` as the error tells them; `takeover`: whose everything-routes root takes."""

    conflicts: tuple[dict[str, Any], ...]
    takeover: tuple[tuple[Tunnel, Family], ...]

    def refuse(self) -> None:
        """Errors: Conflict, if there is one."""
        if self.conflicts:
            raise Conflict(sentence(self.conflicts), self.conflicts)


@frozen
class Claims:
    """What one tunnel claims: where it holds everything, and all else that is its own."""

    everything: frozenset[Family]
    networks: tuple[tuple[str, Networks], ...]
    """By resource: `route`, `block`, `address`; those of an everything-table are left out."""
    inside: tuple[Networks, ...]
    """Where no other tunnel's endpoint may lie."""
    endpoints: Networks

    @classmethod
    def of(cls, spec: Spec, withdrawn: frozenset[Family] = frozenset()) -> Claims:
        everything = frozenset(f for f in FAMILIES if spec.everything(f))
        routes = _without(spec.routes, everything)
        prefixes = spec.prefixes()
        servers = Networks.of(s.host for s in spec.servers())
        return cls(
            everything - withdrawn,
            (("route", routes), ("block", _without(spec.block, everything)), ("address", prefixes)),
            (routes, prefixes, servers),
            Networks.of(e.host for e in spec.endpoints),
        )


def judge(
    spec: Spec, name: str, actor: Actor, owner: int, others: Sequence[Tunnel], withdrawn: frozenset[Family]
) -> Verdict:
    """Whether a tunnel of `owner` may become `spec` beside the others."""
    mine = Claims.of(spec, withdrawn)
    found: list[dict[str, Any]] = []
    takeover: list[tuple[Tunnel, Family]] = []
    for other in others:
        theirs = Claims.of(other.spec, other.withdrawn)
        if other.owner == owner and other.name == name:
            found.append({"resource": "name", "name": name, "held": other.id})
        for family in sorted(mine.everything & theirs.everything):
            if other.owner != owner and actor.root:
                takeover.append((other, family))
                continue
            held = other.name if actor.sees(other.owner) else "another user"
            found.append({"resource": "everything", "family": family, "held": held})
        held = other.name if actor.sees(other.owner) else "another tunnel"
        found += islice(_collisions(mine, theirs, held), SHOWN)
    return Verdict(tuple(found[:SHOWN]), tuple(takeover))


def sentence(conflicts: Sequence[dict[str, Any]]) -> str:
    """The first conflict in words, and how many more there are."""
    first = conflicts[0]
    match first["resource"]:
        case "name":
            text = f"you have a tunnel named {first['name']} already"
        case "everything":
            text = f"everything of IPv{first['family']} is held by {first['held']}"
        case "endpoint":
            text = f"endpoint {first['network']} lies inside {first['with']} of {first['held']}"
        case kind:
            text = f"{kind} {first['network']} overlaps {first['with']} of {first['held']}"
    return text if len(conflicts) == 1 else f"{text}, and {len(conflicts) - 1} more"


def _collisions(mine: Claims, theirs: Claims, held: str) -> Iterator[dict[str, Any]]:
    for resource, networks in mine.networks:
        for _, other in theirs.networks:
            for here, there in overlaps(networks, other):
                yield {"resource": resource, "network": str(here), "with": str(there), "held": held}
    for inside in theirs.inside:
        for here, there in overlaps(mine.endpoints, inside):
            yield {"resource": "endpoint", "network": str(here), "with": str(there), "held": held}
    for inside in mine.inside:
        for here, there in overlaps(inside, theirs.endpoints):
            yield {"resource": "route", "network": str(here), "with": f"endpoint {there}", "held": held}


def _without(networks: Networks, families: frozenset[Family]) -> Networks:
    return Networks(b"" if 4 in families else networks.v4, b"" if 6 in families else networks.v6)

"""What two tunnels may not both have, rule by rule of the protocol's "Ownership"."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coentro.model import Spec, TunnelId, Uid
from coentro.netops.interface import Device
from coentro.networks import Network, Networks, overlaps
from coentro.tunnels.conflicts import Verdict, judge, sentence
from coentro.tunnels.tunnel import Actor, Lease, Tunnel
from coentro.wire.params import decode

ALICE, BOB, ROOT = Actor(Uid(1000), "alice"), Actor(Uid(1001), "bob"), Actor(Uid(0), "root", admin=True)


def spec(address: str = "10.0.0.2/32", **fields: Any) -> Spec:
    return decode({"addresses": [address], **fields}, Spec)


def tunnel(owner: Actor, name: str, what: Spec) -> Tunnel:
    device = Device("coentro0", 7, ())
    return Tunnel(TunnelId(f"id-{name}"), name, owner.uid, owner.user, 0, what, device, Lease())


def verdict(actor: Actor, what: Spec, *others: Tunnel, name: str = "new") -> Verdict:
    return judge(what, name, actor, actor.uid, others, frozenset())


def resources(found: Verdict) -> list[str]:
    return [c["resource"] for c in found.conflicts]


def test_a_name_is_unique_for_its_owner_alone() -> None:
    theirs = tunnel(ALICE, "work", spec())
    assert resources(verdict(ALICE, spec("10.0.0.3/32"), theirs, name="work")) == ["name"]
    assert resources(verdict(BOB, spec("10.0.0.3/32"), theirs, name="work")) == []


@pytest.mark.parametrize(
    ("mine", "theirs", "resource"),
    [
        ({"routes": ["10.1.0.0/16"]}, {"routes": ["10.1.2.0/24"]}, "route"),
        ({"routes": ["10.1.2.0/24"]}, {"routes": ["10.1.0.0/16"]}, "route"),
        ({"routes": ["10.1.0.0/16"]}, {"routes": ["10.1.0.0/16"]}, "route"),
        ({"block": ["10.1.0.0/16"]}, {"routes": ["10.1.2.0/24"]}, "block"),
        ({"routes": ["10.1.0.0/16"]}, {"block": ["10.1.2.0/24"]}, "route"),
        ({"routes": ["10.9.0.0/16"]}, {"address": "10.9.1.1/24"}, "route"),
        ({"address": "10.9.1.1/24"}, {"address": "10.9.1.2/24"}, "address"),
        ({"endpoints": ["10.1.2.3"]}, {"routes": ["10.1.0.0/16"]}, "endpoint"),
        ({"endpoints": ["10.9.1.7"]}, {"address": "10.9.1.1/24"}, "endpoint"),
        ({"routes": ["10.1.0.0/16"]}, {"endpoints": ["10.1.2.3"]}, "route"),
        ({"endpoints": ["10.3.3.3"]}, {"dns": {"servers": ["10.3.3.3"]}}, "endpoint"),
    ],
)
def test_what_overlaps_is_a_conflict(mine: dict[str, Any], theirs: dict[str, Any], resource: str) -> None:
    other = tunnel(ALICE, "other", spec(**{"address": "10.0.0.9/32", **theirs}))
    assert resources(verdict(ALICE, spec(**mine), other)) == [resource]


@pytest.mark.parametrize(
    ("mine", "theirs"),
    [
        ({"routes": ["0.0.0.0/0"]}, {"routes": ["10.1.0.0/16"]}),
        ({"routes": ["10.1.0.0/16"]}, {"routes": ["0.0.0.0/1", "128.0.0.0/1"]}),
        ({"routes": ["10.1.0.0/16"]}, {"block": ["0.0.0.0/0"]}),
        ({"address": "198.51.100.2/32", "routes": ["0.0.0.0/0"]}, {"routes": ["0.0.0.0/1"]}),
        ({"endpoints": ["203.0.113.7"]}, {"routes": ["0.0.0.0/0"]}),
        ({"exclude": ["10.1.0.0/16"]}, {"routes": ["10.1.0.0/16"]}),
        ({"endpoints": ["203.0.113.7"]}, {"endpoints": ["203.0.113.7"]}),
        ({"routes": ["10.1.0.0/16"]}, {"routes": ["10.2.0.0/16"]}),
    ],
)
def test_what_yields_or_lies_apart_is_none(mine: dict[str, Any], theirs: dict[str, Any]) -> None:
    other = tunnel(ALICE, "other", spec("10.0.0.9/32", **theirs))
    assert resources(verdict(ALICE, spec(**mine), other)) == []


@pytest.mark.parametrize(
    "everything",
    [
        {"routes": ["0.0.0.0/0"]},
        {"routes": ["0.0.0.0/1", "128.0.0.0/1"]},
        {"block": ["0.0.0.0/0"]},
        {"routes": ["0.0.0.0/1"], "block": ["128.0.0.0/2", "192.0.0.0/2"]},
    ],
)
def test_everything_of_a_family_is_held_once(everything: dict[str, Any]) -> None:
    theirs = tunnel(ALICE, "full", spec("10.0.0.9/32", routes=["0.0.0.0/0"]))
    found = verdict(BOB, spec(**everything), theirs)
    assert found.conflicts == ({"resource": "everything", "family": 4, "held": "another user"},)
    assert found.takeover == ()
    again = verdict(ALICE, spec(**everything), theirs)
    assert again.conflicts == ({"resource": "everything", "family": 4, "held": "full"},)


def test_a_full_v4_and_a_full_v6_tunnel_stand_beside_each_other() -> None:
    theirs = tunnel(ALICE, "six", spec("fd00::2/128", routes=["::/0"]))
    assert resources(verdict(BOB, spec(routes=["0.0.0.0/0"]), theirs)) == []


def test_root_takes_everything_over_from_another_user_but_not_from_itself() -> None:
    theirs = tunnel(ALICE, "full", spec("10.0.0.9/32", routes=["0.0.0.0/0"]))
    found = verdict(ROOT, spec(routes=["0.0.0.0/0"]), theirs)
    assert found.conflicts == ()
    assert found.takeover == ((theirs, 4),)
    own = tunnel(ROOT, "full", spec("10.0.0.9/32", routes=["0.0.0.0/0"]))
    assert resources(verdict(ROOT, spec(routes=["0.0.0.0/0"]), own)) == ["everything"]


def test_another_users_tunnel_is_not_named() -> None:
    theirs = tunnel(ALICE, "secret", spec("10.0.0.9/32", routes=["10.1.0.0/16"]))
    found = verdict(BOB, spec(routes=["10.1.0.0/16"]), theirs)
    assert [c["held"] for c in found.conflicts] == ["another tunnel"]
    assert "secret" not in sentence(found.conflicts)
    assert [c["held"] for c in verdict(ROOT, spec(routes=["10.1.0.0/16"]), theirs).conflicts] == ["secret"]


NETWORKS = st.lists(
    st.tuples(st.integers(0, 255), st.integers(24, 32)).map(
        lambda p: Network(bytes((10, 0, 0, p[0] & ~((1 << 32 - p[1]) - 1) & 255)), p[1])
    ),
    max_size=8,
).map(Networks.of)


@given(NETWORKS, NETWORKS)
def test_overlaps_finds_a_pair_exactly_when_two_share_an_address(a: Networks, b: Networks) -> None:
    really = {(x, y) for x in a for y in b if x.overlaps(y)}
    found = set(overlaps(a, b))
    assert found <= really
    assert bool(found) == bool(really)

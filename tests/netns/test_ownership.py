"""Whose a tunnel is, and which connection it lives with: the lease, moved and lost."""

from __future__ import annotations

import fcntl
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest

from coentro.client.plain import Client, Tunnel
from tests.netns.linux_host import same, settled
from tests.netns.peers import Raw, configured, connected, event, refused, untouched
from tests.sandbox import Helper, run, run_helper

pytestmark = pytest.mark.usefixtures("tun_available")

NOT_FOUND: Final = -32002
TUNGETIFF: Final = 0x800454D2
SPEC: Final = {"addresses": ["10.8.0.2/24"], "routes": ["10.1.0.0/16"], "endpoints": ["203.0.113.8"]}


@pytest.fixture
def clients(helper: Helper) -> Iterator[tuple[Client, Client, Client]]:
    """Two connections of one user, and one that only looks on."""
    with ExitStack() as open_ones:
        first, second, third = (open_ones.enter_context(connected(helper)) for _ in range(3))
        for client in (first, second):
            client.call("session.ping")  # or its coming might be told after the next line
        third.subscribe()
        yield first, second, third


def device_of(tunnel: Tunnel) -> str:
    """The device behind its descriptor, as the kernel names it."""
    answer = fcntl.ioctl(tunnel.fds[0], TUNGETIFF, bytes(40))
    return str(struct.unpack_from("16s", answer)[0].rstrip(b"\0").decode())


def test_any_connection_of_the_owner_changes_and_destroys(clients: tuple[Client, Client, Client]) -> None:
    first, second, onlooker = clients
    before = settled()
    with first.create(name="mine", **SPEC) as mine:
        second.call("tunnel.update", {"id": mine.id, "routes": ["10.2.0.0/16"]})
        assert second.call("tunnel.routes", {"id": mine.id, "add": ["10.3.0.0/16"]})["total"] == 2
        for address, device in (
            ("10.1.0.1", "e0"),
            ("10.2.0.1", mine.interface),
            ("10.3.0.1", mine.interface),
        ):
            assert f"dev {device} " in run("ip", "route", "get", address).stdout
        assert first.call("tunnel.get", {"id": mine.id})["spec"]["routes"] == ["10.2.0.0/16", "10.3.0.0/16"]
        assert second.call("tunnel.destroy", {"id": mine.id}) == {"id": mine.id}
        event(onlooker, "tunnel.down", id=mine.id, why="destroyed")
        assert run("ip", "link", "show", mine.interface, check=False).returncode != 0
        with refused(NOT_FOUND):
            first.call("tunnel.get", {"id": mine.id})
    same(before)


def test_a_tunnel_lives_with_the_connection_that_made_it(clients: tuple[Client, Client, Client]) -> None:
    first, second, onlooker = clients
    before = settled()
    mine = first.create(name="mine", **SPEC)
    second.call("tunnel.update", {"id": mine.id, "mtu": 1300})
    second.close()
    event(onlooker, "peer.gone")
    assert onlooker.call("tunnel.get", {"id": mine.id})["state"] == "up"
    first.close()
    event(onlooker, "tunnel.down", id=mine.id, why="its client's connection ended")
    same(before)
    mine.close_fds()


def test_attach_moves_the_lease_and_the_old_connection_hears_of_it(
    clients: tuple[Client, Client, Client],
) -> None:
    first, second, onlooker = clients
    before = settled()
    mine = first.create(name="mine", **SPEC, tun={"queues": 2})
    first.subscribe(["tunnel.changed"])
    moved = second.attach(mine.id, str(mine.lease))
    assert event(first, "tunnel.changed")["data"]["lease"] == "moved"
    assert moved.info["lease"] is None, "it is shown once, in the answer to create"
    assert [fd["kind"] for fd in moved.info["fds"]] == ["tun", "tun"]
    assert [device_of(mine), device_of(moved)] == [mine.interface] * 2
    # Attaching what one holds already changes nothing and is told to nobody; the lease is for life.
    second.attach(mine.id, str(mine.lease)).close_fds()
    second.create(name="other", addresses=["10.7.0.1/32"]).close()
    told = [onlooker.next_event(10) for _ in range(4)]
    types = [e["type"] for e in told if e is not None]
    assert types == ["tunnel.up", "tunnel.changed", "tunnel.up", "tunnel.down"]
    mine.close_fds()
    first.close()
    event(onlooker, "peer.gone")
    assert onlooker.call("tunnel.get", {"id": mine.id})["state"] == "up"
    second.close()
    event(onlooker, "tunnel.down", id=mine.id)
    same(before)
    moved.close_fds()


def test_a_wrong_lease_or_anothers_tunnel_is_not_attached(tmp_path: Path, two_uids: tuple[int, int]) -> None:
    alice, bob = two_uids
    admins = f"[scopes.admin]\nuids = [{bob}]\n"
    with (
        run_helper(tmp_path, "--config", configured(admins, two_uids)) as helper,
        connected(helper, alice) as owner,
        connected(helper, alice) as second,
        connected(helper, bob) as other,
        connected(helper) as root,
    ):
        mine = owner.create(name="mine", **SPEC)
        lease = str(mine.lease)
        owner.subscribe()
        answers = []
        with untouched():
            for who, id_, secret in (
                (second, mine.id, lease[:-1]),
                (second, mine.id, ""),
                (second, mine.id, lease.upper() + "é"),
                (second, "0" * 16, lease),
                (other, mine.id, lease),
                (root, mine.id, lease),
            ):
                with refused(NOT_FOUND, "not_found") as refusal:
                    who.call("tunnel.attach", {"id": id_, "lease": secret})
                answers.append((refusal.message, refusal.data))
        assert len({str(a) for a in answers}) == 1, "one is told which of both was wrong"
        moved = second.attach(mine.id, lease)
        assert event(owner, "tunnel.changed")["data"]["lease"] == "moved"
        mine.close_fds()
        moved.close_fds()


def test_a_lease_is_shown_in_the_answer_to_create_alone_and_each_is_another(
    helper: Helper, clients: tuple[Client, Client, Client]
) -> None:
    first, second, onlooker = clients
    before = settled()
    mine = first.create(name="mine", **SPEC)
    assert len(str(mine.lease)) >= 32
    shown = [
        second.call("tunnel.get", {"id": mine.id}),
        second.call("tunnel.list"),
        second.call("tunnel.update", {"id": mine.id, "mtu": 1300}),
        first.call("tunnel.get", {"id": mine.id}),
        event(onlooker, "tunnel.up"),
        event(onlooker, "tunnel.changed"),
    ]
    assert str(mine.lease) not in str(shown)
    mine.close()
    with Raw(helper) as peer:
        for number in range(3):
            peer.ask("tunnel.create", number, addresses=[f"10.7.{number}.1/24"])
        answers = [peer.line()["result"] for _ in range(3)]
    assert len({answer["lease"] for answer in answers} | {mine.lease}) == 4
    for answer in answers:
        event(onlooker, "tunnel.down", id=answer["id"])
    same(before)

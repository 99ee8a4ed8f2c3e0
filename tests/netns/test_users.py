"""Several users of one helper, with real credentials: who is let in, and what one sees of another."""

from __future__ import annotations

import array
import fcntl
import os
import re
import select
import signal
import termios
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import pytest

from coentro.client import Client, NotAdmitted
from tests import enclosure
from tests.netns.linux_host import lan, same, settled
from tests.netns.peers import (
    Raw,
    configured,
    connected,
    descriptors,
    event,
    eventually,
    refused,
    request,
    untouched,
)
from tests.sandbox import PLACE, Helper, as_user, run, run_helper

pytestmark = pytest.mark.usefixtures("tun_available")

NOT_AUTHORIZED, NOT_FOUND, CONFLICT, LIMIT = -32001, -32002, -32003, -32004
FULL4: Final = {"addresses": ["10.9.0.2/32"], "routes": ["0.0.0.0/0"], "endpoints": ["203.0.113.7"]}
FULL6: Final = {"addresses": ["fd00:9::2/128"], "routes": ["::/0"]}
SPLIT: Final = {"addresses": ["10.8.0.2/24"], "routes": ["10.1.0.0/16"], "endpoints": ["203.0.113.8"]}


@pytest.fixture
def helper(tmp_path: Path, two_uids: tuple[int, int]) -> Iterator[Helper]:
    """One that root and the two users may use, on a host with a physical network."""
    lan()
    with run_helper(tmp_path, "--config", configured("", two_uids)) as started:
        yield started


@pytest.fixture
def three(helper: Helper, two_uids: tuple[int, int]) -> Iterator[tuple[Client, Client, Client]]:
    """Connections of Alice, of Bob and of root."""
    with ExitStack() as open_ones:
        alice, bob, root = (open_ones.enter_context(connected(helper, uid)) for uid in (*two_uids, 0))
        yield alice, bob, root


# What one sees of another


def test_anothers_tunnel_is_not_found_by_any_method(three: tuple[Client, Client, Client]) -> None:
    alice, bob, root = three
    theirs = alice.create(name="secret", **SPLIT)
    with untouched():
        for id_ in (theirs.id, "0123456789abcdef"):
            answers = []
            for method, params in (
                ("tunnel.get", {"id": id_}),
                ("tunnel.update", {"id": id_, "mtu": 1300}),
                ("tunnel.plan", {"id": id_, "mtu": 1300}),
                ("tunnel.routes", {"id": id_, "add": ["10.2.0.0/16"]}),
                ("tunnel.routes", {"id": id_, "add": ["10.1.0.0/16"]}),
                ("tunnel.destroy", {"id": id_}),
                ("tunnel.attach", {"id": id_, "lease": theirs.lease}),
                ("route.list", {"tunnel": id_}),
            ):
                with refused(NOT_FOUND, "not_found") as refusal:
                    bob.call(method, params)
                answers.append((method, refusal.message, refusal.data))
            if id_ == theirs.id:
                of_another = answers
        assert answers == of_another, "the answers tell another's tunnel from none"
        assert bob.call("tunnel.list") == {"tunnels": []}
        assert bob.call("helper.status")["tunnels"] == 0
    assert [t["name"] for t in root.call("tunnel.list")["tunnels"]] == ["secret"]
    assert alice.call("tunnel.get", {"id": theirs.id})["spec"]["mtu"] == 1420


def test_anothers_routes_are_another_tunnels(three: tuple[Client, Client, Client]) -> None:
    alice, bob, root = three
    alice.create(name="secret", **SPLIT)
    bob.create(name="mine", addresses=["10.7.0.2/32"], routes=["10.2.0.0/16"])
    for who, owner in ((alice, "secret"), (bob, "another tunnel"), (root, "secret")):
        routes = who.call("route.list")["routes"]
        listed = {r["destination"]: r["owner"] for r in routes if r["kind"] == "unicast"}
        assert listed["10.1.0.0/16"] == owner
        assert listed["192.168.1.0/24"] == "host"
        way = who.call("route.lookup", {"destination": "10.1.2.3"})
        assert way["tunnel"] == owner
        assert {step["made_by"] for step in way["steps"]} == {owner}
        assert "secret" not in str(way) or owner == "secret"
    assert bob.call("route.lookup", {"destination": "10.2.0.1"})["tunnel"] == "mine"


def test_anothers_events_are_not_heard_nor_told_later(
    helper: Helper, three: tuple[Client, Client, Client], two_uids: tuple[int, int]
) -> None:
    alice, bob, root = three
    run_, start = bob.subscribe()["run"], 0
    root.subscribe()
    theirs = alice.create(name="secret", **SPLIT)
    alice.call("tunnel.update", {"id": theirs.id, "mtu": 1300})
    connected(helper, two_uids[0]).close()
    theirs.close()
    event(root, "tunnel.down", name="secret")
    bob.create(name="mine", addresses=["10.7.0.2/32"])
    first = bob.next_event(10)
    assert first is not None
    assert (first["type"], first["data"]["name"]) == ("tunnel.up", "mine")
    with connected(helper, two_uids[1]) as again:
        again.subscribe(since={"run": run_, "seq": start})
        marker = again.create(name="marker", addresses=["10.7.0.3/32"])
        told = [again.next_event(10)]
        while told[-1] and told[-1]["data"].get("id") != marker.id:
            told.append(again.next_event(10))
    owners = {e["data"].get("uid") or e["data"]["owner"]["uid"] for e in told if e is not None}
    assert owners == {two_uids[1]}
    assert event(root, "tunnel.up", name="mine")


def test_root_may_do_all_to_anyones_tunnel_but_attach(three: tuple[Client, Client, Client]) -> None:
    alice, _, root = three
    before = settled()
    theirs = alice.create(name="theirs", **SPLIT)
    alice.subscribe()
    with refused(NOT_FOUND):
        root.attach(theirs.id, str(theirs.lease))
    root.call("tunnel.update", {"id": theirs.id, "mtu": 1300})
    assert "mtu 1300" in run("ip", "link", "show", theirs.interface).stdout
    assert root.call("tunnel.get", {"id": theirs.id})["lease"] is None
    root.call("tunnel.destroy", {"id": theirs.id})
    event(alice, "tunnel.down", id=theirs.id, why="destroyed")
    theirs.close_fds()
    same(before)


# What two can't both have


def test_names_are_unique_for_each_owner_alone(three: tuple[Client, Client, Client]) -> None:
    alice, bob, root = three
    alice.create(name="vpn", addresses=["10.7.0.1/32"])
    bob.create(name="vpn", addresses=["10.7.0.2/32"])
    root.create(name="vpn", addresses=["10.7.0.3/32"])
    with untouched(), refused(CONFLICT, "conflict") as refusal:
        bob.create(name="vpn", addresses=["10.7.0.4/32"])
    (conflict,) = refusal.data["conflicts"]
    assert (conflict["resource"], conflict["name"]) == ("name", "vpn")
    made_up = [bob.create(addresses=[f"10.7.1.{n}/32"]).name for n in range(2)]
    assert len({*made_up, "vpn"}) == 3


def test_a_second_full_tunnel_of_a_family_is_refused_and_nothing_is_changed(
    three: tuple[Client, Client, Client],
) -> None:
    alice, bob, _ = three
    mine = alice.create(name="full", **FULL4)
    small = bob.create(name="small", addresses=["10.7.0.2/32"], routes=["10.1.0.0/16"])
    with untouched():
        for address, routes, block in (
            ("10.7.0.3/32", ["0.0.0.0/0"], []),
            ("10.7.0.3/32", ["0.0.0.0/1", "128.0.0.0/1"], []),
            ("10.7.0.3/32", [], ["0.0.0.0/0"]),
            ("10.7.0.3/32", ["0.0.0.0/1"], ["128.0.0.0/1"]),
        ):
            with refused(CONFLICT, "conflict") as refusal:
                bob.create(addresses=[address], routes=routes, block=block)
            assert refusal.data["conflicts"] == [
                {"resource": "everything", "family": 4, "held": "another user"}
            ]
        with refused(CONFLICT):
            bob.call("tunnel.update", {"id": small.id, "routes": ["0.0.0.0/0"]})
        with refused(CONFLICT):
            bob.call("tunnel.routes", {"id": small.id, "add": ["0.0.0.0/0"]})
        with refused(CONFLICT) as refusal:
            alice.create(addresses=["10.7.0.3/32"], routes=["0.0.0.0/0"])
        assert [c["held"] for c in refusal.data["conflicts"]] == ["full"]
    assert bob.call("tunnel.get", {"id": small.id})["spec"]["routes"] == ["10.1.0.0/16"]
    mine.close()
    bob.call("tunnel.update", {"id": small.id, "routes": ["0.0.0.0/0"]})
    assert f"dev {small.interface}" in run("ip", "route", "get", "192.0.2.1").stdout


def test_full_v4_and_full_v6_and_split_ones_stand_beside_each_other(
    three: tuple[Client, Client, Client],
) -> None:
    alice, bob, _ = three
    before = settled()
    full4 = alice.create(**FULL4)
    full6 = bob.create(**FULL6)
    split = bob.create(**SPLIT)
    for address, device in (
        ("192.0.2.1", full4.interface),
        ("2001:db8::1", full6.interface),
        ("10.1.2.3", split.interface),
        ("10.8.0.9", split.interface),
        ("203.0.113.7", "e0"),
        ("203.0.113.8", "e0"),
        ("192.168.1.9", "e0"),
    ):
        assert f"dev {device} " in run("ip", "route", "get", address).stdout, address
    full4.close()
    assert "dev e0 " in run("ip", "route", "get", "192.0.2.1").stdout
    assert f"dev {full6.interface} " in run("ip", "route", "get", "2001:db8::1").stdout
    split.close()
    full6.close()
    same(before)


def test_what_overlaps_conflicts_whichever_came_first(three: tuple[Client, Client, Client]) -> None:
    alice, bob, _ = three
    cases: tuple[tuple[str, dict[str, Any], dict[str, Any]], ...] = (
        ("routes", {"routes": ["10.1.0.0/16"]}, {"routes": ["10.1.7.0/24"]}),
        ("the same route", {"routes": ["10.1.0.0/16"]}, {"routes": ["10.1.0.0/16"]}),
        ("block", {"block": ["10.1.0.0/16"]}, {"routes": ["10.1.7.0/24"]}),
        ("prefix", {"addresses": ["10.1.0.1/16"]}, {"routes": ["10.1.7.0/24"]}),
        ("prefixes", {"addresses": ["10.1.0.1/16"]}, {"addresses": ["10.1.7.1/24"]}),
        ("endpoint", {"routes": ["10.1.0.0/16"]}, {"endpoints": ["10.1.7.7"]}),
        ("endpoint in a prefix", {"addresses": ["10.1.0.1/16"]}, {"endpoints": ["10.1.7.7"]}),
        ("v6", {"addresses": ["fd01::1/64"]}, {"endpoints": ["fd01::7"]}),
    )
    for what, one, other in cases:
        for mine, theirs in ((one, other), (other, one)):
            there = alice.create(**{"addresses": ["10.7.0.1/32"], **mine})
            with untouched(), refused(CONFLICT, "conflict") as refusal:
                bob.create(**{"addresses": ["10.7.0.2/32"], **theirs})
            assert [c["held"] for c in refusal.data["conflicts"]] == ["another tunnel"], what
            plan = bob.call("tunnel.plan", {"addresses": ["10.7.0.2/32"], **theirs})
            assert plan["conflicts"] == refusal.data["conflicts"], what
            there.close()


def test_root_takes_everything_over_and_its_holder_gets_it_back(
    three: tuple[Client, Client, Client],
) -> None:
    alice, _, root = three
    alice.subscribe()
    spec = {**FULL4, "addresses": ["10.9.0.2/32", "fd00:9::2/128"], "routes": ["0.0.0.0/0", "::/0"]}
    before = settled()
    full = alice.create(name="full", **spec)
    plain = settled(sysctls=False)
    ours = root.create(name="ours", addresses=["10.6.0.2/32"], routes=["0.0.0.0/0"])
    told = event(alice, "tunnel.degraded", id=full.id)
    problems = alice.call("tunnel.get", {"id": full.id})["problems"]
    assert problems == [told["data"]["problem"]]
    assert "IPv4" in problems[0]
    assert f"dev {ours.interface} " in run("ip", "route", "get", "192.0.2.1").stdout
    assert f"dev {full.interface} " in run("ip", "route", "get", "2001:db8::1").stdout
    assert "dev e0 " in run("ip", "route", "get", "203.0.113.7").stdout, "its endpoint stays outside"
    v4_of_alice = run("ip", "-4", "route", "show", "table", "all", "dev", full.interface).stdout
    assert "default" not in v4_of_alice
    # What does not name routes of the family asks for nothing back, and is no conflict.
    assert alice.call("tunnel.plan", {"id": full.id, "mtu": 1300})["conflicts"] == []
    assert alice.call("tunnel.update", {"id": full.id, "mtu": 1300})["problems"] == problems
    alice.call("tunnel.update", {"id": full.id, "mtu": 1420})
    with untouched(), refused(CONFLICT) as refusal:
        alice.call("tunnel.update", {"id": full.id, "routes": spec["routes"]})
    assert refusal.data["conflicts"] == [{"resource": "everything", "family": 4, "held": "another user"}]
    ours.close()
    assert "dev e0 " in run("ip", "route", "get", "192.0.2.1").stdout, "it comes back only when asked for"
    back = alice.call("tunnel.update", {"id": full.id, "routes": spec["routes"]})
    assert back["problems"] == []
    same(plain, sysctls=False)
    full.close()
    same(before)


def test_what_root_took_of_one_family_is_told_until_that_family_is_back(
    three: tuple[Client, Client, Client],
) -> None:
    alice, _, root = three
    spec = {"addresses": ["10.9.0.2/32", "fd00:9::2/128"], "routes": ["0.0.0.0/0", "::/0"]}
    full = alice.create(name="full", **spec)
    four = root.create(name="four", addresses=["10.6.0.2/32"], routes=["0.0.0.0/0"])
    root.create(name="six", addresses=["fd00:6::2/128"], routes=["::/0"])
    assert len(alice.call("tunnel.get", {"id": full.id})["problems"]) == 2
    four.close()
    alice.call("tunnel.routes", {"id": full.id, "remove": ["0.0.0.0/0"], "add": ["10.1.0.0/16"]})
    (problem,) = alice.call("tunnel.get", {"id": full.id})["problems"]
    assert "IPv6" in problem
    assert f"dev {full.interface} " in run("ip", "route", "get", "10.1.2.3").stdout


# Who is let in


def _name(alice: int) -> None:
    """Give Alice a name, and a group `vpnusers` that is no one's by default."""
    for place, line in (
        ("passwd", f"alice:x:{alice}:{alice}::/:/bin/false\n"),
        ("group", "vpnusers:x:61500:\n"),
    ):
        copy = PLACE / place
        copy.write_text(Path("/etc", place).read_text() + line)
        copy.chmod(0o644)
        enclosure.mount(str(copy), f"/etc/{place}", None, enclosure.MS_BIND)


def test_users_uids_groups_and_gids_admit_and_nothing_else_does(
    tmp_path: Path, two_uids: tuple[int, int]
) -> None:
    alice, bob = two_uids
    path = configured("")
    _name(alice)
    everyone = {
        "alice": (alice, alice, ()),
        "bob": (bob, bob, ()),
        "supplementary": (bob, bob, (61499, 61500)),
        "primary": (bob, 61500, ()),
        "alice's group": (bob, alice, ()),
    }
    cases: tuple[tuple[str, set[str]], ...] = (
        ('users = ["alice"]', {"alice"}),
        (f"uids = [{bob}]", {"bob", "supplementary", "primary", "alice's group"}),
        ('groups = ["vpnusers"]', {"supplementary", "primary"}),
        ("gids = [61500]", {"supplementary", "primary"}),
        (f"gids = [{alice}]", {"alice", "alice's group"}),
        (f'users = ["alice"]\nuids = [{bob}]', set(everyone)),
        ('users = ["nobody-of-that-name"]', set()),
    )
    with run_helper(tmp_path, "--config", path) as helper, connected(helper) as root:
        for access, expected in cases:
            configured(f"[access]\n{access}\n")
            assert "access" in root.call("helper.reload")["changed"]
            for name, who in everyone.items():
                with connected(helper, *who) as peer:
                    try:
                        told = peer.call("session.hello")["peer"]
                    except NotAdmitted:
                        assert name not in expected, f"{access} does not admit {name}"
                    else:
                        assert name in expected, f"{access} admits {name}"
                        assert (told["uid"], told["gid"], tuple(told["groups"])) == who
                        assert told["user"] == ("alice" if who[0] == alice else None)
        assert any("nobody-of-that-name" in p for p in root.call("helper.status")["problems"])


def test_the_refused_get_one_line_with_what_helps_and_nothing_is_read(
    tmp_path: Path, two_uids: tuple[int, int]
) -> None:
    with run_helper(tmp_path, "--config", configured("")) as helper, ExitStack() as open_ones:
        root = open_ones.enter_context(connected(helper))
        root.call("session.ping")
        idle = descriptors(helper.pid)
        stays, leaves = (open_ones.enter_context(Raw(helper, two_uids[0])) for _ in range(2))
        stays.sock.send(request("tunnel.list"))
        for peer in (stays, leaves):
            line = peer.line()
            assert line["id"] is None
            assert line["error"]["code"] == NOT_AUTHORIZED
            assert line["error"]["data"]["reason"] == "not_authorized"
            hint = line["error"]["data"]["hint"]
            assert hint.startswith("sudo usermod -aG coentrovpn ")
            assert hint in line["error"]["message"]
            assert peer.line() is None, "its sending side is shut"
        unread = array.array("i", [0])
        fcntl.ioctl(stays.sock, termios.TIOCOUTQ, unread)
        assert unread[0] > 0, "the helper has read what a refused peer sent"
        leaves.close()
        poll = select.poll()
        poll.register(stays.sock, 0)
        assert poll.poll(10_000), "the helper did not hang up"
        eventually(lambda: descriptors(helper.pid) == idle, "that the helper has closed both")


def test_a_refused_flood_is_one_log_line_and_one_event(tmp_path: Path, two_uids: tuple[int, int]) -> None:
    alice, bob = two_uids
    with (
        run_helper(tmp_path, "--config", configured("")) as helper,
        connected(helper) as root,
    ):
        root.subscribe(["peer.refused"])
        for uid in (alice,) * 30 + (bob,):
            with Raw(helper, uid) as peer:
                assert peer.line()["error"]["code"] == NOT_AUTHORIZED
        told = [root.next_event(10), root.next_event(10)]
        assert [(e["data"]["uid"], e["data"]["count"]) for e in told if e] == [(alice, 1), (bob, 1)]
        for uid in two_uids:
            assert len(re.findall(rf"refused uid {uid}\b", helper.stderr)) == 1


def test_a_helper_that_is_not_root_admits_its_own_uid_and_root(
    tmp_path: Path, two_uids: tuple[int, int]
) -> None:
    alice, bob = two_uids
    path = configured("")
    # The device's mode is the machine's own: where it lets everybody in, TUNSETIFF asks for the privilege.
    enters = as_user(alice).call(os.access, "/dev/net/tun", os.R_OK | os.W_OK)
    with run_helper(tmp_path, "--config", path, uid=alice) as helper:
        for uid in (alice, 0):
            with connected(helper, uid) as own:
                assert own.call("session.hello")["scopes"] == ["admin", "observe", "tunnel"]
                with untouched(), refused(-32005, "kernel") as refusal:
                    own.create(**SPLIT)
                assert refusal.data["errno"] == ("EPERM" if enters else "EACCES")
        with connected(helper, bob) as other, pytest.raises(NotAdmitted):
            other.call("session.ping")


# How much, and what of it


def test_connections_and_tunnels_have_their_limits(tmp_path: Path, two_uids: tuple[int, int]) -> None:
    alice, bob = two_uids
    limits = "[limits]\nconnections = 7\nconnections_per_uid = 3\ntunnels_per_uid = 2\n"
    path = configured(limits, two_uids)
    with run_helper(tmp_path, "--config", path) as helper, ExitStack() as open_ones:
        # All at once, before the helper has even looked up who this uid is.
        helper.process.send_signal(signal.SIGSTOP)
        flood = [open_ones.enter_context(Raw(helper, alice)) for _ in range(6)]
        for peer in flood:
            peer.ask("session.ping")
        helper.process.send_signal(signal.SIGCONT)
        answers = [peer.line() for peer in flood]
        admitted = [peer for peer, a in zip(flood, answers, strict=True) if "result" in a]
        errors = [a["error"] for a in answers if "error" in a]
        assert len(admitted) == 3, answers
        assert {e["code"] for e in errors} == {LIMIT}
        assert all(a["id"] is None for a in answers if "error" in a)
        assert all(e["data"]["retry_after_s"] > 0 for e in errors)
        roots = [open_ones.enter_context(connected(helper)) for _ in range(4)]
        for root in roots:
            root.call("session.ping")
        with connected(helper, bob) as eighth, refused(LIMIT):
            eighth.call("session.ping")
        admitted[0].close()
        eventually(lambda: roots[0].call("helper.status")["peers"] == 6, "that one has gone")
        with connected(helper, bob) as seventh:
            for number in range(2):
                seventh.create(addresses=[f"10.7.0.{number}/32"])
            with untouched(), refused(LIMIT, "limit"):
                seventh.create(addresses=["10.7.0.9/32"])
            roots[0].create(addresses=["10.7.0.9/32"])


def test_policy_and_scopes_say_who_may_have_what(tmp_path: Path, two_uids: tuple[int, int]) -> None:
    alice, bob = two_uids
    text = f"""
[scopes.tunnel]
uids = [{alice}]
[scopes.admin]
gids = [61500]
[policy]
everything = "admin"
networks = ["10.0.0.0/8", "0.0.0.0/0"]
"""
    path = configured(text, two_uids)
    with run_helper(tmp_path, "--config", path) as helper, ExitStack() as open_ones:
        maker, looker, admin = (
            open_ones.enter_context(connected(helper, uid, uid, groups))
            for uid, groups in ((alice, ()), (bob, ()), (bob, (61500,)))
        )
        told = [peer.call("session.hello")["scopes"] for peer in (maker, looker, admin)]
        assert told == [["observe", "tunnel"], ["observe"], ["admin", "observe"]]
        assert looker.call("tunnel.list") == {"tunnels": []}
        for peer, method, scope in (
            (looker, "tunnel.create", "tunnel"),
            (admin, "tunnel.create", "tunnel"),
            (maker, "helper.reload", "admin"),
        ):
            with untouched(), refused(NOT_AUTHORIZED, "not_authorized") as refusal:
                peer.call(method, SPLIT if method == "tunnel.create" else {})
            assert refusal.data["scope"] == scope
        with untouched(), refused(NOT_AUTHORIZED) as refusal:
            maker.create(**FULL4)
        assert refusal.data["scope"] == "admin"
        mine = maker.create(**SPLIT)
        configured(text.replace(', "0.0.0.0/0"', ""), two_uids)
        admin.call("helper.reload")
        with untouched():
            for change in ({"add": ["192.0.2.0/24"]}, {"add": ["9.0.0.0/8"]}, {"add": ["8.0.0.0/6"]}):
                with refused(NOT_AUTHORIZED) as refusal:
                    maker.call("tunnel.routes", {"id": mine.id, **change})
                assert refusal.data["networks"] == ["10.0.0.0/8"]
            with refused(NOT_AUTHORIZED):
                maker.create(addresses=["192.0.2.1/24"])
        maker.call("tunnel.routes", {"id": mine.id, "add": ["10.200.0.0/16"]})
        # admin sees anyone's tunnel; to change one takes the scope `tunnel` as well.
        assert admin.call("tunnel.get", {"id": mine.id})["owner"]["uid"] == alice


def test_a_reload_is_followed_by_those_who_are_connected(tmp_path: Path, two_uids: tuple[int, int]) -> None:
    alice, bob = two_uids
    path = configured(f"[scopes.admin]\nuids = [{bob}]\n", two_uids)
    with run_helper(tmp_path, "--config", path) as helper, ExitStack() as open_ones:
        first, second, root = (open_ones.enter_context(connected(helper, uid)) for uid in (alice, bob, 0))
        before = settled()
        mine = first.create(name="mine", **SPLIT)
        second.subscribe()
        root.subscribe()
        # A bad one changes nothing, by either way.
        configured("[limits]\nburst = 5\ntunels_per_uid = 1\n", two_uids)
        with refused(-32602, "invalid_params") as refusal:
            root.call("helper.reload")
        assert refusal.data["path"] == "$"
        assert f"{path}:7: [limits] tunels_per_uid: unknown key" in refusal.data["detail"]
        helper.process.send_signal(signal.SIGHUP)
        eventually(lambda: "the old configuration stays" in helper.stderr, "the log's word on SIGHUP")
        assert f"{path}:7:" in helper.stderr
        assert second.call("session.hello")["scopes"] == ["admin", "observe", "tunnel"]
        # A good one: who is admin no more sees and hears only what is theirs.
        configured("", two_uids)
        assert root.call("helper.reload") == {"changed": ["scopes"]}
        assert second.call("session.hello")["scopes"] == ["observe", "tunnel"]
        with refused(NOT_FOUND):
            second.call("tunnel.get", {"id": mine.id})
        first.call("tunnel.update", {"id": mine.id, "mtu": 1300})
        second.create(name="theirs", addresses=["10.7.0.2/32"])
        event(root, "tunnel.changed", id=mine.id)
        heard = second.next_event(10)
        assert heard is not None
        assert (heard["type"], heard["data"]["name"]) == ("tunnel.up", "theirs"), "it still hears as an admin"
        # Nor does one hear anything who may observe no more, until that is back.
        configured(f"[scopes.observe]\nuids = [{alice}]\n", two_uids)
        root.call("helper.reload")
        second.create(name="unheard", addresses=["10.7.0.3/32"]).close()
        configured("", two_uids)
        root.call("helper.reload")
        second.create(name="heard", addresses=["10.7.0.3/32"])
        heard = second.next_event(10)
        assert heard is not None
        assert heard["data"]["name"] == "heard"
        # One who is admitted no more is hung up on, and what hangs on the connection goes.
        configured("", [bob])
        helper.process.send_signal(signal.SIGHUP)
        event(root, "tunnel.down", id=mine.id)
        with pytest.raises(Exception, match="closed the connection"):
            first.call("session.ping")
        second.call("session.ping")
        with connected(helper, alice) as again, pytest.raises(NotAdmitted):
            again.call("session.ping")
        mine.close_fds()
        second.close()
        event(root, "tunnel.down", name="theirs")
        same(before)


def test_a_user_who_may_not_reach_the_socket_is_told_by_the_system(
    tmp_path: Path, two_uids: tuple[int, int]
) -> None:
    """The socket's mode stands before everything else: 0600 here, since there is no such group."""
    path = tmp_path / "helper.toml"
    path.write_text(f'[socket]\ngroup = "no-such-group"\n[access]\nuids = [{two_uids[0]}]\n')
    with run_helper(tmp_path, "--config", str(path)) as helper:
        assert helper.socket.stat().st_mode & 0o777 == 0o600
        assert as_user(two_uids[0]).call(_told_at_connect, str(helper.socket)) == NOT_AUTHORIZED
        with connected(helper) as root:
            (problem,) = root.call("helper.status")["problems"]
            assert "no-such-group" in problem
            assert "0600" in problem


def _told_at_connect(path: str) -> int:
    with pytest.raises(NotAdmitted) as caught:
        Client(path).close()
    return caught.value.code

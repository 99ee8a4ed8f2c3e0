"""What subscribers hear from the real helper, and what they are told they have missed."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from coentro.client import Client, HelperGone
from tests.netns.linux_host import many, many_texts
from tests.netns.peers import Raw, connected, event, refused
from tests.sandbox import Helper, run, run_helper

pytestmark = pytest.mark.usefixtures("tun_available")

INVALID = -32602
Told = dict[str, Any]


@pytest.fixture
def helper(tmp_path: Path) -> Iterator[Helper]:
    with run_helper(tmp_path) as started:
        yield started


@pytest.fixture
def client(helper: Helper) -> Iterator[Client]:
    with connected(helper) as one:
        one.call("session.ping")  # from here on its coming has been told
        yield one


@pytest.fixture
def onlooker(helper: Helper) -> Iterator[Client]:
    with connected(helper) as one:
        yield one


def heard(client: Client, count: int) -> list[Told]:
    told = [client.next_event(10) for _ in range(count)]
    assert None not in told, told
    return [one for one in told if one is not None]


def lines(peer: Raw, count: int) -> list[Told]:
    return [peer.line() for _ in range(count)]


def test_a_tunnels_life_is_told_in_order(client: Client, onlooker: Client) -> None:
    place = onlooker.subscribe()
    tunnel = client.create(name="told", addresses=["10.8.0.2/24"])
    client.call("tunnel.update", {"id": tunnel.id, "mtu": 1300})
    client.call("tunnel.routes", {"id": tunnel.id, "add": ["10.1.0.0/16"]})
    client.call("tunnel.destroy", {"id": tunnel.id})
    told = heard(onlooker, 4)
    assert [e["type"] for e in told] == ["tunnel.up", "tunnel.changed", "tunnel.changed", "tunnel.down"]
    assert {e["run"] for e in told} == {place["run"]}
    assert [e["seq"] for e in told] == [place["seq"] + n for n in range(1, 5)]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", e["time"]) for e in told)
    for e in told:
        about = {name: e["data"][name] for name in ("id", "name", "owner", "interface")}
        assert about == {
            "id": tunnel.id,
            "name": "told",
            "owner": {"uid": 0, "user": "root"},
            "interface": tunnel.interface,
        }
    assert (told[-1]["data"]["why"], told[-1]["data"]["left"]) == ("destroyed", [])
    # What is refused is no event.
    with refused(INVALID):
        client.create(addresses=["10.8.0.2/0"])
    with refused(-32002):
        client.call("tunnel.destroy", {"id": tunnel.id})
    # Someone else takes the device away.
    tunnel.close_fds()
    tunnel = client.create(name="gone", addresses=["10.8.0.2/24"], routes=["0.0.0.0/0"])
    run("ip", "link", "delete", tunnel.interface)
    up, down = heard(onlooker, 2)
    assert (up["type"], down["type"]) == ("tunnel.up", "tunnel.down")
    assert down["data"]["why"] == "its interface was removed"
    assert client.call("tunnel.list") == {"tunnels": []}
    tunnel.close_fds()


def test_peers_that_come_and_go_are_told(helper: Helper, onlooker: Client) -> None:
    onlooker.subscribe()
    with connected(helper) as other:
        other.call("session.ping")
    came, went = heard(onlooker, 2)
    assert (came["type"], went["type"]) == ("peer.connected", "peer.gone")
    assert came["data"] == went["data"]
    assert (came["data"]["uid"], came["data"]["user"], came["data"]["pid"]) == (0, "root", os.getpid())


def test_only_the_types_that_were_asked_for_are_told(client: Client, onlooker: Client) -> None:
    onlooker.subscribe(["tunnel.down", "tunnel.changed"])
    with client.create(addresses=["10.8.0.2/24"]) as tunnel:
        client.call("tunnel.update", {"id": tunnel.id, "mtu": 1300})
    assert [e["type"] for e in heard(onlooker, 2)] == ["tunnel.changed", "tunnel.down"]
    # Subscribing again replaces it, unsubscribing ends it, a bad one leaves it.
    onlooker.subscribe(["tunnel.up"])
    with refused(INVALID) as refusal:
        onlooker.subscribe(["tunnel.up", "tunnel.sideways"])
    assert refusal.data["path"] == "$.types[1]"
    client.create(addresses=["10.8.0.2/24"]).close()
    onlooker.subscribe(["tunnel.down"])
    client.create(addresses=["10.8.0.2/24"]).close()
    onlooker.call("event.unsubscribe")
    client.create(addresses=["10.8.0.2/24"]).close()
    onlooker.subscribe(["peer.gone"])
    client.close()
    assert [e["type"] for e in heard(onlooker, 3)] == ["tunnel.up", "tunnel.down", "peer.gone"]


def test_what_was_missed_follows_the_answer_and_then_what_comes(helper: Helper, client: Client) -> None:
    place = client.subscribe()
    client.call("event.unsubscribe")
    for _ in range(2):
        client.create(addresses=["10.8.0.2/24"]).close()
    with Raw(helper) as peer:
        since = {"run": place["run"], "seq": place["seq"] + 1}
        peer.ask("event.subscribe", 1, types=["tunnel.up", "tunnel.down"], since=since)
        answer, *told = lines(peer, 4)
        assert answer["result"]["run"] == place["run"]
        types = [e["params"]["type"] for e in told]
        assert types == ["tunnel.down", "tunnel.up", "tunnel.down"], "what is missed begins after `since`"
        seqs = [place["seq"], *(e["params"]["seq"] for e in told), answer["result"]["seq"] + 1]
        assert all(a < b for a, b in pairwise(seqs))
        client.create(addresses=["10.8.0.2/24"]).close()
        assert [e["params"]["type"] for e in lines(peer, 2)] == ["tunnel.up", "tunnel.down"]
        # Having heard all there is nothing to repeat.
        here = {"run": place["run"], "seq": answer["result"]["seq"] + 2}
        peer.ask("event.subscribe", 2, types=["tunnel.up", "tunnel.down"], since=here)
        assert peer.line()["id"] == 2
        client.create(addresses=["10.8.0.2/24"])
        assert peer.line()["params"]["type"] == "tunnel.up"


def test_who_was_away_too_long_or_with_another_helper_is_told_so(helper: Helper, client: Client) -> None:
    place = client.subscribe()
    client.call("event.unsubscribe")
    for run_, seq in (("another", 3), (place["run"], place["seq"] + 10_000)):
        client.subscribe(["tunnel.up"], since={"run": run_, "seq": seq})
        (told,) = heard(client, 1)
        assert (told["type"], told["data"], told["run"]) == ("event.lost", {"count": None}, place["run"])
    client.call("event.unsubscribe")
    for _ in range(520):  # two events each, and 1,024 are kept
        with Raw(helper) as peer:
            peer.ask("session.ping")
            peer.line()
    with Raw(helper) as peer:
        peer.ask("event.subscribe", 1, since=place)
        lost, *kept = [line["params"] for line in lines(peer, 1026) if "params" in line]
        assert (lost["type"], lost["data"]) == ("event.lost", {"count": None})
        seqs = [e["seq"] for e in kept]
        assert seqs == list(range(seqs[0], seqs[0] + 1024))
        assert {e["type"] for e in kept} == {"peer.connected", "peer.gone"}


def test_one_who_does_not_read_is_told_how_many_events_it_lost(helper: Helper, client: Client) -> None:
    tunnel = client.create(addresses=["10.8.0.2/24"], routes=many_texts(many(10_000)))
    changes = 25
    with Raw(helper) as slow:
        slow.ask("event.subscribe", 0)
        assert "result" in slow.line()
        for id_ in range(1, 4):
            slow.ask("route.list", id_, limit=10_000)  # 1 MB each
        # Reads run beside each other, so all three are asked for before the first is answered; then
        # this waits behind what the host does for it.
        for _ in range(3):
            client.call("route.list", {"limit": 10_000})
        for mtu in range(1300, 1300 + changes):
            client.call("tunnel.update", {"id": tunnel.id, "mtu": mtu})
        told: list[Told] = []
        answered: set[int] = set()
        while len(answered) < 3 or not told or told[-1]["type"] != "event.lost":
            line = slow.line()
            if "params" in line:
                told.append(line["params"])
            else:
                answered.add(line["id"])
        lost = [e["data"]["count"] for e in told if e["type"] == "event.lost"]
        came = [e for e in told if e["type"] == "tunnel.changed"]
        assert len(came) + sum(lost) == changes
        assert lost != []
        # It is no worse off for it: what comes then is told.
        client.call("tunnel.destroy", {"id": tunnel.id})
        assert slow.line()["params"]["type"] == "tunnel.down"
    tunnel.close_fds()


def test_a_helper_that_stops_says_so_before_it_undoes(
    helper: Helper, client: Client, onlooker: Client
) -> None:
    onlooker.subscribe()
    with client:
        client.create(addresses=["10.8.0.2/24"])
        helper.process.send_signal(signal.SIGTERM)
        told = heard(onlooker, 3)
        assert [e["type"] for e in told] == ["tunnel.up", "helper.stopping", "tunnel.down"]
        assert told[-1]["data"]["why"] == "the helper is stopping"
        with pytest.raises(HelperGone):
            event(onlooker, "nothing more")
    assert helper.process.wait(10) == 0

"""Changes run in the order in which they arrive, and what only reads never waits for them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.netns.linux_host import many, many_texts
from tests.netns.peers import Raw, connected, event, request
from tests.sandbox import Helper, run, run_helper

pytestmark = pytest.mark.usefixtures("tun_available")


@pytest.fixture
def helper(tmp_path: Path) -> Iterator[Helper]:
    with run_helper(tmp_path) as started:
        yield started


def test_pipelined_changes_of_a_connection_apply_in_the_order_of_arrival(helper: Helper) -> None:
    with connected(helper) as onlooker, Raw(helper) as peer:
        onlooker.subscribe(["tunnel.changed", "tunnel.down"])
        peer.ask("tunnel.create", 0, addresses=["10.8.0.2/24"])
        tunnel = peer.line()["result"]
        change = {"id": tunnel["id"]}
        lines = []
        for number in range(20):
            # In any other order one of these adds what is there, or removes what is not.
            other = {"add": ["10.1.0.0/16"]} if number % 2 == 0 else {"remove": ["10.1.0.0/16"]}
            lines.append(request("tunnel.routes", f"routes {number}", **change, **other))
            lines.append(request("tunnel.update", f"mtu {number}", **change, mtu=1300 + number))
        lines.append(request("tunnel.destroy", "destroy", **change))
        lines.append(request("tunnel.update", "late", **change, mtu=1400))
        lines.append(request("tunnel.create", "again", addresses=["10.8.0.2/24"], name=tunnel["name"]))
        peer.sock.sendall(b"".join(lines))
        answers = {(line := peer.line())["id"]: line for _ in lines}
        mtus = [answers[f"mtu {n}"]["result"]["interface"]["mtu"] for n in range(20)]
        assert mtus == [1300 + n for n in range(20)]
        totals = [answers[f"routes {n}"]["result"]["total"] for n in range(20)]
        assert totals == [1, 0] * 10
        assert answers["destroy"]["result"] == {"id": tunnel["id"]}
        assert answers["late"]["error"]["code"] == -32002
        assert answers["again"]["result"]["name"] == tunnel["name"]
        for _ in range(40):
            event(onlooker, "tunnel.changed")
        assert event(onlooker, "tunnel.down")["data"]["id"] == tunnel["id"]


def test_changes_of_two_connections_do_not_mix(helper: Helper) -> None:
    """Each has its own tunnel; both want the same network, and whoever comes first has it."""
    with Raw(helper) as first, Raw(helper) as second:
        for number, peer in enumerate((first, second)):
            peer.ask("tunnel.create", 0, addresses=[f"10.8.{number}.2/24"])
        ids = [peer.line()["result"]["id"] for peer in (first, second)]
        for round_ in range(10):
            for id_, peer in zip(ids, (first, second), strict=True):
                peer.ask("tunnel.routes", round_, id=id_, add=["10.1.0.0/16"])
            answers = [peer.line() for peer in (first, second)]
            winners = [n for n, answer in enumerate(answers) if "result" in answer]
            assert len(winners) == 1, answers
            (loser,) = (answer["error"]["code"] for answer in answers if "error" in answer)
            assert loser == -32003
            peer, id_ = (first, second)[winners[0]], ids[winners[0]]
            peer.ask("tunnel.routes", "back", id=id_, remove=["10.1.0.0/16"])
            assert peer.line()["result"]["total"] == 0


def test_reads_are_answered_while_a_hundred_thousand_routes_are_made(helper: Helper) -> None:
    with connected(helper) as onlooker, Raw(helper) as peer:
        onlooker.subscribe(["tunnel.up"])
        small = onlooker.create(name="small", addresses=["10.7.0.2/32"])
        event(onlooker, "tunnel.up", name="small")
        peer.ask("tunnel.create", "bulk", addresses=["10.8.0.2/24"], routes=many_texts(many(100_000)))
        reads = {
            "session.ping": {},
            "session.hello": {},
            "tunnel.get": {"id": small.id},
            "tunnel.list": {},
            "helper.status": {},
            "interface.list": {},
            "route.lookup": {"destination": "10.7.0.2"},
        }
        for method, params in reads.items():
            peer.ask(method, method, **params)
        peer.ask("tunnel.update", "behind it", id=small.id, mtu=1300)
        answers = [peer.line() for _ in range(len(reads) + 2)]
        assert all("result" in answer for answer in answers), answers
        order = [answer["id"] for answer in answers]
        assert order[-2:] == ["bulk", "behind it"]
        assert order[:2] == ["session.ping", "session.hello"]
        assert set(order[2:-2]) == set(list(reads)[2:])
        (bulk,) = (answer["result"] for answer in answers if answer["id"] == "bulk")
        assert bulk["routes"]["total"] == 100_000
        assert f"dev {bulk['interface']['name']}" in run("ip", "route", "get", "11.5.5.5").stdout

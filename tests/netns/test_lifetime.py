"""When a tunnel ends: with its client, its time, its helper; and then the host is as it was before.

The real helper and processes that really die.
"""

from __future__ import annotations

import os
import select
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import cycle
from pathlib import Path
from typing import Final, NoReturn

import pytest

from coentro.client import Client, HelperGone
from tests.forked import quiet_fork
from tests.netns.linux_host import lan, many, many_texts, same, settled
from tests.netns.notices import Notices
from tests.netns.peers import Raw, configured, connected, descriptors, event, refused, request, unset
from tests.sandbox import Helper, host_state, run, run_helper

pytestmark = pytest.mark.usefixtures("tun_available")

NOT_FOUND, CONFLICT, BUSY = -32002, -32003, -32006
SPLIT: Final = {"addresses": ["10.8.0.2/24"], "routes": ["10.1.0.0/16"], "endpoints": ["203.0.113.8"]}
FULL: Final = {
    "addresses": ["10.9.0.2/24", "fd00:9::2/64"],
    "routes": ["0.0.0.0/0", "::/0"],
    "exclude": ["198.51.100.0/24"],
    "endpoints": ["203.0.113.7", "2001:db8:ffff::1"],
    "block": ["203.0.113.128/25"],
}


@pytest.fixture
def host() -> str:
    """A host with a physical network, as it was before anything of ours."""
    lan()
    return settled()


@pytest.fixture
def helper(tmp_path: Path, host: str) -> Iterator[Helper]:
    with run_helper(tmp_path) as started:
        yield started


@pytest.fixture
def onlooker(helper: Helper) -> Iterator[Client]:
    """A connection that hears of everything."""
    with connected(helper) as client:
        client.subscribe()
        yield client


def all_settled(onlooker: Client) -> None:
    """Every change that was asked for before this is over: a change is asked for, and answered."""
    with refused(NOT_FOUND):
        onlooker.call("tunnel.destroy", {"id": "0" * 16})


def started_client(helper: Helper, line: bytes) -> int:
    """The pid of a process that has sent this and now waits, reading nothing."""
    reading, writing = os.pipe()
    with quiet_fork():
        pid = os.fork()
    if pid == 0:
        _client(str(helper.socket), line, writing)
    os.close(writing)
    with open(reading, "rb") as pipe:
        assert pipe.read(1), "the client could not send"
    return pid


def _client(path: str, line: bytes, sent: int) -> NoReturn:
    try:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.connect(path)
        sock.sendall(line)
        os.write(sent, b"y")
        signal.pause()
    finally:
        os._exit(1)


def killed(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


# With its client


def test_a_tunnel_of_a_client_that_hangs_up_is_gone(host: str, helper: Helper, onlooker: Client) -> None:
    for spec in (SPLIT, FULL, {**FULL, "mtu": 1280, "tun": {"queues": 4}}):
        client = connected(helper)
        tunnel = client.create(**spec)
        assert host_state() != host
        client.close()
        event(onlooker, "tunnel.down", id=tunnel.id, why="its client's connection ended")
        # The client's own descriptors are still open: the device is gone all the same.
        same(host)
        tunnel.close_fds()


def test_a_client_killed_at_each_step_of_create_leaves_nothing(
    host: str, helper: Helper, onlooker: Client
) -> None:
    create = request("tunnel.create", **FULL)
    with Notices() as notices, connected(helper) as client:
        client.create(**FULL)
        steps = notices.so_far()
    event(onlooker, "tunnel.down")
    assert steps > 10
    for step in range(steps + 1):
        with Notices() as notices:
            pid = started_client(helper, create)
            notices.wait_for(step)
            killed(pid)
        event(onlooker, "peer.gone", pid=pid)
        all_settled(onlooker)
        same(unset(host), f"killed after notice {step} of {steps}", sysctls=False)
    same(host)
    assert onlooker.call("tunnel.list") == {"tunnels": []}


def test_a_create_whose_client_is_gone_before_it_is_read_is_undone(
    host: str, helper: Helper, onlooker: Client
) -> None:
    create = request("tunnel.create", **FULL, linger_s=600)
    for sent in (create[:-9], create, create + create):
        helper.process.send_signal(signal.SIGSTOP)
        with Raw(helper) as peer:
            peer.sock.sendall(sent)
        helper.process.send_signal(signal.SIGCONT)
        event(onlooker, "peer.gone")
        all_settled(onlooker)
        assert onlooker.call("tunnel.list") == {"tunnels": []}
        same(host)


def test_a_create_whose_answer_does_not_fit_is_undone_even_if_it_would_linger(
    host: str, helper: Helper, onlooker: Client
) -> None:
    idle = descriptors(helper.pid)
    with connected(helper) as other:
        routes = other.create(addresses=["10.6.0.2/32"], routes=many_texts(many(5000)))
        peer = Raw(helper)
        peer.ask("route.list", 1, limit=5000)  # 500 kB: more than a socket holds, less than stops reading
        peer.ask("tunnel.create", 2, **SPLIT, linger_s=600)
        event(onlooker, "tunnel.up", id=routes.id)
        made = event(onlooker, "tunnel.up")["data"]
        assert onlooker.call("tunnel.get", {"id": made["id"]})["state"] == "up"
        peer.close()
        event(onlooker, "tunnel.down", id=made["id"], why="its answer was not taken")
    event(onlooker, "tunnel.down", id=routes.id)
    same(host)
    all_settled(onlooker)
    assert descriptors(helper.pid) == idle, "the descriptors that were on their way are closed"


def test_a_client_that_only_stops_sending_gets_its_answers(
    host: str, helper: Helper, onlooker: Client
) -> None:
    with Raw(helper) as peer:
        peer.ask("tunnel.create", 1, **SPLIT, name="half", linger_s=0)
        peer.ask("tunnel.plan", 2, **{**SPLIT, "addresses": ["10.7.0.2/32"], "routes": []})
        peer.ask("session.ping", 3)
        peer.sock.shutdown(socket.SHUT_WR)
        answers = {}
        while (line := peer.line()) is not None:
            answers[line["id"]] = line
            if line["id"] == 1:
                (fd,) = peer.fds.take(1)
                os.close(fd)
        assert {id_: "result" in line for id_, line in answers.items()} == {1: True, 2: True, 3: True}
        event(onlooker, "tunnel.down", name="half", why="its client's connection ended")
    same(host)


# With its time


def test_a_tunnel_lingers_for_its_owner_to_come_back(
    tmp_path: Path, two_uids: tuple[int, int], host: str
) -> None:
    alice, bob = two_uids
    with ExitStack() as open_ones:
        helper = open_ones.enter_context(run_helper(tmp_path, "--config", configured("", two_uids)))
        onlooker, second, other = (open_ones.enter_context(connected(helper, uid)) for uid in (0, alice, bob))
        onlooker.subscribe()
        first = connected(helper, alice)
        tunnel = first.create(**FULL, name="stays", linger_s=3600)
        standing = settled()
        first.close()
        assert event(onlooker, "tunnel.changed", id=tunnel.id)["data"]["lease"] == "lingering"
        told = second.call("tunnel.get", {"id": tunnel.id})
        assert (told["state"], told["ends_at"] > told["created_at"]) == ("lingering", True)
        same(standing)
        for who, lease in ((other, tunnel.lease), (onlooker, tunnel.lease), (second, "no")):
            with refused(NOT_FOUND):
                who.call("tunnel.attach", {"id": tunnel.id, "lease": lease})
        back = second.attach(tunnel.id, str(tunnel.lease))
        assert (back.info["state"], back.info["ends_at"]) == ("up", None)
        same(standing)
        # It lingers again, is changed and destroyed by whoever of its owner's connections.
        second.close()
        event(onlooker, "tunnel.changed", id=tunnel.id, lease="lingering")
        with connected(helper, alice) as third:
            changed = third.call("tunnel.update", {"id": tunnel.id, "linger_s": 0.01})
            assert changed["state"] == "lingering", "a promise that was made is not taken back"
            third.call("tunnel.destroy", {"id": tunnel.id})
            event(onlooker, "tunnel.down", id=tunnel.id, why="destroyed")
            same(host)
            short = third.create(**FULL, linger_s=0.01)
        event(onlooker, "tunnel.down", id=short.id, why="it lingered and nobody came back")
        same(host)
        # Two that linger end with the helper.
        with connected(helper, alice) as fourth:
            fourth.create(**FULL, linger_s=3600)
            fourth.create(**SPLIT, linger_s=3600)
        event(onlooker, "tunnel.changed", lease="lingering")
        event(onlooker, "tunnel.changed", lease="lingering")
        assert helper.stop() == 0
    same(host)


# With its helper


def test_a_hundred_cycles_cost_no_descriptor(host: str, helper: Helper, onlooker: Client) -> None:
    with connected(helper) as client:
        client.create(**SPLIT).close()
        before = descriptors(helper.pid)
        for number in range(100):
            with client.create(**(FULL if number % 10 == 0 else SPLIT)) as tunnel:
                if number % 10 == 1:
                    client.attach(tunnel.id, str(tunnel.lease)).close_fds()
                if number % 10 == 2:
                    with refused(CONFLICT):
                        client.create(**SPLIT)
        assert descriptors(helper.pid) == before
    event(onlooker, "peer.gone")
    before = descriptors(helper.pid)
    for _ in range(100):
        with Raw(helper) as peer:
            peer.ask("session.ping")
            assert peer.line()["result"] == {}
        event(onlooker, "peer.gone")
    assert descriptors(helper.pid) == before
    same(host)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_every_tunnel_undone_and_more_signals_skip_nothing(
    number: signal.Signals, host: str, helper: Helper, onlooker: Client
) -> None:
    with ExitStack() as open_ones:
        first, second = (open_ones.enter_context(connected(helper)) for _ in range(2))
        made = [
            first.create(addresses=["10.6.0.2/32"], routes=many_texts(many(20_000))),
            first.create(**SPLIT),
            second.create(**FULL),
        ]
        helper.process.send_signal(number)
        event(onlooker, "helper.stopping")
        # Again and again until it has ended: the undo, and the exit code, are what they would be.
        ended = open_ones.enter_context(open(os.pidfd_open(helper.pid), "rb"))
        for again in cycle((signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)):
            helper.process.send_signal(again)
            if select.select([ended], [], [], 0.001)[0]:
                break
        assert helper.process.wait() == 0
        same(host)
        assert not helper.socket.exists()
        told = [event(onlooker, "tunnel.down", id=tunnel.id)["data"] for tunnel in made]
        assert {(t["why"], len(t["left"])) for t in told} == {("the helper is stopping", 0)}
        with pytest.raises(HelperGone):
            second.call("session.ping")


def test_stopping_in_the_middle_of_a_create_undoes_it_and_refuses_those_behind_it(
    host: str, helper: Helper
) -> None:
    with Notices() as notices, Raw(helper) as peer:
        bulk = {"addresses": ["10.6.0.2/32"], "routes": many_texts(many(50_000))}
        peer.ask("tunnel.create", 1, **bulk)
        peer.ask("tunnel.create", 2, **FULL)
        notices.wait_for(1)
        helper.process.send_signal(signal.SIGTERM)
        answers = {}
        while (line := peer.line()) is not None:
            answers[line["id"]] = line
        assert helper.process.wait(20) == 0
        same(host)
        assert answers[2]["error"]["code"] == BUSY, answers[2]
        assert "result" in answers[1] or answers[1]["error"]["code"] == BUSY


def test_sigusr1_is_logged_and_does_nothing(helper: Helper) -> None:
    with connected(helper) as client, client.create(**FULL) as tunnel:
        standing = settled()
        helper.process.send_signal(signal.SIGUSR1)
        helper.process.send_signal(signal.SIGHUP)  # heard after the other: trio keeps their order
        while "configuration read again" not in helper.stderr:
            client.call("session.ping")
        assert "SIGUSR1" in helper.stderr
        assert client.call("tunnel.get", {"id": tunnel.id})["state"] == "up"
        same(standing)


@pytest.mark.parametrize("client", ["dead", "alive"])
def test_the_next_helper_takes_down_what_a_killed_one_left_before_it_listens(
    client: str, host: str, tmp_path: Path
) -> None:
    with run_helper(tmp_path) as helper:
        clients = [connected(helper), connected(helper)]
        tunnels = [clients[0].create(**FULL, linger_s=600), clients[1].create(**SPLIT)]
        with clients[0], clients[1] as one:
            one.call("tunnel.routes", {"id": tunnels[1].id, "add": many_texts(many(3000))})
            helper.kill()
            for peer in clients:
                with pytest.raises(HelperGone):
                    peer.call("session.ping")
        if client == "dead":
            for tunnel in tunnels:
                tunnel.close_fds()
        # Nothing that was in the tunnel leaks beside it while nobody is there.
        if client == "alive":
            assert "dev coentro0 " in run("ip", "route", "get", "192.0.2.1").stdout
        else:
            assert run("ip", "route", "get", "192.0.2.1", check=False).returncode != 0
    with run_helper(tmp_path) as helper:
        same(host)
        assert "left by an earlier helper" in helper.stderr
        with connected(helper) as again:
            assert again.call("tunnel.list") == {"tunnels": []}
            assert "can't be taken down" not in str(again.call("helper.status")["problems"])
            with again.create(**FULL):
                assert host_state() != host
        for tunnel in tunnels:
            tunnel.close_fds()
    same(host)

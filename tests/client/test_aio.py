"""The trio client against a scripted helper."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from coentro.client import AsyncClient, HelperError, HelperGone, NoHelper, NotAdmitted, connect
from tests.client.scripted import TUNNEL, Peer, helper, open_fds, pipes


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "helper.sock"


async def test_calls_and_refusals(place: Path) -> None:
    def script(peer: Peer) -> None:
        request = peer.read()
        assert request == {"jsonrpc": "2.0", "id": 1, "method": "session.ping", "params": {}}
        peer.answer({}, request)
        peer.refuse(-32002, "no such tunnel", peer.read()["id"], reason="not_found")
        assert peer.read() is None

    with helper(place, script) as path:
        async with connect(path) as client:
            assert await client.call("session.ping") == {}
            # Not in a group: no nursery stands between the caller and the call.
            with pytest.raises(HelperError, match="no such tunnel"):
                await client.call("tunnel.get", {"id": "x"})


async def test_an_exception_of_the_block_comes_out_as_it_is(place: Path) -> None:
    with helper(place, lambda peer: peer.read()) as path, pytest.raises(LookupError):
        async with connect(path):
            raise LookupError


async def test_concurrent_calls_get_their_own_answers_whatever_their_order(place: Path) -> None:
    def script(peer: Peer) -> None:
        requests = [peer.read() for _ in range(20)]
        for request in reversed(requests):
            peer.answer(request["params"], request)

    got: dict[int, Any] = {}

    async def ask(client: AsyncClient, n: int) -> None:
        got[n] = await client.call("m", {"n": n})

    with helper(place, script) as path:
        async with connect(path) as client, trio.open_nursery() as nursery:
            for n in range(20):
                nursery.start_soon(ask, client, n)
    assert got == {n: {"n": n} for n in range(20)}


async def test_when_the_one_that_reads_is_cancelled_another_reads_on(place: Path) -> None:
    go = threading.Event()

    def script(peer: Peer) -> None:
        peer.read()
        second = peer.read()
        go.wait(30)
        peer.answer({"second": True}, second)

    got: list[Any] = []

    async def ask(client: AsyncClient) -> None:
        got.append(await client.call("second"))

    with helper(place, script) as path:
        async with connect(path) as client:
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery, trio.open_nursery() as first:
                    first.start_soon(client.call, "first")
                    await trio.testing.wait_all_tasks_blocked()
                    nursery.start_soon(ask, client)
                    await trio.testing.wait_all_tasks_blocked()
                    first.cancel_scope.cancel()
                    go.set()
            assert not scope.cancelled_caught
    assert got == [{"second": True}]


async def test_a_cancelled_create_leaves_neither_tunnel_nor_descriptor(place: Path) -> None:
    before = open_fds()

    def script(peer: Peer) -> None:
        first = peer.read()
        second = peer.read()
        with pipes(1) as (_, writes):
            peer.answer(TUNNEL, first, fds=writes)
        peer.answer({}, second)
        assert peer.read() == {"jsonrpc": "2.0", "method": "tunnel.destroy", "params": {"id": "t1"}}

    with helper(place, script) as path:
        async with connect(path) as client:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.create)
                await trio.testing.wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()
            assert await client.call("session.ping") == {}
    assert open_fds() == before


async def test_a_tunnel(place: Path) -> None:
    def script(peer: Peer) -> None:
        request = peer.read()
        assert (request["method"], request["params"]) == ("tunnel.create", {"addresses": ["10.8.0.2/24"]})
        with pipes(1) as (reads, writes):
            peer.answer(TUNNEL, request, fds=writes)
            request = peer.read()
            assert os.read(reads[0], 9) == b"packet"
        assert (request["method"], request["params"]) == ("tunnel.destroy", {"id": "t1"})
        peer.answer({"id": "t1"}, request)
        request = peer.read()
        assert (request["method"], request["params"]) == ("tunnel.attach", {"id": "t1", "lease": "secret"})
        peer.answer(TUNNEL | {"fds": []}, request)
        peer.refuse(-32002, "gone", peer.read()["id"], reason="not_found")

    with helper(place, script) as path:
        async with connect(path) as client:
            async with await client.create(addresses=["10.8.0.2/24"]) as tunnel:
                assert (tunnel.id, tunnel.lease, tunnel.interface) == ("t1", "secret", "coentro0")
                assert not os.get_inheritable(tunnel.fds[0])
                os.write(tunnel.fds[0], b"packet")
            assert tunnel.fds == []
            attached = await client.attach("t1", "secret")
            assert attached.fds == []
            await attached.aclose()


async def test_events_come_in_order_also_during_a_call(place: Path) -> None:
    def script(peer: Peer) -> None:
        request = peer.read()
        assert request["params"] == {"types": ["tunnel.up"]}
        peer.event(1)
        peer.answer({"run": "r", "seq": 1}, request)
        peer.event(2)
        peer.event(3)

    async def collect(client: AsyncClient, seen: list[int]) -> None:
        async for event in client.events():
            seen.append(event["seq"])  # noqa: PERF401 - the loop ends in an exception

    seen: list[int] = []
    with helper(place, script) as path:
        async with connect(path) as client:
            assert await client.subscribe(["tunnel.up"]) == {"run": "r", "seq": 1}
            with pytest.raises(HelperGone, match="closed"):
                await collect(client, seen)
    assert seen == [1, 2, 3]


async def test_events_are_read_while_a_call_waits(place: Path) -> None:
    def script(peer: Peer) -> None:
        slow = peer.read()
        peer.event(1)
        after = peer.read()
        assert after["method"] == "after.the.event"
        peer.answer({}, after)
        peer.answer({}, slow)

    with helper(place, script) as path:
        async with connect(path) as client, trio.open_nursery() as nursery:
            nursery.start_soon(client.call, "slow")
            assert await client.next_event() == {"seq": 1, "type": "tunnel.up", "data": {}}
            assert await client.call("after.the.event") == {}


async def test_no_event_in_time_is_none(place: Path) -> None:
    with helper(place, lambda peer: peer.read()) as path:
        async with connect(path) as client:
            assert await client.next_event(0) is None


async def test_a_helper_that_has_to_be_read_before_it_reads(place: Path) -> None:
    def script(peer: Peer) -> None:
        for seq in range(20_000):
            peer.event(seq)
        peer.answer({}, peer.read())

    with helper(place, script) as path:
        async with connect(path) as client:
            with trio.fail_after(60):
                assert await client.call("m", {"text": "x" * 4_000_000}) == {}
                seqs = [event["seq"] for _ in range(20_000) if (event := await client.next_event())]
    assert seqs == list(range(20_000))


async def test_large_calls_of_many_tasks_do_not_mix(place: Path) -> None:
    def script(peer: Peer) -> None:
        for _ in range(5):
            request = peer.read()
            assert len(request["params"]["text"]) == 1_000_000
            peer.answer({}, request)

    with helper(place, script) as path:
        async with connect(path) as client, trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(client.call, "m", {"text": "x" * 1_000_000})


async def test_a_call_cancelled_in_the_middle_of_its_line_ends_the_connection(place: Path) -> None:
    go = threading.Event()

    def script(peer: Peer) -> None:
        go.wait(30)
        while peer.sock.recv(1 << 16):
            pass

    with helper(place, script) as path:
        async with connect(path) as client:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.call, "m", {"text": "x" * 8_000_000})
                await trio.testing.wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()
            go.set()
            with pytest.raises(HelperGone, match="middle"):
                await client.call("m")


async def test_nobody_listens(place: Path) -> None:
    with pytest.raises(NoHelper, match="does not exist"):
        async with connect(str(place)):
            pass
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(place))
    with pytest.raises(NoHelper, match="coentro-helper"):
        async with connect(str(place)):
            pass


@pytest.mark.parametrize("size", [10, 5_000_000])
async def test_a_refused_user_is_told_by_the_first_call(place: Path, size: int) -> None:
    def script(peer: Peer) -> None:
        peer.refuse(-32001, "not you: sudo usermod -aG coentrovpn you", reason="not_authorized")
        peer.sock.shutdown(socket.SHUT_WR)

    with helper(place, script) as path:
        async with connect(path) as client:
            for _ in range(2):
                with pytest.raises(NotAdmitted, match="usermod"):
                    await client.call("m", {"text": "x" * size})


async def test_every_call_under_way_hears_that_the_helper_is_gone(place: Path) -> None:
    def script(peer: Peer) -> None:
        for _ in range(3):
            peer.read()

    gone: list[str] = []

    async def ask(client: AsyncClient) -> None:
        try:
            await client.call("m")
        except HelperGone as fault:
            gone.append(str(fault))

    with helper(place, script) as path:
        async with connect(path) as client, trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(ask, client)
    assert gone == ["the helper closed the connection"] * 3


async def test_closing_wakes_who_waits(place: Path) -> None:
    gone: list[str] = []

    async def wait(client: AsyncClient) -> None:
        try:
            await client.next_event()
        except HelperGone as fault:
            gone.append(str(fault))

    with helper(place, lambda peer: peer.read()) as path:
        async with connect(path) as client, trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(wait, client)
            await trio.testing.wait_all_tasks_blocked()
            client.close()
    assert gone == ["this client is closed"] * 2
    with pytest.raises(HelperGone):
        await client.call("m")

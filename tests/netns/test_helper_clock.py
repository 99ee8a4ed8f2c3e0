"""The whole helper with trio's clock in the test's hand: what silence and minutes do to it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from coentro.client import aio
from coentro.clock import BootClock
from coentro.helper import listen
from coentro.helper.access import Access
from coentro.helper.config import Config
from coentro.helper.daemon import Daemon
from coentro.netops.linux.network import LinuxNetwork
from tests.netns.linux_host import same, settled
from tests.netns.peers import acting_as
from tests.sandbox import PLACE

pytestmark = pytest.mark.usefixtures("tun_available")


@asynccontextmanager
async def served() -> AsyncIterator[str]:
    """A helper in this process; where it listens."""
    config = Config()
    PLACE.mkdir(exist_ok=True)
    path = str(PLACE / "helper.sock")
    network = LinuxNetwork()
    await network.start()
    daemon = Daemon(
        network,
        config,
        Access.of(config),
        lambda: (config, Access.of(config)),
        clock=BootClock(now=trio.current_time),
    )
    ready = trio.Event()

    async def run() -> None:
        def bind() -> listen.Listening:
            return listen.bind(path, "no-such-group", 0o666)

        await daemon.run(bind, listen.remove, ready.set, signals=False)
        await network.close()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await ready.wait()
        yield path
        daemon.stop()


async def test_an_idle_tunnel_and_a_silent_connection_stay_for_ten_minutes(mock_clock: MockClock) -> None:
    async with served() as path, aio.connect(path) as owner, aio.connect(path) as silent:
        await silent.call("session.ping")
        await owner.subscribe()
        tunnel = await owner.create(addresses=["10.9.0.2/24"], routes=["10.1.0.0/16"])
        standing = settled()
        for _ in range(60):
            mock_clock.jump(10)
            await wait_all_tasks_blocked()
        assert (await silent.call("tunnel.get", {"id": tunnel.id}))["state"] == "up"
        same(standing)
        told = await owner.next_event(0)
        assert told is not None
        assert told["type"] == "tunnel.up"
        assert await owner.next_event(0) is None, "nothing happened in that time"
        tunnel.close_fds()


async def test_refusals_of_a_uid_are_counted_for_a_minute_and_told_once(
    mock_clock: MockClock, two_uids: tuple[int, int]
) -> None:
    uid = two_uids[0]

    async def refused(path: str) -> None:
        with acting_as(uid):
            stream = await trio.open_unix_socket(path)
        async with stream:
            assert b"-32001" in await stream.receive_some()

    async with served() as path, aio.connect(path) as root:
        await root.subscribe(["peer.refused"])
        for more in (3, 0):
            await refused(path)
            told = await root.next_event()
            assert told is not None
            assert (told["data"]["uid"], told["data"]["count"]) == (uid, 1)
            for _ in range(more):
                await refused(path)
            await root.call("session.ping")
            assert await root.next_event(0) is None
            mock_clock.jump(61)
            await wait_all_tasks_blocked()
            if more:
                told = await root.next_event()
                assert told is not None
                assert (told["data"]["uid"], told["data"]["count"]) == (uid, more)
        assert await root.next_event(0) is None, "a count of none is not told"

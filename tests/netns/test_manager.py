"""The manager over the real network: cut short at every step, killed at every step, and its time.

In this process, with trio's clock in the test's hand: no other clock runs.
"""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from itertools import count
from typing import Any, Final, NoReturn

import pytest
import trio
from attrs import define, field
from trio.testing import MockClock, wait_all_tasks_blocked

from coentro.clock import BootClock
from coentro.model import Endpoint, Spec, Uid
from coentro.tunnels.manager import Limits, Manager
from coentro.tunnels.tunnel import Actor, Tunnel, TunnelState
from tests.forked import quiet_fork
from tests.netns.linux_host import AfterStep, lan, nets, opened, same, settled, spec
from tests.netns.notices import Notices
from tests.netns.peers import unset

pytestmark = pytest.mark.usefixtures("tun_available")

ROOT: Final = Actor(Uid(0), "root", admin=True)
FULL: Final = spec(
    "10.9.0.2/24",
    "fd00:9::2/64",
    routes=nets("0.0.0.0/0", "::/0"),
    exclude=nets("198.51.100.0/24"),
    block=nets("203.0.113.128/25"),
    endpoints=(Endpoint.parse("203.0.113.7"), Endpoint.parse("2001:db8:ffff::1")),
    name="full",
)
LINGERS: Final = spec("10.9.0.2/24", routes=nets("10.1.0.0/16"), linger_s=60)


@define
class Told:
    """The events, and a way to wait for one."""

    events: list[tuple[str, dict[str, Any]]] = field(factory=list)
    _news: trio.Event = field(factory=trio.Event)

    def tell(self, type_: str, data: Mapping[str, Any], uid: int) -> None:
        self.events.append((type_, dict(data)))
        self._news.set()
        self._news = trio.Event()

    async def down(self) -> str:
        """Why a tunnel has ended, once one has."""
        while not (whys := [data["why"] for type_, data in self.events if type_ == "tunnel.down"]):
            await self._news.wait()
        return str(whys[0])


@asynccontextmanager
async def managed(clock: BootClock | None = None) -> AsyncIterator[tuple[Manager, Told]]:
    told = Told()
    async with opened() as network, trio.open_nursery() as nursery:
        manager = Manager(network, nursery, told.tell, Limits(), clock or BootClock(now=trio.current_time))
        yield manager, told
        await manager.close()
        nursery.cancel_scope.cancel()


async def made(manager: Manager, what: Spec, holder: object) -> Tunnel:
    """A tunnel whose answer has been delivered."""
    tunnel = await manager.create(ROOT, what, holder, manager.turns.take())
    tunnel.lease.delivered = True
    return tunnel


def open_here() -> int:
    return len(os.listdir("/proc/self/fd"))


# Cut short


async def test_a_create_that_is_cancelled_at_any_step_leaves_nothing() -> None:
    lan()
    async with managed() as (manager, told):
        tunnel = await made(manager, FULL, None)  # worker threads and the like are there from now on
        await manager.destroy(ROOT, tunnel.id, manager.turns.take())
        before, idle = settled(), open_here()
        told.events.clear()
        for steps in count():
            made_it: Tunnel | None = None
            with trio.CancelScope() as scope, AfterStep(steps, scope.cancel) as cut:
                made_it = await manager.create(ROOT, FULL, None, manager.turns.take())
            if not cut.called:
                break
            if made_it is not None:  # there was no later step to be cancelled at
                await manager.destroy(ROOT, made_it.id, manager.turns.take())
            assert manager.count() == 0
            same(unset(before), f"cancelled after step {steps}", sysctls=False)
            assert open_here() == idle, f"a descriptor is left after step {steps}"
        assert steps > 10
        assert made_it is not None
        await manager.destroy(ROOT, made_it.id, manager.turns.take())
        same(before)


async def test_an_update_that_is_cancelled_at_any_step_is_whole_or_not_at_all() -> None:
    lan()
    other = spec("10.9.0.3/24", mtu=1300, routes=nets("10.1.0.0/16", "10.2.0.0/16"), name="full")
    async with managed() as (manager, _):
        tunnel = await made(manager, FULL, None)
        for steps in count():
            before, was = settled(sysctls=False), tunnel.spec
            with trio.CancelScope() as scope, AfterStep(steps, scope.cancel) as cut:
                async with manager.turns.take():
                    await manager.update(ROOT, tunnel, other, frozenset())
            if not cut.called or tunnel.spec != was:
                break
            same(before, f"cancelled after step {steps}", sysctls=False)
        assert steps > 5
        assert tunnel.spec == other


async def test_a_destroy_that_is_cancelled_at_any_step_is_finished_or_not_begun() -> None:
    lan()
    before = settled()
    async with managed() as (manager, _):
        for steps in count():
            tunnel = await made(manager, FULL, None)
            standing = settled(sysctls=False)
            with trio.CancelScope() as scope, AfterStep(steps, scope.cancel) as cut:
                await manager.destroy(ROOT, tunnel.id, manager.turns.take())
            if manager.count():
                same(standing, f"cancelled after step {steps}", sysctls=False)
                await manager.destroy(ROOT, tunnel.id, manager.turns.take())
            same(unset(before), f"cancelled after step {steps}", sysctls=False)
            if not cut.called:
                break
        assert steps > 3
        same(before)


def test_a_helper_killed_at_any_step_of_a_create_is_settled_by_the_next() -> None:
    lan()
    before = settled()
    with Notices() as notices:
        steps = _killed_after(0, notices, whole=True)
    trio.run(_settle)
    same(before)
    for step in range(1, steps + 1):
        with Notices() as notices:
            _killed_after(step, notices)
        trio.run(_settle)
        same(unset(before), f"killed after notice {step} of {steps}", sysctls=False)
    assert steps > 10
    same(before)


def _killed_after(step: int, notices: Notices, whole: bool = False) -> int:
    """A process makes a tunnel and is killed when the kernel has told of so many of its steps, or of all.

    Returns how many had been told by then.
    """
    reading, writing = os.pipe()
    with quiet_fork():
        pid = os.fork()
    if pid == 0:
        _make_and_wait(writing)
    os.close(writing)
    with open(reading, "rb") as pipe:
        if whole:
            assert pipe.read(1), "the child made nothing"
        notices.wait_for(step)
        seen = notices.so_far()
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return seen


def _make_and_wait(done: int) -> NoReturn:
    async def run() -> None:
        async with managed() as (manager, _):
            await made(manager, FULL, None)
            os.write(done, b"y")
            await trio.sleep_forever()

    try:
        trio.run(run)
    finally:
        os._exit(1)


async def _settle() -> None:
    async with managed() as (manager, _):
        assert await manager.settle() == []


# Its time


async def test_a_lingering_tunnel_goes_when_its_time_is_over(mock_clock: MockClock) -> None:
    before = settled()
    async with managed() as (manager, told):
        client = object()
        tunnel = await made(manager, LINGERS, client)
        manager.release(client)
        await wait_all_tasks_blocked()
        assert tunnel.state is TunnelState.LINGERING
        mock_clock.jump(59.9)
        await wait_all_tasks_blocked()
        assert manager.count() == 1
        mock_clock.jump(0.2)
        assert await told.down() == "it lingered and nobody came back"
        assert manager.count() == 0
        same(before)


async def test_attached_in_time_it_stays_and_lingers_anew_the_next_time(mock_clock: MockClock) -> None:
    async with managed() as (manager, told):
        first, second = object(), object()
        tunnel = await made(manager, LINGERS, first)
        for client in (first, second):
            manager.release(client)
            await wait_all_tasks_blocked()
            mock_clock.jump(59)
            await wait_all_tasks_blocked()
            await manager.attach(ROOT, tunnel.id, tunnel.lease.secret, second, manager.turns.take())
            assert (tunnel.state, tunnel.ends_at) == (TunnelState.UP, None)
        mock_clock.jump(86_400)
        await wait_all_tasks_blocked()
        assert manager.count() == 1
        # Let go again: the time that ran before counts for nothing.
        manager.release(second)
        await wait_all_tasks_blocked()
        mock_clock.jump(59)
        await wait_all_tasks_blocked()
        assert manager.count() == 1
        mock_clock.jump(2)
        assert await told.down() == "it lingered and nobody came back"


async def test_time_asleep_counts_for_who_lingers(mock_clock: MockClock) -> None:
    asleep_s = 0.0
    clock = BootClock(now=lambda: trio.current_time() + asleep_s)
    async with managed(clock) as (manager, told):
        client = object()
        await made(manager, LINGERS, client)
        manager.release(client)
        await wait_all_tasks_blocked()
        asleep_s = 3600.0
        clock.woke()
        assert await told.down() == "it lingered and nobody came back"


async def test_a_tunnel_whose_lease_nobody_got_does_not_linger(mock_clock: MockClock) -> None:
    before = settled()
    async with managed() as (manager, told):
        client = object()
        await manager.create(ROOT, LINGERS, client, manager.turns.take())
        manager.release(client)
        assert await told.down() == "its answer was not taken"
        same(before)


async def test_what_ends_for_want_of_a_client_waits_its_turn_and_sees_who_came_meanwhile(
    mock_clock: MockClock,
) -> None:
    async with managed() as (manager, told):
        first, second = object(), object()
        tunnel = await made(manager, spec("10.9.0.2/24"), first)
        coming = manager.turns.take()
        manager.release(first)
        await manager.attach(ROOT, tunnel.id, tunnel.lease.secret, second, coming)
        async with manager.turns.take():
            assert manager.count() == 1
        manager.release(second)
        assert await told.down() == "its client's connection ended"


async def test_a_time_that_ran_out_before_an_attach_does_not_end_what_lingers_anew(
    mock_clock: MockClock,
) -> None:
    async with managed() as (manager, told):
        first, second = object(), object()
        tunnel = await made(manager, LINGERS, first)
        other_change, coming = manager.turns.take(), manager.turns.take()
        manager.release(first)
        await wait_all_tasks_blocked()
        mock_clock.jump(61)
        await wait_all_tasks_blocked()  # its end now waits behind both
        other_change.drop()
        await manager.attach(ROOT, tunnel.id, tunnel.lease.secret, second, coming)
        manager.release(second)
        async with manager.turns.take():
            assert manager.count() == 1
        mock_clock.jump(61)
        assert await told.down() == "it lingered and nobody came back"

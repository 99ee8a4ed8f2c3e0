"""Hearing of devices, on the real kernel: nothing heard is lost without being said."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from coentro.netops.linux import framing, host, messages
from coentro.netops.linux.monitor import LinkChange, Monitor, Resync
from coentro.netops.linux.netlink import Netlink
from tests import sandbox


@pytest.fixture
async def monitor() -> AsyncIterator[Monitor]:
    with Monitor() as opened:
        yield opened


def add(name: str) -> None:
    sandbox.run("ip", "link", "add", name, "type", "bridge")


def delete(name: str) -> None:
    sandbox.run("ip", "link", "delete", name)


async def until(monitor: Monitor, name: str) -> list[LinkChange]:
    """Everything up to the news that this device is gone."""
    heard: list[LinkChange] = []
    with trio.fail_after(10):
        async for item in monitor:
            assert isinstance(item, LinkChange)
            heard.append(item)
            if item.gone and item.link.name == name:
                return heard
    raise AssertionError


async def test_a_device_is_heard_of_from_its_beginning_to_its_end(monitor: Monitor) -> None:
    add("b0")
    index = socket.if_nametoindex("b0")
    sandbox.run("ip", "link", "set", "b0", "mtu", "1400", "alias", "coentro:x", "up")
    delete("b0")
    heard = await until(monitor, "b0")
    assert {h.link.index for h in heard} == {index}
    assert [h.gone for h in heard] == [False] * (len(heard) - 1) + [True]
    assert not heard[0].link.up
    assert any(h.link.up and (h.link.mtu, h.link.alias) == (1400, "coentro:x") for h in heard)
    assert heard[-1].link.kind == "bridge"


async def test_a_monitor_waits_for_what_has_not_come_yet(monitor: Monitor) -> None:
    heard: list[LinkChange] = []

    async def listen() -> None:
        heard.extend(await until(monitor, "b0"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(listen)
        await wait_all_tasks_blocked()
        assert heard == []
        add("b0")
        delete("b0")
    assert heard[-1].gone


async def test_leaving_a_bridge_is_not_the_end_of_a_device(monitor: Monitor) -> None:
    sandbox.veth("e0", "e1")
    add("b0")
    sandbox.run("ip", "link", "set", "e0", "master", "b0")
    sandbox.run("ip", "link", "set", "e0", "nomaster")
    delete("b0")
    heard = await until(monitor, "b0")
    assert [h.link.name for h in heard if h.gone] == ["b0"]
    assert all(h.link.family == socket.AF_UNSPEC for h in heard)


async def test_a_device_that_moves_to_another_namespace_is_gone(
    monitor: Monitor, namespaces: sandbox.Namespaces
) -> None:
    other = namespaces.new("other")
    sandbox.veth("e0", "e1")
    sandbox.run("ip", "link", "set", "e0", "netns", other.name)
    heard = await until(monitor, "e0")
    assert heard[-1].link.name == "e0"


async def test_what_was_missed_is_said_once_and_what_comes_then_is_heard() -> None:
    with Monitor(receive_bytes=1) as monitor:
        for i in range(20):
            add(f"b{i}")
        with trio.fail_after(10):
            assert await anext(monitor) == Resync()
        # Whoever looks now sees all of it, and the next news is not among what was thrown away.
        with Netlink() as netlink:
            assert len(host.links(netlink)) == 21
        delete("b7")
        heard = await until(monitor, "b7")
        assert {h.link.name for h in heard} == {"b7"}


async def test_news_from_another_process_is_none(monitor: Monitor) -> None:
    port, _ = monitor.sock.getsockname()
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as forger:
        forger.bind((0, 0))
        name = framing.attribute(messages.IFLA_IFNAME, b"coentro0\0")
        forger.sendto(framing.message(messages.RTM_DELLINK, 0, bytes(16) + name), (port, 0))
    add("b0")
    delete("b0")
    assert {h.link.name for h in await until(monitor, "b0")} == {"b0"}


async def test_closing_ends_the_wait() -> None:
    monitor = Monitor()
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def listen() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await anext(monitor)

        await wait_all_tasks_blocked()
        monitor.close()
    with pytest.raises(trio.ClosedResourceError):
        await anext(monitor)


async def test_a_cancelled_wait_loses_nothing(monitor: Monitor) -> None:
    with trio.move_on_after(0):
        await anext(monitor)
    add("b0")
    with trio.move_on_after(0):
        await anext(monitor)
    delete("b0")
    heard = await until(monitor, "b0")
    assert not heard[0].gone

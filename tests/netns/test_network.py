"""LinuxNetwork as the tunnels see it: what it finds, remembers, tells, and lets go of."""

from __future__ import annotations

import os
import socket

import pytest
import trio

from coentro.errors import Limit
from coentro.model import Endpoint, TunnelId, TunOptions
from coentro.netops.interface import Host, NetworkOps
from coentro.netops.linux.desired import Floor, Ranges, Rule, Table
from coentro.netops.linux.network import LinuxNetwork
from coentro.networks import network
from tests import sandbox
from tests.netns.linux_host import (
    TABLE,
    batch,
    lan,
    make,
    nets,
    opened,
    plan,
    same,
    settled,
    spec,
    take_down,
    wanted,
)

pytestmark = pytest.mark.usefixtures("tun_available")

SPLIT = spec("10.9.0.2/24", routes=nets("10.1.0.0/16"), endpoints=(Endpoint.parse("203.0.113.7"),))
FULL = spec("10.8.0.2/24", "fd00:8::2/64", routes=nets("0.0.0.0/0", "::/0"), exclude=nets("198.51.100.0/24"))
ID = TunnelId("t0")


def test_it_is_what_the_tunnels_ask_for() -> None:
    network_ops: NetworkOps = LinuxNetwork()
    assert network_ops.platform == "linux"


# What is found


async def test_onlink_networks_of_links_that_are_not_ours_stay_outside() -> None:
    lan()
    async with opened() as net:
        await make(net, wanted(FULL))
        host = await net.look()
        assert host.onlink == nets("192.168.1.0/24", "fd00:1::/64", "fe80::/64")
        assert "dev e0" in sandbox.run("ip", "route", "get", "192.168.1.77").stdout
        assert "dev e0" in sandbox.run("ip", "-6", "route", "get", "fd00:1::77").stdout
        assert "dev coentro0" in sandbox.run("ip", "route", "get", "192.168.2.77").stdout


async def test_a_link_set_down_by_somebody_is_found_and_repaired() -> None:
    async with opened() as net:
        await make(net, wanted(FULL))
        sandbox.run("ip", "link", "set", "coentro0", "down")
        found = await net.look()
        assert found.state == (await net.look(everything=True)).state
        changes = await plan(net, wanted(FULL))
        ops = [net.describe(change).op for change in changes]
        assert ops == ["link.up", "address.add", "route.add", "route.add"]
        await make(net, wanted(FULL))


@pytest.mark.parametrize(
    "harm",
    [
        ("-4", "rule delete pref 10500"),
        ("-6", "address delete fd00:8::2/64 dev coentro0"),
        ("-4", "address delete 10.8.0.2/24 dev coentro0"),
        ("-4", "link set coentro0 mtu 1400"),
        ("-4", "link set coentro0 mtu 1000"),
    ],
    ids=" ".join,
)
async def test_what_somebody_took_away_is_put_back(harm: tuple[str, str]) -> None:
    async with opened() as net:
        await make(net, wanted(FULL))
        before = settled()
        batch(harm[1], family=harm[0])
        await make(net, wanted(FULL))
        same(before)


async def test_routes_that_somebody_took_away_are_found_when_all_is_read() -> None:
    async with opened() as net:
        await make(net, wanted(FULL))
        before = settled()
        sandbox.run("ip", "route", "flush", "table", TABLE)
        assert await plan(net, wanted(FULL)) == []
        await net.apply(await plan(net, wanted(FULL), everything=True))
        same(before)


async def test_ipv6_switched_off_by_somebody_is_found_and_repaired() -> None:
    async with opened() as net:
        await make(net, wanted(FULL))
        before = settled()
        sandbox.run("sysctl", "-q", "-w", "net.ipv6.conf.coentro0.disable_ipv6=1")
        await make(net, wanted(FULL))
        same(before)


# Slots


@pytest.mark.parametrize(
    "theirs",
    [
        ("-4", f"route add 198.18.0.0/15 dev lo table {TABLE}"),
        ("-6", f"route add unreachable 2001:db8::/32 table {TABLE}"),
        ("-4", f"rule add pref 5 table {TABLE}"),
        ("-6", f"rule add from 2001:db8::/32 pref 5 table {TABLE}"),
        ("-4", "rule add pref 10100 table 7"),
    ],
    ids=" ".join,
)
async def test_a_slot_in_which_anything_of_anybody_stands_is_not_taken(theirs: tuple[str, str]) -> None:
    batch(theirs[1], family=theirs[0])
    async with opened() as net:
        host = await net.look()
        assert await net.free_slot(host, ()) == 1
        assert await net.free_slot(host, (1, 2)) == 3


async def test_when_no_slot_is_left_it_is_a_limit() -> None:
    async with opened(ranges=Ranges(last_rule=10101)) as net:
        assert await net.free_slot(Host({}), [0]) == 1
        with pytest.raises(Limit):
            await net.free_slot(Host({}, taken_slots=frozenset({1})), [0])


async def test_a_slot_is_free_again_and_carries_nothing_over_from_the_tunnel_before() -> None:
    async with opened() as net:
        await make(net, wanted(SPLIT))
        sandbox.run("ip", "link", "delete", "coentro0")
        await take_down(net)
        net.release(ID)
        host = await net.look()
        assert await net.free_slot(host, ()) == 0
        await make(net, wanted(spec("10.9.0.2/24", routes=nets("10.2.0.0/16")), "t1", 0))


# Two tunnels


async def test_a_full_tunnel_yields_to_a_split_one_whichever_came_first() -> None:
    split, full = wanted(SPLIT, "t0", 0), wanted(FULL, "t1", 1)
    for first in (split, full):
        async with opened() as net:
            await make(net, first)
            await make(net, split, full)
            mine, other = net.device(TunnelId("t0")), net.device(TunnelId("t1"))
            assert mine is not None
            assert other is not None
            assert f"dev {mine.name}" in sandbox.run("ip", "route", "get", "10.1.2.3").stdout
            assert f"dev {other.name}" in sandbox.run("ip", "route", "get", "8.8.8.8").stdout
            assert "t1" not in (await net.lookup(network("203.0.113.7/32").address)).reason
            await take_down(net)


async def test_one_tunnel_goes_and_the_other_does_not_notice() -> None:
    async with opened() as net:
        await make(net, wanted(SPLIT))
        before = settled()
        await make(net, wanted(SPLIT), wanted(FULL, "t1", 1))
        await make(net, wanted(SPLIT))
        same(before)


# What is told


async def test_a_lookup_is_the_kernels_answer_and_says_why() -> None:
    lan()
    full = spec(
        "10.9.0.2/24", routes=nets("0.0.0.0/0"), block=nets("198.51.100.0/24"), endpoints=SPLIT.endpoints
    )
    async with opened() as net:
        await make(net, wanted(full))
        into = await net.lookup(network("8.8.8.8/32").address)
        assert (into.interface, into.gateway, into.source, into.tunnel) == ("coentro0", None, "10.9.0.2", ID)
        assert [(s.kind, s.tunnel) for s in into.steps] == [("rule", ID), ("table", ID), ("route", ID)]
        out = await net.lookup(network("203.0.113.7/32").address)
        assert (out.interface, out.gateway, out.tunnel) == ("e0", "192.168.1.1", None)
        assert [s.text for s in out.steps if s.tunnel == ID] == [
            f"10500: from all lookup {TABLE}",
            "throw 203.0.113.7/32",
        ]
        assert [s.text for s in out.steps if s.tunnel is None] == [
            "32766: from all lookup main",
            "main",
            "unicast 0.0.0.0/0",
        ]
        blocked = await net.lookup(network("198.51.100.9/32").address)
        assert (blocked.interface, blocked.tunnel) == (None, ID)
        assert blocked.steps[-1].text == "unreachable 198.51.100.0/24"
        own = await net.lookup(network("192.168.1.2/32").address)
        assert own.reason == "the address is this host's own"


async def test_routes_are_mains_and_then_ours_in_order() -> None:
    lan()
    async with opened() as net:
        await make(net, wanted(SPLIT))
        batch(f"route add 198.18.0.0/15 dev e0 table {TABLE}")
        told = [(r.destination, r.gateway, r.interface, r.kind, r.tunnel) for r in await net.routes([4])]
    assert told == [
        ("0.0.0.0/0", "192.168.1.1", "e0", "unicast", None),
        ("192.168.1.0/24", None, "e0", "unicast", None),
        ("10.1.0.0/16", None, "coentro0", "unicast", ID),
        ("10.9.0.0/24", None, "coentro0", "unicast", ID),
        ("192.168.1.0/24", None, None, "throw", ID),
        ("203.0.113.7/32", None, None, "throw", ID),
        ("198.18.0.0/15", None, "e0", "unicast", ID),
    ]


async def test_online_is_a_default_route_that_has_a_carrier() -> None:
    async with opened() as net:
        assert not (await net.status()).online
        lan()
        await make(net, wanted(FULL))
        status = await net.status()
        assert status.online
        told = {(r.destination, r.interface) for r in status.default_routes}
        assert told == {("0.0.0.0/0", "e0"), ("::/0", "e0")}
        sandbox.run("ip", "link", "set", "e1", "down")
        assert not (await net.status()).online


async def test_counters_and_interfaces_are_the_kernels() -> None:
    async with opened() as net:
        await make(net, wanted(SPLIT))
        device = net.device(ID)
        assert device is not None
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(bytes(100), ("10.1.2.3", 7))
        assert len(os.read(device.fds[0], 2048)) == 128
        stats = (await net.stats())[ID]
        assert (stats.tx_packets, stats.tx_bytes) == (1, 128)
        (interface,) = [i for i in await net.interfaces() if i.index == device.index]
        assert (interface.name, interface.mtu, interface.up) == ("coentro0", 1420, True)
        assert interface.addresses == ("10.9.0.2/24",)


@pytest.mark.parametrize(
    ("options", "size"),
    [
        (TunOptions(), 0),
        (TunOptions(packet_info=True), 4),
        (TunOptions(vnet_hdr=True), 10),
        (TunOptions(vnet_hdr=True, packet_info=True, queues=2), 14),
    ],
)
async def test_as_many_bytes_stand_before_a_packet_as_is_said(options: TunOptions, size: int) -> None:
    what = spec("10.9.0.2/24", tun=options)
    async with opened() as net:
        assert net.packet_header_bytes(what) == size
        await make(net, wanted(what))
        device = net.device(ID)
        assert device is not None
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"x", ("10.9.0.77", 7))
        (packet,) = [p for fd in device.fds if (p := _read(fd))]
        assert packet[size] == 0x45
        assert packet[size + 12 : size + 16] == network("10.9.0.2/32").address


def _read(fd: int) -> bytes:
    try:
        return os.read(fd, 2048)
    except BlockingIOError:
        return b""


# What is heard


async def test_a_device_taken_by_somebody_is_heard_of_and_our_own_doing_is_not() -> None:
    async with opened() as net:
        await make(net, wanted(SPLIT), wanted(FULL, "t1", 1))
        await make(net, wanted(FULL, "t1", 1))
        device = net.device(TunnelId("t1"))
        assert device is not None
        sandbox.run("ip", "link", "delete", device.name)
        with trio.fail_after(10):
            event = await anext(net.events())
        assert (event.kind, event.tunnel) == ("link-gone", "t1")


async def test_who_missed_something_hears_of_the_devices_that_have_gone() -> None:
    async with opened() as net:
        await make(net, wanted(SPLIT), wanted(FULL, "t1", 1))
        net._monitor.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        sandbox.run("ip", "link", "delete", "coentro0")
        for _ in range(10):
            sandbox.run("ip", "link", "set", "lo", "mtu", "1500")
            sandbox.run("ip", "link", "set", "lo", "mtu", "1501")
        with trio.fail_after(10):
            events = net.events()
            heard = [await anext(events), await anext(events)]
        assert [(e.kind, e.tunnel) for e in heard] == [("link-gone", "t0"), ("changed", None)]


async def test_a_device_set_down_by_somebody_is_a_change() -> None:
    async with opened() as net:
        await make(net, wanted(SPLIT))
        sandbox.run("ip", "link", "set", "coentro0", "down")
        with trio.fail_after(10):
            event = await anext(net.events())
        assert (event.kind, event.tunnel) == ("changed", ID)


async def test_a_physical_link_is_a_change_of_no_tunnels() -> None:
    async with opened() as net:
        sandbox.veth("e0", "e1")
        with trio.fail_after(10):
            event = await anext(net.events())
        assert (event.kind, event.tunnel) == ("changed", None)


# What is let go of


async def test_a_hundred_tunnels_leave_no_descriptor_behind() -> None:
    async with opened() as net:
        await make(net, wanted(SPLIT))
        await take_down(net)
        before = sorted(os.listdir("/proc/self/fd"))
        for _ in range(100):
            await net.apply(await plan(net, wanted(SPLIT)))
            await take_down(net)
        assert sorted(os.listdir("/proc/self/fd")) == before


async def test_a_released_descriptor_is_closed_and_with_the_last_the_device_goes() -> None:
    before = sandbox.host_state()
    async with opened() as net:
        await make(net, wanted(SPLIT))
        device = net.device(ID)
        assert device is not None
        held = os.dup(device.fds[0])
        net.release(ID)
        left = net.device(ID)
        assert left is not None
        assert left.fds == ()
        assert await plan(net, wanted(SPLIT)) == []
        os.close(held)
        await take_down(net)
        assert net.device(ID) is None
    same(before)


async def test_closing_changes_nothing_but_what_dies_with_our_descriptors() -> None:
    async with opened() as net:
        await make(net, wanted(FULL))
        device = net.device(ID)
        assert device is not None
        held = os.dup(device.fds[0])
        before = settled()
    same(before)
    os.close(held)
    async with opened() as net:
        state = (await net.look(everything=True)).state
        assert {type(key) for key in state} == {Table, Floor, Rule}
        await take_down(net, everything=True)

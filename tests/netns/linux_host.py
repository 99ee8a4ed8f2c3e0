"""What the tests of Linux's network ops share: a host, specs in short, and somebody else's hand."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Self

import trio

from coentro.model import InterfaceAddress, Spec, TunnelId
from coentro.netops.interface import Wanted
from coentro.netops.linux.network import LinuxNetwork
from coentro.networks import Network, Networks, network
from coentro.plan import Change, diff
from tests import sandbox

TABLE = "0x636f0001"


def nets(*texts: str) -> Networks:
    return Networks.of(network(t) for t in texts)


def spec(*addresses: str, **fields: Any) -> Spec:
    made = Spec(addresses=tuple(map(InterfaceAddress.parse, addresses)), **fields)
    made.check()
    return made


def wanted(what: Spec, name: str = "t0", slot: int = 0, **more: Any) -> Wanted:
    return Wanted(TunnelId(name), slot, what, **more)


def many(count: int) -> Networks:
    """So many IPv4 networks of 256 addresses, from 11.0.0.0 on."""
    return Networks(b"".join((0x0B000000 + (i << 8)).to_bytes(4, "big") + b"\x18" for i in range(count)))


def many_texts(networks: Networks) -> list[str]:
    return [str(Network(e[:-1], e[-1])) for e in networks.entries(4)]


def batch(*lines: str, family: str = "-4") -> None:
    """Somebody else's changes, by ip(8)."""
    sandbox.run("ip", family, "-force", "-batch", "-", stdin="\n".join(lines) + "\n")


def lan() -> None:
    """A physical link with a private network, a gateway and default routes of both families."""
    sandbox.veth("e0", "e1")
    sandbox.run("ip", "address", "add", "192.168.1.2/24", "dev", "e0")
    sandbox.run("ip", "route", "add", "default", "via", "192.168.1.1")
    sandbox.run("ip", "-6", "address", "add", "fd00:1::2/64", "dev", "e0", "nodad")
    sandbox.run("ip", "-6", "route", "add", "default", "via", "fd00:1::1")


def settled(*, like: str | None = None, sysctls: bool = True) -> str:
    """The host once the kernel's own workers are done with IPv6 addresses: they put in their local
    routes after the call that adds them has returned (addrconf_dad_work). With `like` until it is
    that, or a while has passed in which any worker would have been done."""
    deadline = time.monotonic() + 5
    while True:
        found = sandbox.host_state(sysctls=sysctls)
        if found == like or time.monotonic() > deadline:
            return found
        if like is None and all(f'"dst": "{a}"' in found for a in _own_ipv6()):
            return found


def _own_ipv6() -> list[str]:
    listed = json.loads(sandbox.run("ip", "-6", "-j", "address", "show").stdout)
    return [a["local"] for link in listed for a in link.get("addr_info", ())]


def same(before: str, why: str = "", *, sysctls: bool = True) -> None:
    """Assert that the host is, to the last line, as it was."""
    now = settled(like=before, sysctls=sysctls)
    less, more = (set(a.splitlines()) - set(b.splitlines()) for a, b in ((before, now), (now, before)))
    assert now == before, f"{why}\nmissing: {less}\nadded: {more}"


@asynccontextmanager
async def opened(**options: Any) -> AsyncIterator[LinuxNetwork]:
    made = LinuxNetwork(**options)
    await made.start()
    try:
        yield made
    finally:
        await made.close()


async def plan(net: LinuxNetwork, *tunnels: Wanted, everything: bool = False) -> list[Change]:
    """The changes that make exactly these tunnels."""
    host = await net.look(everything=everything)
    return diff(net.want(host, tunnels), host.state)


async def make(net: LinuxNetwork, *tunnels: Wanted) -> None:
    """Make exactly these tunnels, and see that they stand as they shall."""
    await net.apply(await plan(net, *tunnels))
    assert await plan(net, *tunnels) == [], "look does not find what apply made"
    assert await plan(net, *tunnels, everything=True) == [], (
        "the kernel has something else than is remembered"
    )


async def take_down(net: LinuxNetwork, *, everything: bool = False) -> None:
    assert await net.force(await plan(net, everything=everything)) == []


class AfterStep(trio.abc.Instrument):
    """Calls something once, after the task that made this has run `steps` times more."""

    def __init__(self, steps: int, call: Callable[[], object]) -> None:
        self._left = steps
        self._call = call
        self._task = trio.lowlevel.current_task()
        self.called = False

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is not self._task or self.called:
            return
        self._left -= 1
        if self._left < 0:
            self.called = True
            self._call()

    def __enter__(self) -> Self:
        trio.lowlevel.add_instrument(self)
        return self

    def __exit__(self, *_: object) -> None:
        trio.lowlevel.remove_instrument(self)


def checksum(data: bytes) -> int:
    """RFC 1071."""
    data += bytes(len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total >> 16) + (total & 0xFFFF)
    return ~total & 0xFFFF


def ipv4(source: str, destination: str, protocol: int, payload: bytes) -> bytes:
    addresses = network(source + "/32").address + network(destination + "/32").address
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 1, 0, 64, protocol, 0) + addresses
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + payload


def icmpv6(source: str, destination: str, payload: bytes) -> bytes:
    """A whole IPv6 packet with hop limit 255; the payload's checksum is filled in."""
    addresses = network(source + "/128").address + network(destination + "/128").address
    pseudo = addresses + struct.pack("!IxxxB", len(payload), 58)
    whole = payload[:2] + struct.pack("!H", checksum(pseudo + payload)) + payload[4:]
    return struct.pack("!IHBB", 6 << 28, len(payload), 58, 255) + addresses + whole

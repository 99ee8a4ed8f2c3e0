"""Many routes: whole calls beside `ip -batch`, what others notice of them, and what changes cost."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from functools import partial
from socket import AF_INET6, inet_ntop
from statistics import median

from coentro.client import Client
from tools.benchmark import place
from tools.benchmark.place import PLACE, SOCKET, Failed, seconds
from tools.benchmark.rounds import of_pairs, ratios
from tools.benchmark.rows import Result

SOME = 1_000
_V4 = {"addresses": ["192.0.2.2/32"]}
_V6 = {"addresses": ["2001:db8:ffff::2/128"]}
_TABLE = "4242"


def v4(count: int, first: int = 10) -> list[str]:
    """Host routes, from FIRST.0.0.0 on."""
    base = first << 24
    return [f"{(n := base + i) >> 24}.{n >> 16 & 255}.{n >> 8 & 255}.{n & 255}/32" for i in range(count)]


def v6(count: int) -> list[str]:
    base = 0x20010DB8 << 96
    return [f"{inet_ntop(AF_INET6, (base + (i << 64)).to_bytes(16, 'big'))}/64" for i in range(count)]


def measure(short: bool) -> Iterator[Result]:
    many, rounds = (SOME, 2) if short else (100_000, 5)
    with place.helper() as (process, _), Client(SOCKET, place.TIMEOUT_S) as client:
        yield from _create(client, v4(many), rounds)
        six = v6(SOME if short else 10_000)
        yield ratios("create-v6", rounds, lambda: _made(client, _V6, six)[0], lambda: _batch(six), unit="s")
        yield _update(client, v4(many), rounds)
        yield from _meanwhile(client, process.pid, v4(many), rounds)


def _made(client: Client, spec: dict[str, list[str]], routes: Sequence[str]) -> tuple[float, float]:
    """How long create and destroy took."""
    made = []
    create = seconds(lambda: made.append(client.create(**spec, routes=routes)))
    return create, seconds(made[0].close)


def _create(client: Client, routes: Sequence[str], rounds: int) -> Iterator[Result]:
    creates, destroys = [], []
    for _ in range(rounds):
        create, destroy = _made(client, _V4, routes)
        theirs = _batch(routes)
        creates.append((create, theirs))
        destroys.append((destroy, theirs))
    yield of_pairs("create", creates)
    yield of_pairs("destroy", destroys)


def _batch(routes: Sequence[str]) -> float:
    """The same routes by ip-route(8), into a table of their own, on a TUN."""
    commands = PLACE / "batch"
    commands.write_text("".join(f"route add {route} dev bench0 table {_TABLE}\n" for route in routes))
    place.run("ip", "tuntap", "add", "dev", "bench0", "mode", "tun")
    try:
        place.run("ip", "link", "set", "bench0", "up")
        return seconds(lambda: place.run("ip", "-batch", str(commands)))
    finally:
        place.run("ip", "link", "delete", "bench0")


def _update(client: Client, routes: Sequence[str], rounds: int) -> Result:
    """A thousand added, then the same taken away: the mean of both calls."""
    few = v4(SOME, 11)
    pairs = []
    for _ in range(rounds):
        alone, _ = _made(client, _V4, few)
        with client.create(**_V4, routes=routes) as tunnel:
            add, remove = (
                seconds(partial(client.call, "tunnel.routes", {"id": tunnel.id, what: few}))
                for what in ("add", "remove")
            )
        pairs.append(((add + remove) / 2, alone))
    return of_pairs("update", pairs)


def _meanwhile(client: Client, pid: int, routes: Sequence[str], rounds: int) -> Iterator[Result]:
    """What another client and the machine see of a create and its destroy."""
    worst, peaks = [], []
    for _ in range(rounds):
        place.forget_peak(pid)
        with subprocess.Popen(
            place.python(str(place.PEERS / "pinger.py"), SOCKET),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as pinger:
            assert pinger.stdin is not None
            assert pinger.stdout is not None
            if pinger.stdout.readline() != "ready\n":
                raise Failed("the other client did not start")
            _made(client, _V4, routes)
            pinger.stdin.close()
            worst.append(float(pinger.stdout.read()) * 1000)
        peaks.append(place.memory_kib(pid, "VmHWM") / 1024)
    yield Result("ping-meanwhile", worst, {"worst_of_all_ms": max(worst)})
    yield Result("memory-meanwhile", peaks, {"median_mib": median(peaks)})

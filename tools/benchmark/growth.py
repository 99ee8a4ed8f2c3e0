"""How the cost of a call grows with what there is: a power law fitted to a few sizes.

An exponent of 1 means twice as long for twice as much, 0 that it does not matter.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from math import log
from statistics import median
from typing import Any, Final

from coentro.client import Client
from tools.benchmark import place
from tools.benchmark.place import PING, SOCKET, seconds
from tools.benchmark.routes import v4

ROUTES: Final = (10, 1_000, 100_000, 1_000_000)
CONNECTIONS: Final = (1, 100, 1_000)
TUNNELS: Final = (1, 8, 64)


def measure() -> Iterator[dict[str, Any]]:
    """`{what, work, exponent, seconds}`, the last by size."""
    with place.helper(), Client(SOCKET, place.TIMEOUT_S) as client:
        yield from _routes(client)
        yield from _connections()
        yield from _tunnels(client)


def exponent(took: Mapping[int, float]) -> float:
    """The slope of a straight line through the logarithms, by least squares."""
    xs, ys = [log(size) for size in took], [log(one) for one in took.values()]
    x, y = sum(xs) / len(xs), sum(ys) / len(ys)
    over = sum((a - x) * (b - y) for a, b in zip(xs, ys, strict=True))
    return over / sum((a - x) ** 2 for a in xs)


def _fitted(what: str, works: Mapping[str, Mapping[int, float]]) -> Iterator[dict[str, Any]]:
    for work, took in works.items():
        yield {"what": what, "work": work, "exponent": exponent(took), "seconds": dict(took)}


def _routes(client: Client) -> Iterator[dict[str, Any]]:
    works: dict[str, dict[int, float]] = {"create": {}, "change one of them": {}, "destroy": {}}
    for size in ROUTES:
        rounds = 9 if size <= 1_000 else 3 if size <= 100_000 else 1
        routes = v4(size)
        taken = [_one(client, routes) for _ in range(rounds)]
        for work, took in zip(works, zip(*taken, strict=True), strict=True):
            works[work][size] = median(took)
    yield from _fitted("routes", works)


def _one(client: Client, routes: Sequence[str]) -> tuple[float, float, float]:
    """Create, change and destroy of one tunnel."""
    made = []
    create = seconds(lambda: made.append(client.create(addresses=["192.0.2.2/32"], routes=routes)))
    params = {"id": made[0].id, "add": ["198.18.0.0/15"], "remove": [routes[len(routes) // 2]]}
    change = seconds(lambda: client.call("tunnel.routes", params))
    return create, change, seconds(made[0].close)


def _connections() -> Iterator[dict[str, Any]]:
    works: dict[str, dict[int, float]] = {"open all, a ping on each": {}, "a ping beside the others": {}}
    opened, beside = works.values()
    for size in CONNECTIONS:
        with ExitStack() as stack:
            wires = [stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(size)]
            opened[size] = seconds(partial(_open, wires))
            beside[size] = median(seconds(partial(_ping, wires[0])) for _ in range(999))
    yield from _fitted("connections", works)


def _open(wires: Sequence[socket.socket]) -> None:
    for wire in wires:
        wire.connect(SOCKET)
        _ping(wire)


def _ping(wire: socket.socket) -> None:
    wire.sendall(PING)
    wire.recv(4096)


def _tunnels(client: Client) -> Iterator[dict[str, Any]]:
    works: dict[str, dict[int, float]] = {"create the last": {}, "change it": {}, "destroy it": {}}
    for size in TUNNELS:
        with ExitStack() as stack:
            for number in range(size - 1):
                spec = {"addresses": [f"192.0.2.{number + 3}/32"], "routes": [f"10.{number + 100}.0.0/16"]}
                stack.enter_context(client.create(**spec))
            rounds = [_one(client, v4(100)) for _ in range(9)]
        for work, took in zip(works, zip(*rounds, strict=True), strict=True):
            works[work][size] = median(took)
    yield from _fitted("tunnels", works)

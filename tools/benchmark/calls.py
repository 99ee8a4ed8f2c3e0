"""Calls: one after the other beside a raw echo, many at once beside Go, and what one at rest costs."""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections.abc import Iterator
from statistics import median
from typing import Final

from tools.benchmark import place
from tools.benchmark.place import PEERS, PING, PLACE, SOCKET, Failed, memory_kib, seconds
from tools.benchmark.rounds import ratios
from tools.benchmark.rows import Result

ECHO: Final = str(PLACE / "echo.sock")
GO: Final = str(PLACE / "go.sock")
GO_PING: Final = b'{"method":"Session.Ping","params":[{}],"id":1}\n'
OUTSTANDING: Final = 128
EVENTS: Final = 1_024  # that the helper remembers


def measure(short: bool) -> Iterator[Result]:
    rounds = 3 if short else 9
    go = _go()
    with place.helper() as (helper, wire):
        with place.peer(place.python(str(PEERS / "echo.py"), ECHO), ECHO) as (echo, other):
            yield _sequential(helper.pid, wire, echo.pid, other, rounds, 300 if short else 3_000)
        if go is None:
            yield Result("pipelined", why="go is not installed (Debian: golang-go)")
        else:
            with place.peer([go, GO], GO) as (server, other):
                count = 2_000 if short else 30_000
                yield _pipelined(helper.pid, wire, server.pid, other, rounds, count)
        yield _idle_connections(helper.pid, 100 if short else 1_000, 2 if short else 5)


def _cpus() -> tuple[int, int]:
    """One for a server, one for its client; the same where there is but one."""
    cpus = sorted(os.sched_getaffinity(0))
    return cpus[0], cpus[-1]


def _sequential(
    helper: int, wire: socket.socket, echo: int, other: socket.socket, rounds: int, count: int
) -> Result:
    """Server and client on one CPU: across two, waking an idle one up is most of what is measured."""
    cpu, _ = _cpus()
    before = os.sched_getaffinity(0)
    for pid in (0, helper, echo):
        os.sched_setaffinity(pid, {cpu})
    try:
        return ratios("ping", rounds, lambda: _pings(wire, count), lambda: _pings(other, count), unit="us")
    finally:
        for pid in (0, helper):
            os.sched_setaffinity(pid, before)


def _pings(wire: socket.socket, count: int) -> float:
    """The median round trip, in microseconds."""
    took = []
    for _ in range(count):
        began = time.perf_counter_ns()
        wire.sendall(PING)
        wire.recv(4096)
        took.append(time.perf_counter_ns() - began)
    return median(took) / 1000


def _pipelined(
    helper: int, wire: socket.socket, server: int, other: socket.socket, rounds: int, count: int
) -> Result:
    """Each server on one CPU, the client on another."""
    first, last = _cpus()
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {last})
    for pid in (helper, *map(int, os.listdir(f"/proc/{server}/task"))):
        os.sched_setaffinity(pid, {first})
    try:
        return ratios(
            "pipelined",
            rounds,
            lambda: _rate(wire, PING, count),
            lambda: _rate(other, GO_PING, count),
            unit="calls_per_s",
        )
    finally:
        for pid in (0, helper):
            os.sched_setaffinity(pid, before)


def _rate(wire: socket.socket, request: bytes, count: int) -> float:
    """Calls a second, OUTSTANDING of them under way at any time."""

    def work() -> None:
        wire.sendall(request * OUTSTANDING)
        sent, answered = OUTSTANDING, 0
        while answered < count:
            data = wire.recv(1 << 16)
            if not data:
                raise Failed("a server hung up in the middle of its calls")
            lines = data.count(b"\n")
            answered += lines
            more = min(lines, count - sent)
            if more:
                wire.sendall(request * more)
                sent += more

    return count / seconds(work)


def _go() -> str | None:
    """Go's server, built; None where there is no Go."""
    if shutil.which("go") is None:
        return None
    program = PLACE / "jsonrpc"
    # Without modules and with a cache of its own: nothing is fetched, nothing is left.
    flags = {"GO111MODULE": "off", "GOCACHE": str(PLACE / "go-cache"), "GOFLAGS": ""}
    argv = ("go", "build", "-o", str(program), str(PEERS / "jsonrpc.go"))
    place.run(*argv, env={**place.environment(), "HOME": str(PLACE), **flags})
    return str(program)


def _idle_connections(pid: int, count: int, rounds: int) -> Result:
    """What the process grows by for each. Events of earlier ones are remembered before it is measured."""
    for _ in range(EVENTS // 2 + 1):
        with socket.socket(socket.AF_UNIX) as wire:
            wire.connect(SOCKET)
            _ping(wire)
    grown = []
    for _ in range(rounds):
        before = memory_kib(pid)
        wires = []
        try:
            for _ in range(count):
                wires.append(socket.socket(socket.AF_UNIX))
                wires[-1].connect(SOCKET)
                _ping(wires[-1])
            grown.append((memory_kib(pid) - before) / count)
        finally:
            for wire in wires:
                wire.close()
        with socket.socket(socket.AF_UNIX) as wire:
            wire.connect(SOCKET)
            _ping(wire)  # behind the ends of all the others
    # Later rounds find the memory that the first one left to the process.
    return Result("idle-connection", grown[:1], {"connections": count, "later_rounds_kib": grown[1:]})


def _ping(wire: socket.socket) -> None:
    wire.sendall(PING)
    if not wire.recv(4096):
        raise Failed("the helper hung up")

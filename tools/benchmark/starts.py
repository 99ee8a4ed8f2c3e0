"""Starts: the helper until its first answer, and one command of coentroctl."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

from tools.benchmark import place
from tools.benchmark.place import PING, memory_kib, run, seconds
from tools.benchmark.rounds import ratios
from tools.benchmark.rows import Result


def measure(short: bool) -> Iterator[Result]:
    rounds = 2 if short else 15
    idle: list[float] = []
    first_answer(idle)  # once for the page cache
    idle.clear()
    yield ratios("start", rounds, lambda: first_answer(idle), lambda: bare("import trio"))
    yield Result("idle-helper", idle)
    status = place.python("-m", "coentro.ctl", "status", "--output", "json")
    with place.helper():
        yield ratios("status", rounds, lambda: command(status), lambda: bare("pass"))


def bare(code: str) -> float:
    return seconds(lambda: run(sys.executable, "-I", "-c", code))


def command(argv: list[str]) -> float:
    return seconds(lambda: run(*argv, env=place.environment()))


def first_answer(idle: list[float]) -> float:
    """From nothing to the answer to a ping; notes the MiB of the helper that then has nothing to do."""
    began = time.perf_counter()
    with place.helper(configured=False) as (process, wire):
        wire.sendall(PING)
        wire.recv(4096)
        took = time.perf_counter() - began
        idle.append(memory_kib(process.pid) / 1024)
    return took

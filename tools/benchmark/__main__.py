"""The command: goes into namespaces, measures there, and tells it outside."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NoReturn

from tools import demo_enclosure as enclosure
from tools.benchmark.rows import ROWS, Result, as_json, table

PROJECT: Final = Path(__file__).resolve().parent.parent.parent
PARTS: Final = ("routes", "commands", "calls", "starts", "growth")


def main() -> int:
    parser = argparse.ArgumentParser("tools/bench", description="Ratios of the helper to what does the same.")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write all figures there too")
    parser.add_argument("--short", action="store_true", help="only see that it works: seconds, no verdicts")
    parser.add_argument("--only", choices=PARTS, help="one part of the work alone")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        inside(options.short, options.only)
    try:
        way = enclosure.find()
        told = list(outside(way, sys.argv[1:]))
    except enclosure.Cannot as fault:
        print(f"bench: {fault}", file=sys.stderr)
        return enclosure.CANNOT
    except KeyboardInterrupt:
        return 130
    except subprocess.CalledProcessError:
        return 1  # what it said is on stderr
    rows = [one["row"] for one in told if "row" in one]
    growth = [one["growth"] for one in told if "growth" in one]
    for line in table(rows):
        print(line)
    if growth:
        print()
        for one in growth:
            print(_grown(one))
    if options.json is not None:
        whole = {"short": options.short, "machine": machine(), "rows": rows, "growth": growth}
        options.json.write_text(json.dumps(whole, indent=2) + "\n")
    return 0


def outside(way: enclosure.Way, arguments: list[str]) -> Iterator[dict[str, Any]]:
    """Have it measured inside; what it tells, as it comes. Errors: CalledProcessError."""
    ourselves = [sys.executable, "-P", "-m", "tools.benchmark", "--inside", *arguments]
    argv = ["setpriv", "--pdeathsig", "KILL", "unshare", *way.options, *ourselves]
    search = os.pathsep.join(filter(None, (str(PROJECT), os.environ.get("PYTHONPATH"))))
    with subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": search},
    ) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                yield json.loads(line)
        finally:
            process.kill()  # and by unshare's --kill-child all that is inside
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, argv)


def inside(short: bool, only: str | None) -> NoReturn:
    """A line of JSON for each row, in the order of the table."""
    from tools.benchmark import calls, growth, place, quick, routes, starts

    try:
        place.build()
        parts = (routes.measure, quick.measure, calls.measure, starts.measure)
        results: dict[str, Result] = {}
        for name, measure in zip(PARTS, parts, strict=False):
            if only in (None, name):
                print(f"bench: {name}", file=sys.stderr, flush=True)
                results.update((result.row, result) for result in measure(short))
        for row in ROWS:
            result = results.get(row.name, Result(row.name, why="not asked for"))
            print(json.dumps({"row": as_json(row, result, short)}), flush=True)
        if not short and only in (None, "growth"):
            print("bench: growth", file=sys.stderr, flush=True)
            for one in growth.measure():
                print(json.dumps({"growth": one}), flush=True)
    except (place.Failed, OSError) as fault:
        print(f"bench: {fault}", file=sys.stderr)
        sys.exit(1)
    sys.exit(0)


def machine() -> dict[str, Any]:
    """Of what the figures are, without anything that tells whose it is."""
    return {
        "cpus": os.cpu_count(),
        "kernel": f"{platform.system()} {'.'.join(platform.release().split('.')[:2])}",
        "python": platform.python_version(),
    }


def _grown(one: dict[str, Any]) -> str:
    sizes = ", ".join(f"{int(size):,}: {took * 1000:.3g} ms" for size, took in one["seconds"].items())
    return f"{one['what'] + ', ' + one['work']:<42} ~ n^{one['exponent']:.2f}   {sizes}"


if __name__ == "__main__":
    sys.exit(main())

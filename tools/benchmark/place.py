"""Where it is measured: a host in namespaces of its own, and the helper as it would be installed."""

from __future__ import annotations

import compileall
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

PLACE: Final = Path("/run/bench")
LIBRARY: Final = PLACE / "lib"
SOCKET: Final = str(PLACE / "helper.sock")
PEERS: Final = Path(__file__).resolve().parent.parent / "bench_peers"
PING: Final = b'{"jsonrpc":"2.0","id":1,"method":"session.ping"}\n'
TIMEOUT_S: Final = 300.0

# Beyond the defaults for what is asked here: a million routes in a line, 64 tunnels of one uid, no waiting.
CONFIG: Final = """\
[limits]
max_message_bytes = 67108864
connections = 2048
requests_per_s = 1000000
burst = 1000000
tunnels_per_uid = 100
"""


class Failed(Exception):
    """Something could not be measured that should have been; the text says what."""


def build() -> None:
    """This namespace is the host: lo, and a way out so that it is online."""
    os.umask(0o022)
    run("mount", "-t", "tmpfs", "-o", "mode=755", "bench", "/run")
    PLACE.mkdir()
    for line in (
        "link set lo up",
        "link add lan0 type veth peer name lan1",
        "link set lan0 up",
        "link set lan1 up",
        "address add 192.168.77.2/24 dev lan0",
        "route add default via 192.168.77.1",
    ):
        run("ip", *line.split())
    # Compiled, as an installation is; a checkout may not be.
    project = Path(__file__).resolve().parent.parent.parent
    shutil.copytree(project / "coentro", LIBRARY / "coentro", ignore=shutil.ignore_patterns("__pycache__"))
    compileall.compile_dir(LIBRARY, quiet=1)
    (PLACE / "helper.toml").write_text(CONFIG)


def run(*argv: str, stdin: str | None = None, env: Mapping[str, str] | None = None) -> str:
    """What it prints. Errors: Failed with what it said."""
    done = subprocess.run(
        argv, capture_output=True, text=True, timeout=TIMEOUT_S, check=False, input=stdin or "", env=env
    )
    if done.returncode != 0:
        raise Failed(f"{' '.join(argv)[:200]}: {done.stderr.strip()[-2000:] or done.returncode}")
    return done.stdout


def environment() -> dict[str, str]:
    """For programs of ours: nothing of the caller's that makes Python slower or quicker."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    return {**kept, "PYTHONPATH": str(LIBRARY), "COENTRO_SOCKET": SOCKET}


def python(*arguments: str) -> list[str]:
    """With the interpreter that runs this."""
    return [sys.executable, "-P", *arguments]


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def connected(path: str, process: subprocess.Popen[bytes]) -> socket.socket:
    """As soon as somebody listens there. Errors: Failed if that process ends before."""
    deadline = time.monotonic() + 30
    while True:
        wire = socket.socket(socket.AF_UNIX)
        try:
            wire.connect(path)
            return wire
        except (FileNotFoundError, ConnectionRefusedError):
            wire.close()
        if process.poll() is not None or time.monotonic() > deadline:
            raise Failed(f"nobody listens at {path} (exit code {process.poll()})")
        time.sleep(0.0005)


@contextmanager
def peer(argv: Sequence[str], path: str) -> Iterator[tuple[subprocess.Popen[bytes], socket.socket]]:
    """A program that listens at `path`, and a connection to it."""
    Path(path).unlink(missing_ok=True)
    process = subprocess.Popen(argv, env=environment(), stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with connected(path, process) as wire:
            wire.settimeout(TIMEOUT_S)
            yield process, wire
    finally:
        process.terminate()
        process.wait(TIMEOUT_S)


@contextmanager
def helper(*, configured: bool = True) -> Iterator[tuple[subprocess.Popen[bytes], socket.socket]]:
    """The helper, and the first connection to it. Not `configured`: with its defaults."""
    state = PLACE / "state"
    state.mkdir(mode=0o700, exist_ok=True)
    options = ["--socket", SOCKET, "--state-dir", str(state), "--log-level", "error"]
    options += ["--config", str(PLACE / "helper.toml")] if configured else []
    with peer(python("-m", "coentro.helper", *options), SOCKET) as (process, wire):
        yield process, wire
    with suppress(FileNotFoundError):
        os.unlink(SOCKET)


def memory_kib(pid: int, field: str = "VmRSS") -> int:
    """A field of /proc/PID/status, in KiB (proc(5))."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0])
    raise Failed(f"/proc/{pid}/status has no {field}")


def forget_peak(pid: int) -> None:
    """Begin VmHWM anew (proc(5), clear_refs)."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")

"""A tunnel up and down by commands: coentroctl beside wg-quick, which starts wireguard-go.

coentroctl starts no engine here: what is compared is the host's side of a tunnel.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from statistics import median
from typing import Final

from tools.benchmark import place
from tools.benchmark.place import PLACE, Failed, seconds
from tools.benchmark.rounds import ratios
from tools.benchmark.routes import v4
from tools.benchmark.rows import Result

INTERFACE: Final = "bench1"
ENDPOINT: Final = "203.0.113.7"
ADDRESS: Final = "10.99.0.2/32"
_WG_QUICK: Final = PLACE / f"{INTERFACE}.conf"
_PROFILE: Final = PLACE / "bench.toml"
_CTL: Final = place.python("-m", "coentro.ctl")


def measure(short: bool) -> Iterator[Result]:
    rows = (("up-down", 1, 2 if short else 9), ("up-down-many", 20 if short else 1_000, 1 if short else 2))
    missing = [name for name in ("wg-quick", "wg", "wireguard-go") if shutil.which(name) is None]
    if missing:
        why = f"{' and '.join(missing)} not installed (Debian: wireguard-tools, wireguard-go)"
        yield from (Result(name, why=why) for name, _, _ in rows)
        return
    note = {"engine": "the kernel's WireGuard" if _kernel_has_it() else "wireguard-go"}
    with place.helper():
        for name, count, rounds in rows:
            _write(v4(count))
            result = ratios(name, rounds, lambda: seconds(_ours), lambda: seconds(_theirs))
            result.detail.update(
                note, ours_until_ctrl_c_s=median(seconds(_until_ctrl_c) for _ in range(rounds))
            )
            yield result


def _kernel_has_it() -> bool:
    """wg-quick starts wireguard-go only where the kernel can't do it."""
    try:
        place.run("ip", "link", "add", "bench2", "type", "wireguard")
    except Failed:
        return False
    place.run("ip", "link", "delete", "bench2")
    return True


def _write(routes: Sequence[str]) -> None:
    key = place.run("wg", "genkey").strip()
    peer = place.run("wg", "pubkey", stdin=place.run("wg", "genkey")).strip()
    _WG_QUICK.touch(mode=0o600)
    _WG_QUICK.write_text(
        f"[Interface]\nPrivateKey = {key}\nAddress = {ADDRESS}\nMTU = 1420\n\n"
        f"[Peer]\nPublicKey = {peer}\nEndpoint = {ENDPOINT}:51820\nAllowedIPs = {', '.join(routes)}\n"
    )
    listed = ", ".join(f'"{route}"' for route in routes)
    _PROFILE.write_text(
        f'name = "bench"\naddresses = ["{ADDRESS}"]\nroutes = [{listed}]\nendpoints = ["{ENDPOINT}"]\n'
    )


def _ours() -> None:
    """`up` until it says so, `down` until both have ended."""
    with _up():
        place.run(*_CTL, "down", "bench", env=place.environment())


def _until_ctrl_c() -> None:
    """`up` until it says so, and Ctrl-C: without the start of a second interpreter."""
    with _up() as up:
        up.send_signal(signal.SIGINT)


def _up() -> subprocess.Popen[bytes]:
    """`up`, once it has said that the tunnel is."""
    argv = [*_CTL, "up", str(_PROFILE)]
    up = subprocess.Popen(argv, env=place.environment(), stdout=subprocess.PIPE)
    assert up.stdout is not None
    if b" is up" not in (line := up.stdout.readline()):
        up.kill()
        raise Failed(f"coentroctl up said {line!r}")
    return up


def _theirs() -> None:
    environment = {**place.environment(), "WG_QUICK_USERSPACE_IMPLEMENTATION": "wireguard-go"}
    place.run("wg-quick", "up", str(_WG_QUICK), env=environment)
    place.run("wg-quick", "down", str(_WG_QUICK), env=environment)

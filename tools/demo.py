"""The demo: a tunnel for an unprivileged process, packets through it, kill -9, and nothing left.

Every line that it prints is something that was looked at, and the exit code says whether all held.
"""

from __future__ import annotations

import hashlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from coentro.client import Client, HelperGone
from tools import demo_enclosure as enclosure
from tools import demo_world as world
from tools.demo_enclosure import CANNOT, Cannot
from tools.demo_world import BEHIND, PLACE, PUBLIC, SERVER, Failed, Program, Who

OURSELVES: Final = (sys.executable, "-m", "tools.demo")
SOCKET: Final = "/run/coentrovpn/helper.sock"
PORT: Final = 5555
SINK_PORT: Final = 5001
SIZE: Final = 20_000_000
PROFILE: Final = f"""\
name = "demo"
addresses = ["10.99.0.2/24"]
routes = ["0.0.0.0/0"]
endpoints = [{{ address = "{SERVER}", port = {PORT}, protocol = "udp" }}]
"""

FANCY: Final = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
YES, NO = ("✓", "✗") if FANCY else ("ok", "NO")


class Story:
    """What is told, and whether all of it held."""

    def __init__(self) -> None:
        self.held = True

    def check(self, held: bool, text: str) -> None:
        self.held &= held
        print(f" {YES if held else NO} {text}", flush=True)

    def compare(self, states: dict[str, dict[str, list[str]]]) -> None:
        before, during, after = states.values()
        print(f"\n   {'what':<20}{'before':>8}{'tunnel':>8}{'after':>8}   same as before")
        for what in before:
            same = before[what] == after[what]
            self.held &= same
            counts = "".join(f"{len(s[what]):>8}" for s in (before, during, after))
            print(f"   {what:<20}{counts}   {YES if same else NO}")
            for sign, lines, others in (("-", before, after), ("+", after, before)):
                for line in lines[what]:
                    if line not in others[what]:
                        print(f"      {sign} {line}")
        print(flush=True)


def main() -> int:
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]  # nobody has put another stdout there
    try:
        if sys.argv[1:2] == ["--inside"]:
            return inside(sys.argv[2])
        if sys.argv[1:2] == ["--sink"]:
            return sink()
        way = enclosure.find()
        return enclosure.enter(way, [*OURSELVES, "--inside", way.uids])
    except Cannot as fault:
        print(f"demo: {fault}", file=sys.stderr)
        return CANNOT
    except (Failed, HelperGone, OSError, subprocess.TimeoutExpired) as fault:
        print(f" {NO} {fault}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def inside(uids: str) -> int:
    began = time.monotonic()
    world.check_tun()
    world.build()
    story = Story()
    dash, arrow = ("──", "→") if FANCY else ("--", "->")
    print("Everything happens in namespaces made for it; this machine's own network is not touched.\n")
    hosts = ("client 192.168.77.2", "router", f"{SERVER} VPN server", f"{BEHIND}, {PUBLIC} (only there)")
    print(f"   {f' {dash} '.join(hosts)}\n")
    programs: list[Program] = []
    try:
        tell(story, uids, programs, arrow)
    finally:
        for program in programs:
            program.process.kill()
            program.process.wait()
    print(f" {YES if story.held else NO} {time.monotonic() - began:.1f} s", flush=True)
    return 0 if story.held else 1


def tell(story: Story, uids: str, programs: list[Program], arrow: str) -> None:
    who, python = world.somebody(uids)
    states = {"before": world.host()}
    story.check(world.ping(PUBLIC, 1, 0.5) == [None], f"without a tunnel {PUBLIC} does not answer")

    helper = start_helper(who)
    programs.append(helper)
    programs.append(start_server())
    events = connect(helper)
    story.check(True, f"the helper (root of its namespace, pid {helper.process.pid}) answers on {SOCKET}")

    client = start_client(who, python)
    programs.append(client)
    try:
        client.until("is connected to", 10)
    except Failed as fault:
        raise Failed(f"{fault}\nthe helper said:\n{drained(helper)}") from None
    engine = child_of(client.process.pid)
    up = client.until(" is up: ").removeprefix("coentroctl: ")
    if who.why is not None:
        print(f"   ({who.why})")
    story.check(True, f"coentroctl run, {who.said}: {up}")
    story.check(*engine_is_harmless(engine, who))

    device = up.split(" is up: ")[1].split(",")[0]
    look(story, device, arrow)
    states["during"] = world.host()
    transfer(story)

    began = time.monotonic()
    os.killpg(client.process.pid, signal.SIGKILL)  # coentroctl and the engine alike
    client.process.wait()
    reap(engine)
    why = until_down(events)
    took_ms = (time.monotonic() - began) * 1000
    down = f"tunnel.down after {took_ms:.0f} ms: {why}" if why else "but no tunnel.down"
    story.check(why is not None, f"kill -9 of both {arrow} {down}")
    states["after"] = world.host()
    story.compare(states)

    helper.process.terminate()
    code = helper.process.wait(timeout=10)
    story.check(code == 0, f"SIGTERM {arrow} the helper ends with {code}")


def start_helper(who: Who) -> Program:
    config = PLACE / "helper.toml"
    # 0666: the daemon itself decides who may connect, by the kernel's word on who is calling.
    config.write_text(f'[socket]\nmode = "0666"\n\n[access]\nuids = [{who.uid}]\n')
    Path(SOCKET).parent.mkdir(mode=0o755)
    (PLACE / "state").mkdir(mode=0o700)
    where = ("--socket", SOCKET, "--state-dir", str(PLACE / "state"), "--config", str(config))
    return Program("the helper", [sys.executable, "-m", "coentro.helper", *where])


def start_server() -> Program:
    """The other end: its own TUN, which needs no helper since this is all the host does."""
    far = ["nsenter", "--net=/run/netns/server", sys.executable, str(world.LIBRARY / "dataplane.py")]
    server = Program("the server", [*far, "server", "--listen", f"{SERVER}:{PORT}", "--tun", "tun0"])
    server.until("is open")
    for line in ("address add 10.99.0.1/24 dev tun0", "link set tun0 mtu 1420 up"):
        world.run("ip", "-n", "server", *line.split())
    return server


def connect(helper: Program) -> Client:
    """Wait for the helper to say that it is ready, and for what will be told of the tunnel's end."""
    helper.until("ready: ")
    client = Client(SOCKET)
    client.subscribe(["tunnel.down"])
    return client


def drained(program: Program) -> str:
    """All that a program said, after it was ended."""
    program.process.kill()
    return program.said + program.process.communicate()[0].decode(errors="backslashreplace")


def start_client(who: Who, python: str) -> Program:
    profile = PLACE / "vpn.toml"
    profile.write_text(PROFILE)
    engine = [python, str(world.LIBRARY / "dataplane.py"), "client", "--server", f"{SERVER}:{PORT}"]
    ours = [python, "-m", "coentro.ctl", "--socket", SOCKET, "run", str(profile), "--", *engine]
    return Program("the client", [*who.prefix, *ours], HOME="/", SUDO_UID="")


def child_of(pid: int) -> int:
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            text = status.read_text()
        except OSError:
            continue
        if f"\nPPid:\t{pid}\n" in text:
            return int(status.parent.name)
    raise Failed("coentroctl has no child: where is the engine?")


def engine_is_harmless(pid: int, who: Who) -> tuple[bool, str]:
    process = Path(f"/proc/{pid}")
    lines = (process / "status").read_text().splitlines()
    status = {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
    capabilities = {int(status[f"Cap{which}"], 16) for which in ("Inh", "Prm", "Eff", "Bnd", "Amb")}
    files = {os.readlink(fd) for fd in (process / "fd").iterdir()}
    held = (
        set(status["Uid"].split()) == {str(who.uid)}
        and capabilities == {0}
        and status["NoNewPrivs"] == "1"
        and "/dev/net/tun" in files
    )
    told = f"uid {who.uid}, no capabilities, no way to gain any, and the TUN's descriptor"
    return held, f"its engine (pid {pid}) has {told}"


def look(story: Story, device: str, arrow: str) -> None:
    shown = " ".join(world.run("ip", "-br", "address", "show", "dev", device).split())
    story.check("10.99.0.2/24" in shown, f"the device: {shown}")
    public, endpoint = (
        world.run("ip", "route", "get", a).split("\n")[0].split(" uid ")[0].strip() for a in (PUBLIC, SERVER)
    )
    story.check(f"dev {device} " in public + " ", f"ip route get: {public}   {arrow} into the tunnel")
    story.check("dev lan0 " in endpoint + " ", f"ip route get: {endpoint}   {arrow} the endpoint stays out")
    trips = world.ping(PUBLIC, 3)
    told = ", ".join("lost" if t is None else f"{t:.2f} ms" for t in trips)
    story.check(None not in trips, f"3 pings of {PUBLIC} through the tunnel: {told}")


def transfer(story: Story) -> None:
    far = ["nsenter", "--net=/run/netns/server", *OURSELVES, "--sink"]
    receiver = Program("the receiver", far)
    receiver.until("listening")
    data = random.Random(20).randbytes(SIZE)  # noqa: S311 # no secret: any bytes that do not compress
    ours = hashlib.sha256(data).hexdigest()
    began = time.monotonic()
    with socket.create_connection((BEHIND, SINK_PORT), timeout=20) as wire:
        wire.sendall(data)
        wire.shutdown(socket.SHUT_WR)
        theirs = b"".join(iter(lambda: wire.recv(4096), b"")).decode()
    took_s = time.monotonic() - began
    receiver.process.wait(timeout=5)
    held = theirs == f"{SIZE} {ours}"
    rate = SIZE * 8 / took_s / 1e6
    told = f"{SIZE / 1e6:.0f} MB over TCP to {BEHIND} in {took_s:.2f} s ({rate:.0f} Mbit/s)"
    same = "the same size and sha256 on both sides" if held else f"but there {theirs}"
    story.check(held, f"{told}: {same} ({ours[:8]}...)")


def sink() -> int:
    """On the server: take a transfer and answer with its size and SHA-256."""
    digest, size = hashlib.sha256(), 0
    with socket.create_server((BEHIND, SINK_PORT)) as listener:
        print("listening", flush=True)
        wire, _ = listener.accept()
    with wire:
        while block := wire.recv(1 << 20):
            digest.update(block)
            size += len(block)
        wire.sendall(f"{size} {digest.hexdigest()}".encode())
    return 0


def reap(engine: int) -> None:
    """Its parent is dead: as the first process of the pid namespace we inherit it."""
    with suppress(ChildProcessError):
        os.waitpid(engine, 0)


def until_down(events: Client) -> str | None:
    while (event := events.next_event(10)) is not None:
        if event["type"] == "tunnel.down":
            return str(event["data"]["why"])
    return None


if __name__ == "__main__":
    sys.exit(main())

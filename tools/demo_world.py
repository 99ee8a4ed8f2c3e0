"""The demo's world: three hosts, what runs on them, and what of a host a tunnel could change."""

from __future__ import annotations

import fcntl
import os
import pwd
import select
import shutil
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from tools.demo_enclosure import Cannot

PLACE: Final = Path("/run/demo")
LIBRARY: Final = PLACE / "lib"
RESOLVER: Final = "nameserver 192.168.77.1\n"
SERVER: Final = "203.0.113.7"
BEHIND: Final = "198.51.100.10"
PUBLIC: Final = "8.8.8.8"

_HOSTS: Final = f"""\
link set lo up
netns add router
netns add server
-n router link set lo up
-n server link set lo up
link add lan0 type veth peer name lan netns router
-n router link add wan type veth peer name wan0 netns server
link set lan0 addrgenmode none up
-n router link set lan addrgenmode none up
-n router link set wan addrgenmode none up
-n server link set wan0 addrgenmode none up
address add 192.168.77.2/24 dev lan0
-n router address add 192.168.77.1/24 dev lan
-n router address add 203.0.113.1/24 dev wan
-n server address add {SERVER}/24 dev wan0
-n server address add {BEHIND}/32 dev lo
-n server address add {PUBLIC}/32 dev lo
route add default via 192.168.77.1
-n server route add default via 203.0.113.1
"""


# The exec after a change of uid is still judged by the old capabilities, and the one after it is not.
_AFRESH: Final = ("sh", "-c", 'exec "$@"', "sh")


class Failed(Exception):
    """Something did not hold or did not start; the text says what."""


class Who(NamedTuple):
    """Whom the client runs as, and how it gets there: `prefix` comes before its command.

    `why`: why it only gives away capabilities, where it could not be somebody else.
    """

    uid: int
    said: str
    prefix: tuple[str, ...]
    why: str | None = None


def run(*argv: str, check: bool = True, stdin: str | None = None) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False, input=stdin)
    if check and done.returncode != 0:
        raise Failed(f"{' '.join(argv)}: {done.stderr.strip() or done.returncode}")
    return done.stdout


def build() -> None:
    """This namespace is the client's host; the router and the server get their own."""
    os.umask(0o022)  # what lies here is for the client's user as well
    # Over /run, so that ip-netns(8) needs nothing of the machine's.
    run("mount", "-t", "tmpfs", "-o", "mode=755", "demo", "/run")
    PLACE.mkdir()
    _resolver()
    for line in _HOSTS.splitlines():
        run("ip", *line.split())
    run("nsenter", "--net=/run/netns/router", "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
    _library()


def _resolver() -> None:
    """A resolv.conf of this host's own, where the machine has one that can be covered."""
    target = Path(os.path.realpath("/etc/resolv.conf"))
    if target.is_relative_to("/run"):
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(RESOLVER)
    elif target.is_file():
        ours = PLACE / "resolv.conf"
        ours.write_text(RESOLVER)
        run("mount", "--bind", str(ours), str(target))


def _library() -> None:
    """The client's code where any user can read it: a checkout below /root is root's alone."""
    project = Path(__file__).resolve().parent.parent
    shutil.copytree(project / "coentro", LIBRARY / "coentro", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(project / "tools" / "dataplane.py", LIBRARY)
    for folder, _, files in os.walk(LIBRARY):
        Path(folder).chmod(0o755)
        for name in files:
            (Path(folder) / name).chmod(0o644)


def check_tun() -> None:
    """Errors: Cannot, with what to do."""
    try:
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        raise Cannot(
            "there is no /dev/net/tun: `sudo modprobe tun`; in a container, --device /dev/net/tun"
        ) from None
    except OSError as fault:
        raise Cannot(
            f"/dev/net/tun can't be opened ({fault.strerror}):"
            " run this as root, or `sudo chmod 0666 /dev/net/tun`"
            " as most distributions have it (udev's rule; the device gives nothing without CAP_NET_ADMIN)"
        ) from None
    try:
        fcntl.ioctl(
            fd, 0x400454CA, struct.pack("16sH22x", b"probe", 0x1001)
        )  # TUNSETIFF, IFF_TUN | IFF_NO_PI
    except OSError as fault:
        raise Cannot(f"no TUN can be made here: {fault.strerror}; run this as root") from None
    finally:
        os.close(fd)


def somebody(uids: str) -> tuple[Who, str]:
    """Who the client is, and the Python that this somebody can run."""
    drop = (
        "setpriv", "--no-new-privs", "--inh-caps=-all", "--ambient-caps=-all", "--bounding-set=-all", *_AFRESH
    )  # fmt: skip
    said = "with all capabilities dropped"
    if uids == "one":
        why = "this user namespace has but one uid (newuidmap or /etc/subuid is missing)"
        return Who(0, said, drop, why), sys.executable
    entry = _unprivileged()
    prefix = (
        "setpriv", f"--reuid={entry.pw_uid}", f"--regid={entry.pw_gid}", "--clear-groups",
        "--inh-caps=-all", "--bounding-set=-all", *_AFRESH,
    )  # fmt: skip
    who = Who(entry.pw_uid, f"as {entry.pw_name} (uid {entry.pw_uid})", prefix)
    for python in (sys.executable, os.path.realpath(sys.executable), "/usr/bin/python3"):
        if _runs(who, python):
            return who, python
    why = f"{entry.pw_name} can run no Python here: they lie below a directory that is root's alone"
    # In a user namespace of its own, where coentroctl finds one uid and nobody to become.
    return Who(0, said, ("unshare", "--user", "--map-root-user", *drop), why), sys.executable


def _unprivileged() -> pwd.struct_passwd:
    """The user behind sudo, else nobody."""
    uid = os.environ.get("SUDO_UID", "")
    if uid.isdigit() and int(uid):
        try:
            return pwd.getpwuid(int(uid))
        except KeyError:
            pass
    return pwd.getpwnam("nobody")


def _runs(who: Who, python: str) -> bool:
    code = "import sys; sys.version_info < (3, 11) and sys.exit(1); import coentro.ctl.main"
    argv, env = [*who.prefix, python, "-c", code], {**os.environ, "PYTHONPATH": str(LIBRARY)}
    return subprocess.run(argv, capture_output=True, timeout=20, check=False, env=env).returncode == 0


class Program:
    """Something that runs and says when it is ready; `said` is all that it printed."""

    def __init__(self, name: str, argv: Sequence[str], **env: str) -> None:
        self.name = name
        self.said = ""
        self.process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": str(LIBRARY), "PYTHONUNBUFFERED": "1", **env},
        )  # fmt: skip

    def until(self, text: str, within_s: float = 10) -> str:
        """The first line that holds `text`. Errors: Failed, with what it said instead."""
        assert self.process.stdout is not None
        fd, deadline = self.process.stdout.fileno(), time.monotonic() + within_s
        while True:
            for line in self.said.splitlines():
                if text in line:
                    return line
            left = deadline - time.monotonic()
            if left <= 0:
                raise Failed(f"{self.name} did not say {text!r} within {within_s:g} s, but:\n{self.said}")
            if not select.select([fd], [], [], left)[0]:
                continue
            if not (more := os.read(fd, 65536)):
                raise Failed(f"{self.name} ended with {self.process.wait()}:\n{self.said}")
            self.said += more.decode(errors="backslashreplace")


def host() -> dict[str, list[str]]:
    """Everything of this host that a tunnel could leave something in."""
    both = ("-4", "-6")
    resolver = Path("/etc/resolv.conf")
    return {
        "links": run("ip", "-o", "link").splitlines(),
        "addresses": run("ip", "-o", "address").splitlines(),
        "routes, all tables": [r for f in both for r in _lines("ip", f, "route", "show", "table", "all")],
        "rules": [r for f in both for r in _lines("ip", f, "rule")],
        "resolver": resolver.read_text().splitlines() if resolver.exists() else [],
    }  # fmt: skip


def _lines(*argv: str) -> list[str]:
    """None where the kernel has no such family."""
    return run(*argv, check=False).splitlines()


def ping(address: str, count: int, within_s: float = 2) -> list[float | None]:
    """Round trips in ms, None for each that was not answered (RFC 792; no ping program is needed)."""
    trips: list[float | None] = []
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as wire:
        for number in range(count):
            body = struct.pack("!HH", os.getpid() & 0xFFFF, number) + bytes(48)
            echo = struct.pack("!BBH", 8, 0, _checksum(b"\x08\0\0\0" + body)) + body
            began = time.monotonic()
            try:
                wire.sendto(echo, (address, 0))
                trips.append(_answer(wire, address, body, began, within_s))
            except OSError:  # no way there
                trips.append(None)
    return trips


def _answer(wire: socket.socket, address: str, body: bytes, began: float, within_s: float) -> float | None:
    while (left := began + within_s - time.monotonic()) > 0:
        wire.settimeout(left)
        try:
            packet, sender = wire.recvfrom(2048)
        except TimeoutError:
            return None
        message = packet[(packet[0] & 15) * 4 :]
        if sender[0] == address and message[:1] == b"\0" and message[4:] == body:
            return (time.monotonic() - began) * 1000
    return None


def _checksum(data: bytes) -> int:
    """RFC 1071, of an even number of bytes."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF

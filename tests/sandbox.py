"""What a test in a network namespace of its own has at hand.

`host_state` tells all that a test compares byte for byte before and after; `Namespaces` makes
the other ends of a topology; `run_helper` starts the real helper; `as_user` is somebody else.
Everything here refuses to work outside of a sandbox, so that a forgotten marker can't change
the machine's own network.
"""

from __future__ import annotations

import fcntl
import json
import os
import pickle
import select
import signal
import socket as sockets
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NoReturn, ParamSpec, Self, TypeVar

from attrs import define, field, frozen

from tests import enclosure, reachable
from tests.forked import quiet_fork

P = ParamSpec("P")
T = TypeVar("T")
Completed = subprocess.CompletedProcess[str]

PROJECT: Final = Path(__file__).parent.parent
PYTHONPATH: Final = os.pathsep.join(filter(None, (str(PROJECT), os.environ.get("PYTHONPATH"))))
"""For a Python started in a test, wherever it stands: the project, then what pytest was given."""
PLACE: Final = Path("/run/coentro-test")
"""Sockets and state directories: under the private /run, where every uid gets through."""

_TIMEOUT_S: Final = 20.0
_TUNSETIFF: Final = 0x400454CA
_IFF_TUN_NO_PI: Final = 0x1001
_UNIX_ACCEPTS: Final = 0x00010000  # __SO_ACCEPTCON in /proc/net/unix


class Missing(Exception):
    """The machine lacks something that a test needs; the text says what to do."""


def check_inside() -> None:
    """AssertionError in the network that pytest itself was started in."""
    assert _in_own_network(), (
        "this would change the machine's own network: mark the test `netns`, or move it to tests/netns/"
    )


def run(
    *argv: str,
    check: bool = True,
    timeout: float = _TIMEOUT_S,
    stdin: str | None = None,
    env: Mapping[str, str] | None = None,
) -> Completed:
    """Run a command in the test's own namespace. Errors: AssertionError with what it printed."""
    check_inside()
    return _run(argv, check=check, timeout=timeout, stdin=stdin, env=env)


def veth(name: str, peer: str, ours: Namespace | None = None, theirs: Namespace | None = None) -> None:
    """A pair of virtual Ethernet interfaces, both up; None: the test's own namespace."""
    run("ip", "link", "add", name, "type", "veth", "peer", "name", peer)
    for end, where in ((name, ours), (peer, theirs)):
        if where is None:
            run("ip", "link", "set", end, "up")
        else:
            run("ip", "link", "set", end, "netns", where.name)
            where.run("ip", "link", "set", end, "up")


@frozen
class Namespace:
    """A further network namespace, by its name as ip-netns(8) knows it."""

    name: str

    def run(
        self, *argv: str, check: bool = True, timeout: float = _TIMEOUT_S, stdin: str | None = None
    ) -> Completed:
        """Run a command in it. Errors: AssertionError with what it printed."""
        return run("ip", "netns", "exec", self.name, *argv, check=check, timeout=timeout, stdin=stdin)

    def start(self, *argv: str, **options: Any) -> subprocess.Popen[bytes]:
        """Start a command in it; the sandbox ends it at the latest."""
        check_inside()
        return subprocess.Popen(("ip", "netns", "exec", self.name, *argv), **options)

    def call(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """What the function returns, called in a forked child that stands in it."""
        return _in_child(self.enter, lambda: function(*args, **kwargs))

    def enter(self) -> None:
        """Move the calling thread there for good (setns(2))."""
        with open(f"/run/netns/{self.name}", "rb") as handle:
            enclosure.setns(handle.fileno(), enclosure.CLONE_NEWNET)


@define
class Namespaces:
    """Makes further namespaces and removes them at the end."""

    _made: list[Namespace] = field(factory=list, init=False)

    def new(self, name: str) -> Namespace:
        """A namespace with lo up and without waiting for duplicate address detection."""
        run("ip", "netns", "add", name)
        made = Namespace(name)
        self._made.append(made)
        made.call(_furnish)
        return made

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, fault: object, trace: TracebackType | None) -> None:
        for made in self._made:
            run("ip", "netns", "delete", made.name, check=False)


def host_state(*, sysctls: bool = True) -> str:
    """All of the network that a tunnel could leave something in, one object a line.

    Links, addresses, rules in order, routes of all tables and both families, the bytes of
    resolv.conf, the settings under net.ipv4.conf and net.ipv6.conf of every link, forwarding.
    Left out: lifetimes that count down, and the flag that a v6 address is being probed.
    """
    check_inside()
    lines: list[str] = []
    for family in ("-4", "-6"):
        lines += _dump(f"rule{family}", False, "ip", family, "-j", "-d", "rule", "show")
        lines += _dump(f"route{family}", True, "ip", family, "-j", "-d", "route", "show", "table", "all")
    lines += _dump("link", True, "ip", "-j", "-d", "link", "show")
    lines += _dump("address", True, "ip", "-j", "-d", "address", "show")
    resolver = Path("/etc/resolv.conf")
    lines.append(f"resolv.conf {resolver.read_bytes() if resolver.exists() else None!r}")
    if sysctls:
        lines += _sysctls()
    return "\n".join(lines) + "\n"


@frozen
class User:
    """Somebody with these credentials and no privileges."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()

    def call(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """What the function returns, called in a forked child with these credentials.

        Its result or exception comes back by pickle. Errors: AssertionError when the child dies.
        """
        check_inside()
        reachable.open_ways()
        return _in_child(self.become, lambda: function(*args, **kwargs))

    def run(self, *argv: str, check: bool = True, timeout: float = _TIMEOUT_S, **env: str) -> Completed:
        """Run a command with these credentials. Errors: AssertionError with what it printed."""
        check_inside()
        reachable.open_ways()
        who = {"user": self.uid, "group": self.gid, "extra_groups": list(self.groups)}
        return _run(
            argv,
            check=check,
            timeout=timeout,
            stdin=None,
            env={**os.environ, "PYTHONPATH": PYTHONPATH, **env},
            **who,
        )

    def become(self) -> None:
        """Take these credentials for good; with the uid all capabilities go (capabilities(7))."""
        os.setgroups(self.groups)
        os.setresgid(self.gid, self.gid, self.gid)
        os.setresuid(self.uid, self.uid, self.uid)


def as_user(uid: int, gid: int | None = None, groups: Sequence[int] = ()) -> User:
    """Somebody else: `as_user(uid).call(function)`, `as_user(uid).run("id")`."""
    return User(uid, uid if gid is None else gid, tuple(groups))


@define
class Helper:
    """A helper that runs: its process, where it listens, where its state is."""

    process: subprocess.Popen[bytes]
    socket: Path
    state_dir: Path
    _log: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def stderr(self) -> str:
        """All that it has written there so far."""
        return self._log.read_text(errors="replace")

    def connect(self, timeout: float = 10.0) -> sockets.socket:
        """A connection of the test's own uid."""
        made = sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM)
        made.settimeout(timeout)
        made.connect(str(self.socket))
        return made

    def kill(self) -> None:
        """SIGKILL, as a crash would have it."""
        self.process.kill()
        self.process.wait(_TIMEOUT_S)

    def stop(self, number: int = signal.SIGTERM, timeout: float = _TIMEOUT_S) -> int:
        """Ask it to end; its exit code. Errors: AssertionError when it does not in time."""
        self.process.send_signal(number)
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"the helper did not end in {timeout:g} s\n{self.stderr}") from None


@contextmanager
def run_helper(
    tmp_path: Path,
    *args: str,
    uid: int | None = None,
    name: str = "helper",
    timeout: float = _TIMEOUT_S,
    env: Mapping[str, str] | None = None,
    wrapper: Sequence[str] = (),
) -> Iterator[Helper]:
    """The real helper as a process in this sandbox, listening before the block begins.

    Socket and state lie under PLACE by `name`, so a second call finds what the first left.
    At the end it gets SIGTERM and must exit 0, unless the block waited for its end itself.
    `wrapper` stands before the command (strace, setpriv).
    """
    check_inside()
    place = PLACE / name
    place.mkdir(parents=True, exist_ok=True)
    state_dir = place / "state"
    state_dir.mkdir(mode=0o700, exist_ok=True)
    who: dict[str, Any] = {}
    if uid is not None:
        reachable.open_ways()
        for folder in (place, state_dir):
            os.chown(folder, uid, uid)
        who = {"user": uid, "group": uid, "extra_groups": []}
    path = place / "helper.sock"
    log = tmp_path / f"{name}-{time.monotonic_ns()}.log"
    argv = (
        *wrapper,
        sys.executable,
        "-P",
        "-m",
        "coentro.helper",
        "--socket",
        str(path),
        "--state-dir",
        str(state_dir),
    )
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            (*argv, "--insecure-development", *args),
            stdin=subprocess.DEVNULL,
            stdout=stderr,
            stderr=stderr,
            env={**os.environ, "PYTHONPATH": PYTHONPATH, **(env or {})},
            cwd="/",
            **who,
        )
    helper = Helper(process, path, state_dir, log)
    try:
        _wait_until_it_listens(helper, timeout)
        yield helper
        if process.returncode is None:
            code = helper.stop()
            assert code == 0, f"the helper exited with {code}\n{helper.stderr}"
    except BaseException as fault:
        fault.add_note(f"--- the helper's stderr\n{helper.stderr}")
        raise
    finally:
        if process.poll() is None:
            helper.stop()


def two_uids() -> tuple[int, int]:
    """Errors: Missing where this sandbox has but one uid."""
    first, second = 61001, 61002
    if not any(first in ids and second in ids for ids in enclosure.mapped_ids()):
        raise Missing(
            "only one uid exists in this user namespace: install uidmap, give this account 65536 ids in "
            "/etc/subuid and /etc/subgid, or run as root"
        )
    return first, second


def check_tun() -> None:
    """Errors: Missing where no TUN can be made."""
    check_inside()
    try:
        device = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    except OSError as fault:
        raise Missing(f"no TUN can be opened ({fault}): modprobe tun, or chmod 0666 /dev/net/tun") from fault
    try:
        fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22x", b"probe%d", _IFF_TUN_NO_PI))
    except OSError as fault:
        raise Missing(f"no TUN can be made in this namespace: {fault}") from fault
    finally:
        os.close(device)


def _run(
    argv: Sequence[str],
    *,
    check: bool,
    timeout: float,
    stdin: str | None,
    env: Mapping[str, str] | None,
    **who: Any,
) -> Completed:
    done = subprocess.run(
        argv,
        check=False,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=timeout,
        input="" if stdin is None else stdin,
        env=env,
        **who,
    )
    if check and done.returncode != 0:
        raise AssertionError(f"{' '.join(argv)} exited with {done.returncode}\n{done.stdout}{done.stderr}")
    return done


def _in_child(prepare: Callable[[], None], function: Callable[[], T]) -> T:
    check_inside()
    reading, writing = os.pipe()
    with quiet_fork():
        pid = os.fork()
    if pid == 0:
        os.close(reading)
        _answer(writing, prepare, function)
    os.close(writing)
    with open(reading, "rb") as pipe:
        data = pipe.read()
    _, status = os.waitpid(pid, 0)
    assert data, f"the child ended without an answer (status {os.waitstatus_to_exitcode(status)})"
    value, fault = pickle.loads(data)  # from our own child
    if fault is not None:
        raise fault
    result: T = value
    return result


def _answer(out: int, prepare: Callable[[], None], function: Callable[[], object]) -> NoReturn:
    answer: tuple[object, BaseException | None]
    try:
        prepare()
        answer = (function(), None)
    except BaseException as fault:  # noqa: BLE001  # all of them go to the parent
        answer = (None, fault)
    try:
        data = pickle.dumps(answer)
    except Exception as fault:  # noqa: BLE001  # pickle raises whatever a __reduce__ does
        data = pickle.dumps((None, AssertionError(f"can't be sent back ({fault}): {answer!r}")))
    with suppress(BaseException), open(out, "wb") as pipe:
        pipe.write(data)
    os._exit(0)


def _furnish() -> None:
    enclosure.loopback_up()
    enclosure.without_dad()


_initial_network: Final = os.stat("/proc/self/ns/net").st_ino if os.path.exists("/proc/self/ns/net") else 0
"""Of the process that imported this: pytest's, since its conftest does."""


def _in_own_network() -> bool:
    return os.stat("/proc/self/ns/net").st_ino != _initial_network


def _dump(what: str, unordered: bool, *argv: str) -> list[str]:
    """One line an object. `ip route` prints in hash order; rules, and what an object holds, keep theirs."""
    done = run(*argv, check=False)
    # `ip -6 -j route` prints half a list and exits 2 where a family has no table at all.
    objects = json.loads(done.stdout) if done.returncode == 0 and done.stdout.strip() else []
    for thing in objects:
        for address in thing.get("addr_info", ()):
            for noise in ("valid_life_time", "preferred_life_time", "tentative"):
                address.pop(noise, None)
        thing.pop("expires", None)
    lines = [f"{what} {json.dumps(thing, sort_keys=True)}" for thing in objects if thing]
    return sorted(lines) if unordered else lines


def _sysctls() -> list[str]:
    lines = []
    for root in ("ipv4", "ipv6"):
        conf = Path("/proc/sys/net") / root / "conf"
        for path in sorted(conf.glob("*/*")):
            try:
                lines.append(f"sysctl {path.relative_to('/proc/sys')} {path.read_text().strip()}")
            except OSError:
                continue  # stable_secret answers EIO until it is set
    return lines


def _wait_until_it_listens(helper: Helper, timeout: float) -> None:
    """Without connecting, so that a test sees no peer but its own."""
    deadline = time.monotonic() + timeout
    ended = os.pidfd_open(helper.pid)
    try:
        while not _listens(helper.socket):
            if select.select([ended], [], [], 0.005)[0]:
                code = helper.process.wait()
                raise AssertionError(f"the helper ended at its start, with {code}")
            assert time.monotonic() < deadline, f"the helper did not listen within {timeout:g} s"
    finally:
        os.close(ended)


def _listens(path: Path) -> bool:
    """Whether a socket file stands there and some socket bound to that path accepts."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            return False
    except FileNotFoundError:
        return False
    for line in Path("/proc/net/unix").read_text().splitlines()[1:]:
        fields = line.split(maxsplit=7)
        if len(fields) == 8 and int(fields[3], 16) & _UNIX_ACCEPTS and Path(fields[7]).name == path.name:
            return True
    return False

"""wireguard-go as `run`'s engine: real packets through the real program, which has no capability.

The other end is another wireguard-go in a namespace of its own, started as its authors mean it.
"""

from __future__ import annotations

import base64
import json
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from attrs import define, frozen

from coentro.client import Client
from tests import enclosure, reachable
from tests.sandbox import PLACE, PYTHONPATH, Helper, Namespace, Namespaces, host_state, run, run_helper, veth

pytestmark = [
    pytest.mark.usefixtures("tun_available"),
    pytest.mark.skipif(
        not all(map(shutil.which, ("wireguard-go", "wg"))),
        reason="apt-get install wireguard-go wireguard-tools",
    ),
]

WAIT_S = 20.0
SERVER = "203.0.113.7"
INSIDE = "10.66.0.1"
BEHIND = "198.51.100.10"
SOCKETS = Path("/run/wireguard")
SETS = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")


@frozen
class Keys:
    private: str
    public: str

    @classmethod
    def new(cls) -> Keys:
        private = run("wg", "genkey").stdout.strip()
        return cls(private, run("wg", "pubkey", stdin=private).stdout.strip())


@define
class World:
    """A helper on this host, and beyond a wire a WireGuard server with 10.66.0.1 behind it."""

    helper: Helper
    server: Namespace
    ours: Keys
    theirs: Keys
    server_process: subprocess.Popen[bytes]

    def config(self, endpoint: str = f"{SERVER}:51820", more: str = "", name: str = "wg.conf") -> Path:
        path = PLACE / name
        path.write_text(
            f"[Interface]\nPrivateKey = {self.ours.private}\n{more}\n"
            f"[Peer]\nPublicKey = {self.theirs.public}\nAllowedIPs = 10.66.0.0/24, 198.51.100.0/24\n"
            f"Endpoint = {endpoint}\n"
        )
        path.chmod(0o600)
        return path

    def profile(self, more: str = "", engine: str = 'config = "wg.conf"') -> Path:
        path = PLACE / "office.toml"
        path.write_text(f'name = "office"\naddresses = ["10.66.0.2/32"]\n{more}\n[engine]\n{engine}\n')
        return path

    def start(
        self, *argv: str, uid: int | None = None, wrapper: Sequence[str] = (), **env: str
    ) -> subprocess.Popen[str]:
        """`coentroctl run` of the profile with these arguments, as root or as somebody."""
        who: dict[str, Any] = {}
        if uid is not None:
            reachable.open_ways()
            for path in PLACE.glob("*.conf"):
                os.chown(path, uid, uid)
            who = {"user": uid, "group": uid, "extra_groups": []}
        return subprocess.Popen(
            [*wrapper, sys.executable, "-P", "-m", "coentro.ctl", "--socket", str(self.helper.socket), "run",
             str(PLACE / "office.toml"), *argv],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd="/",
            env={**os.environ, "PYTHONPATH": PYTHONPATH, **env}, **who,
        )  # fmt: skip

    def done(self, *argv: str, uid: int | None = None, **env: str) -> tuple[int, str]:
        program = self.start(*argv, uid=uid, **env)
        out, _ = program.communicate(timeout=WAIT_S)
        return program.returncode, out


@pytest.fixture
def world(tmp_path: Path, namespaces: Namespaces) -> Iterator[World]:
    PLACE.mkdir(exist_ok=True)
    server = namespaces.new("server")
    veth("wan0", "wan1", None, server)
    run("ip", "address", "add", "203.0.113.1/24", "dev", "wan0")
    server.run("ip", "address", "add", f"{SERVER}/24", "dev", "wan1")
    ours, theirs = Keys.new(), Keys.new()
    process = _serve(server, ours, theirs)
    config = tmp_path / "helper.toml"
    config.write_text('[socket]\nmode = "0666"\n[access]\nuids = [61001]\n')
    try:
        with run_helper(tmp_path, "--config", str(config)) as helper:
            yield World(helper, server, ours, theirs, process)
    finally:
        process.kill()
        process.wait(WAIT_S)


def _serve(server: Namespace, ours: Keys, theirs: Keys) -> subprocess.Popen[bytes]:
    process = server.start("wireguard-go", "-f", "wgs", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until(lambda: run("wg", "show", "wgs", check=False).returncode == 0, "the server's wireguard-go")
    config = PLACE / "server.conf"
    config.write_text(
        f"[Interface]\nPrivateKey = {theirs.private}\nListenPort = 51820\n"
        f"[Peer]\nPublicKey = {ours.public}\nAllowedIPs = 10.66.0.2/32\n"
    )
    run("wg", "setconf", "wgs", str(config))
    config.unlink()
    server.run("ip", "address", "add", f"{INSIDE}/24", "dev", "wgs")
    server.run("ip", "address", "add", f"{BEHIND}/32", "dev", "lo")
    server.run("ip", "link", "set", "wgs", "up")
    return process


def packet_info() -> bool:
    """Whether this wireguard-go wants it: by the version that it prints, and as measured."""
    version = re.search(r"0\.0\.(\d{8})", run("wireguard-go", "--version").stdout)
    assert version is not None
    return int(version[1]) < 20230223


def until(so: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not so():
        assert time.monotonic() < deadline, f"{what}: not in {WAIT_S:g} s"
        time.sleep(0.02)


def said(program: subprocess.Popen[str], text: str) -> list[str]:
    """The lines up to the one with the text."""
    assert program.stdout is not None
    lines: list[str] = []
    for line in program.stdout:
        lines.append(line.rstrip("\n"))
        if text in line:
            return lines
    raise AssertionError(f"{text!r} was not said (exit code {program.wait(WAIT_S)}):\n" + "\n".join(lines))


def engine_of(program: subprocess.Popen[str]) -> int:
    found = [
        int(path.parent.name)
        for path in Path("/proc").glob("[0-9]*/status")
        if f"\nPPid:\t{program.pid}\n" in path.read_text()
    ]
    assert len(found) == 1, found
    return found[0]


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def check_harmless(pid: int, uid: int) -> None:
    status = status_of(pid)
    assert {int(status[name], 16) for name in SETS} == {0}
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert set(status["Uid"].split()) == {str(uid)}
    assert Path(f"/proc/{pid}/comm").read_text() == "wireguard-go\n"


def ends(program: subprocess.Popen[str], number: int = signal.SIGTERM) -> str:
    program.send_signal(number)
    out, _ = program.communicate(timeout=WAIT_S)
    return out


@pytest.mark.usefixtures("two_uids")
def test_as_root_it_becomes_the_user_and_packets_go_through(world: World) -> None:
    world.config()
    world.profile()
    before = host_state()
    program = world.start("--", "wireguard-go")
    said(program, "wireguard-go is configured: 1 peer")
    check_harmless(engine_of(program), pwd.getpwnam("nobody").pw_uid)
    run("ping", "-c", "2", "-i", "0.1", "-W", "5", INSIDE)
    run("ping", "-c", "1", "-W", "5", BEHIND)
    # wg(8) finds it where it always is, which shows the handshake.
    assert int(run("wg", "show", "coentro0", "latest-handshakes").stdout.split()[1]) > 0
    ends(program)
    assert program.returncode == 0
    assert host_state() == before
    assert not (SOCKETS / "coentro0.sock").exists()


@pytest.mark.parametrize("folder", ["there", "not there"])
def test_an_ordinary_user_needs_nothing_of_root(world: World, two_uids: tuple[int, int], folder: str) -> None:
    uid, _ = two_uids
    world.config()
    world.profile()
    if folder == "not there":
        SOCKETS.rename("/run/elsewhere")  # the server's own goes on from there
    before, run_before = host_state(), sorted(os.listdir("/run"))
    program = world.start("--", "wireguard-go", uid=uid)
    said(program, "wireguard-go is configured: 1 peer")
    engine = engine_of(program)
    check_harmless(engine, uid)
    run("ping", "-c", "2", "-i", "0.1", "-W", "5", INSIDE)
    seen = sorted(os.listdir(f"/proc/{engine}/root/run"))
    assert seen == sorted({*run_before, "wireguard"})
    assert os.listdir(f"/proc/{engine}/root/run/wireguard") == ["coentro0.sock"]
    assert sorted(os.listdir("/run")) == run_before
    ends(program)
    assert program.returncode == 0
    assert host_state() == before


@pytest.mark.parametrize("who", ["root", "user"])
def test_a_wrong_packet_information_flag_is_told_and_leaves_nothing(
    world: World, two_uids: tuple[int, int], who: str
) -> None:
    world.config()
    right = packet_info()
    world.profile(f"tun = {{ packet_info = {json.dumps(not right)} }}")
    before = host_state()
    code, out = world.done("--", "wireguard-go", uid=two_uids[0] if who == "user" else None)
    assert code == 1
    assert "wireguard-go reads the tunnel's packets and understands none of them" in out
    assert f"wants [tun] packet_info = {json.dumps(right)}" in out
    assert host_state() == before
    assert not (SOCKETS / "coentro0.sock").exists()


def test_vnet_hdr_is_understood_by_versions_that_know_it(world: World) -> None:
    world.config()
    world.profile("tun = { vnet_hdr = true }")
    program = world.start("--", "wireguard-go")
    if packet_info():
        out, _ = program.communicate(timeout=WAIT_S)
        assert (program.returncode, "understands none of them" in out) == (1, True)
        return
    said(program, "wireguard-go is configured: 1 peer")
    run("ping", "-c", "2", "-i", "0.1", "-W", "5", INSIDE)
    ends(program)


def test_with_ipv6_alone_the_flag_is_confirmed_as_well(world: World) -> None:
    world.config()
    profile = world.profile("routes = []")
    profile.write_text(profile.read_text().replace("10.66.0.2/32", "fd66::2/128"))
    program = world.start("--", "wireguard-go")
    said(program, "wireguard-go is configured: 1 peer")
    ends(program)
    assert program.returncode == 0


def test_a_killed_engine_ends_the_tunnel(world: World) -> None:
    world.config()
    world.profile()
    before = host_state()
    program = world.start("--", "wireguard-go")
    said(program, "wireguard-go is configured: 1 peer")
    os.kill(engine_of(program), signal.SIGKILL)
    out, _ = program.communicate(timeout=WAIT_S)
    assert program.returncode == 128 + signal.SIGKILL
    assert "the command was ended by SIGKILL" in out
    assert host_state() == before
    assert not (SOCKETS / "coentro0.sock").exists()


@pytest.mark.usefixtures("two_uids")
def test_what_a_killed_coentroctl_leaves_is_no_hindrance(world: World) -> None:
    world.config()
    world.profile()
    before = host_state()
    program = world.start("--", "wireguard-go")
    said(program, "wireguard-go is configured: 1 peer")
    engine = engine_of(program)
    program.kill()
    program.communicate(timeout=WAIT_S)  # the engine holds the pipe too, so it has ended by then
    until(lambda: host_state() == before, "the host as it was")
    assert not Path(f"/proc/{engine}").exists() or status_of(engine)["State"].startswith("Z")
    assert (SOCKETS / "coentro0.sock").exists(), "the test itself: this is what is left"
    program = world.start("--", "wireguard-go")
    said(program, "wireguard-go is configured: 1 peer")
    ends(program)
    assert program.returncode == 0


def test_keys_are_in_no_argument_no_environment_and_no_output(world: World) -> None:
    psk = run("wg", "genpsk").stdout.strip()
    config = world.config()
    config.write_text(config.read_text() + f"PresharedKey = {psk}\n")
    world.profile()
    program = world.start("--", "wireguard-go", LOG_LEVEL="verbose")
    lines = said(program, "wireguard-go is configured: 1 peer")
    told = [Path(f"/proc/{pid}/{what}").read_text() for pid in (program.pid, engine_of(program))
            for what in ("cmdline", "environ")]  # fmt: skip
    told += [*lines, ends(program)]
    for key in (world.ours.private, psk):
        raw = base64.b64decode(key)
        for form in (key, raw.hex()):
            assert not [text for text in told if form in text]


def test_endpoints_are_looked_up_and_stay_outside_of_everything(world: World) -> None:
    hosts = PLACE / "hosts"
    hosts.write_text(f"127.0.0.1 localhost\n{SERVER} vpn.example\n")
    enclosure.mount(str(hosts), "/etc/hosts", None, enclosure.MS_BIND)
    config = world.config("vpn.example:51820")
    config.write_text(config.read_text().replace("198.51.100.0/24", "0.0.0.0/0, ::/0, 224.0.0.0/4"))
    world.profile()
    program = world.start("--", "wireguard-go")
    lines = said(program, "wireguard-go is configured: 1 peer")
    told = "\n".join(lines)
    assert "::/0 is blocked: the tunnel has no address of that family" in told
    assert "224.0.0.0/4 of AllowedIPs is routed into no tunnel" in told
    assert "dev wan0" in run("ip", "route", "get", SERVER).stdout
    assert "dev coentro0" in run("ip", "route", "get", "8.8.8.8").stdout
    assert run("ip", "-6", "route", "get", "2001:db8::1", check=False).returncode != 0
    run("ping", "-c", "1", "-W", "5", BEHIND)
    ends(program)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ("Address = 10.0.0.1/8", "wg.conf:3: `Address` is not known here: it is wg-quick's"),
        ("ListenPort = 70000", "wg.conf:3: ListenPort: expected a number from 0 to 65535"),
        ("PrivateKey", "wg.conf:3: expected a section, or `Key = value`"),
    ],
)
def test_a_bad_configuration_is_told_by_its_line_before_anything_comes_up(
    world: World, more: str, told: str
) -> None:
    world.config(more=more)
    world.profile()
    with Client(str(world.helper.socket)) as client:
        client.subscribe(["tunnel.up"])
        code, out = world.done("--", "wireguard-go")
        assert client.next_event(0) is None
    assert code == 2
    assert told in out
    assert world.ours.private not in out


def test_an_endpoint_that_has_no_address_is_told_by_its_line(world: World) -> None:
    world.config("nowhere.invalid:51820")
    world.profile()
    code, out = world.done("--", "wireguard-go")
    assert code == 1
    assert f"{PLACE}/wg.conf:7: the Endpoint's address can't be found" in out


def test_a_configuration_that_others_may_read_is_told(world: World) -> None:
    world.config().chmod(0o640)
    world.profile()
    program = world.start("--", "wireguard-go")
    lines = said(program, "wireguard-go is configured: 1 peer")
    assert any("others may read it (0640): chmod 600" in line for line in lines)
    ends(program)


def test_a_port_that_is_in_use_is_told_and_leaves_nothing(world: World) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("0.0.0.0", 0))
        port = taken.getsockname()[1]
        world.config(more=f"ListenPort = {port}")
        world.profile()
        before = host_state()
        code, out = world.done("--", "wireguard-go")
    assert code == 1
    assert f"its ListenPort {port} is in use (EADDRINUSE)" in out
    assert host_state() == before


@pytest.mark.usefixtures("two_uids")
def test_without_a_configuration_root_configures_it_with_wg(world: World) -> None:
    config = world.config()
    world.profile('routes = ["10.66.0.0/24"]\nendpoints = ["203.0.113.7"]', engine="")
    program = world.start("--", "wireguard-go")
    said(program, "wireguard-go waits for its configuration")
    assert run("wg", "show", "coentro0", "peers").stdout == "", "the probe's peer is forgotten"
    run("wg", "setconf", "coentro0", str(config))
    run("ping", "-c", "1", "-W", "5", INSIDE)
    ends(program)


def test_without_a_configuration_an_ordinary_user_is_told_to_give_one(
    world: World, two_uids: tuple[int, int]
) -> None:
    world.profile(engine="")
    code, out = world.done("--", "wireguard-go", uid=two_uids[0])
    assert code == 2
    assert "needs [engine] config" in out


def test_another_program_is_not_taken_for_wireguard_go(world: World) -> None:
    world.config()
    world.profile()
    before = host_state()
    code, out = world.done("--engine", "wireguard-go", "--", "true")
    assert code == 1
    assert "true does not tell its version as wireguard-go does" in out
    world.profile("tun = { packet_info = true }")
    code, out = world.done("--engine", "wireguard-go", "--", "false")
    assert code == 1
    assert "wireguard-go ended before it was ready" in out
    assert host_state() == before


def test_a_wireguard_go_that_does_not_exist_is_127_and_leaves_nothing(world: World) -> None:
    world.config()
    world.profile()
    before = host_state()
    code, out = world.done("--", "/no/such/wireguard-go")
    assert (code, "there is no such command" in out) == (127, True)
    assert host_state() == before
    assert not (SOCKETS / "coentro0.sock").exists()


def test_an_engine_that_never_answers_is_ended(world: World) -> None:
    world.config()
    world.profile("tun = { packet_info = true }")
    before = host_state()
    hasty = (
        "import sys, coentro.engines.uapi as u; u.ANSWER_S = 0.3; from coentro.ctl.main import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", hasty.replace("main()", "sys.exit(main())"), "--socket",
         str(world.helper.socket), "run", str(PLACE / "office.toml"), "--engine", "wireguard-go", "--",
         "sleep", "100"],
        capture_output=True, text=True, timeout=WAIT_S, check=False, cwd="/",
        env={**os.environ, "PYTHONPATH": PYTHONPATH},
    )  # fmt: skip
    assert done.returncode == 1
    assert "did not answer on its control socket within 0.3 s" in done.stderr
    assert "background" not in done.stderr
    assert host_state() == before


@pytest.mark.usefixtures("two_uids")
@pytest.mark.parametrize("mode", [0o700, 0o777])
def test_a_folder_of_sockets_that_can_not_be_used_is_told(world: World, mode: int) -> None:
    world.config()
    world.profile()
    SOCKETS.chmod(mode)
    before = host_state()
    code, out = world.done("--", "wireguard-go")
    assert code == 1
    assert f"{SOCKETS}" in out
    assert host_state() == before


@pytest.mark.skipif(shutil.which("strace") is None, reason="apt-get install strace")
def test_where_user_namespaces_are_forbidden_it_is_said_what_to_do(
    world: World, two_uids: tuple[int, int]
) -> None:
    world.config()
    world.profile()
    before = host_state()
    strace = ("strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=unshare", "-e",
              "inject=unshare:error=EPERM")  # fmt: skip
    program = world.start("--", "wireguard-go", uid=two_uids[0], wrapper=strace)
    out, _ = program.communicate(timeout=WAIT_S)
    assert program.returncode == 126
    assert "no user namespace can be made here" in out
    assert host_state() == before


def test_an_imported_file_runs(world: World) -> None:
    source = PLACE / "wg0.conf"
    source.write_text(
        f"[Interface]\nPrivateKey = {world.ours.private}\nAddress = 10.66.0.2\nDNS = 10.66.0.1\n"
        f"PostUp = touch {PLACE}/run-by-import\n"
        f"[Peer]\nPublicKey = {world.theirs.public}\nAllowedIPs = 10.66.0.0/24\nEndpoint = {SERVER}:51820\n"
    )
    made = PLACE / "office.toml"
    done = run(sys.executable, "-P", "-m", "coentro.ctl", "import", str(source), "-o", str(made),
               env={**os.environ, "PYTHONPATH": PYTHONPATH})  # fmt: skip
    assert "PostUp is not run" in done.stderr
    program = world.start("--", "wireguard-go")
    said(program, "wireguard-go is configured: 1 peer")
    run("ping", "-c", "1", "-W", "5", INSIDE)
    ends(program)
    assert not (PLACE / "run-by-import").exists()

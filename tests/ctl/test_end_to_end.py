"""coentroctl against the real helper and the real kernel, in a network namespace."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from coentro.client import Client
from tests.ctl.scripted import PROJECT, ctl, done
from tests.sandbox import PLACE, Helper, host_state, run, run_helper

pytestmark = [pytest.mark.netns, pytest.mark.usefixtures("tun_available")]

PROFILE = """\
name = "office"
addresses = ["10.8.0.2/24"]
routes = ["10.0.0.0/8", "192.0.2.0/24"]
endpoints = ["203.0.113.7"]
"""
WAIT_S = 20


@pytest.fixture
def helper(tmp_path: Path) -> Iterator[Helper]:
    with run_helper(tmp_path) as started:
        yield started


@pytest.fixture
def profile() -> str:
    PLACE.mkdir(exist_ok=True)
    path = PLACE / "office.toml"
    path.write_text(PROFILE)
    return str(path)


def _json(helper: Helper, *argv: str) -> Any:
    code, out, err = done(str(helper.socket), "--output", "json", *argv)
    assert (code, err) == (0, "")
    return json.loads(out)


def _up(helper: Helper, profile: str) -> subprocess.Popen[str]:
    program = ctl(str(helper.socket), "up", profile)
    assert program.stdout is not None
    line = program.stdout.readline()
    assert line == "office is up: coentro0, 10.8.0.2/24, MTU 1420, 2 routes\n", line
    return program


def _wait_until_down(client: Client) -> str:
    while True:
        event = client.next_event(WAIT_S)
        assert event is not None, "no tunnel.down in time"
        if event["type"] == "tunnel.down":
            return str(event["data"]["why"])


def test_up_stands_until_down_and_leaves_nothing(helper: Helper, profile: str) -> None:
    before = host_state()
    program = _up(helper, profile)
    assert _json(helper, "tunnel", "show", "office")["interface"]["name"] == "coentro0"
    assert "dev coentro0" in run("ip", "route", "get", "192.0.2.1").stdout
    code, out, _ = done(str(helper.socket), "down", "office")
    assert (code, "is down" in out) == (0, True)
    out, err = program.communicate(timeout=WAIT_S)
    assert (program.returncode, out, err) == (0, "office is down: destroyed\n", "")
    assert host_state() == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_up_that_is_ended_leaves_nothing(helper: Helper, profile: str, number: signal.Signals) -> None:
    before = host_state()
    with Client(str(helper.socket)) as client:
        client.subscribe(["tunnel.down"])
        program = _up(helper, profile)
        program.send_signal(number)
        program.communicate(timeout=WAIT_S)
        why = _wait_until_down(client)
    assert program.returncode == (-9 if number is signal.SIGKILL else 0)
    assert why == ("its client's connection ended" if number is signal.SIGKILL else "destroyed")
    assert host_state() == before


def test_up_whose_helper_is_stopped_says_so(tmp_path: Path, profile: str) -> None:
    before = host_state()
    with run_helper(tmp_path) as helper:
        program = _up(helper, profile)
        assert helper.stop() == 0
    _, err = program.communicate(timeout=WAIT_S)
    assert program.returncode in (1, 3)
    assert err.startswith("office is down: ")
    assert host_state() == before


def test_routes_go_in_and_out_and_are_shown(helper: Helper, profile: str) -> None:
    program = _up(helper, profile)
    assert _json(helper, "routes", "add", "office", "198.51.100.0/24") == {
        "added": 1,
        "removed": 0,
        "total": 3,
    }
    assert "dev coentro0" in run("ip", "route", "get", "198.51.100.1").stdout
    assert _json(helper, "routes", "lookup", "198.51.100.1")["interface"] == "coentro0"
    assert done(str(helper.socket), "routes", "lookup", "198.51.100.1")[1].startswith("destination")
    told = done(str(helper.socket), "routes", "list", "office")[1]
    assert "198.51.100.0/24" in told
    assert _json(helper, "routes", "del", "office", "198.51.100.0/24")["total"] == 2
    assert "198.51.100.0/24" not in done(str(helper.socket), "routes", "list", "office")[1]
    code, _, err = done(str(helper.socket), "routes", "del", "office", "198.51.100.0/24")
    assert (code, "198.51.100.0/24" in err) == (1, True)
    program.terminate()
    program.communicate(timeout=WAIT_S)


def test_a_plan_shows_its_undo_and_changes_nothing(helper: Helper, profile: str) -> None:
    before = host_state()
    code, out, _ = done(str(helper.socket), "tunnel", "plan", profile)
    assert code == 0
    assert out.splitlines()[0].split() == ["CHANGE", "COUNT", "UNDONE", "BY", "WHAT"]
    assert "10.0.0.0/8" in out
    assert host_state() == before


def test_every_table_knows_what_the_helper_tells(helper: Helper, profile: str) -> None:
    program = _up(helper, profile)
    for argv in (("status",), ("ping",), ("tunnel", "list"), ("tunnel", "show", "office"),
                 ("tunnel", "plan", profile),
                 ("routes", "list"), ("routes", "lookup", "10.1.1.1")):  # fmt: skip
        code, out, err = done(str(helper.socket), *argv)
        assert (code, err) == (0, ""), argv
        # JSON instead of a table would mean that the table did not understand the result.
        assert not out.startswith("{"), argv
        assert max(map(len, out.splitlines())) <= 120, out
    program.terminate()
    program.communicate(timeout=WAIT_S)


def test_run_hands_a_real_tun_to_its_command(helper: Helper, profile: str) -> None:
    before = host_state()
    # The command reads what the kernel sends into the tunnel: an IPv4 packet for 192.0.2.9.
    code = (
        'until [ -n "$to" ]; do'
        " to=$(dd bs=2000 count=1 <&$COENTRO_TUN_FD 2>/dev/null | od -An -tu1 -j16 -N4); done;"
        "echo $to; exit 5"
    )
    program = ctl(str(helper.socket), "run", profile, "--", "sh", "-c", f"echo $COENTRO_TUN_NAME; {code}")
    assert program.stdout is not None
    assert program.stdout.readline() == "coentro0\n"
    run("bash", "-c", "echo x > /dev/udp/192.0.2.9/9")
    out, _ = program.communicate(timeout=WAIT_S)
    assert (program.returncode, out.split()) == (5, ["192", "0", "2", "9"])
    assert host_state() == before


def test_down_ends_the_command_of_run(helper: Helper, profile: str) -> None:
    before = host_state()
    program = ctl(str(helper.socket), "run", profile, "--", "sh", "-c", "echo $$; exec sleep 100")
    assert program.stdout is not None
    pid = int(program.stdout.readline())
    assert done(str(helper.socket), "down", "office")[0] == 0
    program.communicate(timeout=WAIT_S)
    assert program.returncode == 128 + signal.SIGTERM
    assert not Path(f"/proc/{pid}").exists()
    assert host_state() == before


@pytest.mark.parametrize("command", ["no-such-command", "/etc/passwd"])
def test_a_command_that_can_not_be_started_leaves_the_host_as_it_was(
    helper: Helper, profile: str, command: str
) -> None:
    before = host_state()
    assert done(str(helper.socket), "run", profile, "--", command)[0] in (126, 127)
    assert host_state() == before
    assert _json(helper, "tunnel", "list") == {"tunnels": []}


def test_coentroctl_keeps_no_descriptor_of_the_device(helper: Helper, profile: str) -> None:
    code = 'trap "echo told" HUP; echo ready; while :; do sleep 0.05; done'
    program = ctl(str(helper.socket), "run", profile, "--", "sh", "-c", code)
    assert program.stdout is not None
    program.stdout.readline()
    program.send_signal(signal.SIGHUP)  # once this has been handed on, the start is over
    assert program.stdout.readline() == "told\n"
    held = [str(fd.readlink()) for fd in Path(f"/proc/{program.pid}/fd").iterdir()]
    assert "/dev/net/tun" not in held
    program.terminate()
    program.communicate(timeout=WAIT_S)


@pytest.mark.parametrize("closes", [True, False])
def test_a_command_that_has_closed_its_descriptor_is_told_so(
    helper: Helper, profile: str, closes: bool
) -> None:
    patch = f"m.LOOK_S = {2 if closes else 0}"
    code = f"import sys, coentro.ctl.minded as m, coentro.ctl.main as main; {patch}; sys.exit(main.main())"
    close = "exec {COENTRO_TUN_FD}>&-;" if closes else ""
    program = subprocess.Popen(
        [sys.executable, "-c", code, "--socket", str(helper.socket), "run", profile, "--", "bash", "-c",
         f"{close} trap 'echo told; exit 4' HUP; echo; while :; do sleep 0.05; done"],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=PROJECT,
    )  # fmt: skip
    assert program.stdout is not None
    lines = iter(program.stdout)
    if closes:
        assert any("the command has closed the tunnel's descriptor" in line for line in lines)
    else:
        assert any(line == "\n" for line in lines)
    program.send_signal(signal.SIGHUP)
    out, _ = program.communicate(timeout=WAIT_S)
    assert program.returncode == 4
    assert "closed" not in out


def test_a_killed_run_takes_command_and_tunnel_with_it(helper: Helper, profile: str) -> None:
    before = host_state()
    with Client(str(helper.socket)) as client:
        client.subscribe(["tunnel.down"])
        program = ctl(str(helper.socket), "run", profile, "--", "sh", "-c", "echo ready; exec sleep 100")
        assert program.stdout is not None
        program.stdout.readline()
        program.kill()
        # Returns once the command, too, has closed its ends of the pipes.
        program.communicate(timeout=WAIT_S)
        _wait_until_down(client)
    assert host_state() == before


def test_a_profile_that_the_helper_refuses_is_told_by_its_place(helper: Helper, profile: str) -> None:
    Path(profile).write_text('addresses = ["10.8.0.2/24"]\nroutes = ["10.0.0.1/8"]\nrouets = []\n')
    code, _, err = done(str(helper.socket), "up", profile)
    assert code == 1
    assert "routes[0]" in err or "rouets" in err
    assert profile in err

"""`up` and `run`: a tunnel and who holds it end together, whoever goes first."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.ctl.scripted import PROJECT, TUNNEL, Peer, Refuse, Script, ctl, done, scripted, tunnel

WAIT_S = 20


def _destroy(peer: Peer, params: Any) -> Any:
    return {"id": params["id"]}


@pytest.fixture
def script(tmp_path: Path) -> Iterator[Script]:
    (tmp_path / "p.toml").write_text('addresses = ["10.8.0.2/24"]\n')
    with scripted(
        tmp_path, event_subscribe={"run": "r", "seq": 0}, tunnel_create=tunnel(), tunnel_destroy=_destroy
    ) as made:
        yield made


def _profile(script: Script) -> str:
    return str(Path(script.path).with_name("p.toml"))


def _run(script: Script, *command: str, **env: str) -> subprocess.Popen[str]:
    return ctl(script, "run", _profile(script), "--", *command, **env)


def _shell(script: Script, code: str) -> tuple[subprocess.Popen[str], str]:
    """A command that has said its first line: the line, and coentroctl."""
    program = _run(script, "sh", "-c", code)
    assert program.stdout is not None
    return program, program.stdout.readline().strip()


def _methods(script: Script) -> list[str]:
    return [method for method, _ in script.calls]


def _gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_the_command_has_the_descriptor_and_knows_the_tunnel(script: Script) -> None:
    told = (
        "echo $COENTRO_TUN_NAME $COENTRO_TUN_MTU $COENTRO_PACKET_HEADER_BYTES ${COENTRO_TUN_FDS-none};"
        "cat <&$COENTRO_TUN_FD; echo end"
    )
    code, out, err = done(script, "run", _profile(script), "--", "sh", "-c", told)
    assert (code, out) == (0, "coentro0 1420 0 none\nend\n")
    assert "office is up" in err
    assert _methods(script) == ["event.subscribe", "tunnel.create", "tunnel.get", "tunnel.destroy"]


def test_with_several_queues_the_command_has_them_all(tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text("")
    code = "IFS=,; for fd in $COENTRO_TUN_FDS; do test -p /dev/fd/$fd && echo pipe; done"
    with scripted(tmp_path, event_subscribe={}, tunnel_create=tunnel(3), tunnel_destroy=_destroy) as script:
        assert done(script, "run", _profile(script), "--", "sh", "-c", code)[1] == "pipe\n" * 3


def test_the_command_has_no_other_descriptor_and_no_stale_variable(script: Script) -> None:
    left, right = os.pipe()
    os.set_inheritable(right, True)
    try:
        program = subprocess.Popen(
            [*ctl_argv(script), "run", _profile(script), "--",
             "sh", "-c", "ls /dev/fd/ | wc -l; echo ${COENTRO_TUN_FDS-none} ${SUDO_COMMAND-none}"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, close_fds=False, cwd=PROJECT,
            env={**os.environ, "COENTRO_TUN_FDS": "9,10", "SUDO_COMMAND": "x"},
        )  # fmt: skip
        out, _ = program.communicate(timeout=WAIT_S)
    finally:
        os.close(left)
        os.close(right)
    # 0, 1, 2, the TUN, and ls's own.
    assert out.split() == ["5", "none", "none"]


def ctl_argv(script: Script) -> list[str]:
    return [sys.executable, "-m", "coentro.ctl", "--socket", script.path]


@pytest.mark.parametrize(
    ("command", "code"), [("exit 7", 7), ("kill -TERM $$", 143), ("kill -KILL $$", 137), ("true", 0)]
)
def test_the_commands_exit_code_is_runs_own(script: Script, command: str, code: int) -> None:
    assert done(script, "run", _profile(script), "--", "sh", "-c", command)[0] == code
    assert _methods(script)[-1] == "tunnel.destroy"


@pytest.mark.parametrize(
    ("command", "code"), [("no-such-command", 127), ("/no/such", 127), ("/etc/passwd", 126), ("/", 126)]
)
def test_a_command_that_can_not_be_started_leaves_no_tunnel(script: Script, command: str, code: int) -> None:
    got, out, err = done(script, "run", _profile(script), "--", command)
    assert (got, out) == (code, "")
    assert command in err
    assert "the tunnel office is gone again" in err
    assert _methods(script)[-1] == "tunnel.destroy"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_goes_to_the_command_and_the_tunnel_ends_with_it(
    script: Script, number: signal.Signals
) -> None:
    name = number.name.removeprefix("SIG")
    program, ready = _shell(
        script, f'trap "echo got {name}; exit 3" {name}; echo ready; while :; do sleep 0.05; done'
    )
    assert ready == "ready"
    program.send_signal(number)
    out, _ = program.communicate(timeout=WAIT_S)
    assert (program.returncode, out) == (3, f"got {name}\n")
    assert _methods(script)[-1] == "tunnel.destroy"


def test_a_signal_that_nohup_ignores_stays_ignored(script: Script) -> None:
    program = subprocess.Popen(
        ["nohup", *ctl_argv(script), "run", _profile(script), "--",
         "sh", "-c", 'trap "exit 6" TERM; echo ready; while :; do sleep 0.05; done'],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=PROJECT,
    )  # fmt: skip
    assert program.stdout is not None
    with program.stdout:
        assert program.stdout.readline() == b"ready\n"
        program.send_signal(signal.SIGHUP)
        program.terminate()
    # A forwarded SIGHUP would have ended it: 129.
    assert program.wait(WAIT_S) == 6


@pytest.mark.skipif(sys.platform != "linux", reason="setsid(1) is util-linux's")
def test_a_ctrl_c_in_the_terminal_is_not_sent_a_second_time(script: Script) -> None:
    ours, theirs = os.openpty()
    # In a session of its own the command does not have the terminal's, so it would only see a second one.
    code = 'trap "echo int" INT; trap "exit 6" TERM; echo ready; while :; do sleep 0.05; done'
    program = subprocess.Popen(
        ["setsid", "--ctty", *ctl_argv(script), "run", _profile(script), "--", "setsid", "sh", "-c", code],
        stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=PROJECT,
    )  # fmt: skip
    os.close(theirs)
    assert program.stdout is not None
    with program.stdout:
        assert program.stdout.readline() == b"ready\n"
        os.write(ours, b"\x03")
        # The terminal echoes it once it has sent the signal (n_tty.c), so the next one comes after it.
        assert os.read(ours, 2) == b"^C"
        program.terminate()
        assert program.stdout.read() == b""
    assert program.wait(WAIT_S) == 6
    os.close(ours)


def test_a_command_whose_tunnel_goes_down_is_told_to_end(script: Script) -> None:
    program, pid = _shell(script, 'trap "exit 9" TERM; echo $$; while :; do sleep 0.05; done')
    script.peers[-1].event("tunnel.down", id=TUNNEL["id"], name="office", why="destroyed", left=[])
    _, err = program.communicate(timeout=WAIT_S)
    assert program.returncode == 9
    assert "office is down: destroyed; the command is told to end" in err
    assert _gone(int(pid))
    assert "tunnel.destroy" not in _methods(script)


def test_another_tunnels_end_is_none_of_the_commands(script: Script) -> None:
    program, _ = _shell(script, "echo ready; exec sleep 100")
    script.peers[-1].event("tunnel.down", id="another", name="other", why="the other one went", left=[])
    script.peers[-1].event("tunnel.down", id=TUNNEL["id"], name="office", why="this one went", left=[])
    _, err = program.communicate(timeout=WAIT_S)
    assert "the other one went" not in err
    assert "this one went" in err


def _hasty(script: Script, patch: str, *command: str) -> subprocess.Popen[str]:
    """`run` whose patience is shorter: assignments to names of coentro.ctl.minded."""
    code = f"import sys, coentro.ctl.minded as m, coentro.ctl.main as main; {patch}; sys.exit(main.main())"
    return subprocess.Popen(
        [sys.executable, "-c", code, *ctl_argv(script)[3:], "run", _profile(script), "--", *command],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=PROJECT,
    )  # fmt: skip


STUBBORN = 'trap "" TERM; echo $$; while :; do sleep 0.05; done'


def test_a_command_that_stays_without_its_tunnel_is_killed(script: Script) -> None:
    program = _hasty(script, "m.GRACE_S = 0.2", "sh", "-c", STUBBORN)
    assert program.stdout is not None
    pid = program.stdout.readline()
    script.peers[-1].hang_up()
    _, err = program.communicate(timeout=WAIT_S)
    assert program.returncode == 128 + 9
    assert "the helper has gone away" in err
    assert "did not end within 0.2 s" in err
    assert _gone(int(pid))


def test_a_command_that_hangs_when_it_is_told_to_end_is_killed(script: Script) -> None:
    program = _hasty(script, "m.STOP_S = 0.2", "sh", "-c", STUBBORN)
    assert program.stdout is not None
    pid = program.stdout.readline()
    program.terminate()
    _, err = program.communicate(timeout=WAIT_S)
    assert program.returncode == 128 + 9
    assert "the command did not end within 0.2 s of SIGTERM, so it is killed" in err
    assert _gone(int(pid))
    assert _methods(script)[-1] == "tunnel.destroy"


@pytest.mark.parametrize(("command", "told"), [
    ("exit 3", "the command ended with exit code 3"),
    ("kill -KILL $$", "the command was ended by SIGKILL"),
])  # fmt: skip
def test_a_command_that_fails_is_told_in_a_sentence(script: Script, command: str, told: str) -> None:
    assert told in done(script, "run", _profile(script), "--", "sh", "-c", command)[2]


orphans = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere orphans are init's children")


@orphans
@pytest.mark.parametrize("daemon", [
    "sleep 100 >/dev/null & echo $!",
    # As daemon(3) does it, and one that does not listen.
    "setsid sh -c 'sleep 100 >/dev/null & echo $!'",
    """sh -c 'trap "" TERM; echo $$; exec >/dev/null; while :; do sleep 0.05; done' &""",
])  # fmt: skip
def test_a_command_that_goes_into_the_background_is_ended_with_all_it_left(
    script: Script, daemon: str
) -> None:
    program = _hasty(script, "m.GRACE_S = 0.2", "sh", "-c", f"pid=$({daemon}); echo $pid")
    out, err = program.communicate(timeout=WAIT_S)
    assert program.returncode == 0
    assert "in the background; a tunnel ends with its command" in err
    assert _gone(int(out))
    assert _methods(script)[-1] == "tunnel.destroy"


@orphans
def test_a_command_whose_children_end_with_it_is_not_blamed(script: Script) -> None:
    _, _, err = done(script, "run", _profile(script), "--", "sh", "-c", "sleep 0.05 & true")
    assert "background" not in err


@pytest.mark.parametrize(("packets", "said"), [(0, True), (1, False)])
def test_a_command_that_moved_no_packet_is_told_where_its_descriptor_is(
    tmp_path: Path, packets: int, said: bool
) -> None:
    (tmp_path / "p.toml").write_text("")
    stats = {**TUNNEL["stats"], "tx_packets": packets}
    with scripted(tmp_path, event_subscribe={}, tunnel_create=tunnel(), tunnel_destroy=_destroy,
                  tunnel_get={**TUNNEL, "stats": stats}) as script:  # fmt: skip
        _, _, err = done(script, "run", _profile(script), "--", "true")
    assert ("no packet went through the tunnel" in err) is said
    assert ("COENTRO_TUN_FD" in err) is said


@pytest.mark.skipif(not os.path.exists("/proc"), reason="PR_SET_PDEATHSIG is Linux's")
def test_the_command_does_not_outlive_a_killed_coentroctl(script: Script) -> None:
    program, _ = _shell(script, "echo ready; exec sleep 100")
    program.kill()
    # The pipe's other ends are the command's: they close when it has ended.
    program.communicate(timeout=WAIT_S)
    assert script.gone.wait(WAIT_S)


def test_a_refused_tunnel_starts_nothing(tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text("")

    def refuse(peer: Peer, params: Any) -> Any:
        raise Refuse(-32004, "too many tunnels", retry_after_s=None)

    with scripted(tmp_path, event_subscribe={}, tunnel_create=refuse) as script:
        code, out, err = done(script, "run", _profile(script), "--", "echo", "started")
    assert (code, out, err) == (1, "", "coentroctl: too many tunnels\n")


def test_up_stands_until_it_is_told_to_end(script: Script) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        program = ctl(script, "up", _profile(script))
        assert program.stdout is not None
        assert program.stdout.readline() == "office is up: coentro0, 10.8.0.2/24, MTU 1420, 1 route\n"
        program.send_signal(number)
        out, err = program.communicate(timeout=WAIT_S)
        assert (program.returncode, out, err) == (0, f"office is down: {number.name}\n", "")
        assert _methods(script)[-1] == "tunnel.destroy"


@pytest.mark.parametrize(("why", "code"), [("destroyed", 0), ("its interface was removed", 1)])
def test_up_ends_with_its_tunnel_and_says_why(script: Script, why: str, code: int) -> None:
    program = ctl(script, "up", _profile(script))
    assert program.stdout is not None
    program.stdout.readline()
    script.peers[-1].event(
        "tunnel.down", id=TUNNEL["id"], name="office", why=why, left=["link.delete: EPERM"]
    )
    out, err = program.communicate(timeout=WAIT_S)
    assert program.returncode == code
    assert why in out + err
    assert "left: link.delete: EPERM" in out + err


def test_up_without_its_helper_is_3(script: Script) -> None:
    program = ctl(script, "--output", "json", "up", _profile(script))
    assert program.stdout is not None
    first = program.stdout.readline()
    script.peers[-1].hang_up()
    out, err = program.communicate(timeout=WAIT_S)
    assert program.returncode == 3
    assert json.loads(first + out)["id"] == TUNNEL["id"]
    assert err == "office is down: the helper has gone away\n"


def test_up_never_shows_the_lease_to_a_person(script: Script) -> None:
    program = ctl(script, "up", _profile(script))
    assert program.stdout is not None
    first = program.stdout.readline()
    program.terminate()
    out, err = program.communicate(timeout=WAIT_S)
    assert TUNNEL["lease"] not in first + out + err

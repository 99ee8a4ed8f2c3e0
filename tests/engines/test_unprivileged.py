"""What a command is started with: the kernel's own word on it, in /proc/self/status."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from coentro.engines.identity import Identity, Unfit, choose, environment
from coentro.engines.unprivileged import NOT_EXECUTABLE, NOT_FOUND

PROJECT = Path(__file__).parent.parent.parent
SETS = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")

linux = pytest.mark.skipif(sys.platform != "linux", reason="capabilities are Linux's")
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")

START = """
import os, signal, sys
from coentro.engines.identity import choose, environment
from coentro.engines.unprivileged import NotStarted, start
identity = choose(sys.argv[1] or None, os.environ)
print(identity.said, flush=True)
before = os.listdir("/dev/fd"), signal.pthread_sigmask(signal.SIG_BLOCK, ())
fds = tuple(map(int, os.environ.get("FDS", "").split()))
try:
    pid = start(sys.argv[2:], environment(identity, os.environ), fds, identity)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
except NotStarted as fault:
    print(fault, flush=True)
    code = fault.code
try:
    os.waitpid(-1, 0)
    sys.exit("a child is left")
except ChildProcessError:
    pass
assert before == (os.listdir("/dev/fd"), signal.pthread_sigmask(signal.SIG_BLOCK, ()))
sys.exit(code)
"""


def _start(
    *command: str, user: str = "", within: Sequence[str] = (), **env: str
) -> subprocess.CompletedProcess[str]:
    """What a command prints when a fresh Python starts it, after what was said about it."""
    return subprocess.run(
        [*within, sys.executable, "-c", START, user, *command],
        cwd=PROJECT, capture_output=True, text=True, timeout=30, check=False, env={**os.environ, **env},
    )  # fmt: skip


def _status(text: str) -> dict[str, str]:
    return {name: value.strip() for name, _, value in (line.partition(":") for line in text.splitlines())}


def _user_namespace(*options: str) -> tuple[str, ...]:
    way = (shutil.which("unshare") or "unshare", "--user", *options)
    if subprocess.run([*way, "true"], capture_output=True, timeout=30, check=False).returncode != 0:
        pytest.skip("no user namespaces here")
    return way


@linux
@as_root
@pytest.mark.parametrize("user", ["", "daemon", "1"])
def test_root_becomes_somebody_with_nothing(user: str) -> None:
    done = _start("cat", "/proc/self/status", user=user)
    status = _status(done.stdout)
    expected = pwd.getpwnam("daemon" if user else "nobody")
    assert set(status["Uid"].split()) == {str(expected.pw_uid)}
    assert set(status["Gid"].split()) == {str(expected.pw_gid)}
    assert {int(group) for group in status["Groups"].split()} == set(
        os.getgrouplist(expected.pw_name, expected.pw_gid)
    )
    assert {int(status[name], 16) for name in SETS} == {0}
    assert status["NoNewPrivs"] == "1"
    # glibc's posix_spawn leaves its own two signals, 32 and 33, ignored in whoever it starts.
    assert {int(status[name], 16) & ~(0b11 << 31) for name in ("SigBlk", "SigIgn")} == {0}
    assert f"runs as {expected.pw_name}" in done.stdout


@linux
@as_root
def test_the_user_behind_sudo_is_the_one() -> None:
    daemon = pwd.getpwnam("daemon")
    done = _start("env", SUDO_UID=str(daemon.pw_uid), SUDO_USER="root", SUDO_COMMAND="x", KEPT="yes")
    told = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
    assert (told["USER"], told["LOGNAME"], told["HOME"]) == ("daemon", "daemon", daemon.pw_dir)
    assert told["KEPT"] == "yes"
    assert not [name for name in told if name.startswith("SUDO_")]


@as_root
@pytest.mark.parametrize("uid", ["0", "", "-1", "x", "٣", "1 "])
def test_a_sudo_uid_that_is_no_users_is_not_believed(uid: str) -> None:
    assert choose(None, {"SUDO_UID": uid}).name == "nobody"


@as_root
@pytest.mark.parametrize("uid", ["54321987", "99999999999999999999"])
def test_a_sudo_uid_of_nobody_here_is_an_error(uid: str) -> None:
    with pytest.raises(Unfit, match="SUDO_UID"):
        choose(None, {"SUDO_UID": uid})


@as_root
@pytest.mark.parametrize("user", ["root", "0", "no such user", "99999999999999999999", "a\0b", "\ud800"])
def test_who_does_not_exist_or_is_root_is_refused(user: str) -> None:
    with pytest.raises(Unfit):
        choose(user, {})


@linux
def test_with_one_uid_all_capabilities_go_instead_and_it_is_said() -> None:
    done = _start("cat", "/proc/self/status", within=_user_namespace("--map-root-user"))
    status = _status(done.stdout)
    assert "one uid" in done.stdout.splitlines()[0]
    assert set(status["Uid"].split()) == {"0"}
    assert {int(status[name], 16) for name in SETS} == {0}
    assert status["NoNewPrivs"] == "1"


@linux
def test_capabilities_of_one_who_is_not_root_go_too() -> None:
    within = _user_namespace("--map-user=1000", "--map-group=1000", "--keep-caps")
    before = _status(
        subprocess.run(
            [*within, "cat", "/proc/self/status"], capture_output=True, text=True, check=True
        ).stdout
    )
    assert int(before["CapAmb"], 16), "the test itself: there must be some to lose"
    done = _start("cat", "/proc/self/status", within=within)
    status = _status(done.stdout)
    assert {int(status[name], 16) for name in SETS} == {0}
    assert status["NoNewPrivs"] == "1"
    assert "capabilities are dropped" in done.stdout


@linux
def test_a_user_that_the_namespace_does_not_have_is_refused() -> None:
    done = _start("true", user="daemon", within=_user_namespace("--map-root-user"))
    assert "daemon has no uid in this user namespace" in done.stderr


def _one_uid() -> tuple[str, ...]:
    """Below pytest's own directories root's `nobody` gets nowhere; where there is one uid it is ours."""
    return _user_namespace("--map-root-user") if os.geteuid() == 0 else ()


@linux
@as_root
def test_root_that_can_not_change_its_uid_starts_nothing() -> None:
    within = ("setpriv", "--bounding-set=-setuid", "--inh-caps=-all")
    done = _start("true", within=within)
    assert done.returncode == 1
    assert "root without CAP_SETUID and CAP_SETGID can't become nobody" in done.stderr


def test_one_who_is_not_root_stays_who_they_are() -> None:
    own = Identity(1000, 1000, "me", "/", (), change=False, said=None)
    assert environment(own, {"HOME": "/h", "SUDO_UID": "1"}) == {"HOME": "/h"}


@pytest.mark.parametrize(
    ("text", "mode", "code", "told"),
    [
        ("#!/no/such/interpreter\n", 0o755, NOT_EXECUTABLE, "does not exist"),
        ("#!/bin/sh\n", 0o644, NOT_EXECUTABLE, "may not execute"),
        ("\x7fELF and no more", 0o755, NOT_EXECUTABLE, "format"),
        (None, 0, NOT_FOUND, "no such command"),
    ],
)
def test_a_command_that_can_not_be_executed_is_told_with_the_shells_code(
    tmp_path: Path, text: str | None, mode: int, code: int, told: str
) -> None:
    command = tmp_path / "command"
    if text is not None:
        command.write_text(text)
        command.chmod(mode)
    for name, path in ((str(command), os.environ["PATH"]), ("command", f"/no/such:{tmp_path}")):
        done = _start(name, PATH=path, within=_one_uid())
        assert (done.returncode, done.stderr) == (code, "")
        assert told in done.stdout


def test_a_directory_that_may_not_be_searched_is_no_command(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir()
    (tmp_path / "closed").chmod(0)
    assert _start("command", PATH=f"{tmp_path}/closed", within=_one_uid()).returncode == NOT_FOUND


def test_a_descriptor_that_is_not_there_is_told() -> None:
    done = _start("true", FDS="4321")
    assert (done.returncode, done.stderr) == (NOT_EXECUTABLE, "")
    assert "descriptor" in done.stdout

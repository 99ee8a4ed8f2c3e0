"""A helper that can't start says why in one line, exits non-zero, and has changed nothing."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import pytest

from tests import reachable
from tests.netns.linux_host import lan, same, settled
from tests.netns.peers import connected, untouched
from tests.sandbox import PLACE, PYTHONPATH, run_helper

pytestmark = pytest.mark.usefixtures("tun_available")

FULL: Final = {"addresses": ["10.9.0.2/24", "fd00:9::2/64"], "routes": ["0.0.0.0/0", "::/0"]}


def started(*args: str, uid: int | None = None) -> subprocess.Popen[str]:
    who: dict[str, Any] = {} if uid is None else {"user": uid, "group": uid, "extra_groups": []}
    return subprocess.Popen(
        (sys.executable, "-P", "-m", "coentro.helper", *args),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": PYTHONPATH},
        cwd="/",
        **who,
    )


def outcome(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=30)
    return process.returncode, out, err


def said(process: subprocess.Popen[str]) -> str:
    """The one line on stderr of a helper that could not start."""
    code, out, err = outcome(process)
    assert (code, out) == (1, ""), err
    assert err.startswith("coentro-helper: "), err
    assert err.count("\n") == 1, err
    return err.rstrip("\n")


def all_said(cases: Mapping[str, Sequence[str]], uid: int | None = None) -> dict[str, str]:
    """What each said; they run beside each other."""
    running = {name: started(*args, uid=uid) for name, args in cases.items()}
    return {name: said(process) for name, process in running.items()}


def _file(name: str, text: str, mode: int = 0o644) -> str:
    path = PLACE / name
    path.write_text(text)
    path.chmod(mode)
    return str(path)


def test_a_second_helper_does_not_start_and_leaves_the_first_alone(tmp_path: Path) -> None:
    lan()
    with run_helper(tmp_path) as first, connected(first) as client, client.create(**FULL) as tunnel:
        there = first.socket.stat()
        with untouched():
            told = all_said(
                {
                    "same state": ("--state-dir", str(first.state_dir), "--socket", str(PLACE / "2.sock")),
                    "other state": ("--state-dir", str(PLACE / "2"), "--socket", str(PLACE / "2.sock")),
                }
            )
        assert f"{first.state_dir}/lock is locked by process {first.pid}" in told["same state"]
        other = f"another helper (pid {first.pid}) manages this network namespace"
        assert other in told["other state"]
        assert not (PLACE / "2.sock").exists()
        assert (first.socket.stat().st_ino, first.process.poll()) == (there.st_ino, None)
        assert client.call("tunnel.get", {"id": tunnel.id})["state"] == "up"
        with connected(first) as another:
            another.call("session.ping")
    # Once the first has ended the second may.
    with run_helper(tmp_path, name="second") as second, connected(second) as client:
        client.call("session.ping")


def test_a_bad_configuration_is_told_with_its_line_and_nothing_starts() -> None:
    PLACE.mkdir(exist_ok=True)
    state, path = PLACE / "state", PLACE / "new.sock"
    # More of what can be wrong in it: tests/helper/test_config.py.
    texts = {
        "syntax": ("[limits]\nburst = = 5\n", ":2: "),
        "unknown key": (
            "\n[limits]\nbrust = 5\n",
            ":3: [limits] brust: unknown key; did you mean burst?",
        ),
    }
    files = {name: _file(f"{name}.toml", text) for name, (text, _) in texts.items()}
    files["group-writable"] = _file("group.toml", "", 0o664)
    files["missing"] = str(PLACE / "missing.toml")
    with untouched():
        told = all_said(
            {
                name: ("--config", file, "--state-dir", str(state), "--socket", str(path))
                for name, file in files.items()
            }
        )
    for name, (_, expected) in texts.items():
        assert told[name].startswith(f"coentro-helper: {files[name]}{expected}"), told[name]
    assert "group.toml is writable by others (mode 0664): chmod go-w" in told["group-writable"]
    assert told["missing"].endswith("missing.toml: there is no such file")
    assert not state.exists(), "something was made before the configuration was read"
    assert not path.exists()


def test_a_configuration_of_another_users_is_not_believed(two_uids: tuple[int, int]) -> None:
    alice, bob = two_uids
    PLACE.mkdir(exist_ok=True)
    reachable.open_ways()
    of_alice = _file("alice.toml", "")
    os.chown(of_alice, alice, alice)
    (PLACE / "hers").mkdir(mode=0o755)
    os.chown(PLACE / "hers", alice, alice)
    in_her_folder = _file("hers/root.toml", "")
    roots_own = PLACE / "roots-own"
    roots_own.mkdir(mode=0o700)
    with untouched():
        rest = ("--state-dir", str(PLACE / "state"), "--socket", str(PLACE / "new.sock"))
        told = all_said(
            {name: ("--config", f, *rest) for name, f in (("file", of_alice), ("folder", in_her_folder))}
        )
        bobs = all_said(
            {
                "file": ("--config", of_alice, *rest),
                "state": ("--state-dir", str(roots_own / "state"), "--socket", str(PLACE / "new.sock")),
            },
            uid=bob,
        )
    assert f"alice.toml belongs to uid {alice}, not to uid 0" in told["file"]
    assert f"hers, on the way to {in_her_folder}, belongs to uid {alice}" in told["folder"]
    assert f"alice.toml belongs to uid {alice}, not to uid 0 or uid {bob}" in bobs["file"]
    assert str(roots_own / "state") in bobs["state"]
    assert "Permission denied" in bobs["state"]


def test_where_it_can_keep_no_state_or_not_listen_it_does_not_start() -> None:
    PLACE.mkdir(exist_ok=True)
    before = settled()
    (PLACE / "open").mkdir()
    (PLACE / "open").chmod(0o777)
    a_file = _file("file", "precious")
    good = ("--state-dir", str(PLACE / "state"))
    told = all_said(
        {
            "open": ("--state-dir", str(PLACE / "open"), "--socket", str(PLACE / "new.sock")),
            "file": ("--state-dir", a_file, "--socket", str(PLACE / "new.sock")),
        }
    )
    assert f"{PLACE}/open is writable by others (mode 0777): chmod go-w" in told["open"]
    assert f"{a_file} is no directory" in told["file"]
    assert not (PLACE / "new.sock").exists()
    # One after another: only one of them can manage this network namespace at a time.
    told_file = said(started(*good, "--socket", a_file))
    assert f"can't listen at {a_file}" in told_file or f"{a_file} is there and is no socket" in told_file
    assert Path(a_file).read_text() == "precious"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other:
        other.bind(str(PLACE / "other.sock"))
        other.listen(8)
        told_other = said(started(*good, "--socket", str(PLACE / "other.sock")))
        assert f"somebody listens at {PLACE}/other.sock already" in told_other
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as still:
            still.connect(str(PLACE / "other.sock"))
    same(before)


def test_what_only_answers_or_is_not_there_yet_starts_nothing() -> None:
    PLACE.mkdir(exist_ok=True)
    good, bad = _file("good.toml", "[limits]\nburst = 5\n"), _file("bad.toml", "burst = 5\n")
    state = ("--state-dir", str(PLACE / "state"), "--socket", str(PLACE / "new.sock"))
    with untouched(), ExitStack() as stack:
        checks = [started("--check-config", "--config", path, *state) for path in (good, bad)]
        later = [started(option, *state) for option in ("--simulate", "--cleanup")]
        for process in (*checks, *later):
            stack.callback(process.wait)
        assert outcome(checks[0]) == (0, f"{good}: good\n", "")
        assert f"{bad}:1: burst: unknown key" in said(checks[1])
        assert "--simulate is not in this version" in said(later[0])
        assert "--cleanup is not in this version" in said(later[1])
    assert not (PLACE / "state").exists()

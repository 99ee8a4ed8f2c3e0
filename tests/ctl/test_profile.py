"""Profiles: what TOML has and a spec can't, and where it stands."""

from __future__ import annotations

from pathlib import Path

import pytest

from coentro.ctl import faults
from coentro.ctl.faults import Fault
from coentro.ctl.profile import load


def test_a_profile_is_a_spec_as_it_stands(tmp_path: Path) -> None:
    file = tmp_path / "p.toml"
    file.write_text('addresses = ["10.0.0.2/24"]\nlinger_s = 5\n[dns]\nservers = ["10.0.0.1"]\n[engine]\n')
    profile = load(str(file))
    assert profile.spec == {"addresses": ["10.0.0.2/24"], "linger_s": 5, "dns": {"servers": ["10.0.0.1"]}}
    assert profile.engine == {}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b"name = \n", "line 1"),
        (b'a = 1\nb = 2\nname = "x\n', "line 3"),
        (b"a = 1\na = 2\n", "line 2"),
        (b'name = "\xff"\n', "UTF-8"),
        (b"name = 2024-01-01\n", "name: a date"),
        (b"routes = [[1], [{ when = 07:32:00 }]]\n", "routes[1][0].when: a date"),
        (b"linger_s = inf\n", "linger_s: expected a finite number"),
        (b"[dns]\nx = [nan]\n", "dns.x[0]: expected a finite number"),
        (b"engine = 1\n", "engine: expected a table"),
        (b'[engine]\npreset = "wireguard"\n', "engine.preset: unknown; [engine] has name and config"),
        (b"[engine]\nname = 1\n", "engine.name: expected a text"),
        (b"a = " + b"[" * 100_000, "nested too deeply"),
    ],
)
def test_a_fault_of_a_profile_is_told_with_its_place(tmp_path: Path, text: bytes, told: str) -> None:
    file = tmp_path / "p.toml"
    file.write_bytes(text)
    with pytest.raises(Fault) as caught:
        load(str(file))
    assert caught.value.code == faults.USAGE
    assert str(file) in caught.value.message
    assert told in caught.value.message


@pytest.mark.parametrize(
    ("path", "told"), [("/nonexistent/p.toml", "No such file"), ("/", "directory"), ("a\0b", "NUL")]
)
def test_a_profile_that_can_not_be_read_is_a_usage_error(path: str, told: str) -> None:
    with pytest.raises(Fault, match=told) as caught:
        load(path)
    assert caught.value.code == faults.USAGE

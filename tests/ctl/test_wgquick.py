"""`import`: a profile that the helper takes, keys in one private file, and nothing of the file is run."""

from __future__ import annotations

import stat
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.ctl.scripted import done

K1 = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE="
K2 = "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI="
FILE = f"""\
[Interface]
PrivateKey = {K1}
Address = 10.8.0.2/24, 10.9.0.2
DNS = 10.8.0.1, corp.example
{{more}}
[Peer]
PublicKey = {K2}
Endpoint = vpn.example:51820
AllowedIPs = 0.0.0.0/0, ::/0
"""


def imported(folder: Path, more: str = "", name: str = "Office 1.conf") -> tuple[dict[str, Any], Path, str]:
    """The profile as TOML, the file of its keys, and what was said on stderr."""
    source = folder / name
    source.write_text(FILE.format(more=more))
    profile = folder / "office.toml"
    code, out, err = done("/none", "import", str(source), "-o", str(profile))
    assert code == 0, err
    assert f"coentroctl run {profile} -- wireguard-go" in out
    return tomllib.loads(profile.read_text()), folder / "office.wg.conf", err


def test_addresses_routes_and_the_engine_are_taken_over(tmp_path: Path) -> None:
    profile, keys, _ = imported(tmp_path)
    assert profile == {
        "name": "office-1",
        "addresses": ["10.8.0.2/24", "10.9.0.2/32"],
        "mtu": 1420,
        "routes": ["0.0.0.0/0"],
        "block": ["::/0"],
        "engine": {"name": "wireguard-go", "config": "office.wg.conf"},
    }
    assert stat.S_IMODE(keys.stat().st_mode) == 0o600
    assert K1 in keys.read_text()
    text = (tmp_path / "office.toml").read_text()
    assert K1 not in text
    # In this version the helper sets no DNS; written out, the helper would refuse it.
    assert '# dns = { servers = ["10.8.0.1"], search = ["corp.example"] }' in text
    assert "(its capability `dns` is false)" in text


def test_a_name_in_the_current_folder_is_made_of_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from coentro.ctl.main import main

    (tmp_path / "wg0.conf").write_text(FILE.format(more=""))
    monkeypatch.chdir(tmp_path)
    assert main(["import", "wg0.conf"]) == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["wg0.conf", "wg0.toml", "wg0.wg.conf"]


def test_mtu_and_table_are_followed(tmp_path: Path) -> None:
    profile, _, err = imported(tmp_path, "MTU = 1280\nTable = off")
    assert (profile["mtu"], profile["routes"], "block" in profile) == (1280, [], False)
    assert "Table" not in err


def test_a_table_of_ones_own_is_left_out_and_told(tmp_path: Path) -> None:
    profile, _, err = imported(tmp_path, "Table = 1234")
    assert profile["routes"] == ["0.0.0.0/0"]
    assert "Table is left out" in err


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (
            "iptables -A FORWARD -i %i -j ACCEPT; iptables -t nat -A POSTROUTING -o eth0 -j MASQUERADE",
            "a router",
        ),
        ("iptables -I OUTPUT ! -o %i -m mark ! --mark 1 -j REJECT", "`lockdown` will"),
        ("resolvectl dns %i 10.8.0.1", "sets DNS"),
        ("ip route add 10.1.0.0/16 dev %i", "`routes` and `exclude`"),
        ("ip -4 rule add from 10.0.0.1 table 7", "`routes` and `exclude`"),
        ("wg set %i private-key /etc/key", "put the key itself"),
        ("curl http://example.com", "run it yourself"),
    ],
)
@pytest.mark.parametrize("hook", ["PostUp", "PreUp", "PostDown", "PreDown"])
def test_each_command_is_listed_with_what_takes_its_place(
    tmp_path: Path, hook: str, command: str, told: str
) -> None:
    profile, _, err = imported(tmp_path, f"{hook} = {command}")
    assert f"Office 1.conf:5: {hook} is not run: {command} -- " in err
    assert told in err
    assert command not in str(profile)


def test_no_command_is_run(tmp_path: Path) -> None:
    marks = [f"{hook} = touch {tmp_path}/ran" for hook in ("PreUp", "PostUp", "PreDown", "PostDown")]
    imported(tmp_path, "\n".join(marks))
    assert not (tmp_path / "ran").exists()


def test_a_key_in_a_command_is_not_repeated(tmp_path: Path) -> None:
    _, _, err = imported(tmp_path, f"PostUp = wg set %i private-key <(echo {K1})")
    assert K1 not in err
    assert "echo (a key)" in err


def test_saveconfig_and_fwmark_are_told(tmp_path: Path) -> None:
    _, keys, err = imported(tmp_path, "SaveConfig = true\nFwMark = 51820")
    assert "conf:5: SaveConfig: nothing is ever written back" in err
    assert "conf:6: FwMark is left out" in err
    assert "FwMark" not in keys.read_text()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[Interface]\nPrivateKey = x\n", "wg.conf:2: PrivateKey: expected a key"),
        (f"[Interface]\nPrivateKey = {K1}\n", "has no Address"),
        (f"[Interface]\nPrivateKey = {K1}\nAddress = 10.0.0.1/99\n", "wg.conf:3: Address: expected networks"),
    ],
)
def test_a_fault_is_told_by_its_line_and_nothing_is_written(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "wg.conf").write_text(text)
    code, out, err = done("/none", "import", str(tmp_path / "wg.conf"), "-o", str(tmp_path / "p.toml"))
    assert (code, out) == (2, "")
    assert told in err
    assert K1 not in err
    assert [p.name for p in tmp_path.iterdir()] == ["wg.conf"]


@pytest.mark.parametrize("there", ["p.toml", "p.wg.conf"])
def test_a_file_that_exists_is_never_overwritten(tmp_path: Path, there: str) -> None:
    (tmp_path / "wg.conf").write_text(FILE.format(more=""))
    (tmp_path / there).write_text("mine")
    code, _, err = done("/none", "import", str(tmp_path / "wg.conf"), "-o", str(tmp_path / "p.toml"))
    assert (code, "exists already" in err) == (2, True)
    assert (tmp_path / there).read_text() == "mine"
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["wg.conf", there])

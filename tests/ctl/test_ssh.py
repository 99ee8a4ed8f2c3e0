"""Whoever is here by SSH is warned of a tunnel that would swallow the connection, and only then."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from coentro.ctl.ssh import connection, swallows
from tests.ctl.scripted import Refuse, done, scripted, tunnel

OWN = ["192.168.1.5/24", "198.51.100.2/24", "127.0.0.1/8"]


@pytest.mark.parametrize(
    ("spec", "peer", "lost"),
    [
        ({"routes": ["0.0.0.0/0"]}, "203.0.113.9", True),
        ({"routes": ["::/0"]}, "203.0.113.9", False),
        ({"routes": ["::/0"]}, "2001:db8::1", True),
        ({"block": ["203.0.113.0/24"]}, "203.0.113.9", True),
        ({"routes": ["0.0.0.0/0"], "exclude": ["203.0.113.9/32"]}, "203.0.113.9", False),
        ({"routes": ["0.0.0.0/0"], "endpoints": ["203.0.113.9"]}, "203.0.113.9", False),
        ({"routes": ["0.0.0.0/0"], "endpoints": [{"address": "203.0.113.9"}]}, "203.0.113.9", False),
        ({"routes": ["203.0.113.0/25"], "exclude": ["203.0.113.0/24"]}, "203.0.113.9", True),
        ({"routes": ["203.0.113.0/24"], "exclude": ["203.0.113.0/24"]}, "203.0.113.9", False),
        # An on-link network in a private range stays outside, a narrower route within it does not.
        ({"routes": ["0.0.0.0/0"]}, "192.168.1.9", False),
        ({"routes": ["192.168.1.0/25"]}, "192.168.1.9", True),
        ({"routes": 5, "exclude": [7, "x"]}, "203.0.113.9", False),
    ],
)
def test_the_narrowest_network_says(spec: dict[str, Any], peer: str, lost: bool) -> None:
    assert swallows(spec, ip_address(peer), OWN) is lost


def test_the_peer_is_the_one_that_sshd_names() -> None:
    assert connection({"SSH_CONNECTION": "203.0.113.9 5000 10.0.0.1 22"}) == ip_address("203.0.113.9")
    assert connection({"SSH_CONNECTION": "fe80::1%eth0 5000 fe80::2%eth0 22"}) == ip_address("fe80::1")
    for text in ("", "x y", "127.0.0.1 1 127.0.0.1 22"):
        assert connection({"SSH_CONNECTION": text}) is None


@pytest.mark.parametrize("command", ["run", "up"])
def test_it_is_pointed_out_before_the_tunnel_comes_up(tmp_path: Path, command: str) -> None:
    (tmp_path / "p.toml").write_text('routes = ["0.0.0.0/0"]\n')

    def refuse(peer: Any, params: Any) -> Any:
        raise Refuse(-32004, "too many tunnels")

    argv = [command, str(tmp_path / "p.toml"), *(["--", "true"] if command == "run" else [])]
    links = {"interfaces": [{"name": "eth0", "addresses": ["198.51.100.2/24"]}]}
    with scripted(tmp_path, event_subscribe={}, interface_list=links, tunnel_create=refuse) as script:
        _, _, err = done(script, *argv, SSH_CONNECTION="203.0.113.9 5000 198.51.100.2 22")
    assert 'put exclude = ["203.0.113.9"] into the profile' in err
    assert "confirm_within_s" in err
    assert script.calls[0][0] == "interface.list"


def test_a_helper_that_lets_one_not_look_is_no_hindrance(tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text('routes = ["0.0.0.0/0"]\n')
    with scripted(tmp_path, event_subscribe={}, tunnel_create=tunnel(), tunnel_destroy={}) as script:
        code, _, err = done(script, "run", str(tmp_path / "p.toml"), "--", "true",
                            SSH_CONNECTION="203.0.113.9 5000 198.51.100.2 22")  # fmt: skip
    assert (code, "you are here by SSH from 203.0.113.9" in err) == (0, True)


def test_without_ssh_the_helper_is_not_asked(tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text('routes = ["0.0.0.0/0"]\n')
    with scripted(tmp_path, event_subscribe={}, tunnel_create=tunnel(), tunnel_destroy={}) as script:
        done(script, "run", str(tmp_path / "p.toml"), "--", "true", SSH_CONNECTION="127.0.0.1 1 127.0.0.1 22")
    assert "interface.list" not in [method for method, _ in script.calls]

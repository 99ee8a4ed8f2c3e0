"""coentroctl as a program: exit codes, what stands on stdout, and what a person is told.

The helper here says what a test wrote down; tests/ctl/test_end_to_end.py has the real one.
"""

from __future__ import annotations

import grp  # noqa: F401 # so that it is there for a child that can't read the standard library any more
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from coentro.ctl.main import main
from tests.ctl.scripted import PROJECT, TUNNEL, Peer, Refuse, ctl, done, scripted, tunnel

OTHERS = {**TUNNEL, "id": "fedcba9876543210", "owner": {"uid": 1001, "user": "bea"}}


def refusal(code: int, message: str, **data: object) -> object:
    def refuse(peer: Peer, params: object) -> object:
        raise Refuse(code, message, **data)

    return refuse


def test_json_is_the_methods_result_and_nothing_else(tmp_path: Path) -> None:
    with scripted(tmp_path, tunnel_list={"tunnels": [TUNNEL]}) as script:
        code, out, err = done(script, "--output", "json", "tunnel", "list")
    assert (code, json.loads(out), err) == (0, {"tunnels": [TUNNEL]}, "")


def test_options_stand_before_or_behind_the_command(tmp_path: Path) -> None:
    with scripted(tmp_path, session_ping={}) as script:
        assert done(script, "ping", "--output", "json") == (0, "{}\n", "")
        code, out, _ = done("/nonexistent", "ping", "--socket", script.path)
    assert code == 0
    assert "answers in" in out


def test_no_helper_is_3_with_what_to_do(tmp_path: Path) -> None:
    code, out, err = done(str(tmp_path / "none"), "--output", "json", "status")
    assert (code, out) == (3, "")
    assert len(err.splitlines()) <= 2
    assert "coentro-helper" in err


def test_a_socket_that_nobody_listens_on_is_3(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "s"))
    assert done(str(tmp_path / "s"), "ping")[0] == 3


def test_a_helper_that_hangs_up_is_3(tmp_path: Path) -> None:
    with scripted(tmp_path, session_ping=lambda peer, params: peer.hang_up()) as script:
        code, out, err = done(script, "ping")
    assert (code, out) == (3, "")
    assert "connection" in err


def test_one_who_is_not_admitted_gets_4_and_the_command_that_helps(tmp_path: Path) -> None:
    def shut(peer: Peer, params: object) -> object:
        error = {
            "code": -32001,
            "message": "uid 7 may not",
            "data": {"hint": "sudo usermod -aG coentrovpn x"},
        }
        peer.send({"jsonrpc": "2.0", "id": None, "error": error})
        peer.hang_up()
        return {}

    with scripted(tmp_path, session_ping=shut) as script:
        code, _, err = done(script, "ping")
    assert code == 4
    assert err == "coentroctl: uid 7 may not\n  sudo usermod -aG coentrovpn x\n"


def test_a_scope_that_is_missing_is_4(tmp_path: Path) -> None:
    with scripted(tmp_path, helper_status=refusal(-32001, "needs observe")) as script:
        assert done(script, "status")[0] == 4


def test_a_socket_that_may_not_be_opened_is_4_with_the_command_that_helps(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        path.chmod(0)
        pid = os.fork()
        if pid == 0:
            if os.geteuid() == 0:
                os.setuid(65534)  # no mode keeps root out
            os._exit(main(["--socket", str(path), "ping"]))
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 4
    err = capfd.readouterr().err
    assert str(path) in err
    assert "sudo" in err


def test_what_the_helper_refuses_is_1_with_each_conflict(tmp_path: Path) -> None:
    conflicts = [
        {"resource": "everything of IPv4", "held": "another user"},
        {"resource": "10.0.0.0/8", "held": "vpn0"},
    ]
    (tmp_path / "p.toml").write_text("")
    refuse = refusal(-32003, "it is in use", conflicts=conflicts)
    with scripted(tmp_path, event_subscribe={}, tunnel_create=refuse) as script:
        code, out, err = done(script, "up", str(tmp_path / "p.toml"))
    assert (code, out) == (1, "")
    assert "everything of IPv4: held by another user; 10.0.0.0/8: held by vpn0" in err


def test_a_fault_of_a_spec_is_told_by_the_profiles_place(tmp_path: Path) -> None:
    profile = tmp_path / "p.toml"
    profile.write_text('routes = ["10.0.0.1/8"]\n')
    refuse = refusal(-32602, "$.routes[0]: host bits", path="$.routes[0]", detail="host bits")
    with scripted(tmp_path, event_subscribe={}, tunnel_create=refuse, tunnel_plan=refuse) as script:
        for command in (("up",), ("tunnel", "plan")):
            code, _, err = done(script, *command, str(profile))
            assert (code, err) == (1, f"coentroctl: {profile}: routes[0]: host bits\n")


def test_what_the_helper_says_can_not_command_the_terminal(tmp_path: Path) -> None:
    evil = "\x1b[31mred\n"
    with scripted(
        tmp_path,
        tunnel_list={"tunnels": [{**TUNNEL, "name": evil, "problems": [evil]}]},
        helper_status=refusal(-32005, evil, hint=evil, errno=evil),
    ) as script:
        _, out, _ = done(script, "tunnel", "list")
        code, _, err = done(script, "status")
    assert "\x1b" not in out + err
    assert code == 1
    assert len(err.splitlines()) == 2


@pytest.mark.parametrize("name", ["office", TUNNEL["id"]])
def test_a_tunnel_is_named_by_its_name_or_id(tmp_path: Path, name: str) -> None:
    with scripted(tmp_path, tunnel_list={"tunnels": [TUNNEL]}, tunnel_destroy={"id": TUNNEL["id"]}) as script:
        code, out, _ = done(script, "down", name)
    assert (code, out) == (0, f"{TUNNEL['id']} is down\n")
    assert script.calls[-1] == ("tunnel.destroy", {"id": TUNNEL["id"]})


def test_of_two_users_tunnels_with_one_name_the_id_is_asked_for(tmp_path: Path) -> None:
    with scripted(tmp_path, tunnel_list={"tunnels": [TUNNEL, OTHERS]}, tunnel_destroy={}) as script:
        code, _, err = done(script, "down", "office")
    assert code == 2
    assert "0123456789abcdef of ana, fedcba9876543210 of bea" in err
    assert [method for method, _ in script.calls] == ["tunnel.list"]


def test_a_tunnel_that_is_not_there_is_1(tmp_path: Path) -> None:
    with scripted(tmp_path, tunnel_list={"tunnels": [TUNNEL]}) as script:
        code, _, err = done(script, "tunnel", "show", "home")
    assert code == 1
    assert "there is no tunnel home" in err
    assert "office" in err


def test_routes_are_asked_for_page_by_page_and_told_as_one(tmp_path: Path) -> None:
    route = {"destination": "10.0.0.0/8", "gateway": None, "interface": "e0", "metric": 0, "owner": "host"}

    def page(peer: Peer, params: dict[str, object]) -> object:
        return {"routes": [route], "cursor": None if params.get("cursor") == "2" else "2"}

    with scripted(tmp_path, route_list=page) as script:
        code, out, _ = done(script, "routes", "list", "--family", "4", "--output", "json")
        assert (code, json.loads(out)) == (0, {"routes": [route, route], "cursor": None})
        _, out, _ = done(script, "routes", "list", "--limit", "1")
        assert out.splitlines()[-1] == "there are more: --cursor 2"
    assert all(params.get("family", 4) == 4 for _, params in script.calls)


def test_networks_go_into_a_tunnel_and_out(tmp_path: Path) -> None:
    answer = {"added": 2, "removed": 0, "total": 3}
    with scripted(tmp_path, tunnel_list={"tunnels": [TUNNEL]}, tunnel_routes=answer) as script:
        assert done(script, "routes", "add", "office", "10.0.0.0/8", "::/0")[:2] == (
            0,
            "2 added, 0 removed, 3 in all\n",
        )
        done(script, "routes", "del", "office", "10.0.0.0/8")
    changes = [params for method, params in script.calls if method == "tunnel.routes"]
    assert changes == [
        {"id": TUNNEL["id"], "add": ["10.0.0.0/8", "::/0"]},
        {"id": TUNNEL["id"], "remove": ["10.0.0.0/8"]},
    ]


@pytest.mark.parametrize(
    "argv",
    [
        (), ("nonesuch",), ("down",), ("routes", "add", "x"), ("tunnel",), ("--output", "xml", "ping"),
        ("call", "m", "{"), ("call", "m", "[1]"), ("call", "m", "1"), ("up", "/nonexistent"),
        ("tunnel", "plan", "/nonexistent"), ("run", "/nonexistent", "--", "true"), ("run", "p.toml"),
        ("run", "p.toml", "--"), ("run", "/dev/null", "--user", "no such user", "--", "true"), ("stat",),
    ],
)  # fmt: skip
def test_a_wrong_command_line_is_2_before_any_helper_is_asked(argv: tuple[str, ...]) -> None:
    code, out, err = done("/nonexistent", *argv)
    assert (code, out) == (2, "")
    assert err


def test_any_method_can_be_called(tmp_path: Path) -> None:
    with scripted(tmp_path, session_hello=lambda peer, params: {"got": params}) as script:
        assert json.loads(done(script, "call", "session.hello")[1]) == {"got": {}}
        assert json.loads(done(script, "call", "session.hello", '{"protocol": 1}')[1]) == {
            "got": {"protocol": 1}
        }
        assert done(script, "call", "no.such")[0] == 1


def test_a_call_that_makes_a_tunnel_says_that_it_goes_again(tmp_path: Path) -> None:
    with scripted(tmp_path, tunnel_create=tunnel()) as script:
        code, _, err = done(script, "call", "tunnel.create", "{}")
    assert code == 0
    assert "goes with this call" in err


def test_events_are_a_line_each_until_the_helper_goes(tmp_path: Path) -> None:
    def subscribe(peer: Peer, params: object) -> object:
        peer.event("tunnel.up", name="a\x1b")
        return {}

    with scripted(tmp_path, event_subscribe=subscribe) as script:
        program = ctl(script, "events", "--types", "tunnel.up,tunnel.down")
        assert program.stdout is not None
        line = program.stdout.readline()
        assert script.calls == [("event.subscribe", {"types": ["tunnel.up", "tunnel.down"]})]
        program.terminate()
        assert (program.communicate(timeout=10)[0], program.returncode) == ("", 0)
        in_json = ctl(script, "--output", "json", "events")
        assert in_json.stdout is not None
        assert json.loads(in_json.stdout.readline())["type"] == "tunnel.up"
        script.peers[-1].hang_up()
        in_json.communicate(timeout=10)
        assert in_json.returncode == 3
    assert "tunnel.up" in line
    assert "\x1b" not in line


def test_a_reader_that_has_enough_is_no_fault(tmp_path: Path) -> None:
    routes = [
        {"destination": f"10.{n}.0.0/16", "gateway": None, "interface": "e", "metric": 0, "owner": "host"}
        for n in range(256)
    ]
    with scripted(tmp_path, route_list={"routes": routes * 20, "cursor": None}) as script:
        program = ctl(script, "routes", "list")
        assert program.stdout is not None
        program.stdout.readline()
        program.stdout.close()
        assert program.stderr is not None
        assert program.stderr.read() == ""
        program.stderr.close()
        assert program.wait(10) == 0


def test_a_result_that_the_tables_do_not_know_is_shown_all_the_same(tmp_path: Path) -> None:
    with scripted(tmp_path, helper_status={"version": "9", "new": True}) as script:
        code, out, _ = done(script, "status")
    assert (code, json.loads(out)) == (0, {"version": "9", "new": True})


def test_coentroctl_starts_without_the_daemons_libraries() -> None:
    code = (
        "import sys, coentro.ctl.main, coentro.ctl.run, coentro.ctl.up\n"
        "heavy = {'trio', 'msgspec', 'attrs', 'attr', 'asyncio', 'ctypes'}\n"
        "print(*sorted({m.split('.')[0] for m in sys.modules} & heavy))"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True
    ).stdout
    assert out == "\n"


def test_the_version_is_told() -> None:
    assert done("x", "--version")[:2] == (0, "coentroctl 0.1.0\n")

"""The blocking client against a scripted helper."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from coentro.client import Client, HelperError, HelperGone, NoHelper, NotAdmitted, socket_path
from coentro.client.place import explain
from tests.client.scripted import TUNNEL, Peer, helper, open_fds, pipes


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "helper.sock"


# --- calls


def test_a_call_and_its_answer(place: Path) -> None:
    def script(peer: Peer) -> None:
        request = peer.read()
        assert request == {"jsonrpc": "2.0", "id": 1, "method": "session.hello", "params": {"a": [1, None]}}
        peer.answer({"protocol": 1}, request)
        peer.answer({}, peer.read())
        assert peer.read() is None

    with helper(place, script) as path, Client(path) as client:
        assert client.call("session.hello", {"a": [1, None]}) == {"protocol": 1}
        assert client.call("session.ping") == {}


def test_a_refusal(place: Path) -> None:
    def script(peer: Peer) -> None:
        request = peer.read()
        peer.refuse(
            -32602, "$.mtu: expected an integer", request["id"], reason="invalid_params", path="$.mtu"
        )
        peer.answer({}, peer.read())

    with helper(place, script) as path, Client(path) as client:
        with pytest.raises(HelperError) as caught:
            client.call("tunnel.create", {"mtu": "x"})
        assert (caught.value.code, caught.value.reason, caught.value.data["path"]) == (
            -32602,
            "invalid_params",
            "$.mtu",
        )
        assert str(caught.value) == "$.mtu: expected an integer"
        assert client.call("session.ping") == {}


def test_a_scope_that_is_missing_is_a_refusal_but_not_of_the_connection(place: Path) -> None:
    def script(peer: Peer) -> None:
        peer.refuse(-32001, "needs admin", peer.read()["id"], reason="not_authorized")
        peer.answer({}, peer.read())

    with helper(place, script) as path, Client(path) as client:
        with pytest.raises(HelperError) as caught:
            client.call("token.list")
        assert not isinstance(caught.value, NotAdmitted)
        assert client.call("session.ping") == {}


def test_params_that_are_not_json_are_not_sent(place: Path) -> None:
    def script(peer: Peer) -> None:
        peer.answer({}, peer.read())

    with helper(place, script) as path, Client(path) as client:
        with pytest.raises(ValueError, match="JSON"):
            client.call("m", {"a": float("nan")})
        assert client.call("session.ping") == {}


def test_a_large_call_and_a_large_answer(place: Path) -> None:
    routes = [f"10.{i >> 8}.{i & 255}.0/24" for i in range(65536)]

    def script(peer: Peer) -> None:
        request = peer.read()
        peer.answer({"routes": request["params"]["routes"]}, request)

    with helper(place, script) as path, Client(path) as client:
        assert client.call("m", {"routes": routes}) == {"routes": routes}


def test_a_helper_that_has_to_be_read_before_it_reads(place: Path) -> None:
    """As the real one does beyond 1 MiB of answers: both would wait forever if we did not read."""

    def script(peer: Peer) -> None:
        for seq in range(20_000):
            peer.event(seq)
        peer.answer({}, peer.read())

    with helper(place, script) as path, Client(path, timeout_s=60) as client:
        assert client.call("m", {"text": "x" * 4_000_000}) == {}
        assert [client.next_event(0)["seq"] for _ in range(20_000)] == list(range(20_000))  # type: ignore[index]  # all are there


# --- the end


def test_no_socket_and_no_listener(place: Path) -> None:
    with pytest.raises(NoHelper, match="does not exist"):
        Client(str(place))
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(place))
    with pytest.raises(NoHelper, match="coentro-helper"):
        Client(str(place))
    with pytest.raises(NoHelper, match="too long"):
        Client("/" + "x" * 300)


def test_a_socket_that_one_may_not_use_says_what_helps() -> None:
    told = explain(PermissionError(errno.EACCES, "Permission denied"), "/nowhere/helper.sock")
    assert isinstance(told, NotAdmitted)
    assert told.code == -32001
    assert "coentrovpn" in told.message
    assert "sudo" in told.message


def refuse_at_once(peer: Peer) -> None:
    peer.refuse(-32001, "not you: sudo usermod -aG coentrovpn you", reason="not_authorized")
    peer.sock.shutdown(socket.SHUT_WR)


def refuse_and_close(peer: Peer) -> None:
    peer.refuse(-32001, "not you: sudo usermod -aG coentrovpn you", reason="not_authorized")


@pytest.mark.parametrize("script", [refuse_at_once, refuse_and_close])
@pytest.mark.parametrize("size", [10, 5_000_000])
def test_a_refused_user_is_told_by_the_first_call(place: Path, script: Any, size: int) -> None:
    with helper(place, script) as path, Client(path) as client:
        for _ in range(2):
            with pytest.raises(NotAdmitted, match="usermod"):
                client.call("m", {"text": "x" * size})


def test_a_refusal_is_read_when_writing_fails(place: Path) -> None:
    with helper(place, refuse_and_close) as path:
        client = Client(path)
    # The helper's end is closed for sure: the send gets EPIPE.
    with client, pytest.raises(NotAdmitted, match="usermod"):
        client.call("m")


def test_a_connection_that_closes_is_gone_for_every_call(place: Path) -> None:
    def script(peer: Peer) -> None:
        peer.event(1)
        peer.read()

    with helper(place, script) as path, Client(path) as client:
        for _ in range(2):
            with pytest.raises(HelperGone, match="closed"):
                client.call("m")
        assert client.next_event() == {"seq": 1, "type": "tunnel.up", "data": {}}
        with pytest.raises(HelperGone):
            client.next_event()


def test_a_line_that_breaks_the_connection_is_told(place: Path) -> None:
    def script(peer: Peer) -> None:
        peer.read()
        peer.refuse(-32700, "too long", reason="parse_error")

    with helper(place, script) as path, Client(path) as client, pytest.raises(HelperError) as caught:
        client.call("m")
    assert caught.value.reason == "parse_error"


@pytest.mark.parametrize(
    "garbage",
    [
        b"HTTP/1.1 400 Bad Request\n",
        b"1\n",
        b'"x"\n',
        b"[]]\n",
        b"{}\n",
        b'{"id":1,"result":{"fds":[{"index":0}]}}\n',
        b"\xff\n",
        b'{"id":1,"error":5}\n',
        b'{"id":[],"result":{}}\n',
        b"[" * 100_000 + b"\n",
        b'{"id":1,"result":{"fds":[5]}}\n',
        b'{"method":"event"}\n',
    ],
    ids=lambda line: repr(line[:20]),
)
def test_what_is_no_helper_is_left(place: Path, garbage: bytes) -> None:
    def script(peer: Peer) -> None:
        peer.read()
        peer.sock.sendall(garbage)
        peer.read()

    with (
        helper(place, script) as path,
        Client(path) as client,
        pytest.raises(HelperGone, match="not the helper"),
    ):
        client.call("m")


def test_a_closed_client(place: Path) -> None:
    with helper(place, lambda peer: peer.read()) as path:
        client = Client(path)
        client.close()
        client.close()
        with pytest.raises(HelperGone, match="this client is closed"):
            client.call("m")
        with pytest.raises(HelperGone):
            client.next_event(0)


# --- time


def test_a_call_that_is_not_answered_in_time(place: Path) -> None:
    def script(peer: Peer) -> None:
        first = peer.read()
        second = peer.read()
        peer.answer({"late": True}, first)
        peer.answer({"second": True}, second)

    with helper(place, script) as path, Client(path) as client:
        client._timeout_s = 0
        with pytest.raises(TimeoutError):
            client.call("m")
        client._timeout_s = None
        assert client.call("m") == {"second": True}


def test_a_tunnel_whose_maker_gave_up_is_destroyed_and_its_descriptor_closed(place: Path) -> None:
    before = open_fds()

    def script(peer: Peer) -> None:
        first = peer.read()
        second = peer.read()
        with pipes(1) as (_, writes):
            peer.answer(TUNNEL, first, fds=writes)
        peer.answer({}, second)
        assert peer.read() == {"jsonrpc": "2.0", "method": "tunnel.destroy", "params": {"id": "t1"}}

    with helper(place, script) as path, Client(path) as client:
        client._timeout_s = 0
        with pytest.raises(TimeoutError):
            client.create(addresses=["10.8.0.2/24"])
        client._timeout_s = None
        assert client.call("session.ping") == {}
    assert open_fds() == before


def test_a_line_that_is_given_up_in_its_middle_ends_the_connection(place: Path) -> None:
    go = threading.Event()

    def cut(peer: Peer) -> None:
        go.wait(30)
        got = b""
        while data := peer.sock.recv(1 << 16):
            got += data
        assert 0 < len(got) < 8_000_000
        assert b"\n" not in got

    with helper(place, cut) as path, Client(path) as client:
        client._timeout_s = 0
        with pytest.raises(TimeoutError):
            client.call("m", {"text": "x" * 8_000_000})
        go.set()
        with pytest.raises(HelperGone, match="middle"):
            client.call("m")


# --- descriptors


def test_a_tunnel_has_its_descriptors_in_the_order_of_their_index(place: Path) -> None:
    before = open_fds()

    def script(peer: Peer) -> None:
        request = peer.read()
        assert request["method"] == "tunnel.create"
        assert request["params"] == {"addresses": ["10.8.0.2/24"], "tun": {"queues": 3}}
        with pipes(3) as (reads, writes):
            fds = [{"index": 2, "kind": "tun"}, {"index": 0, "kind": "tun"}, {"index": 1, "kind": "tun"}]
            peer.answer(TUNNEL | {"fds": fds}, request, fds=writes)
            request = peer.read()
            assert [os.read(read, 9) for read in reads] == [b"1", b"2", b"0"]
        assert request["method"] == "tunnel.destroy"
        assert request["params"] == {"id": "t1"}
        peer.answer({"id": "t1"}, request)

    with helper(place, script) as path, Client(path) as client:
        with client.create(addresses=["10.8.0.2/24"], tun={"queues": 3}) as tunnel:
            assert (tunnel.id, tunnel.name, tunnel.lease, tunnel.interface) == (
                "t1",
                "office",
                "secret",
                "coentro0",
            )
            assert not any(map(os.get_inheritable, tunnel.fds))
            for i, fd in enumerate(tunnel.fds):
                os.write(fd, b"%d" % i)
        assert tunnel.fds == []
    assert open_fds() == before


def test_descriptors_of_several_lines_and_of_a_batch_go_where_they_belong(place: Path) -> None:
    def script(peer: Peer) -> None:
        first = peer.read()
        with pipes(3) as (reads, writes):
            other = {"jsonrpc": "2.0", "id": 999, "result": {"fds": [{"index": 1}]}}
            mine = {"jsonrpc": "2.0", "id": first["id"], "result": {"fds": [{"index": 2}, {"index": 0}]}}
            peer.write([other, mine], fds=writes)
            peer.read()
            assert [os.read(read, 9) for read in reads[::2]] == [b"1", b"0"]
            os.set_blocking(reads[1], False)

    with helper(place, script) as path, Client(path) as client:
        _, fds = client.call_with_fds("m")
        for i, fd in enumerate(fds):
            os.write(fd, b"%d" % i)
            os.close(fd)


def test_a_call_that_wants_no_descriptors_closes_them(place: Path) -> None:
    before = open_fds()

    def script(peer: Peer) -> None:
        with pipes(1) as (_, writes):
            peer.answer(TUNNEL, peer.read(), fds=writes)

    with helper(place, script) as path, Client(path) as client:
        assert client.call("tunnel.create")["id"] == "t1"
    assert open_fds() == before


def test_descriptors_that_no_line_names_are_closed_with_the_client(place: Path) -> None:
    before = open_fds()

    def script(peer: Peer) -> None:
        with pipes(2) as (_, writes):
            peer.answer({}, peer.read(), fds=writes)

    with helper(place, script) as path, Client(path) as client:
        assert client.call("m") == {}
    assert open_fds() == before


def test_descriptors_can_be_taken_out_of_a_tunnel(place: Path) -> None:
    def script(peer: Peer) -> None:
        with pipes(1) as (_, writes):
            peer.answer(TUNNEL, peer.read(), fds=writes)
        peer.refuse(-32002, "no such tunnel", peer.read()["id"], reason="not_found")

    with helper(place, script) as path, Client(path) as client:
        tunnel = client.create()
        (fd,) = tunnel.take_fds()
        tunnel.close()  # not_found: it is gone, which is what was asked for
        os.fstat(fd)
        os.close(fd)


def test_attaching_gives_a_tunnel_with_its_lease(place: Path) -> None:
    def script(peer: Peer) -> None:
        request = peer.read()
        assert (request["method"], request["params"]) == ("tunnel.attach", {"id": "t1", "lease": "secret"})
        peer.answer(TUNNEL | {"lease": None, "fds": []}, request)

    with helper(place, script) as path, Client(path) as client:
        tunnel = client.attach("t1", "secret")
        assert (tunnel.lease, tunnel.fds) == ("secret", [])
    tunnel.close()  # the client is gone, and the tunnel with it


def test_closing_a_tunnel_that_cannot_be_destroyed_says_so_and_closes_its_descriptors(place: Path) -> None:
    def script(peer: Peer) -> None:
        with pipes(1) as (_, writes):
            peer.answer(TUNNEL, peer.read(), fds=writes)
        peer.refuse(-32005, "EPERM", peer.read()["id"], reason="kernel", errno="EPERM")

    with helper(place, script) as path, Client(path) as client:
        tunnel = client.create()
        with pytest.raises(HelperError, match="EPERM"):
            tunnel.close()
        assert tunnel.fds == []


# --- events


def test_events_that_come_during_a_call_are_kept_in_order(place: Path) -> None:
    def script(peer: Peer) -> None:
        request = peer.read()
        assert request["params"] == {"types": ["tunnel.up"], "since": {"run": "r", "seq": 0}}
        peer.event(1)
        peer.answer({"run": "r", "seq": 1}, request)
        peer.event(2)
        peer.read()

    with helper(place, script) as path, Client(path) as client:
        assert client.subscribe(["tunnel.up"], {"run": "r", "seq": 0}) == {"run": "r", "seq": 1}
        assert [client.next_event()["seq"] for _ in range(2)] == [1, 2]  # type: ignore[index]  # they come
        assert client.next_event(0) is None


def test_subscribing_to_all_names_no_types(place: Path) -> None:
    def script(peer: Peer) -> None:
        request = peer.read()
        assert request["params"] == {}
        peer.answer({"run": "r", "seq": 1}, request)

    with helper(place, script) as path, Client(path) as client:
        client.subscribe()


def test_other_notifications_are_not_events(place: Path) -> None:
    def script(peer: Peer) -> None:
        peer.write({"jsonrpc": "2.0", "method": "later.version", "params": {}})
        peer.event(1)
        peer.read()

    with helper(place, script) as path, Client(path) as client:
        assert client.next_event()["seq"] == 1  # type: ignore[index]  # it comes


# --- place and imports


def test_where_the_helper_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COENTRO_SOCKET", "/env.sock")
    assert socket_path("/given.sock") == "/given.sock"
    assert socket_path(None) == "/env.sock"
    monkeypatch.setenv("COENTRO_SOCKET", "")
    monkeypatch.setattr(sys, "platform", "linux")
    assert socket_path(None) == "/run/coentrovpn/helper.sock"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert socket_path(None) == "/var/run/coentrovpn/helper.sock"


def test_the_plain_client_needs_the_standard_library_alone() -> None:
    code = (
        "import sys; from coentro.client import Client, HelperError, NoHelper, NotAdmitted, socket_path\n"
        "try: Client('/nowhere')\n"
        "except NoHelper: pass\n"
        "ours = {n for n in sys.modules if n.startswith('coentro')}\n"
        "tops = {n.partition('.')[0] for n in sys.modules}\n"
        "print(*tops - sys.stdlib_module_names - {'coentro', '__main__'})\n"
        "print(*ours & {'coentro.errors', 'coentro.model', 'coentro.wire.jsonrpc', 'coentro.client.aio'})\n"
        "print(*{'asyncio', 'argparse', 'logging', 'inspect', 'ssl'} & set(sys.modules))\n"
    )
    root = Path(__file__).parents[2]
    # -S: no site-packages at all, -I: no path of ours but the one given.
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {str(root)!r})\n{code}"],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.split() == []


def test_what_the_package_does_not_have() -> None:
    import coentro.client

    with pytest.raises(AttributeError):
        coentro.client.Klient  # noqa: B018 - asking is the test
    for name in coentro.client.__all__:
        assert getattr(coentro.client, name) is not None

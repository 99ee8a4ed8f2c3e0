"""The sandbox itself: a test that relies on it is worth what these hold."""

from __future__ import annotations

import os
import signal
import socket
import sys
from pathlib import Path

import pytest
import trio

from tests import sandbox


def test_a_test_sees_a_network_of_its_own() -> None:
    assert [name for _, name in socket.if_nameindex()] == ["lo"]
    assert os.listdir("/sys/class/net") == ["lo"]
    assert os.listdir("/run") == []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        socket.create_connection(listener.getsockname(), timeout=5).close()


async def test_an_async_test_runs_here_too(tmp_path: Path) -> None:
    name = await trio.to_thread.run_sync(lambda: (tmp_path / "x").name)
    assert name == "x"


def test_state_tells_a_route_a_rule_and_a_setting_and_forgets_them_again() -> None:
    sandbox.veth("left", "right")
    before = sandbox.host_state()
    for change, undo in (
        ("ip -6 route add fd00::/64 dev left table 77", "ip -6 route del fd00::/64 dev left table 77"),
        ("ip route add throw 10.0.0.0/8 table 77", "ip route del throw 10.0.0.0/8 table 77"),
        ("ip rule add pref 10100 lookup 77", "ip rule del pref 10100 lookup 77"),
        ("ip address add 192.0.2.1/24 dev left", "ip address del 192.0.2.1/24 dev left"),
        ("sysctl -qw net.ipv4.conf.left.rp_filter=1", "sysctl -qw net.ipv4.conf.left.rp_filter=0"),
        ("ip link set left mtu 1400", "ip link set left mtu 1500"),
    ):
        sandbox.run(*change.split())
        assert sandbox.host_state() != before, change
        sandbox.run(*undo.split())
        assert sandbox.host_state() == before, undo


def test_further_namespaces_reach_each_other(namespaces: sandbox.Namespaces) -> None:
    server = namespaces.new("server")
    sandbox.veth("here", "there", theirs=server)
    sandbox.run("ip", "address", "add", "fd00::1/64", "dev", "here")
    server.run("ip", "address", "add", "fd00::2/64", "dev", "there")
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as inbox:
        inbox.bind(("fd00::1", 5000))
        inbox.settimeout(5)
        server.call(_send, ("fd00::1", 5000), b"hello")
        assert inbox.recv(100) == b"hello"
    assert server.call(lambda: sorted(n for _, n in socket.if_nameindex())) == ["lo", "there"]


def _send(where: tuple[str, int], data: bytes) -> None:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sender:
        sender.sendto(data, where)


def test_another_user_is_who_the_kernel_says(two_uids: tuple[int, int]) -> None:
    first, second = two_uids
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("/run/who.sock")
        os.chmod("/run/who.sock", 0o666)
        listener.listen()

        def connect() -> tuple[int, int, list[int]]:
            with socket.socket(socket.AF_UNIX) as client:
                client.connect("/run/who.sock")
                return os.getuid(), os.getgid(), os.getgroups()

        assert sandbox.as_user(first, groups=[second]).call(connect) == (first, first, [second])
        peer, _ = listener.accept()
        with peer:
            credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        assert int.from_bytes(credentials[4:8], "little") == first


def test_another_user_starts_python_and_finds_the_project(two_uids: tuple[int, int]) -> None:
    user = sandbox.as_user(two_uids[0])
    code = "import coentro, trio, os; print(os.getuid())"
    assert user.run(sys.executable, "-c", code).stdout == f"{user.uid}\n"


def test_an_exception_in_a_child_is_the_callers(two_uids: tuple[int, int]) -> None:
    with pytest.raises(PermissionError):
        sandbox.as_user(two_uids[0]).call(os.setuid, 0)


@pytest.mark.usefixtures("tun_available")
def test_a_tun_can_be_made() -> None:
    sandbox.run("ip", "tuntap", "add", "dev", "t0", "mode", "tun")


def test_signals_reach_a_test_like_any_process() -> None:
    pid = os.fork()
    if pid == 0:
        os.kill(os.getpid(), signal.SIGTERM)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == signal.SIGTERM

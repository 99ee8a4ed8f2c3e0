"""The demo's data plane honours what stands before each packet."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools.dataplane import GREETING, WELCOME, Tun

DATAPLANE = Path(__file__).parent.parent.parent / "tools" / "dataplane.py"
V4 = b"\x45" + bytes(19)
V6 = b"\x60" + bytes(39)


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A descriptor that keeps packets apart, as a TUN does, and its other end."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, theirs:
        theirs.settimeout(10)
        yield ours, theirs


@pytest.mark.skipif(sys.platform != "linux", reason="Linux's headers")
@pytest.mark.parametrize(
    ("header_bytes", "packet", "header"),
    [
        (0, V4, b""),
        (4, V4, b"\0\0\x08\0"),
        (4, V6, b"\0\0\x86\xdd"),
        (10, V4, bytes(10)),
        (14, V6, b"\0\0\x86\xdd" + bytes(10)),
    ],
)
def test_a_packet_has_linuxs_header(
    ends: tuple[socket.socket, socket.socket], header_bytes: int, packet: bytes, header: bytes
) -> None:
    ours, theirs = ends
    tun = Tun(ours.fileno(), header_bytes)
    tun.write(packet)
    assert theirs.recv(100) == header + packet
    theirs.send(header + packet)
    assert tun.read() == packet
    assert tun.read() is None


def test_the_client_carries_packets_both_ways(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(10)
        program = subprocess.Popen(
            [sys.executable, DATAPLANE, "client", "--server", f"127.0.0.1:{server.getsockname()[1]}"],
            stdout=subprocess.PIPE, pass_fds=[ours.fileno()],
            env={**os.environ, "COENTRO_TUN_FD": str(ours.fileno()), "COENTRO_PACKET_HEADER_BYTES": "0"},
        )  # fmt: skip
        assert program.stdout is not None
        with program.stdout:
            greeting, client = server.recvfrom(100)
            assert greeting == GREETING
            server.sendto(WELCOME, client)
            assert b"is connected to" in program.stdout.readline()
            theirs.send(V4)
            packet = server.recv(100)
            while packet == GREETING:  # one that was repeated before the welcome came
                packet = server.recv(100)
            assert packet == V4
            server.sendto(V6, client)
            assert theirs.recv(100) == V6
            program.terminate()
    assert program.wait(10) == 0


def test_a_client_without_a_tunnel_says_how_to_get_one() -> None:
    env = {name: value for name, value in os.environ.items() if name != "COENTRO_TUN_FD"}
    argv = [sys.executable, str(DATAPLANE), "client", "--server", "127.0.0.1:9"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False, env=env)
    assert done.returncode == 1
    assert "coentroctl run" in done.stderr

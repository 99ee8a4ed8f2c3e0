"""WireGuard's API: the text of a configuration, what an answer means, and a peer that misbehaves."""

from __future__ import annotations

import errno
import select
import socket
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coentro.engines import uapi
from coentro.engines.preset import EngineFault, HasFileno
from coentro.engines.uapi import Uapi, answered, configuration, setting
from coentro.engines.wgconf import Endpoint, parse

K1, K2, K3 = (b64encode(bytes([n]) * 32).decode() for n in (1, 2, 3))


def test_a_configuration_replaces_all_of_an_earlier_one() -> None:
    text = (
        f"[Interface]\nPrivateKey = {K1}\nListenPort = 51820\n"
        f"[Peer]\nPublicKey = {K2}\nPresharedKey = {K3}\nEndpoint = vpn.example:9\n"
        f"AllowedIPs = 10.0.0.1/8, ::/0\n"
        f"PersistentKeepalive = 25\n[Peer]\nPublicKey = {K3}\nEndpoint = 192.0.2.9:1\n"
    )
    config = parse(text.encode(), quick=False)
    resolved = {
        Endpoint("vpn.example", 9, 7): ("2001:db8::7", 9),
        Endpoint("192.0.2.9", 1, 12): ("192.0.2.9", 1),
    }
    assert configuration(config, resolved).decode().split("\n") == [
        "set=1",
        "private_key=" + "01" * 32,
        "listen_port=51820",
        "replace_peers=true",
        "public_key=" + "02" * 32,
        "preshared_key=" + "03" * 32,
        "endpoint=[2001:db8::7]:9",
        "persistent_keepalive_interval=25",
        "replace_allowed_ips=true",
        "allowed_ip=10.0.0.0/8",
        "allowed_ip=::/0",
        "public_key=" + "03" * 32,
        "endpoint=192.0.2.9:1",
        "replace_allowed_ips=true",
        "",
        "",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("data", "number"),
    [
        (b"", None),
        (b"errno=0\n", None),
        (b"errno=0\n\n", 0),
        (b"errno=-98\n\n", 98),
        (b"a=1\nerrno=22\n\n", 22),
    ],
)
def test_an_answer_is_whole_once_an_empty_line_ends_it(data: bytes, number: int | None) -> None:
    assert answered(data) == number


@given(st.binary(max_size=60).map(lambda b: b + b"\n\n"))
def test_any_other_answer_is_a_value_error(data: bytes) -> None:
    try:
        assert answered(data) is not None
    except ValueError:
        assert not data.rstrip(b"\n").endswith(b"errno=0")


def wait(sources: Sequence[HasFileno], timeout_s: float) -> None:
    select.select(sources, [], [], timeout_s)


@contextmanager
def engine(act: Callable[[socket.socket], None]) -> Iterator[Uapi]:
    """The connection's other end, in a thread."""
    ours, theirs = socket.socketpair()

    def serve() -> None:
        with theirs, suppress(OSError):  # we have hung up
            act(theirs)

    thread = threading.Thread(target=serve)
    thread.start()
    made = Uapi(ours, "the engine")
    try:
        yield made
    finally:
        made.close()
        thread.join(10)


def answer(text: bytes) -> Callable[[socket.socket], None]:
    def act(sock: socket.socket) -> None:
        data = b""
        while not data.endswith(b"\n\n"):
            data += sock.recv(65536)
        for i in range(len(text)):
            sock.send(text[i : i + 1])

    return act


def test_a_long_configuration_is_sent_whole_and_answered() -> None:
    with engine(answer(b"errno=0\n\n")) as made:
        made.set(setting(["allowed_ip=10.0.0.0/8"] * 100_000), wait, "it", {})


def test_a_refusal_says_what_it_means() -> None:
    with engine(answer(b"errno=-98\n\n")) as made, pytest.raises(EngineFault) as caught:
        made.set(setting([]), wait, "the configuration", {errno.EADDRINUSE: "its port is taken"})
    assert str(caught.value) == "the engine refused the configuration: its port is taken (EADDRINUSE)"


@pytest.mark.parametrize(
    ("act", "told"),
    [
        (answer(b"hello\n\n"), "something else than WireGuard's API"),
        (answer(b"x" * 70_000), "something else than WireGuard's API"),
        (answer(b"errno="), "broke: Connection reset"),
        (lambda sock: None, "broke: "),
    ],
)
def test_what_is_no_answer_is_a_fault_and_no_wait_for_ever(
    act: Callable[[socket.socket], None], told: str
) -> None:
    with engine(act) as made, pytest.raises(EngineFault, match=told):
        made.set(setting([]), wait, "it", {})


def test_an_engine_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uapi, "ANSWER_S", 0.05)
    done = threading.Event()

    def say_nothing(sock: socket.socket) -> None:
        done.wait(10)

    with engine(say_nothing) as made:
        try:
            with pytest.raises(EngineFault, match=r"did not answer on its control socket within 0\.05 s"):
                made.set(setting([]), wait, "it", {})
        finally:
            done.set()

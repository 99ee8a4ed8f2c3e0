"""One connection's time: deadlines by trio's clock, answers in one send, and no more than its share."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from math import inf
from typing import Any, Final, NoReturn, cast

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from coentro.clock import BootClock
from coentro.helper import peer
from coentro.helper.access import Access
from coentro.helper.config import Config
from coentro.helper.credentials import Credentials
from coentro.helper.daemon import Daemon
from coentro.helper.peer import PARTIAL_S, Peer
from coentro.model import Uid
from coentro.netops.interface import NetworkOps
from coentro.tunnels.manager import Limits, Manager

PING: Final = b'{"jsonrpc":"2.0","id":"ping","method":"session.ping"}\n'
PONG: Final = {"jsonrpc": "2.0", "id": "ping", "result": {}}


def no_reload() -> NoReturn:
    raise AssertionError("nothing is reloaded here")


@asynccontextmanager
async def served(kind: int = socket.SOCK_STREAM) -> AsyncIterator[socket.socket]:
    """The other end of a connection that a peer of ours serves."""
    config = Config()
    network = cast(NetworkOps, None)  # no tunnel is made here
    daemon = Daemon(network, config, Access.of(config), no_reload)
    ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
    ours.setblocking(False)
    theirs.setblocking(False)
    for sock, side in ((ours, socket.SO_RCVBUF), (theirs, socket.SO_SNDBUF)):
        sock.setsockopt(socket.SOL_SOCKET, side, 1 << 20)  # Darwin's own are 8 KiB
    with ours, theirs:
        async with trio.open_nursery() as nursery:
            daemon.manager = Manager(network, nursery, daemon.events.tell, Limits(), BootClock())
            who = Credentials(Uid(os.geteuid()), os.getegid(), frozenset(), os.getpid())
            nursery.start_soon(Peer(daemon, ours, who, None).serve)
            yield theirs
            nursery.cancel_scope.cancel()


def there(sock: socket.socket) -> list[Any]:
    """The lines that have come; the last is None if the peer has closed."""
    data = b""
    while True:
        try:
            more = sock.recv(1 << 20)
        except BlockingIOError:
            return [json.loads(line) for line in data.splitlines()]
        if not more:
            return [*(json.loads(line) for line in data.splitlines()), None]
        data += more


async def test_half_a_line_may_stand_ten_seconds_without_a_byte(mock_clock: MockClock) -> None:
    async with served() as sock:
        for byte in PING[:5]:
            sock.send(bytes((byte,)))
            await wait_all_tasks_blocked()
            mock_clock.jump(PARTIAL_S - 0.1)
            await wait_all_tasks_blocked()
            assert there(sock) == []
        mock_clock.jump(0.2)
        await wait_all_tasks_blocked()
        said, end = there(sock)
        assert (said["id"], said["error"]["code"], end) == (None, -32700, None)


async def test_silence_between_lines_has_no_deadline(mock_clock: MockClock) -> None:
    async with served() as sock:
        for _ in range(3):
            mock_clock.jump(86400)
            sock.send(PING)
            await wait_all_tasks_blocked()
            assert there(sock) == [PONG]


async def test_half_a_line_is_over_once_it_is_whole(mock_clock: MockClock) -> None:
    async with served() as sock:
        sock.send(PING[:9])
        await wait_all_tasks_blocked()
        sock.send(PING[9:])
        await wait_all_tasks_blocked()
        mock_clock.jump(PARTIAL_S * 10)
        await wait_all_tasks_blocked()
        assert there(sock) == [PONG]


async def test_all_lines_of_one_read_are_answered_in_one_send(monkeypatch: pytest.MonkeyPatch) -> None:
    # Where the machine is slow it is not a share of the time that divides them.
    monkeypatch.setattr(peer, "SHARE_S", inf)
    # Packets keep what was sent apart, which a stream does not.
    async with served(socket.SOCK_SEQPACKET) as sock:
        sock.send(PING * 20 + b"nonsense\n" + PING)
        await wait_all_tasks_blocked()
        answers = [json.loads(line) for line in sock.recv(1 << 20).splitlines()]
        assert len(answers) == 22
        assert answers[:20] == [PONG] * 20
        assert there(sock) == []


async def test_one_who_asks_much_leaves_the_others_their_turns() -> None:
    quiet = b'{"jsonrpc":"2.0","method":"session.ping"}\n'
    async with served() as sock:
        for _ in range(7):
            assert sock.send(quiet * 500) == len(quiet) * 500
        sock.send(PING)
        turns = 0
        while not there(sock):
            await trio.lowlevel.checkpoint()
            turns += 1
        assert turns > 2, "it was all worked off before anyone else had a turn"


async def test_one_who_does_not_take_the_farewell_is_not_waited_for(mock_clock: MockClock) -> None:
    async with served() as sock:
        long = json.dumps({"jsonrpc": "2.0", "id": "x" * 60_000, "method": "session.ping"}).encode() + b"\n"
        for _ in range(10):  # more than the socket takes, less than stops the reading
            for start in range(0, len(long), 10_000):
                sock.send(long[start : start + 10_000])
                await wait_all_tasks_blocked()
        sock.send(b"\xff\n")
        await wait_all_tasks_blocked()
        sock.send(PING)  # still open
        mock_clock.jump(1.1)
        await wait_all_tasks_blocked()
        try:
            sock.send(PING)
        except BrokenPipeError:
            return
        raise AssertionError("the connection is still open")

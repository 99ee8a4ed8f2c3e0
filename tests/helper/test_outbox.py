"""Lines leave whole and in order, descriptors with their own line, and a slow reader costs little."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from coentro.helper.outbox import QUEUED, Outbox
from coentro.wire import lines

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        yield ours, theirs


def lost(count: int) -> bytes:
    return b"lost %d\n" % count


def drain(sock: socket.socket) -> bytes:
    data = b""
    while True:
        try:
            more = sock.recv(1 << 20)
        except BlockingIOError:
            return data
        if not more:
            return data
        data += more


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else len(os.listdir("/dev/fd"))


async def test_a_line_with_descriptors_begins_its_own_message(pair: Pair) -> None:
    ours, theirs = pair
    outbox = Outbox(ours, lost)
    read, write = os.pipe()
    sent: list[str] = []
    outbox.put(b"one\n", sent=[lambda: sent.append("one")])
    outbox.put(b"two\n", [read], [lambda: sent.append("two")])
    outbox.put(b"three\n")
    outbox.flush()
    assert sent == ["one", "two"]
    os.close(write)
    # A receiver may be given what came before together with it, but never what comes after
    # (unix(7)): so the descriptors are there with the line's first byte, and end the message.
    data, fds, _ = lines.receive(theirs, 4096)
    assert data.endswith(b"two\n")
    assert len(fds) == 1
    assert os.read(fds[0], 1) == b""
    os.close(fds[0])
    assert lines.receive(theirs, 4096)[:2] == (b"three\n", [])
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(read)


async def test_what_the_socket_does_not_take_is_sent_when_it_does(pair: Pair) -> None:
    ours, theirs = pair
    outbox = Outbox(ours, lost)
    line = b"x" * 100_000 + b"\n"
    sent: list[int] = []
    for number in range(20):
        outbox.put(line, sent=[lambda n=number: sent.append(n)])  # type: ignore[misc]  # a bound default
    outbox.flush()
    assert len(sent) < 20
    data = b""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(outbox.run)
        while len(data) < 20 * len(line):
            await wait_all_tasks_blocked()
            data += drain(theirs)
        nursery.cancel_scope.cancel()
    assert data == line * 20
    assert sent == list(range(20))


async def test_events_beyond_a_full_queue_are_dropped_counted_and_said_to_be_lost(pair: Pair) -> None:
    ours, theirs = pair
    outbox = Outbox(ours, lost)
    outbox.put(b"y" * (QUEUED + 300_000) + b"\n")
    outbox.flush()
    assert outbox.full
    for _ in range(3):
        outbox.put_event(b"event\n")
    data = b""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(outbox.run)
        while b"lost" not in data:
            await wait_all_tasks_blocked()
            data += drain(theirs)
        nursery.cancel_scope.cancel()
    assert data.endswith(b"y\nlost 3\n")


async def test_a_peer_that_is_gone_keeps_no_descriptor_and_wakes_who_waits(pair: Pair) -> None:
    ours, theirs = pair
    outbox = Outbox(ours, lost)
    before = descriptors()
    outbox.put(b"z" * 1_000_000 + b"\n")
    read, write = os.pipe()
    outbox.put(b"fd\n", [read])
    outbox.flush()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(outbox.drained)
        await wait_all_tasks_blocked()
        theirs.close()
        outbox.flush()
    assert outbox.broken
    os.close(write)
    assert descriptors() == before - 1  # the pipe's ends, and theirs
    outbox.put(b"more\n", [os.dup(0)])
    assert descriptors() == before - 1


async def test_only_a_socket_that_takes_no_more_asks_for_a_task_and_for_one_at_a_time(pair: Pair) -> None:
    ours, theirs = pair
    asked: list[int] = []
    outbox = Outbox(ours, lost, lambda: asked.append(1))
    outbox.put(b"quick\n")
    outbox.flush()
    assert not asked
    for times in (1, 2):
        outbox.put(b"x" * 1_000_000 + b"\n")
        outbox.flush()
        outbox.put(b"more\n")
        outbox.flush()
        assert len(asked) == times
        data = b""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(outbox.run)
            while not data.endswith(b"more\n"):
                await wait_all_tasks_blocked()
                data += drain(theirs)

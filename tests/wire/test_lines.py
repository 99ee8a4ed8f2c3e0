"""Lines and descriptors: any chunking gives the same lines, no descriptor is lost or leaked."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coentro.wire.lines import Descriptors, Splitter, TooFew, TooLong, receive, send


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    a, b = socket.socketpair()
    with a, b:
        yield a, b


def chunked(data: bytes, cuts: list[int]) -> list[bytes]:
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[a:b] for a, b in zip(places, places[1:], strict=False)]


streams = st.lists(st.sampled_from([b"a", b"{}", b"\n", b"\r", b"\x00", b"\xff"]), max_size=60).map(b"".join)


@given(streams, st.lists(st.integers(0, 1000), max_size=20))
def test_any_chunking_gives_the_same_lines(data: bytes, cuts: list[int]) -> None:
    splitter = Splitter(1000)
    lines = [line for chunk in chunked(data, cuts) for line in splitter.feed(chunk)]
    *whole, rest = data.split(b"\n")
    assert lines == whole
    assert splitter.pending == len(rest)


@given(streams, st.lists(st.integers(0, 1000), max_size=20), st.integers(0, 8))
def test_a_line_that_is_too_long_ends_the_stream_after_the_lines_before_it(
    data: bytes, cuts: list[int], bound: int
) -> None:
    splitter = Splitter(bound)
    lines: list[bytes] = []
    cut = False
    for chunk in chunked(data, cuts):
        try:
            lines += splitter.feed(chunk)
        except TooLong as fault:
            lines += fault.lines
            cut = True
            break
    parts = data.split(b"\n")
    first_long = next((i for i, part in enumerate(parts) if len(part) > bound), None)
    assert cut == (first_long is not None)
    assert lines == (parts[:-1] if first_long is None else parts[:first_long])


def test_a_partial_line_is_refused_before_its_end_has_come() -> None:
    splitter = Splitter(10)
    assert splitter.feed(b"x" * 10) == []
    with pytest.raises(TooLong):
        splitter.feed(b"x")
    assert splitter.pending == 0


def test_a_line_of_exactly_the_bound_passes() -> None:
    assert Splitter(10).feed(b"x" * 10 + b"\n") == [b"x" * 10]


def test_descriptors_arrive_close_on_exec_with_their_line(pair: tuple[socket.socket, socket.socket]) -> None:
    a, b = pair
    read, write = os.pipe()
    assert send(a, b"line\n", [read, write]) == 5
    os.close(read)
    os.close(write)
    data, fds, lost = receive(b, 100)
    assert (data, len(fds), lost) == (b"line\n", 2, False)
    assert not any(os.get_inheritable(fd) for fd in fds)
    os.write(fds[1], b"through")
    assert os.read(fds[0], 100) == b"through"
    for fd in fds:
        os.close(fd)


def test_as_many_descriptors_as_the_kernel_sends_are_taken_whole(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    a, b = pair
    send(a, b"\n", [0] * 253)
    _, fds, lost = receive(b, 1)
    for fd in fds:
        os.close(fd)
    assert (len(fds), lost) == (253, False)


def test_data_without_descriptors_and_the_end_of_the_stream(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    a, b = pair
    b.setblocking(False)
    with pytest.raises(BlockingIOError):
        receive(b, 10)
    assert send(a, memoryview(b"abc"), ()) == 3
    assert receive(b, 10) == (b"abc", [], False)
    a.close()
    assert receive(b, 10) == (b"", [], False)


def test_descriptors_are_taken_in_order_and_the_rest_is_closed() -> None:
    queue = Descriptors()
    fds = [os.open(os.devnull, os.O_RDONLY) for _ in range(4)]
    queue.put(fds[:3])
    queue.put(fds[3:])
    assert queue.take(0) == []
    assert queue.take(2) == fds[:2]
    with pytest.raises(TooFew):
        queue.take(3)
    assert len(queue) == 2
    queue.close()
    for fd in fds[2:]:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
    for fd in fds[:2]:
        os.close(fd)

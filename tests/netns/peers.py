"""Somebody at the helper's socket: whose credentials a connection has, and what it is told.

The kernel notes the effective ids and the groups of whoever calls connect(2), so the test's own
process takes a user's for that moment.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, Self

from attrs import define, field

from coentro.client import Client, HelperError
from coentro.wire.lines import Descriptors, receive
from tests.netns.linux_host import same, settled
from tests.sandbox import PLACE, Helper

PATIENCE_S: Final = 20.0


@contextmanager
def acting_as(uid: int, gid: int | None = None, groups: Sequence[int] = ()) -> Iterator[None]:
    """For the block this process has a user's effective ids and groups."""
    if uid == 0:
        yield
        return
    own = os.getgroups()
    os.setgroups(groups)
    os.setegid(uid if gid is None else gid)
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(own)


def connected(helper: Helper, uid: int = 0, gid: int | None = None, groups: Sequence[int] = ()) -> Client:
    """A connection of that user's."""
    with acting_as(uid, gid, groups):
        return Client(str(helper.socket), timeout_s=PATIENCE_S)


def configured(text: str, open_to: Sequence[int] = ()) -> str:
    """A configuration file that lets these uids reach the socket and connect; its path."""
    head = '[socket]\nmode = "0666"\n' + (f"[access]\nuids = {list(open_to)}\n" if open_to else "")
    PLACE.mkdir(exist_ok=True)
    path = PLACE / "helper.toml"
    path.write_text(head + text)
    path.chmod(0o644)
    return str(path)


@define
class Refusal:
    """What the helper said; there once the block is over."""

    code: int = 0
    message: str = ""
    data: dict[str, Any] = field(factory=dict)


@contextmanager
def refused(code: int, reason: str | None = None) -> Iterator[Refusal]:
    """The block's call is refused with this code. Errors: AssertionError when it is not."""
    seen = Refusal()
    try:
        yield seen
    except HelperError as fault:
        seen.code, seen.message, seen.data = fault.code, fault.message, fault.data
    assert seen.code == code, f"expected {code}, and it was {seen}"
    assert reason is None or seen.data["reason"] == reason


@contextmanager
def untouched() -> Iterator[None]:
    """After the block the host is as it was before; settings of links aside, which come and go with them."""
    before = settled(sysctls=False)
    yield
    same(before, sysctls=False)


def unset(state: str) -> str:
    """A host's state without the settings, which come and go with links."""
    return "".join(line for line in state.splitlines(keepends=True) if not line.startswith("sysctl "))


def eventually(holds: Callable[[], object], what: str) -> None:
    """Wait for what another process does in its own time. Errors: AssertionError."""
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, f"{what} did not come true in {PATIENCE_S:g} s"
        time.sleep(0.002)  # between two looks at another process, which has no clock of ours


def event(client: Client, type_: str, **data: Any) -> dict[str, Any]:
    """The next event of a type with these in its data; others are passed over."""
    while True:
        told = client.next_event(PATIENCE_S)
        assert told is not None, f"no {type_} {data} came"
        if told["type"] == type_ and data.items() <= told["data"].items():
            return told


def descriptors(pid: int) -> dict[int, str]:
    """What a process has open."""
    there = {}
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            there[int(name)] = os.readlink(f"/proc/{pid}/fd/{name}")
        except FileNotFoundError:
            continue
    return there


class Raw:
    """A connection without a client library, for what no library would do."""

    def __init__(
        self, helper: Helper, uid: int = 0, gid: int | None = None, groups: Sequence[int] = ()
    ) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(PATIENCE_S)
        with acting_as(uid, gid, groups):
            self.sock.connect(str(helper.socket))
        self.fds = Descriptors()
        self._data = bytearray()

    def ask(self, method: str, id_: Any = 1, **params: Any) -> None:
        self.sock.sendall(request(method, id_, **params))

    def line(self) -> Any:
        """The next line, None at the end."""
        while b"\n" not in self._data:
            data, fds, _ = receive(self.sock, 1 << 16)
            self.fds.put(fds)
            if not data:
                assert not self._data, f"half a line: {self._data!r}"
                return None
            self._data += data
        line, _, rest = bytes(self._data).partition(b"\n")
        self._data[:] = rest
        return json.loads(line)

    def close(self) -> None:
        self.fds.close()
        self.sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def request(method: str, id_: Any = 1, **params: Any) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": id_, "method": method, "params": params}).encode() + b"\n"

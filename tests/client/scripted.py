"""A helper that does what a test's script says, on a real Unix socket, in a thread."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from coentro.wire.lines import Splitter, send

TUNNEL = {
    "id": "t1",
    "name": "office",
    "lease": "secret",
    "interface": {"name": "coentro0", "index": 7, "mtu": 1420, "addresses": []},
    "fds": [{"index": 0, "kind": "tun"}],
}


class Peer:
    """The script's end of one connection."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._lines: list[bytes] = []
        self._splitter = Splitter(1 << 26)

    def read(self) -> Any:
        """The next message of the client, or None when it has hung up."""
        while not self._lines:
            data = self.sock.recv(1 << 16)
            if not data:
                return None
            self._lines += self._splitter.feed(data)
        return json.loads(self._lines.pop(0))

    def write(self, *messages: Any, fds: Sequence[int] = ()) -> None:
        data = b"".join(json.dumps(m).encode() + b"\n" for m in messages)
        sent = send(self.sock, data, fds)
        if sent < len(data):
            self.sock.sendall(data[sent:])

    def answer(self, result: Any, request: Any, fds: Sequence[int] = ()) -> None:
        self.write({"jsonrpc": "2.0", "id": request["id"], "result": result}, fds=fds)

    def refuse(self, code: int, message: str, id_: Any = None, **data: Any) -> None:
        self.write({"jsonrpc": "2.0", "id": id_, "error": {"code": code, "message": message, "data": data}})

    def event(self, seq: int, type_: str = "tunnel.up") -> None:
        self.write({"jsonrpc": "2.0", "method": "event", "params": {"seq": seq, "type": type_, "data": {}}})


@contextmanager
def helper(path: Path, *scripts: Callable[[Peer], None]) -> Iterator[str]:
    """Serves one connection with each script, in order; what a script raises fails the test."""
    faults: list[BaseException] = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            for script in scripts:
                try:
                    sock, _ = listener.accept()
                    with sock:
                        sock.settimeout(30)
                        script(Peer(sock))
                except BaseException as fault:  # noqa: BLE001 - raised below, in the test's own thread
                    faults.append(fault)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield str(path)
        thread.join(30)
    if faults:
        raise faults[0]
    assert not thread.is_alive(), "the script waits for something that the client does not do"


def open_fds() -> set[int]:
    return {int(name) for name in os.listdir("/dev/fd")}


@contextmanager
def pipes(count: int) -> Iterator[tuple[list[int], list[int]]]:
    """Read ends, to be written to see which descriptor is which, and write ends to send."""
    reads, writes = zip(*(os.pipe() for _ in range(count)), strict=True)
    try:
        yield list(reads), list(writes)
    finally:
        for fd in (*reads, *writes):
            os.close(fd)

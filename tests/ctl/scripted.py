"""A helper that says what a test has written down, for what the real one can't be made to say.

It speaks the transport (lines and descriptors) and nothing else: what a method answers is the
test's. Whatever the real helper can do is tested with the real one.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).parent.parent.parent

TUNNEL: Mapping[str, Any] = {
    "id": "0123456789abcdef",
    "name": "office",
    "owner": {"uid": 1000, "user": "ana"},
    "state": "up",
    "confirm_by": None,
    "ends_at": None,
    "problems": [],
    "interface": {"name": "coentro0", "index": 7, "mtu": 1420, "addresses": ["10.8.0.2/24"]},
    "packet_header_bytes": 0,
    "spec": {"name": "office", "addresses": ["10.8.0.2/24"], "routes": ["10.0.0.0/8"]},
    "routes": {"total": 1},
    "dns": None,
    "lockdown": {"enabled": False},
    "lease": "5ec4e7",
    "created_at": "2025-01-02T03:04:05Z",
    "stats": {"rx_bytes": 0, "tx_bytes": 0, "rx_packets": 0, "tx_packets": 0},
    "fds": [],
}


class Refuse(Exception):
    def __init__(self, code: int, message: str, **data: Any) -> None:
        super().__init__(message)
        self.error = {"code": code, "message": message, "data": data}


class Peer:
    """One connection to the scripted helper, and what a script may do with it."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.fds: list[int] = []
        """What goes with the next answer."""

    def send(self, message: Mapping[str, Any], fds: Sequence[int] = ()) -> None:
        socket.send_fds(self.sock, [json.dumps(message).encode() + b"\n"], list(fds))

    def event(self, type_: str, **data: Any) -> None:
        params = {"run": "r", "seq": 1, "time": "2025-01-02T03:04:05Z", "type": type_, "data": data}
        self.send({"jsonrpc": "2.0", "method": "event", "params": params})

    def hang_up(self) -> None:
        self.sock.shutdown(socket.SHUT_RDWR)


Method = Callable[[Peer, Any], Any]


def tunnel(queues: int = 1, **changed: Any) -> Method:
    """A `tunnel.create` whose descriptors are the reading ends of pipes."""

    def create(peer: Peer, params: Any) -> Any:
        pipes = [os.pipe() for _ in range(queues)]
        named = [{"index": index, "kind": "tun"} for index in range(queues)]
        peer.fds = [read for read, _ in pipes]
        for _, write in pipes:
            os.close(write)
        return {**TUNNEL, **changed, "fds": named}

    return create


class Script:
    """A listening socket whose peers are answered by `methods`; the rest is not found."""

    def __init__(self, path: Path, methods: Mapping[str, Method | Any]) -> None:
        self.path = str(path)
        self.methods = methods
        self.peers: list[Peer] = []
        self.calls: list[tuple[str, Any]] = []
        self.gone = threading.Event()
        """Set once a client has hung up."""
        self._stopped = False
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.path)
        self._listener.listen()
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()

    def _accept(self) -> None:
        while True:
            sock, _ = self._listener.accept()
            if self._stopped:
                sock.close()
                return
            peer = Peer(sock)
            self.peers.append(peer)
            try:
                with sock, sock.makefile("rb") as lines:
                    for line in lines:
                        self._answer(peer, json.loads(line))
            except ConnectionError:
                pass  # a client that was killed
            self.gone.set()

    def _answer(self, peer: Peer, call: dict[str, Any]) -> None:
        method, params = call["method"], call.get("params")
        self.calls.append((method, params))
        reply: dict[str, Any] = {"jsonrpc": "2.0", "id": call.get("id")}
        peer.fds = []
        try:
            answer = self.methods[method]
            reply["result"] = answer(peer, params) if callable(answer) else answer
        except KeyError:
            reply["error"] = {"code": -32601, "message": f"no method {method}", "data": {}}
        except Refuse as refused:
            reply["error"] = refused.error
        with suppress(OSError):  # the script hung up in the middle
            peer.send(reply, peer.fds)
        for fd in peer.fds:
            os.close(fd)

    def close(self) -> None:
        self._stopped = True
        with socket.socket(socket.AF_UNIX) as knock:
            knock.connect(self.path)
            for peer in self.peers:
                with suppress(OSError):  # it has gone already
                    peer.hang_up()
            self._thread.join(10)
        self._listener.close()


@contextmanager
def scripted(folder: Path, **methods: Method | Any) -> Iterator[Script]:
    """A helper for the `with`; `tunnel_create=...` is what `tunnel.create` does."""
    script = Script(folder / "s", {name.replace("_", ".", 1): answer for name, answer in methods.items()})
    try:
        yield script
    finally:
        script.close()


def ctl(script: Script | str, *argv: str, **env: str) -> subprocess.Popen[str]:
    """coentroctl as a program of its own."""
    path = script if isinstance(script, str) else script.path
    return subprocess.Popen(
        [sys.executable, "-m", "coentro.ctl", "--socket", path, *argv],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        cwd=PROJECT, env={**os.environ, **env}, start_new_session=True,
    )  # fmt: skip


def done(script: Script | str, *argv: str, **env: str) -> tuple[int, str, str]:
    """Its exit code, stdout and stderr, once it has ended."""
    program = ctl(script, *argv, **env)
    out, err = program.communicate(timeout=30)
    return program.returncode, out, err

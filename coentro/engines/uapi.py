"""WireGuard's userspace API: a configuration as its text, and one connection to an engine.

https://www.wireguard.com/xplatform/: lines of key=value, an empty one ends, and errno= answers.
Keys are on this socket and nowhere else: no argument, no environment, no message.
"""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Mapping
from typing import Final

from coentro.engines.preset import EngineFault, Wait
from coentro.engines.wgconf import Config, Endpoint

ANSWER_S: Final = 10.0
_LONGEST: Final = 1 << 16
_FAREWELL_S: Final = 0.5

Resolved = Mapping[Endpoint, tuple[str, int]]


def configuration(config: Config, resolved: Resolved) -> bytes:
    """All of an engine's configuration, so that nothing of an earlier one stays.

    `resolved`: the address and port of each endpoint.
    """
    lines = [f"private_key={config.private_key.hex()}"]
    lines.append(f"listen_port={config.listen_port or 0}")
    lines.append("replace_peers=true")
    for peer in config.peers:
        lines.append(f"public_key={peer.public_key.hex()}")
        if peer.preshared_key is not None:
            lines.append(f"preshared_key={peer.preshared_key.hex()}")
        if peer.endpoint is not None:
            lines.append(f"endpoint={_address(*resolved[peer.endpoint])}")
        if peer.keepalive_s is not None:
            lines.append(f"persistent_keepalive_interval={peer.keepalive_s}")
        lines.append("replace_allowed_ips=true")
        lines += [f"allowed_ip={network}" for network in peer.allowed]
    return setting(lines)


def setting(lines: list[str]) -> bytes:
    """A set operation of these lines."""
    return "\n".join(["set=1", *lines, "", ""]).encode()


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def answered(data: bytes) -> int | None:
    """The errno of an answer, 0 for success; None while it is not whole. Errors: ValueError."""
    if not data.endswith(b"\n\n"):
        return None
    last = data.rstrip(b"\n").rpartition(b"\n")[2]
    key, _, number = last.partition(b"=")
    if key != b"errno":
        raise ValueError("no errno= at its end")
    return abs(int(number))


class Uapi:
    """A connection to an engine. `name`: the engine's, for messages."""

    def __init__(self, sock: socket.socket, name: str) -> None:
        self._sock = sock
        self._name = name
        sock.setblocking(False)

    def fileno(self) -> int:
        return self._sock.fileno()

    def set(self, operation: bytes, wait: Wait, what: str, refusals: Mapping[int, str]) -> None:
        """Carry out a set operation. `what` it is and what an errno means, for messages.

        Errors: EngineFault.
        """
        deadline = time.monotonic() + ANSWER_S
        rest, answer = memoryview(operation), b""
        try:
            while rest:
                # A connected socket that nobody reads takes some 200 KiB, so this rarely waits at all.
                try:
                    rest = rest[self._sock.send(rest) :]
                except BlockingIOError:
                    self._pause(wait, deadline, 0.01)
            while (number := answered(answer)) is None:
                try:
                    more = self._sock.recv(4096)
                except BlockingIOError:
                    self._pause(wait, deadline, None)
                    continue
                if not more:
                    raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
                answer += more
                if len(answer) > _LONGEST:
                    raise ValueError("an endless answer")
        except ValueError as fault:
            raise EngineFault(f"{self._name} answers something else than WireGuard's API: {fault}") from None
        except OSError as fault:
            wait([], _FAREWELL_S)  # the end of the engine closes its socket first, and says more
            raise EngineFault(
                f"the control socket of {self._name} broke: {fault.strerror or fault}"
            ) from None
        if number:
            meaning = refusals.get(number) or os.strerror(number)
            code = errno.errorcode.get(number, str(number))
            raise EngineFault(f"{self._name} refused {what}: {meaning} ({code})")

    def _pause(self, wait: Wait, deadline: float, at_most_s: float | None) -> None:
        left = deadline - time.monotonic()
        if left <= 0:
            raise EngineFault(
                f"{self._name} did not answer on its control socket within {ANSWER_S:g} s",
                "is the command wireguard-go?",
            )
        if at_most_s is None:
            wait([self], left)
        else:
            wait([], min(left, at_most_s))

    def close(self) -> None:
        self._sock.close()

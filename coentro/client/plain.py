"""A client that blocks, for programs without an event loop. Standard library alone.

One thread uses a client at a time. `fileno` is readable when an event may have come, for
programs with a loop of their own: ask `next_event(0)` then.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self

from coentro.client.codec import READ, Codec
from coentro.client.errors import HelperError, HelperGone
from coentro.client.place import explain, socket_path
from coentro.client.tunnel import Held, given
from coentro.wire import lines

_RETRY_S: Final = 0.01


class Client:
    """A connection to the helper. What it makes lives as long as it does (or lingers)."""

    def __init__(self, path: str | None = None, timeout_s: float | None = None) -> None:
        """`timeout_s` bounds the connect and each call.

        Errors: NoHelper, NotAdmitted, TimeoutError. The helper itself refuses a user by its
        answer to the first call, which raises NotAdmitted then.
        """
        self.path = socket_path(path)
        self._timeout_s = timeout_s
        self._codec = Codec()
        self._sock = _connected(self.path, _deadline(timeout_s))

    def call(self, method: str, params: Mapping[str, Any] | None = None) -> Any:
        """The result; descriptors that come with it are closed.

        Errors: HelperError, HelperGone; TimeoutError, and the call may happen all the same.
        """
        result, fds = self.call_with_fds(method, params)
        Held({}, fds, None).close_fds()
        return result

    def call_with_fds(self, method: str, params: Mapping[str, Any] | None = None) -> tuple[Any, list[int]]:
        """The result and the descriptors that came with it, close-on-exec and the caller's."""
        deadline = _deadline(self._timeout_s)
        id_, line = self._codec.request(method, params)
        try:
            self._send(line, deadline)
            while not self._codec.answered(id_):
                self._receive(deadline)
        except BaseException:
            self._codec.abandon(id_)
            raise
        return self._codec.unwrap(id_)

    def create(self, **spec: Any) -> Tunnel:
        """A tunnel of a spec as docs/protocol.md has it; it goes with this client or lingers."""
        info, fds = self.call_with_fds("tunnel.create", spec)
        return Tunnel(self, info, fds, info["lease"])

    def attach(self, tunnel_id: str, lease: str) -> Tunnel:
        """Take over a tunnel that another connection made; it goes with this client then."""
        info, fds = self.call_with_fds("tunnel.attach", {"id": tunnel_id, "lease": lease})
        return Tunnel(self, info, fds, lease)

    def subscribe(
        self, types: Sequence[str] | None = None, since: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Have events sent, all or of these types: `{run, seq}`. `since` repeats what was kept."""
        place: dict[str, Any] = self.call("event.subscribe", given(types=types, since=since))
        return place

    def next_event(self, timeout_s: float | None = None) -> dict[str, Any] | None:
        """The next event, or None when none came in time; 0 does not wait.

        Errors: HelperGone, once those that came before are read.
        """
        deadline = _deadline(timeout_s)
        while not self._codec.events:
            if self._codec.over is not None:
                raise self._codec.why()
            try:
                self._receive(deadline)
            except TimeoutError:
                return None
        return self._codec.events.popleft()

    def fileno(self) -> int:
        return self._sock.fileno()

    def close(self) -> None:
        """Hang up: the helper ends this connection's tunnels, or lets them linger."""
        self._sock.close()
        self._codec.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _send(self, line: bytes, deadline: float | None) -> None:
        if self._codec.over is not None:
            return
        rest = memoryview(line)
        try:
            while rest:
                try:
                    rest = rest[lines.send(self._sock, rest, ()) :]
                except BlockingIOError:
                    # The helper reads no more while it can't write: read, or both wait forever.
                    self._receive(deadline, select.POLLOUT)
        except (BrokenPipeError, ConnectionResetError):
            self._last_words(deadline)
        except BaseException:
            if 0 < len(rest) < len(line):
                self._codec.end(HelperGone("a call was given up in the middle of its line"))
                self._sock.shutdown(socket.SHUT_RDWR)
            raise

    def _last_words(self, deadline: float | None) -> None:
        """Read what the helper said before it closed: it may be why."""
        while self._codec.over is None:
            self._receive(deadline)

    def _receive(self, deadline: float | None, or_else: int = 0) -> None:
        """Wait for bytes, or for what `or_else` says, and take what is there."""
        poll = select.poll()  # select(2) knows no descriptor beyond 1,023
        poll.register(self._sock, select.POLLIN | or_else)
        wait_ms = None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000
        ready = poll.poll(wait_ms)
        if not ready:
            raise TimeoutError("the helper did not answer in time")
        if ready[0][1] & ~or_else:
            self._take()

    def _take(self) -> None:
        try:
            self._codec.feed(*lines.receive(self._sock, READ))
        except BlockingIOError:
            return
        except OSError as fault:
            self._codec.end(HelperGone(f"the connection to the helper broke: {fault.strerror}"))
        while self._codec.farewells:
            self._send(self._codec.farewells.popleft(), None)


class Tunnel(Held):
    """A tunnel that this client made or attached to."""

    def __init__(self, client: Client, info: dict[str, Any], fds: list[int], lease: str) -> None:
        super().__init__(info, fds, lease)
        self._client = client

    def close(self) -> None:
        """Destroy it, unless it is gone already, and close its descriptors. Errors: HelperError."""
        try:
            self._client.call("tunnel.destroy", {"id": self.id})
        except HelperGone:
            pass  # it went with the connection
        except HelperError as fault:
            if fault.reason != "not_found":
                raise
        finally:
            self.close_fds()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _deadline(timeout_s: float | None) -> float | None:
    return None if timeout_s is None else time.monotonic() + timeout_s


def _connected(path: str, deadline: float | None) -> socket.socket:
    """A non-blocking connection. Errors: NoHelper, NotAdmitted, TimeoutError."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        while True:
            try:
                sock.connect(path)
            except BlockingIOError:
                # Linux: the backlog is full, and nothing tells when it no longer is (unix(7)).
                if deadline is not None and time.monotonic() >= deadline:
                    raise TimeoutError(f"{path} took no connection in time") from None
                time.sleep(_RETRY_S)
            else:
                return sock
    except TimeoutError:
        sock.close()
        raise
    except OSError as fault:
        sock.close()
        raise explain(fault, path) from fault
    except BaseException:
        sock.close()
        raise

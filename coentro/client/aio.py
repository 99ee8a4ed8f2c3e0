"""The client for trio: calls run concurrently, each gets its own answer.

No task of its own reads the connection, so no nursery wraps the caller's exceptions in groups:
of those that wait, one reads for all and hands the role on when it leaves, as the leader of
leaders and followers does (Schmidt et al., POSA2).
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Final, Self

import trio

from coentro.client.codec import READ, Codec
from coentro.client.errors import HelperError, HelperGone
from coentro.client.place import explain, socket_path
from coentro.client.tunnel import Held, given
from coentro.wire import lines

_RETRY_S: Final = 0.01


@asynccontextmanager
async def connect(path: str | None = None) -> AsyncIterator[AsyncClient]:
    """A connection to the helper for as long as the block lasts.

    Errors: NoHelper, NotAdmitted. The helper itself refuses a user by its answer to the first
    call, which raises NotAdmitted then.
    """
    place = socket_path(path)
    client = AsyncClient(await _connected(place), place)
    try:
        yield client
    finally:
        client.close()


class AsyncClient:
    """A connection to the helper. What it makes lives as long as it does (or lingers)."""

    def __init__(self, sock: socket.socket, path: str) -> None:
        self.path = path
        self._sock = sock
        self._codec = Codec()
        self._sending = trio.Lock()
        self._reading = False
        self._followers = trio.lowlevel.ParkingLot()

    async def call(self, method: str, params: Mapping[str, Any] | None = None) -> Any:
        """The result; descriptors that come with it are closed.

        Errors: HelperError, HelperGone. Cancelled: the call may happen all the same, but a
        tunnel is not left standing.
        """
        result, fds = await self.call_with_fds(method, params)
        Held({}, fds, None).close_fds()
        return result

    async def call_with_fds(
        self, method: str, params: Mapping[str, Any] | None = None
    ) -> tuple[Any, list[int]]:
        """The result and the descriptors that came with it, close-on-exec and the caller's."""
        id_, line = self._codec.request(method, params)
        try:
            await self._send(line)
            await self._until(lambda: self._codec.answered(id_))
        except BaseException:
            self._codec.abandon(id_)
            raise
        return self._codec.unwrap(id_)

    async def create(self, **spec: Any) -> AsyncTunnel:
        """A tunnel of a spec as docs/protocol.md has it; it goes with this client or lingers."""
        info, fds = await self.call_with_fds("tunnel.create", spec)
        return AsyncTunnel(self, info, fds, info["lease"])

    async def attach(self, tunnel_id: str, lease: str) -> AsyncTunnel:
        """Take over a tunnel that another connection made; it goes with this client then."""
        info, fds = await self.call_with_fds("tunnel.attach", {"id": tunnel_id, "lease": lease})
        return AsyncTunnel(self, info, fds, lease)

    async def subscribe(
        self, types: Sequence[str] | None = None, since: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Have events sent, all or of these types: `{run, seq}`. `since` repeats what was kept."""
        place: dict[str, Any] = await self.call("event.subscribe", given(types=types, since=since))
        return place

    async def next_event(self, timeout_s: float | None = None) -> dict[str, Any] | None:
        """The next event, or None when none came in time.

        Errors: HelperGone, once those that came before are read.
        """
        with trio.move_on_after(float("inf") if timeout_s is None else timeout_s):
            await self._until(lambda: bool(self._codec.events) or self._codec.over is not None)
        if self._codec.events:
            return self._codec.events.popleft()
        if self._codec.over is not None:
            raise self._codec.why()
        return None

    async def events(self) -> AsyncIterator[dict[str, Any]]:
        """Events as they come, after `subscribe`. Errors: HelperGone at their end."""
        while True:
            event = await self.next_event()
            if event is not None:
                yield event

    def fileno(self) -> int:
        return self._sock.fileno()

    def close(self) -> None:
        """Hang up: the helper ends this connection's tunnels, or lets them linger."""
        if self._sock.fileno() >= 0:
            trio.lowlevel.notify_closing(self._sock)
            self._sock.close()
        self._codec.close()
        self._followers.unpark_all()

    async def _send(self, line: bytes) -> None:
        """Write what is to be said, this line last. A connection that is over takes nothing."""
        async with self._sending:
            while self._codec.farewells:
                await self._write(self._codec.farewells[0])
                self._codec.farewells.popleft()
            await self._write(line)

    async def _write(self, line: bytes) -> None:
        rest = memoryview(line)
        try:
            while rest and self._codec.over is None:
                try:
                    rest = rest[lines.send(self._sock, rest, ()) :]
                except BlockingIOError:
                    await self._writable()
        except (BrokenPipeError, ConnectionResetError):
            # What the helper said before it closed may be why.
            await self._read_until(lambda: self._codec.over is not None)
        except BaseException:  # Cancelled, alone or in a group from the nursery below
            if 0 < len(rest) < len(line):
                self._codec.end(HelperGone("a call was given up in the middle of its line"))
                self._sock.shutdown(socket.SHUT_RDWR)
            raise

    async def _writable(self) -> None:
        """Wait until there is room, reading meanwhile: the helper reads no more while it can't write."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._read_until, lambda: self._codec.over is not None)
            try:
                await trio.lowlevel.wait_writable(self._sock)
            except trio.ClosedResourceError:
                self._codec.end(HelperGone("this client is closed"))
            nursery.cancel_scope.cancel()

    async def _until(self, come: Callable[[], bool]) -> None:
        await trio.lowlevel.checkpoint()
        await self._read_until(come)
        if self._codec.farewells:
            await self._send(b"")

    async def _read_until(self, come: Callable[[], bool]) -> None:
        """Read, or wait while another task reads, until `come` is so."""
        while not come():
            if self._reading:
                await self._followers.park()
            elif not self._take():
                await self._lead()

    async def _lead(self) -> None:
        self._reading = True
        try:
            await trio.lowlevel.wait_readable(self._sock)
        except trio.ClosedResourceError:
            self._codec.end(HelperGone("this client is closed"))
        finally:
            self._reading = False
            # Of those whose answer has not come one reads on.
            self._followers.unpark_all()

    def _take(self) -> bool:
        """Take what is there; whether there was something."""
        try:
            self._codec.feed(*lines.receive(self._sock, READ))
        except BlockingIOError:
            return False
        except OSError as fault:
            self._codec.end(HelperGone(f"the connection to the helper broke: {fault.strerror}"))
        self._followers.unpark_all()
        return True


class AsyncTunnel(Held):
    """A tunnel that this client made or attached to."""

    def __init__(self, client: AsyncClient, info: dict[str, Any], fds: list[int], lease: str) -> None:
        super().__init__(info, fds, lease)
        self._client = client

    async def aclose(self) -> None:
        """Destroy it, unless it is gone already, and close its descriptors. Errors: HelperError.

        Cancelled: its descriptors are closed, and the helper may have been told.
        """
        try:
            await self._client.call("tunnel.destroy", {"id": self.id})
        except HelperGone:
            pass  # it went with the connection
        except HelperError as fault:
            if fault.reason != "not_found":
                raise
        finally:
            self.close_fds()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


async def _connected(path: str) -> socket.socket:
    """A non-blocking connection. Errors: NoHelper, NotAdmitted."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        while True:
            await trio.lowlevel.checkpoint()
            try:
                sock.connect(path)
            except BlockingIOError:
                # Linux: the backlog is full, and nothing tells when it no longer is (unix(7)).
                await trio.sleep(_RETRY_S)
            else:
                return sock
    except OSError as fault:
        sock.close()
        raise explain(fault, path) from fault
    except BaseException:
        sock.close()
        raise

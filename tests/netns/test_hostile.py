"""Peers that want harm or know no better: the helper keeps its bounds, and everyone else is served."""

from __future__ import annotations

import json
import os
import resource
import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Final

import pytest

from coentro.client import HelperError
from coentro.wire.lines import send
from tests.netns.peers import Raw, connected, descriptors, event, eventually, refused, request, untouched
from tests.sandbox import Helper, run_helper

PING: Final = request("session.ping", "ping")
PONG: Final = {"jsonrpc": "2.0", "id": "ping", "result": {}}
MIB: Final = 1 << 20


@pytest.fixture
def helper(tmp_path: Path) -> Iterator[Helper]:
    with run_helper(tmp_path) as started:
        yield started


def answered(raw: Raw) -> bool:
    """Whether the helper serves this connection. False: it has closed it."""
    try:
        raw.sock.sendall(PING)
        return bool(raw.line() == PONG)
    except (BrokenPipeError, ConnectionResetError):
        return False


def closed(raw: Raw) -> bool:
    try:
        return raw.line() is None
    except ConnectionResetError:
        return True


def resident(helper: Helper) -> int:
    """Bytes of memory that the helper has."""
    pages = Path(f"/proc/{helper.pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def fill(raw: Raw, line: bytes, other: Raw) -> tuple[int, bytes]:
    """Send this line over and over until the helper reads no more: how many it took whole or in
    part, and what of the last one is still to be sent.

    It reads no more if it has served somebody else so often since: each time it looks at all.
    Lines stay short enough to be parsed at once, as one that is parsed in a thread is waited for.
    """
    assert len(line) < 1 << 16
    raw.sock.setblocking(False)
    stream = memoryview(line * max(1, 100_000 // len(line)))
    sent, since = 0, 0
    while since < 300:
        try:
            sent += raw.sock.send(stream[sent % len(stream) :])
            since = 0
        except BlockingIOError:
            assert answered(other)
            since += 1
    raw.sock.settimeout(20)
    whole, part = divmod(sent, len(line))
    return (whole + 1, line[part:]) if part else (whole, b"")


def test_descriptors_sent_unasked_are_closed_and_so_is_the_connection(helper: Helper) -> None:
    create = request("tunnel.create", addresses=["10.8.0.2/24"])
    with Raw(helper) as other, ExitStack() as ours, untouched():
        assert answered(other)
        before = descriptors(helper.pid)
        read, write = os.pipe()
        for fd in (read, write):
            ours.callback(os.close, fd)
        strange, _ = (ours.enter_context(sock) for sock in socket.socketpair())
        for what, count, line in (
            ("one", 1, PING),
            ("a full line's", 64, PING),
            ("as many as can be sent", 253, PING),
            ("with a create", 1, create),
            ("with half a line", 3, PING[:5]),
            ("with what is no line at all", 2, b"\xff\n"),
        ):
            with Raw(helper) as raw:
                send(raw.sock, line, [write] * count)
                assert closed(raw), what
            assert answered(other), what
        with Raw(helper) as raw:
            assert answered(raw)
            send(raw.sock, PING, [raw.sock.fileno(), strange.fileno(), other.sock.fileno()])
            assert closed(raw), "with itself in it"
        assert answered(other)
        eventually(lambda: descriptors(helper.pid) == before, "the helper has what it had open")


def test_descriptors_that_found_no_room_end_the_connection_too(helper: Helper) -> None:
    """Beyond the limit of what may be open the kernel drops what it can't pass on (MSG_CTRUNC)."""
    with Raw(helper) as other, Raw(helper) as raw:
        assert answered(other)
        assert answered(raw)
        before = descriptors(helper.pid)
        limits = resource.prlimit(helper.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(helper.pid, resource.RLIMIT_NOFILE, (max(before) + 3, limits[1]))
        send(raw.sock, PING, [raw.sock.fileno()] * 100)
        assert closed(raw)
        resource.prlimit(helper.pid, resource.RLIMIT_NOFILE, limits)
        assert answered(other)
        eventually(lambda: len(descriptors(helper.pid)) == len(before) - 1, "only the connection is gone")


def test_one_who_never_reads_is_read_no_more_until_he_does(helper: Helper) -> None:
    with Raw(helper) as raw, Raw(helper) as other:
        # Both have been served, so that what they cost is in the memory measured.
        assert answered(raw)
        assert answered(other)
        before = resident(helper)
        count, rest = fill(raw, request("session.ping", "x" * 1000), other)
        assert count * 1000 > MIB, "what waits for him is at least what the protocol says"
        assert resident(helper) - before < 32 * MIB
        assert answered(other)
        for number in range(count - 1):
            assert raw.line()["id"] == "x" * 1000, number
        raw.sock.sendall(rest + PING)
        while (said := raw.line()) != PONG:
            assert said["id"] == "x" * 1000


def test_short_lines_with_long_answers_are_no_way_around_that(helper: Helper) -> None:
    with Raw(helper) as raw, Raw(helper) as other:
        assert answered(raw)
        assert answered(other)
        before = resident(helper)
        fill(raw, b"\n", other)
        assert resident(helper) - before < 32 * MIB
        assert raw.line()["error"]["code"] == -32700


def test_events_for_one_who_does_not_read_are_dropped_and_counted(helper: Helper) -> None:
    with Raw(helper) as raw, Raw(helper) as other:
        assert answered(other)  # so its coming is over
        raw.ask("event.subscribe", types=["peer.connected", "peer.gone"])
        assert "result" in raw.line()
        count, rest = fill(raw, request("session.ping", "x" * 50_000), other)
        with connected(helper) as witness:
            witness.subscribe(["peer.connected", "peer.gone"])
            missed = 1  # that it came itself
            for _ in range(20):
                with Raw(helper) as visitor:
                    assert answered(visitor)
                for type_ in ("peer.connected", "peer.gone"):
                    event(witness, type_)
                    missed += 1
            raw.sock.settimeout(20)
            told: list[dict[str, Any]] = []
            answers = 0
            while not told:
                line = raw.line()
                answers += "result" in line
                told += [line["params"]] if "method" in line else []
            assert (told[0]["type"], told[0]["data"]) == ("event.lost", {"count": missed})
            raw.sock.sendall(rest + PING)
            while (line := raw.line()) != PONG:
                answers += "result" in line
            assert answers == count, "answers are never dropped"
            with Raw(helper) as visitor:
                assert answered(visitor)
            assert raw.line()["params"] == event(witness, "peer.connected")


@pytest.mark.parametrize(
    "line",
    [b"\n", b"{}\n", PING, request("session.pnig")],
    ids=["nothing", "no request", "ping", "typing error"],
)
def test_a_flood_does_not_keep_others_waiting(helper: Helper, line: bytes) -> None:
    over = threading.Event()
    with Raw(helper) as flood, Raw(helper) as other:

        def send_on() -> None:
            data = line * (100_000 // len(line))
            with suppress(OSError):
                while not over.is_set():
                    flood.sock.sendall(data)

        def read_on() -> None:
            with suppress(OSError):
                while flood.sock.recv(MIB):
                    pass

        threads = [threading.Thread(target=send_on), threading.Thread(target=read_on)]
        for thread in threads:
            thread.start()
        try:
            began = time.monotonic()
            for _ in range(20):
                assert answered(other)
            assert time.monotonic() - began < 10
        finally:
            over.set()
            flood.sock.shutdown(socket.SHUT_RDWR)
            for thread in threads:
                thread.join()


def test_many_come_and_go_at_once(helper: Helper) -> None:
    with Raw(helper) as other:
        assert answered(other)
        before = len(descriptors(helper.pid))
        with ExitStack() as crowd:
            guests = [crowd.enter_context(Raw(helper)) for _ in range(200)]
            for guest in guests:
                guest.sock.sendall(PING)
            assert [guest.line() for guest in guests] == [PONG] * 200
        for farewell in (b"", PING, PING[:7], b"\xff", b"[", request("tunnel.list"), b"\n" * 1000):
            with ExitStack() as crowd:
                for _ in range(20):
                    crowd.enter_context(Raw(helper)).sock.sendall(farewell)
        eventually(lambda: len(descriptors(helper.pid)) == before, "the helper has closed them all")
        assert answered(other)
        assert "failed" not in helper.stderr


def test_connections_leave_descriptors_for_tunnels(tmp_path: Path) -> None:
    with (
        run_helper(tmp_path, wrapper=("prlimit", "--nofile=300:300")) as helper,
        ExitStack() as crowd,
        untouched(),
    ):
        client = crowd.enter_context(connected(helper))
        client.call("session.ping")
        guests = [crowd.enter_context(Raw(helper)) for _ in range(200)]
        let_in = []
        for guest in guests:
            with suppress(BrokenPipeError):
                guest.sock.sendall(PING)
            said = guest.line()
            if said == PONG:
                let_in.append(guest)
                continue
            assert (said["id"], said["error"]["code"]) == (None, -32004)
            assert said["error"]["data"]["retry_after_s"] > 0
            guest.close()
        assert 100 < len(let_in) < 200
        with client.create(addresses=["10.8.0.2/24"], tun={"queues": 16}) as tunnel:
            assert len(tunnel.fds) == 16
        let_in[0].close()
        eventually(lambda: _serves_anew(helper), "a place is free again")


def _serves_anew(helper: Helper) -> bool:
    with Raw(helper) as raw:
        return answered(raw)


def test_a_batch_of_creates_makes_no_more_than_a_line_can_carry(helper: Helper) -> None:
    def batch(count: int, queues: int) -> bytes:
        asked = [
            request("tunnel.create", i, addresses=[f"10.8.{i}.2/24"], tun={"queues": queues})
            for i in range(count)
        ]
        return b"[" + b",".join(line.strip() for line in asked) + b"]\n"

    with Raw(helper) as raw, untouched():
        before = len(descriptors(helper.pid))
        raw.sock.sendall(batch(6, 15))
        answers = raw.line()
        made = [a["result"] for a in answers if "result" in a]
        assert [a["id"] for a in answers] == list(range(6))
        assert [a["error"]["code"] for a in answers if "error" in a] == [-32004] * 2
        assert [fd["index"] for t in made for fd in t["fds"]] == list(range(60))
        assert len(raw.fds) == 60
        # The two that had no room are undone, and their addresses free again.
        raw.ask("tunnel.create", "again", addresses=["10.8.4.2/24", "10.8.5.2/24"], tun={"queues": 16})
        again = raw.line()["result"]
        assert len(again["fds"]) == 16
        assert len(raw.fds) == 76
        raw.ask("tunnel.list")
        names = [t["id"] for t in raw.line()["result"]["tunnels"]]
        assert names == [t["id"] for t in (*made, again)]
        raw.fds.close()
        for tunnel in (*made, again):
            raw.ask("tunnel.destroy", id=tunnel["id"])
            assert "result" in raw.line()
        assert len(descriptors(helper.pid)) == before


def test_a_create_whose_descriptors_cant_be_copied_is_undone(helper: Helper) -> None:
    """The helper may open so much that it can make the tunnel, and not copy what it answers with."""
    with connected(helper) as client, untouched():
        with client.create(addresses=["10.8.0.2/24"]):
            pass
        used = max(descriptors(helper.pid)) + 1
        limits = resource.prlimit(helper.pid, resource.RLIMIT_NOFILE)
        refusals: list[str] = []
        for more in range(4, 12):
            resource.prlimit(helper.pid, resource.RLIMIT_NOFILE, (used + more, limits[1]))
            try:
                client.create(addresses=["10.8.0.2/24"], tun={"queues": 4}).close()
                break
            except HelperError as fault:
                refusals.append(f"{fault.data['errno']} {fault.data['op']}")
        resource.prlimit(helper.pid, resource.RLIMIT_NOFILE, limits)
        assert "EMFILE dup" in refusals
        with client.create(addresses=["10.8.0.2/24"]):
            pass


def test_one_who_reads_nothing_does_not_hold_up_the_end(helper: Helper) -> None:
    with Raw(helper) as raw, Raw(helper) as other, connected(helper) as holder, untouched():
        holder.create(addresses=["10.8.0.2/24"]).close_fds()
        fill(raw, request("session.ping", "x" * 50_000), other)
        assert helper.stop() == 0
        assert select.select([raw.sock], [], [], 0)[0]


def test_a_peer_can_have_but_its_share_of_connections_and_tunnels(
    tmp_path: Path, two_uids: tuple[int, int]
) -> None:
    config = tmp_path / "helper.toml"
    config.write_text(
        f'[socket]\nmode = "0666"\n[access]\nuids = {list(two_uids)}\n'
        "[limits]\nconnections = 12\nconnections_per_uid = 5\ntunnels_per_uid = 2\nroutes_per_tunnel = 10\n"
    )
    config.chmod(0o644)
    with run_helper(tmp_path, "--config", str(config)) as helper, ExitStack() as crowd:
        # All at once: none has been counted when the last comes.
        firsts = [crowd.enter_context(Raw(helper, two_uids[0])) for _ in range(8)]
        served = [raw for raw in firsts if _said(raw) == PONG]
        assert len(served) == 5
        second, root = (
            crowd.enter_context(connected(helper, two_uids[1])),
            crowd.enter_context(connected(helper)),
        )
        for number in range(2):
            second.create(addresses=[f"10.8.{number}.2/24"]).close_fds()
        with refused(-32004, "limit") as refusal:
            second.create(addresses=["10.8.2.2/24"])
        assert refusal.data["retry_after_s"] is None, "waiting alone does not help"
        with refused(-32602) as refusal:
            root.create(addresses=["10.9.0.2/24"], routes=[f"10.10.{n}.0/24" for n in range(11)])
        assert refusal.data["path"] == "$.routes"
        roots = [crowd.enter_context(Raw(helper)) for _ in range(8)]
        assert len([raw for raw in roots if _said(raw) == PONG]) == 5, "root, too, shares the whole"


def _said(raw: Raw) -> Any:
    with suppress(BrokenPipeError):
        raw.sock.sendall(PING)
    said = raw.line()
    assert said == PONG or said["error"]["code"] == -32004, json.dumps(said)
    return said

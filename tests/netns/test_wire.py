"""The protocol's envelope and framing, over the real socket: what is answered, what ends a connection."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import pytest

from coentro.client import Client, HelperError
from tests.netns.peers import Raw, connected, descriptors, event, eventually, refused, request, untouched
from tests.sandbox import Helper, run_helper

MAX: Final = 8388608
PING: Final = request("session.ping", "ping")
PONG: Final = {"jsonrpc": "2.0", "id": "ping", "result": {}}
LEAST: Final = {"addresses": ["10.8.0.2/24"]}

Members = Mapping[str, Any]


@pytest.fixture
def helper(tmp_path: Path) -> Iterator[Helper]:
    with run_helper(tmp_path) as started:
        yield started


def envelope(**members: Any) -> bytes:
    """A request with these members; `...` leaves one out."""
    whole = {"jsonrpc": "2.0", "id": 1, "method": "session.ping", **members}
    return json.dumps({k: v for k, v in whole.items() if v is not ...}).encode() + b"\n"


def all_answers(helper: Helper, data: bytes) -> list[Any]:
    """Everything that is said to somebody who sends this and then only listens."""
    with Raw(helper) as raw:
        raw.sock.sendall(data)
        raw.sock.shutdown(socket.SHUT_WR)
        return to_the_end(raw)


def to_the_end(raw: Raw) -> list[Any]:
    """What comes until the helper closes; it does not read on, which the kernel calls a reset."""
    answers = []
    try:
        while (line := raw.line()) is not None:
            answers.append(line)
    except ConnectionResetError:
        pass
    return answers


def many_routes(count: int) -> list[str]:
    return [f"{11 + (i >> 16)}.{i >> 8 & 255}.{i & 255}.0/24" for i in range(count)]


# JSON-RPC 2.0


def test_envelopes_are_answered_as_the_specification_says(helper: Helper) -> None:
    with Raw(helper) as raw:

        def answer(line: bytes) -> Any:
            raw.sock.sendall(line)
            return raw.line()

        for id_ in ("a", "", "\x00\u2028\U0001f600", 7, 0, -1, 2**63, 10**40, None):
            assert answer(envelope(id=id_)) == {"jsonrpc": "2.0", "id": id_, "result": {}}, id_
        wrong: dict[str, list[Any]] = {
            "id": [1.5, 1.0, True, False, {}, [], ["a"]],
            "jsonrpc": ["1.0", "2", 2.0, 2, None, True, ["2.0"], ...],
            "method": [1, None, True, ["session.ping"], {}, ...],
            "params": [1, "x", None, True],
            **{name: [1] for name in ("parms", "Id", "result", "")},
        }
        for name, values in wrong.items():
            for value in values:
                found = answer(envelope(**{name: value}))
                echoed = None if name == "id" else 1
                assert (found["id"], found["error"]["code"]) == (echoed, -32600), (name, value)
                assert found["error"]["data"] == {"reason": "invalid_request"}, (name, value)
        for line in (b"1\n", b"null\n", b"true\n", b'"session.ping"\n', b"[]\n", b"{}\n"):
            found = answer(line)
            assert (found["id"], found["error"]["code"]) == (None, -32600), line
        by_position: list[list[Any]] = [[], [1], [{}], [None] * 100]
        for params in by_position:
            for method in ("session.ping", "tunnel.create", "tunnel.list"):
                found = answer(envelope(method=method, params=params))
                assert found["error"]["code"] == -32602, (method, params)
                assert found["error"]["data"]["path"] == "$", (method, params)
        assert answer(PING) == PONG


def test_a_notification_is_carried_out_and_never_answered(helper: Helper) -> None:
    with connected(helper) as holder, Raw(helper) as raw:
        tunnel = holder.create(**LEAST)
        lines = (
            envelope(id=...),
            envelope(id=..., method="no.such"),
            envelope(id=..., params=[]),
            envelope(id=..., params={"unknown": 1}),
            envelope(id=..., method="tunnel.list"),
            envelope(id=..., method="tunnel.get", params={"id": "no such"}),
            envelope(id=..., method="tunnel.create", params=[]),
            envelope(id=..., method="tunnel.destroy", params={"id": tunnel.id}),
            envelope(id=..., method="event.subscribe"),
        )
        raw.sock.sendall(b"".join(lines))
        gone = raw.line()
        assert (gone["method"], gone["params"]["type"]) == ("event", "tunnel.down")
        raw.sock.sendall(envelope(id=..., method="event.unsubscribe") + PING)
        raw.sock.shutdown(socket.SHUT_WR)
        assert to_the_end(raw) == [PONG]
        tunnel.close_fds()


def test_a_create_that_could_not_be_answered_is_not_carried_out(helper: Helper) -> None:
    create = envelope(id=..., method="tunnel.create", params=LEAST)
    batch = b"[" + b",".join([create.strip(), PING.strip()]) + b"]\n"
    with untouched():
        assert all_answers(helper, create + batch + create) == [[PONG]]
    assert helper.stderr.count("as a notification") == 3


def test_a_batch_is_answered_together_in_order_and_each_element_by_itself(helper: Helper) -> None:
    bad: list[Any] = [1, [], {}, {"jsonrpc": "2.0", "id": 3, "method": 4}]
    good = [json.loads(envelope(id=i)) for i in ("x", None)]
    quiet = [json.loads(envelope(id=...)), json.loads(envelope(id=..., method="tunnel.list"))]
    slow = json.loads(request("tunnel.list", "slow"))

    def batch(*elements: Any) -> bytes:
        return json.dumps(list(elements)).encode() + b"\n"

    def codes(answers: Any) -> list[Any]:
        return [(a["id"], a["error"]["code"] if "error" in a else "ok") for a in answers]

    (answers,) = all_answers(helper, batch(*bad, slow, *quiet, *good, slow))
    assert codes(answers) == [
        (None, -32600),
        (None, -32600),
        (None, -32600),
        (3, -32600),
        ("slow", "ok"),
        ("x", "ok"),
        (None, "ok"),
        ("slow", "ok"),
    ]
    assert all_answers(helper, batch(*quiet) + PING + batch(*quiet)) == [PONG]
    (hundred,) = all_answers(helper, batch(*good * 50))
    assert codes(hundred) == [("x", "ok"), (None, "ok")] * 50
    for count in (101, 100_000):
        began = time.monotonic()
        (answer,) = all_answers(helper, batch(*[good[0]] * count))
        assert (answer["id"], answer["error"]["code"]) == (None, -32600), count
        assert time.monotonic() - began < 10, "a batch that is refused for its length is not worth seconds"
    assert codes(all_answers(helper, batch())) == [(None, -32600)]
    (nested,) = all_answers(helper, batch([slow], [slow]))
    assert codes(nested) == [(None, -32600)] * 2


def test_requests_run_at_once_and_each_is_answered_when_it_is_done(helper: Helper) -> None:
    slow = request("tunnel.create", "slow", addresses=["10.8.0.2/24"], routes=many_routes(20_000))
    with Raw(helper) as raw, connected(helper) as other:
        raw.sock.sendall(slow + request("tunnel.list", "read") + PING)
        assert raw.line() == PONG
        found = raw.line()
        assert (found["id"], found["result"]) == ("read", {"tunnels": []})
        assert other.call("tunnel.list") == {"tunnels": []}
        made = raw.line()
        assert (made["id"], made["result"]["routes"]) == ("slow", {"total": 20_000})
        # Changes of one connection are done in the order in which they came.
        id_ = made["result"]["id"]
        changes = [request("tunnel.update", mtu, id=id_, mtu=mtu) for mtu in range(1400, 1410)]
        raw.sock.sendall(b"".join(changes))
        assert [raw.line()["result"]["interface"]["mtu"] for _ in changes] == list(range(1400, 1410))


# Framing


def test_what_is_not_json_is_said_and_the_connection_goes_on(helper: Helper) -> None:
    value = b'{"jsonrpc":"2.0","id":1,"method":"session.ping","params":{"x":%b}}'
    faults = {
        "an empty line": b"",
        "blanks": b" \t \r",
        "not JSON at all": b"GET / HTTP/1.1\r",
        "a NUL": b"\0",
        "NUL behind": PING.strip() + b"\0",
        "UTF-16 without a mark": PING.strip().decode().encode("utf-16-be"),
        "a byte order mark": b"\xef\xbb\xbf" + PING.strip(),
        "two values": PING.strip() + b" {}",
        "half a value": PING.strip()[:-1],
        "a closing bracket too many": PING.strip() + b"}",
        "single quotes": b"{'jsonrpc':'2.0'}",
        "a comma at the end": PING.strip()[:-1] + b",}",
        "a comment": b"/* */" + PING.strip(),
        "NaN": value % b"NaN",
        "Infinity": value % b"Infinity",
        "-Infinity": value % b"-Infinity",
        "1e999": value % b"1e999",
        "-1e999": value % b"-1e999",
        "a leading zero": value % b"01",
        "a plus": value % b"+1",
        "hexadecimal": value % b"0x10",
        "a number of 101 characters": value % (b"1" * 101),
        "a number of a million digits": value % (b"7" * 1_000_000),
        "a fraction of a million digits": value % (b"0." + b"7" * 1_000_000),
        "an exponent of a million digits": value % (b"1e" + b"9" * 1_000_000),
        "an id of a million digits": b'{"jsonrpc":"2.0","id":%b,"method":"session.ping"}'
        % (b"7" * 1_000_000),
        "a lone high surrogate": value % rb'"\ud800"',
        "a lone low surrogate": value % rb'"\udc00"',
        "surrogates the wrong way round": value % rb'"\udc00\ud800"',
        "a lone surrogate as a name": value % rb'{"\ud800":1}',
        "a control character in a string": value % b'"\x01"',
        "an unknown escape": value % rb'"\x41"',
        "a member twice": PING.strip()[:-1] + b',"id":2}',
        "a nested member twice": value % b'[{"a":{"b":1,"b":1}}]',
        "a member twice, once escaped": value % rb'{"a":1,"\u0061":2}',
        "the method twice, once escaped": PING.strip()[:-1] + rb',"meth\u006fd":"tunnel.list"}',
        "too many lists": value % (b"[" + b",".join([b"[]"] * 200_001) + b"]"),
    }
    with Raw(helper) as raw, Raw(helper) as other:
        for what, line in faults.items():
            raw.sock.sendall(line + b"\n" + PING)
            said = raw.line()
            assert (said["id"], said["error"]["code"]) == (None, -32700), what
            assert said["error"]["data"] == {"reason": "parse_error"}, what
            assert len(said["error"]["message"]) < 300, what
            assert raw.line() == PONG, what
        other.sock.sendall(PING)
        assert other.line() == PONG
        # Beside these, what looks odd and is JSON.
        for params in (b"{}\r", b" { } ", b'{"x":-0}', b'{"x":1E+2}', b'{"x":"\x7f\xc2\x80"}'):
            raw.sock.sendall(b'{"jsonrpc":"2.0","id":-0,"method":"session.ping","params":%b}\r\n' % params)
            said = raw.line()
            assert said["id"] == 0, params
            assert said.get("error", {"code": -32602})["code"] == -32602, params


def test_a_stream_that_cant_be_trusted_is_said_to_end_and_ends(helper: Helper) -> None:
    value = b'{"jsonrpc":"2.0","id":1,"method":"session.ping","params":{"x":%b}}'

    def deep(levels: int, opening: bytes = b"[", closing: bytes = b"]", inner: bytes = b"") -> bytes:
        return value % (opening * (levels - 2) + inner + closing * (levels - 2))

    fatal = {
        "no UTF-8": value % b'"\xff"',
        "overlong UTF-8": value % b'"\xc0\xaf"',
        "a surrogate in UTF-8": value % b'"\xed\xa0\x80"',
        "a cut character": value % b'"\xe2\x82"',
        "beyond Unicode": value % b'"\xf4\x90\x80\x80"',
        "UTF-16": PING.strip().decode().encode("utf-16"),
        "65 lists": deep(65),
        "65 objects": deep(65, b'{"a":', b"}", b"1"),
        "65 lists behind a text full of brackets": value % (b'["\\"]]]]]]]]]",' + b"[" * 62 + b"]" * 63),
        "100,000 opening brackets": b"[" * 100_000,
        "100,000 lists": deep(100_000),
        "a million objects": b'{"a":' * 1_000_000,
        "a line one byte too long": PING.strip().ljust(MAX + 1),
        "a line of 9 MB": b"x" * 9_000_000,
    }
    with Raw(helper) as other:
        other.sock.sendall(PING)
        assert other.line() == PONG
        before = len(descriptors(helper.pid))
        for what, line in fatal.items():
            with Raw(helper) as raw:
                with suppress(BrokenPipeError):  # it may have heard enough
                    raw.sock.sendall(PING + line + b"\n" + PING)
                first, said, *more = to_the_end(raw)
            assert first == PONG, what
            assert (said["id"], said["error"]["code"], more) == (None, -32700, []), what
            other.sock.sendall(PING)
            assert other.line() == PONG, what
        for what, line in {
            "64 lists": deep(64),
            "64 objects": deep(64, b'{"a":', b"}", b"1"),
            "brackets in a text": value % (b'"' + b"[{" * 1000 + b'"'),
            "brackets behind escaped quotes": value % (b'"\\\\\\"' + b"[" * 1000 + b'"'),
        }.items():
            (said,) = all_answers(helper, line + b"\n")
            assert (said["id"], said["error"]["code"]) == (1, -32602), what
        longest = PING.strip().ljust(MAX)
        assert all_answers(helper, longest + b"\n" + longest + b"\n") == [PONG, PONG]
        eventually(lambda: len(descriptors(helper.pid)) == before, "the helper has closed them all")


def test_lines_may_come_in_any_pieces(helper: Helper) -> None:
    with Raw(helper) as raw:
        for byte in PING:
            raw.sock.sendall(bytes((byte,)))
        assert raw.line() == PONG
        lines = b"".join(envelope(id=i) for i in range(2000))
        for start in range(0, len(lines), 7777):
            raw.sock.sendall(lines[start : start + 7777])
        assert [raw.line()["id"] for _ in range(2000)] == list(range(2000))


def test_one_who_is_done_with_sending_is_still_answered(helper: Helper) -> None:
    assert all_answers(helper, b"") == []
    answers = all_answers(helper, request("tunnel.list", 1) + PING + request("helper.status", 2))
    assert sorted(str(a["id"]) for a in answers) == ["1", "2", "ping"]
    *before, last = all_answers(helper, PING + PING.strip())
    assert before == [PONG]
    assert (last["id"], last["error"]["code"]) == (None, -32700)


# Methods and errors


def test_hello_says_who_is_there_and_what_can_be_done(helper: Helper) -> None:
    with connected(helper) as client:
        named: list[Members] = [
            {"client": {"name": "gui", "version": "2"}},
            {"client": None},
            {"protocol": 1},
        ]
        for params in ({}, *named):
            hello = client.call("session.hello", params)
            assert hello["protocol"] == 1
            assert hello["helper"]["name"] == "coentro-helper"
            assert hello["platform"] == "linux"
            assert hello["peer"] == {
                "uid": 0,
                "gid": 0,
                "groups": sorted(os.getgroups()),
                "pid": os.getpid(),
                "user": "root",
            }
            assert hello["scopes"] == ["admin", "observe", "tunnel"]
            assert hello["limits"]["max_message_bytes"] == MAX
            assert {name for name, there in hello["capabilities"].items() if there} == {
                "tun",
                "tun.queues",
                "tun.vnet_hdr",
                "tun.packet_info",
                "block",
            }
            assert {type(there) for there in hello["capabilities"].values()} == {bool}
            assert {"dns", "dns.split", "lockdown", "lockdown.persist", "confirm", "tokens"} < set(
                hello["capabilities"]
            )
        faults: tuple[tuple[Members, str], ...] = (
            ({"protocol": 2}, "$.protocol"),
            ({"protocol": True}, "$.protocol"),
            ({"client": {}}, "$.client.name"),
            ({"client": {"name": "x" * 257}}, "$.client.name"),
            ({"client": {"name": "x", "vers": "1"}}, "$.client.vers"),
            ({"clients": {}}, "$.clients"),
        )
        for params, path in faults:
            with refused(-32602, "invalid_params") as refusal:
                client.call("session.hello", params)
            assert refusal.data["path"] == path


LATER: Final[Mapping[str, tuple[Members, str, Members]]] = {
    # method: params, the capability that is missing, params that are wrong even so
    "session.authenticate": ({"token": "x"}, "tokens", {}),
    "helper.metrics": ({}, "metrics", {"x": 1}),
    "helper.diagnose": ({}, "diagnose", {"x": 1}),
    "tunnel.confirm": ({"id": "x"}, "confirm", {"id": 1}),
    "dns.get": ({}, "dns", {"x": 1}),
    "token.create": ({"name": "ci", "scopes": ["observe"]}, "tokens", {"name": "ci", "scopes": ["root"]}),
    "token.list": ({}, "tokens", {"x": 1}),
    "token.revoke": ({"id": "x"}, "tokens", {}),
    "audit.list": ({}, "audit", {"limit": 0}),
}


def test_every_error_says_what_a_program_needs(helper: Helper) -> None:
    with connected(helper) as client, untouched():
        for method, hint in (
            ("tunnel.craete", "tunnel.create"),
            ("session.pong", "session.ping"),
            ("TUNNEL.LIST", None),
            ("", None),
            ("__class__", None),
            ("x" * 1_000_000, None),
        ):
            with refused(-32601, "method_not_found") as refusal:
                client.call(method)
            assert refusal.data.get("hint") == hint, method[:20]
            assert len(refusal.message) < 200
        for method, (params, capability, wrong) in LATER.items():
            with refused(-32007, "unsupported") as refusal:
                client.call(method, params)
            assert refusal.data == {"reason": "unsupported", "capability": capability}
            with refused(-32602, "invalid_params") as refusal:
                client.call(method, wrong)
            assert set(refusal.data) == {"reason", "path", "detail"}
        for method in ("tunnel.get", "tunnel.destroy", "tunnel.update", "tunnel.plan", "tunnel.routes"):
            with refused(-32002, "not_found") as refusal:
                client.call(method, {"id": "0123456789abcdef"})
            assert refusal.data == {"reason": "not_found"}
        with refused(-32602) as refusal:
            client.call("tunnel.create", {**LEAST, "routes": ["10.0.0.0/8", "10.0.0.1/8"]})
        assert refusal.data["path"] == "$.routes[1]"
        assert "10.0.0.0/8" in refusal.data["detail"]
        with client.create(**LEAST, name="office"):
            with refused(-32003, "conflict") as refusal:
                client.create(addresses=["10.9.0.2/24"], name="office")
            ((conflict),) = refusal.data["conflicts"]
            assert (conflict["resource"], conflict["name"]) == ("name", "office")
            with refused(-32003, "conflict") as refusal:
                client.create(addresses=["10.9.0.2/24"], routes=["10.8.0.128/25", "10.8.0.0/25"])
            held = {"with": "10.8.0.0/24", "held": "office"}
            assert refusal.data["conflicts"] == [
                {"resource": "route", "network": "10.8.0.0/25", **held},
                {"resource": "route", "network": "10.8.0.128/25", **held},
            ]


def test_what_the_kernel_refuses_is_told_with_its_errno_and_undone(helper: Helper) -> None:
    """Really refused: the helper may open no further descriptor while it makes the tunnel."""
    with connected(helper) as client, untouched():
        client.call("tunnel.list")  # threads, with what they open, are there
        held = descriptors(helper.pid)
        lowest_free = next(n for n in range(1000) if n not in held)
        limits = resource.prlimit(helper.pid, resource.RLIMIT_NOFILE)
        for more in range(6):
            resource.prlimit(helper.pid, resource.RLIMIT_NOFILE, (lowest_free + more, limits[1]))
            before = len(descriptors(helper.pid))
            with pytest.raises(HelperError) as caught:
                client.create(addresses=["10.8.0.2/24"], tun={"queues": 16})
            assert (caught.value.code, caught.value.reason) == (-32005, "kernel"), more
            assert caught.value.data["errno"] == "EMFILE", caught.value.data
            assert caught.value.data["op"]
            assert client.call("tunnel.list") == {"tunnels": []}
            assert len(descriptors(helper.pid)) == before
        resource.prlimit(helper.pid, resource.RLIMIT_NOFILE, limits)
        with client.create(addresses=["10.8.0.2/24"]):
            pass


def test_a_change_that_comes_while_the_helper_stops_hears_so(helper: Helper) -> None:
    with Raw(helper) as raw, connected(helper) as watcher:
        watcher.subscribe(["helper.stopping"])
        slow = request("tunnel.create", "slow", addresses=["10.8.0.2/24"], routes=many_routes(20_000))
        raw.sock.sendall(slow + PING)
        assert raw.line() == PONG  # the create is under way
        os.kill(helper.pid, signal.SIGTERM)
        event(watcher, "helper.stopping")
        raw.sock.sendall(request("tunnel.create", "late", addresses=["10.9.0.2/24"]))
        answers = {a["id"]: a for a in to_the_end(raw)}
        assert answers["late"]["error"]["code"] == -32006
        assert answers["late"]["error"]["data"] == {"reason": "busy"}
        assert helper.process.wait(20) == 0


def test_scopes_and_rates_refuse_with_what_would_help(tmp_path: Path, two_uids: tuple[int, int]) -> None:
    first, second = two_uids
    config = tmp_path / "helper.toml"
    config.write_text(
        f'[socket]\nmode = "0666"\n[access]\nuids = [{first}, {second}]\n'
        f"[scopes.tunnel]\nuids = [{second}]\n"
        "[limits]\nrequests_per_s = 1\nburst = 10\nrequests_under_way = 4\n"
    )
    config.chmod(0o644)
    with (
        run_helper(tmp_path, "--config", str(config)) as helper,
        connected(helper, first) as observer,
        connected(helper, second) as user,
        connected(helper) as root,
    ):
        for method, scope in (
            ("tunnel.create", "tunnel"),
            ("helper.reload", "admin"),
            ("token.list", "admin"),
        ):
            with refused(-32001, "not_authorized") as refusal:
                observer.call(method, {"nonsense": 1})
            assert refusal.data == {"reason": "not_authorized", "scope": scope}
        with user.create(**LEAST) as tunnel, Raw(helper, second) as raw:
            spent = 1  # by the create
            batch = [json.loads(request("tunnel.list", i)) for i in range(3)]
            raw.sock.sendall(json.dumps(batch).encode() + b"\n")
            assert all("result" in a for a in raw.line())
            spent += 3
            for _ in range(10 - spent):
                with refused(-32601):
                    user.call("no.such.method")
            for client, method in ((user, "tunnel.list"), (user, "session.hello"), (user, "no.such.method")):
                with refused(-32004, "limit") as refusal:
                    client.call(method)
                assert 0 < refusal.data["retry_after_s"] <= 1
            _others_and_the_exempt(root, observer, user)
            user.call("tunnel.destroy", {"id": tunnel.id})
        _under_way(helper)


def _others_and_the_exempt(root: Client, observer: Client, user: Client) -> None:
    for _ in range(50):
        user.call("session.ping")
    observer.call("tunnel.list")  # each uid has its own
    root.call("tunnel.list")


def _under_way(helper: Helper) -> None:
    """Four at a time may wait; those answered at once do not count."""
    with Raw(helper) as raw:
        slow = request("tunnel.create", "slow", addresses=["10.8.0.2/24"], routes=many_routes(20_000))
        waiting = [request("tunnel.attach", i, id="x", lease="y") for i in range(5)]
        raw.sock.sendall(slow + b"".join(waiting) + PING)
        answers = {a["id"]: a for a in (raw.line() for _ in range(7))}
        assert answers["ping"] == PONG
        assert [answers[i]["error"]["code"] for i in range(5)] == [-32002] * 3 + [-32004] * 2
        assert answers[4]["error"]["data"]["retry_after_s"] > 0

"""The real helper is what its own document says: examples played, answers and events held to schemas."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import pytest

from coentro.client import Client, HelperError
from coentro.helper import examples, payloads
from coentro.helper.document import document
from coentro.helper.methods import METHODS
from coentro.wire.openrpc import Example
from tests import sandbox
from tests.netns.peers import configured, connected, eventually, refused
from tests.sandbox import Helper, Namespaces, run_helper
from tests.schemas import faults, method, params

OF_THE_MOMENT: Final = {
    "helper.version",
    "version",
    "pid",
    "uptime_s",
    "peer.groups",
    "peer.pid",
    "interface.index",
    "tunnels.interface.index",
    "interfaces.index",
}
"""Numbers and names of which only the type is the example's."""

DOCUMENT: Final = document()
QUIET: Final = '[socket]\ngroup = "root"\n[access]\nusers = ["root"]\n'


@pytest.fixture
def host(namespaces: Namespaces) -> None:
    """The one that the examples tell of."""
    router = namespaces.new("router")
    sandbox.run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "lan0")
    sandbox.run("ip", "link", "set", "lan0", "netns", router.name)
    sandbox.run("ip", "link", "set", "eth0", "addrgenmode", "none")
    sandbox.run("ip", "link", "set", "eth0", "up")
    router.run("ip", "link", "set", "lan0", "up")
    sandbox.run("ip", "address", "add", "192.168.1.2/24", "dev", "eth0")
    sandbox.run("ip", "route", "add", "default", "via", "192.168.1.1")


@pytest.fixture
def helper(tmp_path: Path, host: None) -> Iterator[Helper]:
    path = tmp_path / "helper.toml"
    path.write_text(QUIET)
    path.chmod(0o644)
    with run_helper(tmp_path, "--config", str(path)) as started:
        yield started


class Story:
    """What stands for what is another each time, as it comes up."""

    def __init__(self) -> None:
        self.known: dict[str, str] = {}

    def params(self, told: Any) -> Any:
        """The parameters with what this helper has given in place of what the example says."""
        if isinstance(told, dict):
            return {name: self.params(value) for name, value in told.items()}
        if isinstance(told, list):
            return [self.params(value) for value in told]
        return self.known.get(told, told) if isinstance(told, str) else told

    def unlike(self, told: Any, real: Any, path: Sequence[str] = ()) -> Iterator[str]:
        """Where the real answer is not the example's."""
        where = ".".join(path)
        if isinstance(told, str) and told in examples.VARYING:
            if type(real) is not str or self.known.setdefault(told, real) != real:
                yield f"{where}: {real!r}, not what stands for {told}"
        elif where in OF_THE_MOMENT or where.startswith("interfaces.stats."):
            if type(real) is not type(told):
                yield f"{where}: {real!r} instead of {told!r}"
        elif isinstance(told, dict) and isinstance(real, dict):
            if set(told) != set(real):
                yield f"{where}: {set(told) ^ set(real)} in one alone"
            for name in set(told) & set(real):
                yield from self.unlike(told[name], real[name], [*path, name])
        elif isinstance(told, list) and isinstance(real, list) and len(told) == len(real):
            for one, other in zip(told, real, strict=True):
                yield from self.unlike(one, other, path)
        elif type(told) is not type(real) or told != real:
            yield f"{where}: {real!r} instead of {told!r}"


def answer(client: Client, name: str, given: dict[str, Any]) -> tuple[Any, Any]:
    """Result and error, one of them None. Errors: AssertionError where its schema is another."""
    described = method(DOCUMENT, name)
    result, error = None, None
    try:
        result = client.call(name, given)
    except HelperError as fault:
        error = {"code": fault.code, "message": fault.message, "data": fault.data}
    if error is not None:
        (kind,) = (k for k, e in DOCUMENT["components"]["errors"].items() if e["code"] == error["code"])
        assert {"$ref": f"#/components/errors/{kind}"} in described["errors"], (name, error)
        assert faults(DOCUMENT, DOCUMENT["x-error-data"][kind], error["data"]) == [], (name, error)
        return None, error
    assert faults(DOCUMENT, params(described), given) == [], f"{name} takes what its schema does not"
    assert faults(DOCUMENT, described["result"]["schema"], result) == [], (name, result)
    return result, None


def test_every_example_is_what_the_helper_answers(helper: Helper) -> None:
    story = Story()
    with connected(helper), connected(helper) as client:
        for example in examples.EXAMPLES:
            result, error = answer(client, example.method, story.params(dict(example.params)))
            if example.method == "interface.list":
                result = _only_those(example, result)
            told = example.result if example.error is None else example.error
            real = result if example.error is None else error
            unlike = list(story.unlike(told, real))
            assert unlike == [], f"{example.method}, {example.name}: {error or result}"
    assert set(story.known) == examples.VARYING


def _only_those(example: Example, result: Any) -> Any:
    """Without the interfaces that this machine's kernel puts into every namespace."""
    assert example.result is not None
    names = [i["name"] for i in example.result["interfaces"]]
    return {"interfaces": [i for i in result["interfaces"] if i["name"] in names]}


def test_answers_fit_their_schemas_whatever_is_asked(helper: Helper) -> None:
    full = {
        "name": "full",
        "addresses": ["10.8.0.2/24", "FD00:8::2/64"],
        "mtu": 1400,
        "routes": ["0.0.0.0/0", "::/0"],
        "exclude": ["198.51.100.0/24", "2001:db8::/32"],
        "endpoints": ["203.0.113.7", {"address": "2001:DB8::7", "port": 443, "protocol": None}],
        "block": ["10.66.0.0/16"],
        "dns": None,
        "lockdown": {"enabled": False, "allow_lan": None},
        "linger_s": 0.5,
        "tun": {"queues": 2, "vnet_hdr": True, "packet_info": True},
    }
    many = [f"10.{i >> 8}.{i & 255}.0/24" for i in range(300)]
    with connected(helper) as client:
        made, _ = answer(client, "tunnel.create", full)
        assert len(made["fds"]) == 2
        other, _ = answer(client, "tunnel.create", {"addresses": ["10.99.0.2/32"], "routes": many})
        assert len(other["spec"]["routes"]) == 256
        asked: list[tuple[str, dict[str, Any]]] = [
            ("tunnel.plan", full),
            ("tunnel.plan", {"id": made["id"], "routes": None, "block": None}),
            ("tunnel.update", {"id": made["id"], "exclude": None, "endpoints": None, "linger_s": None}),
            ("tunnel.routes", {"id": other["id"], "add": [], "remove": None}),
            ("tunnel.list", {}),
            ("route.list", {"family": None, "limit": None}),
            ("route.list", {"family": 6}),
            ("route.list", {"cursor": "1", "limit": 1}),
            ("route.lookup", {"destination": "127.0.0.1"}),
            ("route.lookup", {"destination": "10.66.0.1"}),
            ("route.lookup", {"destination": "2001:db8::1"}),
            ("interface.list", {}),
            ("helper.status", {}),
            ("event.subscribe", {"types": None, "since": None}),
            ("session.hello", {"client": {"name": "x", "version": None}}),
            ("rpc.discover", {}),
        ]
        for name, given in asked:
            _, error = answer(client, name, given)
            assert error is None, (name, error)
        everything_else: list[tuple[str, dict[str, Any], int]] = [
            ("tunnel.create", full, -32003),
            ("tunnel.create", {**full, "lockdown": {"enabled": True}}, -32007),
            ("tunnel.create", {}, -32602),
            ("tunnel.update", {"id": other["id"], "addresses": ["10.8.0.3/24"]}, -32003),
            ("tunnel.update", {"id": other["id"], "confirm_within_s": 3}, -32007),
            ("tunnel.plan", {"id": "none"}, -32002),
            ("tunnel.routes", {"id": other["id"], "add": ["10.8.0.0/25"]}, -32003),
            ("route.list", {"tunnel": "none"}, -32002),
        ]
        for name, given, code in everything_else:
            _, error = answer(client, name, given)
            assert error is not None, (name, given)
            assert error["code"] == code, error
        for name in METHODS:
            _, error = answer(client, name, {"no such parameter": 1})
            assert error is not None, name
            assert error["code"] == -32602, error


def test_events_fit_their_schemas(tmp_path: Path, two_uids: tuple[int, int], host: None) -> None:
    member, stranger = two_uids
    config = configured("", [0, member])
    heard: list[dict[str, Any]] = []
    with run_helper(tmp_path, "--config", config) as helper, connected(helper) as watcher:
        watcher.subscribe()
        watcher.call("event.subscribe", {"since": {"run": "another", "seq": 0}})
        with pytest.raises(HelperError), connected(helper, uid=stranger) as refused_:
            refused_.call("session.ping")
        with connected(helper, uid=member) as theirs, connected(helper) as ours:
            tunnel = theirs.create(addresses=["10.8.0.2/24"], routes=["0.0.0.0/0"], linger_s=0.2)
            theirs.call("tunnel.update", {"id": tunnel.id, "mtu": 1400})
            with connected(helper, uid=member) as again:
                again.call("tunnel.attach", {"id": tunnel.id, "lease": tunnel.lease})
                ours.create(addresses=["10.9.0.2/24"], routes=["0.0.0.0/0"])
        while [e["type"] for e in heard].count("tunnel.down") < 2:
            heard.append(event_of_any_type(watcher))
        helper.process.terminate()
        while not any(e["type"] == "helper.stopping" for e in heard):
            heard.append(event_of_any_type(watcher))
        eventually(lambda: helper.process.poll() is not None, "the helper has ended")
    envelope = DOCUMENT["x-notification"]["params"]
    shapes = {e["type"]: e["data"] for e in DOCUMENT["x-events"] if e["told"]}
    for told in heard:
        assert faults(DOCUMENT, envelope, told) == [], told
        assert faults(DOCUMENT, shapes[told["type"]], told["data"]) == [], told
    assert {e["type"] for e in heard} == set(payloads.EVENTS)
    assert {e["data"].get("lease") for e in heard if e["type"] == "tunnel.changed"} == {
        None,
        "moved",
        "lingering",
    }


def event_of_any_type(client: Client) -> dict[str, Any]:
    told = client.next_event(20)
    assert told is not None, "nothing more came"
    return told


def test_the_document_is_for_everyone_who_may_connect(tmp_path: Path, two_uids: tuple[int, int]) -> None:
    nobody, _ = two_uids
    nothing = f"[scopes]\nobserve = {{ uids = [{nobody + 7}] }}\ntunnel = {{ uids = [{nobody + 7}] }}\n"
    with (
        run_helper(tmp_path, "--config", configured(nothing, [nobody])) as helper,
        connected(helper, uid=nobody) as client,
        connected(helper) as root,
    ):
        assert client.call("session.hello")["scopes"] == []
        with refused(-32001, "not_authorized"):
            client.call("tunnel.list")
        first = client.call("rpc.discover")
        assert first["openrpc"].startswith("1.3.")
        assert [m["name"] for m in first["methods"]] == list(METHODS)
        assert first == root.call("rpc.discover") == DOCUMENT
        with refused(-32602):
            client.call("rpc.discover", {"x": 1})

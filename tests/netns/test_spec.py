"""Specs over the socket: what is refused, where the fault is, and that nothing came of it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pytest

from coentro.client import Client, HelperError
from tests.netns.linux_host import TABLE, lan
from tests.netns.peers import configured, connected, refused, untouched
from tests.sandbox import Helper, host_state, run, run_helper

BOTH: Final[Mapping[str, Any]] = {"addresses": ["10.8.0.2/24", "fd00:8::2/64"]}
ONLY4: Final[Mapping[str, Any]] = {"addresses": ["10.8.0.2/24"]}

DEFAULTED: Final = (
    "name",
    "mtu",
    "routes",
    "exclude",
    "endpoints",
    "block",
    "dns",
    "lockdown",
    "linger_s",
    "confirm_within_s",
    "tun",
)

Case = tuple[Mapping[str, Any], str]
Values = tuple[Any, ...]


@pytest.fixture
def helper(tmp_path: Path) -> Iterator[Helper]:
    lan()
    # There are more faults than a burst has requests.
    with run_helper(tmp_path, "--config", configured("[limits]\nburst = 1000000\n")) as started:
        yield started


@pytest.fixture
def client(helper: Helper) -> Iterator[Client]:
    with connected(helper) as connection:
        yield connection


def path_of_fault(client: Client, method: str, params: Mapping[str, Any]) -> str:
    """Where `data.path` of the refusal is; asserts that there is one."""
    shown = f"{method} {str(params)[:300]}"
    refusal: HelperError | None = None
    try:
        client.call(method, params)
    except HelperError as fault:
        refusal = fault
    assert refusal is not None, f"{shown} was not refused"
    assert refusal.code == -32602, f"{shown}: {refusal.code} {refusal.message}"
    assert refusal.data.keys() == {"reason", "path", "detail"}, shown
    assert len(refusal.message) < 600, shown
    return str(refusal.data["path"])


# What each field of a list can't be: text, and why.
NO_NETWORKS: Final = (
    "10.0.0.1/8",  # host bits
    "fd00::1/64",
    "0.0.0.1/0",
    "10.0.0.0",  # other writings
    "10.0.0.0/33",
    "10.0.0.0/08",
    "10.0.0.0/-1",
    "10.0.0.0/8/8",
    "10.0.0.0/255.0.0.0",
    "10.0.0/8",
    "010.0.0.0/8",
    "0x0a.0.0.0/8",
    " 10.0.0.0/8",
    "10.0.0.0/8\n",
    "10.0.0.0/8\0",
    "\uff11\uff10.0.0.0/8",  # full-width digits
    "\u0661\u0660.0.0.0/8",  # Arabic ones
    "fd00::/129",
    "fd00::%e0/64",
    "::ffff:10.0.0.0/104",
    "::ffff:0:0/96",
    "",
    "/",
    "/8",
    "default",
    "x" * 100_000,
    "127.0.0.0/8",  # special ranges
    "127.0.0.1/32",
    "224.0.0.0/4",
    "239.1.2.3/32",
    "255.255.255.255/32",
    "169.254.0.0/16",
    "169.254.7.0/24",
    "0.0.0.0/32",
    "::/128",
    "::1/128",
    "ff00::/8",
    "ff02::1/128",
    "fe80::/10",
    "fe80::/64",
)
NO_ADDRESSES: Final = (
    "10.8.0.2",
    "10.8.0.2/0",
    "fd00::2/0",
    "10.8.0.2/33",
    "fd00::2/129",
    "10.8.0.02/24",
    "10.8.0.2/255.255.255.0",
    "fd00::2%e0/64",
    "::ffff:10.8.0.2/120",
    "127.0.0.2/8",
    "::1/128",
    "0.0.0.0/8",
    "0.1.2.3/8",
    "::/64",
    "224.0.0.5/24",
    "ff02::5/64",
    "255.255.255.255/32",
    "10.8.0.255/24",
)
NO_HOSTS: Final = (
    "203.0.113.7/32",
    "203.0.113.7:51820",
    "[2001:db8::1]",
    "vpn.example",
    "203.0.113.07",
    "fe80::1%e0",
    "::ffff:203.0.113.7",
    "127.0.0.1",
    "::1",
    "0.0.0.0",
    "::",
    "224.0.0.1",
    "ff02::1",
    "255.255.255.255",
    "169.254.1.1",
    "fe80::1",
    "",
)
NO_NAMES: Final = (
    "",
    "a;b",
    "a/b",
    "..",
    "../../etc/passwd",
    "a b",
    "a\nb",
    "ok\n",
    "a\0b",
    "a" * 33,
    "a" * 300,
    "-a",
    "A",
    "a_b",
    "a.b",
    "$(id)",
    "`id`",
    "%d",
    "\u00e9",
    "\u043effice",  # with a Cyrillic o
    "of\ufb01ce",  # with a ligature
    "a\u200bb",
    "a\u202eb",
)
NO_MTUS: Final[Values] = ("1420", True, False, 1420.0, 1420.5, -1, 0, 575, 65536, 2**63, 10**40, [], {})
NO_QUEUES: Final[Values] = ("1", True, False, 1.0, 0, -1, 17, 2**63, 10**40, [], {})
NO_PROTOCOLS: Final[Values] = ("icmp", "UDP", "", 17, True, [])
NO_IDS: Final[Values] = (1, True, [], {}, "x" * 257)
NO_DOMAINS: Final[Values] = (
    *("", ".", "a..b", "-a", "a b", "a/b", "x" * 64, "*.corp", "a.\n", "\u00e9.example", 1, True),
)
NO_SECONDS: Final[Values] = ("1", True, -1, -0.5, 86400.5, 86401, 10**40, 1e300, [], {})
NO_TEXTS: Final[Values] = (1, True, 1.5, [], {}, ["10.0.0.0/8"], {"network": "10.0.0.0/8"})
NO_LISTS: Final[Values] = ("10.0.0.0/8", 1, True, {}, {"0": "10.0.0.0/8"})
NO_OBJECTS: Final[Values] = ("x", 1, True, [], [{}])
NO_BOOLEANS: Final[Values] = (1, 0, "true", "", [], {})


def faults() -> Iterator[Case]:
    """Specs that are refused, each beside what is good, and the place of the fault."""
    for field in ("routes", "exclude", "block"):
        for text in (*NO_NETWORKS, *NO_TEXTS, None):
            yield {field: ["10.1.0.0/16", text]}, f"$.{field}[1]"
        for value in NO_LISTS:
            yield {field: value}, f"$.{field}"
        yield {field: ["10.1.0.0/16", "fd01::/32", "10.1.0.0/16"]}, f"$.{field}[2]"
        yield {field: ["fd01::/32", "FD01:0:0::/32"]}, f"$.{field}[1]"
    for text in (*NO_ADDRESSES, *NO_TEXTS):
        yield {"addresses": ["10.8.0.2/24", text]}, "$.addresses[1]"
    for value in (*NO_LISTS, None):
        yield {"addresses": value}, "$.addresses"
    yield {"addresses": []}, "$.addresses"
    yield {"addresses": [f"10.8.{n}.2/24" for n in range(17)]}, "$.addresses"
    yield {"addresses": ["10.8.0.2/24", "10.8.0.2/32"]}, "$.addresses[1]"
    for text in (*NO_HOSTS, 1, True, [], None):
        yield {"endpoints": ["203.0.113.9", text]}, "$.endpoints[1]"
        yield {"endpoints": [{"address": text}]}, "$.endpoints[0].address"
        yield {"dns": {"servers": ["10.8.0.1", text]}}, "$.dns.servers[1]"
    for value in NO_LISTS:
        yield {"endpoints": value}, "$.endpoints"
        yield {"dns": {"servers": value}}, "$.dns.servers"
    yield {"endpoints": ["203.0.113.7", {"address": "203.0.113.7"}]}, "$.endpoints[1]"
    yield {"endpoints": [f"203.{n >> 8}.{n & 255}.7" for n in range(1025)]}, "$.endpoints"
    yield {"endpoints": ["10.8.0.2"]}, "$.addresses[0]"
    yield {"endpoints": [{}]}, "$.endpoints[0]"
    yield {"endpoints": [{"address": "203.0.113.7", "prt": 1}]}, "$.endpoints[0].prt"
    for port in (0, 65536, -1, "51820", True, 1.0):
        yield {"endpoints": [{"address": "203.0.113.7", "port": port}]}, "$.endpoints[0].port"
    for protocol in NO_PROTOCOLS:
        yield {"endpoints": [{"address": "203.0.113.7", "protocol": protocol}]}, "$.endpoints[0].protocol"
    for name in (*NO_NAMES, *NO_TEXTS):
        yield {"name": name}, "$.name"
    for value in NO_MTUS:
        yield {"mtu": value}, "$.mtu"
    for value in NO_QUEUES:
        yield {"tun": {"queues": value}}, "$.tun.queues"
    yield {"mtu": 1279}, "$.mtu"
    for value in NO_SECONDS:
        yield {"linger_s": value}, "$.linger_s"
        yield {"confirm_within_s": value}, "$.confirm_within_s"
    yield {"confirm_within_s": 0}, "$.confirm_within_s"
    for value in NO_OBJECTS:
        for field in ("dns", "lockdown", "tun"):
            yield {field: value}, f"$.{field}"
    for value in NO_BOOLEANS:
        for place in ("lockdown.enabled", "lockdown.allow_lan", "lockdown.persist"):
            yield {"lockdown": {place.partition(".")[2]: value}}, f"$.{place}"
        for place in ("tun.vnet_hdr", "tun.packet_info"):
            yield {"tun": {place.partition(".")[2]: value}}, f"$.{place}"
    yield {"dns": {}}, "$.dns.servers"
    yield {"dns": {"servers": []}}, "$.dns.servers"
    yield {"dns": {"servers": ["10.8.0.1"] * 17}}, "$.dns.servers"
    yield {"dns": {"servers": ["10.8.0.1", "10.8.0.1"]}}, "$.dns.servers[1]"
    yield {"dns": {"servers": ["203.0.113.7"]}, "endpoints": ["203.0.113.7"]}, "$.dns.servers[0]"
    for domain in NO_DOMAINS:
        yield {"dns": {"servers": ["10.8.0.1"], "search": [domain]}}, "$.dns.search[0]"
        yield {"dns": {"servers": ["10.8.0.1"], "match": ["ok.example", domain]}}, "$.dns.match[1]"
    yield {"dns": {"servers": ["10.8.0.1"], "match": ["a", "A."]}}, "$.dns.match[1]"
    for member in ("adresses", "Routes", "id", "lease", "__init__", "a\nb", "", "x" * 100_000):
        yield {member: 1}, f"$.{member}"
    yield {"dns": {"servers": ["10.8.0.1"], "serach": []}}, "$.dns.serach"
    yield {"lockdown": {"enable": True}}, "$.lockdown.enable"
    yield {"tun": {"queue": 2}}, "$.tun.queue"
    yield {**ONLY4, "routes": ["10.0.0.0/8", "fd00::/8"]}, "$.routes"
    yield {"addresses": ["fd00:8::2/64"], "routes": ["0.0.0.0/0"]}, "$.routes"
    yield {**ONLY4, "dns": {"servers": ["fd00:8::1"]}}, "$.dns.servers[0]"


def told(path: str) -> str:
    """How a path is told: what a peer has named is escaped and cut."""
    name = path.removeprefix("$.")
    return "$." + ascii(name if len(name) <= 60 else name[:57] + "...")[1:-1]


def test_every_fault_of_a_spec_is_refused_at_its_place_by_create_plan_and_update(client: Client) -> None:
    cases = list(faults())
    with client.create(name="standing", addresses=["172.16.0.2/24", "fd00:9::2/64"]) as standing, untouched():
        info = client.call("tunnel.get", {"id": standing.id})
        for fields, path in cases:
            shown = str(fields)[:200]
            for method in ("tunnel.create", "tunnel.plan") if "id" not in fields else ("tunnel.create",):
                assert path_of_fault(client, method, {**BOTH, **fields}) == told(path), (method, shown)
            if fields.keys() & {"name", "tun", "id"} or not any(path.startswith(f"$.{f}") for f in fields):
                continue  # fixed; or a fault beside what only the new tunnel has
            patch = {"id": standing.id, **fields}
            assert path_of_fault(client, "tunnel.update", patch) == told(path), shown
        assert client.call("tunnel.get", {"id": standing.id}) == info
        assert len(client.call("tunnel.list")["tunnels"]) == 1


def test_odd_but_good_values_are_taken(client: Client) -> None:
    good: Sequence[Mapping[str, Any]] = (
        {"routes": ["FD01:0::/32", "0.0.0.0/0", "::/0", "128.0.0.0/1", "192.0.2.1/32"]},
        {"routes": ["126.0.0.0/7", "168.0.0.0/7"]},  # contain special ranges
        {"addresses": ["10.8.0.2/31", "10.8.0.3/31", "169.254.8.1/16", "fe80::8/64"]},
        {"addresses": ["10.8.0.255/16", "10.8.0.0/24"]},
        {"block": ["10.1.0.0/16"], "exclude": ["10.1.0.0/16"], "routes": ["10.1.0.0/16"]},
        {**ONLY4, "mtu": 576, "block": ["::/0"], "exclude": ["2001:db8::/32"]},
        {**BOTH, "mtu": 1280},
        {**BOTH, "mtu": 65535},
        {"name": "0-a", "linger_s": 0.5},
        {"linger_s": 0.0, "tun": {"queues": 2, "vnet_hdr": True, "packet_info": True}},
        {"endpoints": [{"address": "203.0.113.7", "port": 65535, "protocol": "tcp"}, "203.0.113.8"]},
        {"endpoints": ["192.168.1.1", {"address": "203.0.113.7", "port": 1}, "203.0.113.7"]},
        {"lockdown": {"enabled": False, "allow_lan": True}},
        dict.fromkeys(DEFAULTED),
        {"tun": {"queues": None, "vnet_hdr": None}, "lockdown": {"enabled": None}},
    )
    for fields in good:
        with untouched(), client.create(**{**BOTH, **fields}) as tunnel:
            for name, value in fields.items():
                if value is not None and name in ("mtu", "linger_s", "addresses"):
                    assert tunnel.info["spec"][name] == value
            # What is told can be given back as it is.
            again = {k: v for k, v in tunnel.info["spec"].items() if k not in ("name", "tun")}
            assert client.call("tunnel.plan", {"id": tunnel.id, **again}) == {"changes": [], "conflicts": []}


def test_what_this_helper_cant_do_is_said_after_the_spec_was_checked(client: Client) -> None:
    dns = {"servers": ["10.8.0.1"], "search": ["example.org"]}
    cases: Sequence[tuple[Mapping[str, Any], str, str]] = (
        # what is asked, what it takes, where a fault in it would be
        ({"dns": dns}, "dns", "$.dns.servers[0]"),
        ({"dns": {**dns, "match": ["corp.example"]}}, "dns", "$.dns.servers[0]"),
        ({"lockdown": {"enabled": True}}, "lockdown", "$.mtu"),
        ({"lockdown": {"enabled": True, "persist": True}}, "lockdown", "$.mtu"),
        ({"confirm_within_s": 30}, "confirm", "$.mtu"),
    )
    with client.create(addresses=["10.9.0.2/24", "fd00:9::2/64"]) as standing, untouched():
        for fields, capability, path in cases:
            for method, params in (
                ("tunnel.create", {**BOTH, **fields}),
                ("tunnel.plan", {**BOTH, **fields}),
                ("tunnel.update", {"id": standing.id, **fields}),
                ("tunnel.plan", {"id": standing.id, **fields}),
            ):
                with refused(-32007, "unsupported") as refusal:
                    client.call(method, params)
                assert refusal.data["capability"] == capability, (method, fields)
                bad = {"endpoints": ["10.8.0.1"]} if "dns" in fields else {"mtu": 1000}
                assert path_of_fault(client, method, {**params, **bad}) == path, (method, fields)
        assert len(client.call("tunnel.list")["tunnels"]) == 1


# Changing what stands


def test_an_update_names_its_tunnel_and_never_what_is_fixed(client: Client) -> None:
    with client.create(name="office", **BOTH) as tunnel, untouched():
        for method in ("tunnel.update", "tunnel.plan"):
            for field, value in (("name", "other"), ("name", None), ("tun", {"queues": 2}), ("tun", None)):
                params = {"id": tunnel.id, field: value}
                assert path_of_fault(client, method, params) == f"$.{field}", (method, params)
            for id_ in NO_IDS:
                assert path_of_fault(client, method, {"id": id_, "mtu": 1300}) == "$.id", method
            with refused(-32002):
                client.call(method, {"id": tunnel.id.upper() + " ", "mtu": 1300})
        assert path_of_fault(client, "tunnel.update", {"mtu": 1300}) == "$.id"
        assert path_of_fault(client, "tunnel.update", {"id": None, "mtu": 1300}) == "$.id"
        assert path_of_fault(client, "tunnel.update", {"id": tunnel.id, "addresses": None}) == "$.addresses"
        assert (
            path_of_fault(
                client,
                "tunnel.update",
                {"id": tunnel.id, "addresses": ["10.8.0.2/24"]} | {"routes": ["fd00::/8"]},
            )
            == "$.routes"
        )
        # null is absence, here too: a plan for a tunnel that does not exist yet.
        planned = client.call("tunnel.plan", {"id": None, "addresses": ["10.9.0.2/24"]})
        assert planned["changes"][0]["op"] == "link.add"
        for method in ("tunnel.get", "tunnel.destroy", "tunnel.attach", "tunnel.routes"):
            more = {"lease": "x"} if method == "tunnel.attach" else {}
            for id_ in (None, *NO_IDS):
                assert path_of_fault(client, method, {"id": id_, **more}) == "$.id", (method, id_)
            assert path_of_fault(client, method, more) == "$.id", method
            assert path_of_fault(client, method, {"ID": "x", **more}) == "$.ID", method


def test_null_restores_defaults_and_an_empty_update_changes_nothing(client: Client) -> None:
    full = {
        "mtu": 1300,
        "routes": ["10.1.0.0/16"],
        "exclude": ["10.1.1.0/24"],
        "endpoints": ["203.0.113.7"],
        "block": ["10.2.0.0/16"],
        "linger_s": 5,
    }
    with client.create(**BOTH) as plain:
        bare, bare_spec = host_state(), client.call("tunnel.get", {"id": plain.id})["spec"]
        client.call("tunnel.update", {"id": plain.id, **full})
        changed = host_state()
        assert changed != bare
        assert client.call("tunnel.update", {"id": plain.id})["spec"]["mtu"] == 1300
        assert host_state() == changed
        told = client.call("tunnel.update", {"id": plain.id, **dict.fromkeys(full)})
        assert told["spec"] == bare_spec
        assert told["lease"] is None
        assert host_state() == bare


def test_routes_are_added_and_removed_all_or_nothing(client: Client) -> None:
    with client.create(**BOTH, routes=["10.1.0.0/16", "10.2.0.0/16"]) as tunnel:

        def change(**params: Any) -> Any:
            return client.call("tunnel.routes", {"id": tunnel.id, **params})

        assert change() == {"added": 0, "removed": 0, "total": 2}
        assert change(add=None, remove=None) == {"added": 0, "removed": 0, "total": 2}
        cases: Sequence[Case] = (
            ({"add": ["10.3.0.0/16", "10.1.0.0/16"]}, "$.add"),
            ({"add": ["10.3.0.0/16"], "remove": ["10.1.0.0/16", "10.4.0.0/16"]}, "$.remove"),
            ({"add": ["10.3.0.0/16"], "remove": ["10.3.0.0/16"]}, "$.remove"),
            ({"add": ["10.1.0.0/16"], "remove": ["10.1.0.0/16"]}, "$.add"),
            ({"add": ["10.3.0.0/16", "10.3.0.0/16"]}, "$.add[1]"),
            ({"add": ["10.3.0.0/16", "10.3.0.1/16"]}, "$.add[1]"),
            ({"remove": ["10.1.0.0/16", "127.0.0.0/8"]}, "$.remove[1]"),
            ({"add": "10.3.0.0/16"}, "$.add"),
            ({"adds": ["10.3.0.0/16"]}, "$.adds"),
        )
        with untouched():
            for params, path in cases:
                assert path_of_fault(client, "tunnel.routes", {"id": tunnel.id, **params}) == path, params
        assert change(add=["10.3.0.0/16"], remove=["10.1.0.0/16"]) == {"added": 1, "removed": 1, "total": 2}
        spec = client.call("tunnel.get", {"id": tunnel.id})["spec"]
        assert spec["routes"] == ["10.2.0.0/16", "10.3.0.0/16"]
        listed = run("ip", "route", "show", "table", TABLE).stdout
        assert "10.3.0.0/16" in listed
        assert "10.1.0.0/16" not in listed
    with client.create(**ONLY4) as narrow, untouched():
        # What the spec as a whole can't be, one change to it can't make it.
        params = {"id": narrow.id, "add": ["fd00::/8"]}
        assert path_of_fault(client, "tunnel.routes", params) == "$.routes"


# What would be done, and what is there


def test_a_plan_changes_nothing_and_says_what_create_then_does(client: Client) -> None:
    spec: Mapping[str, Any] = {
        **BOTH,
        "mtu": 1380,
        "routes": ["0.0.0.0/0", "fd01::/32", *(f"10.20.{n}.0/24" for n in range(50))],
        "exclude": ["10.30.0.0/16"],
        "endpoints": ["203.0.113.7", "2001:db8::7"],
        "block": ["10.40.0.0/16"],
    }
    with untouched():
        plan = client.call("tunnel.plan", spec)
        assert client.call("tunnel.plan", spec) == plan
    assert plan["conflicts"] == []
    groups = {group["op"]: group for group in plan["changes"]}
    assert len(groups) == len(plan["changes"]), "equal changes are one group"
    assert {op: group["undo"] for op, group in groups.items()} == {
        "link.add": "link.delete",
        "link.set": "link.set",
        "link.up": "link.down",
        "address.add": "address.delete",
        "route.add": "route.delete",
        "rule.add": "rule.delete",
    }
    assert all(len(group["first"]) == min(20, group["count"]) for group in plan["changes"])
    with client.create(**spec) as tunnel:
        name = tunnel.interface
        there = [_listed(family) for family in ("-4", "-6")]
        assert groups["route.add"]["count"] == sum(len(routes) for routes, _ in there)
        rules = [rule for _, rules in there for rule in rules]
        assert groups["rule.add"]["count"] == len(rules)
        assert [int(text.partition(":")[0]) for text in groups["rule.add"]["first"]] == rules
        for text in groups["route.add"]["first"]:
            destination = (
                re.sub(r" table .*| dev .*", "", text).removeprefix("throw ").removeprefix("unreachable ")
            )
            assert any(destination in routes for routes, _ in there), text
        addresses = json.loads(run("ip", "-j", "address", "show", "dev", name).stdout)[0]["addr_info"]
        own = [a for a in addresses if a["scope"] != "link"]
        assert groups["address.add"]["count"] == len(own)
        shown = {text.partition(" ")[0] for text in groups["address.add"]["first"]}
        assert shown == {f"{a['local']}/{a['prefixlen']}" for a in own}
        assert "mtu 1380" in groups["link.add"]["first"][0]
        # And of an update.
        patch = {"id": tunnel.id, "mtu": 1300, "exclude": []}
        with untouched():
            changes = client.call("tunnel.plan", patch)["changes"]
        assert {(c["op"], c["count"], c["undo"]) for c in changes} == {
            ("link.set", 1, "link.set"),
            ("route.delete", 1, "route.add"),
        }
        client.call("tunnel.update", patch)
        assert client.call("tunnel.plan", patch)["changes"] == []


def _listed(family: str) -> tuple[list[str], list[int]]:
    """The first tunnel's routes by destination, and the priorities of its rules, of a family."""
    rules = json.loads(run("ip", family, "-j", "rule", "show").stdout)
    priorities = [rule["priority"] for rule in rules if rule["table"] == str(int(TABLE, 16))]
    return _destinations(family, TABLE), priorities


def _destinations(family: str, table: str) -> list[str]:
    """The destinations in a table, all of them written with their lengths."""
    everything, length = ("0.0.0.0/0", "/32") if family == "-4" else ("::/0", "/128")
    shown = json.loads(run("ip", family, "-j", "route", "show", "table", table).stdout)
    found = [everything if route["dst"] == "default" else route["dst"] for route in shown]
    return [one if "/" in one else one + length for one in found]


def test_a_plan_says_what_would_refuse_it(client: Client) -> None:
    with client.create(name="office", **BOTH, routes=["0.0.0.0/0"]), untouched():
        plan = client.call(
            "tunnel.plan", {"name": "office", "addresses": ["10.9.0.2/24"], "routes": ["0.0.0.0/0"]}
        )
        assert [c["resource"] for c in plan["conflicts"]] == ["name", "everything"]
        spec = {"addresses": ["10.8.0.3/24"], "routes": ["10.9.0.0/16"], "endpoints": ["10.8.0.9"]}
        plan = client.call("tunnel.plan", spec)
        assert [c["resource"] for c in plan["conflicts"]] == ["address", "endpoint"]
        with refused(-32003) as refusal:
            client.call("tunnel.create", spec)
        assert refusal.data["conflicts"] == plan["conflicts"]
        many = client.call(
            "tunnel.plan", {"addresses": ["10.9.0.2/24"], "routes": [f"10.8.0.{n}/32" for n in range(50)]}
        )
        assert len(many["conflicts"]) == 20


def test_routes_are_listed_in_pages_as_the_kernel_has_them(client: Client) -> None:
    routes = [f"10.20.{n}.0/24" for n in range(25)]
    with client.create(name="office", **BOTH, routes=routes) as tunnel:
        whole = client.call("route.list")
        assert whole["cursor"] is None
        main = [r for r in whole["routes"] if r["owner"] == "host"]
        theirs = [d for family in ("-4", "-6") for d in _destinations(family, "main")]
        assert sorted(r["destination"] for r in main) == sorted(theirs)
        (default,) = [r for r in main if r["destination"] == "0.0.0.0/0"]
        assert default == {
            "destination": "0.0.0.0/0",
            "kind": "unicast",
            "gateway": "192.168.1.1",
            "interface": "e0",
            "metric": 0,
            "owner": "host",
        }
        mine = client.call("route.list", {"tunnel": tunnel.id, "family": 4})["routes"]
        assert {r["owner"] for r in mine} == {"office"}
        assert [r["destination"] for r in mine if r["destination"].startswith("10.20.")] == sorted(
            routes, key=lambda text: int(text.split(".")[2])
        )
        pages, cursor = [], None
        while True:
            page = client.call("route.list", {"limit": 7, "cursor": cursor})
            pages += page["routes"]
            assert len(page["routes"]) == 7 or page["cursor"] is None
            if (cursor := page["cursor"]) is None:
                break
        assert pages == whole["routes"]
        faults: Sequence[Case] = (
            *(({"limit": bad}, "$.limit") for bad in (0, 10_001, -1, True, 1.0, "7")),
            *(({"cursor": bad}, "$.cursor") for bad in ("", "-1", "x", "1" * 10, "\u0661", 7)),
            *(({"family": bad}, "$.family") for bad in (5, "4", True, 4.0)),
            ({"tunnel": 1}, "$.tunnel"),
            ({"familiy": 4}, "$.familiy"),
        )
        for params, path in faults:
            assert path_of_fault(client, "route.list", params) == path, params
        assert client.call("route.list", {"cursor": "999999999"}) == {"routes": [], "cursor": None}
        with refused(-32002):
            client.call("route.list", {"tunnel": "no such"})


def test_a_lookup_says_what_the_kernel_says(client: Client) -> None:
    with client.create(name="office", **BOTH, routes=["0.0.0.0/0"], endpoints=["203.0.113.7"]) as tunnel:
        for destination in (
            "8.8.8.8",
            "203.0.113.7",
            "192.168.1.9",
            "10.8.0.9",
            "fd00:1::9",
            "fd00:8::9",
            "2001:db8::1",
        ):
            found = client.call("route.lookup", {"destination": destination})
            (kernel,) = json.loads(run("ip", "-j", "route", "get", destination).stdout)
            assert set(found) == {
                "destination",
                "interface",
                "gateway",
                "source",
                "tunnel",
                "reason",
                "steps",
            }
            assert found["destination"] == destination
            assert found["interface"] == kernel["dev"], destination
            assert found["gateway"] == kernel.get("gateway"), destination
            assert found["source"] == kernel.get("prefsrc"), destination
            assert found["tunnel"] == ("office" if kernel["dev"] == tunnel.interface else None), destination
            assert {step["kind"] for step in found["steps"]} <= {"rule", "table", "route"}
            assert {step["made_by"] for step in found["steps"]} <= {"office", "host"}
            assert found["reason"]
        # There is an answer for whatever is an address.
        for odd in ("0.0.0.0", "255.255.255.255", "224.0.0.1", "127.0.0.1", "169.254.1.1", "240.0.0.1"):
            assert client.call("route.lookup", {"destination": odd})["destination"] == odd
        for odd in ("::", "::1", "ff02::1", "fe80::1", "100::1"):
            assert client.call("route.lookup", {"destination": odd})["destination"] == odd
        bad: Sequence[Any] = (
            "",
            "8.8.8.8/32",
            "example.org",
            "8.8.8",
            "08.8.8.8",
            "fe80::1%e0",
            "::ffff:8.8.8.8",
            "8.8.8.8\0",
            8,
            None,
            True,
            [],
        )
        for destination in bad:
            assert path_of_fault(client, "route.lookup", {"destination": destination}) == "$.destination", (
                destination
            )
        assert path_of_fault(client, "route.lookup", {}) == "$.destination"


def test_interfaces_are_listed_as_the_kernel_has_them(client: Client) -> None:
    with client.create(**BOTH):
        found = {one["name"]: one for one in client.call("interface.list")["interfaces"]}
        kernel = {one["ifname"]: one for one in json.loads(run("ip", "-j", "address", "show").stdout)}
        assert found.keys() == kernel.keys()
        for name, one in kernel.items():
            told = found[name]
            assert set(told) == {"name", "index", "mtu", "up", "addresses", "stats"}
            assert (told["index"], told["mtu"]) == (one["ifindex"], one["mtu"])
            assert told["up"] is ("UP" in one["flags"])
            assert sorted(told["addresses"]) == sorted(
                f"{a['local']}/{a['prefixlen']}" for a in one["addr_info"]
            )
            assert set(told["stats"]) == {"rx_bytes", "tx_bytes", "rx_packets", "tx_packets"}
        assert path_of_fault(client, "interface.list", {"name": "e0"}) == "$.name"

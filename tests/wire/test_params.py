"""Parameters: every field of a spec refuses what it can't be, and says where the fault is."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from ipaddress import ip_network
from typing import Annotated, Any, Literal, NewType

import pytest
from attrs import Factory, frozen
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta

from coentro.errors import InvalidParams
from coentro.model import Dns, Endpoint, InterfaceAddress, Lockdown, Seconds, Spec, TunOptions
from coentro.networks import Network, Networks, parse_network
from coentro.wire.params import amend, decode

LEAST: dict[str, Any] = {"addresses": ["10.8.0.2/24"]}
BOTH: dict[str, Any] = {"addresses": ["10.8.0.2/24", "fd00:8::2/64"]}


def fault(tree: object, cls: type = Spec) -> InvalidParams:
    with pytest.raises(InvalidParams) as caught:
        decode(tree, cls)
    return caught.value


def place(**members: Any) -> str:
    return fault(BOTH | members).path


def spec(**members: Any) -> Spec:
    return decode(BOTH | members, Spec)


# --- what a spec is


def test_the_least_spec_has_every_default() -> None:
    least = decode(LEAST, Spec)
    assert least == Spec(addresses=(InterfaceAddress.parse("10.8.0.2/24"),))
    assert (least.mtu, least.linger_s, least.confirm_within_s) == (1420, 0, None)


def test_a_full_spec_is_read_and_written_alike() -> None:
    tree = {
        "name": "office-1",
        "addresses": ["10.8.0.2/24", "fd00:8::2/64"],
        "mtu": 1380,
        "routes": ["10.0.0.0/8", "192.0.2.0/24", "2001:db8::/32"],
        "exclude": ["10.1.0.0/16"],
        "endpoints": ["203.0.113.7", {"address": "2001:db8:f::7", "port": 51820, "protocol": "udp"}],
        "block": ["0.0.0.0/0"],
        "dns": {"servers": ["10.8.0.1"], "search": ["example.org"], "match": ["corp.example"]},
        "lockdown": {"enabled": True, "allow_lan": True, "persist": False},
        "linger_s": 2.5,
        "confirm_within_s": 30,
        "tun": {"queues": 4, "vnet_hdr": True, "packet_info": True},
    }
    assert decode(tree, Spec).to_json() == tree


def test_null_means_absent_at_every_level() -> None:
    fields = ["name", "mtu", "routes", "exclude", "endpoints", "block", "dns", "lockdown"]
    fields += ["linger_s", "confirm_within_s", "tun"]
    assert decode(LEAST | dict.fromkeys(fields), Spec) == decode(LEAST, Spec)
    assert spec(tun={"queues": None, "vnet_hdr": None}).tun == TunOptions()
    assert spec(lockdown={"enabled": None}).lockdown == Lockdown()
    assert spec(dns={"servers": ["10.8.0.1"], "search": None, "match": None}).dns == Dns(
        servers=spec(dns={"servers": ["10.8.0.1"]}).servers()
    )
    assert spec(endpoints=[{"address": "192.0.2.1", "port": None, "protocol": None}]).endpoints == (
        Endpoint(b"\xc0\x00\x02\x01"),
    )


# --- what a spec is not


@pytest.mark.parametrize("tree", [None, 1, "x", [], [LEAST], True])
def test_params_are_an_object(tree: object) -> None:
    assert fault(tree).path == "$"


@pytest.mark.parametrize(
    ("tree", "path"),
    [
        ({}, "$.addresses"),
        ({"addresses": None}, "$.addresses"),
        (LEAST | {"dns": {}}, "$.dns.servers"),
        (LEAST | {"dns": {"servers": None}}, "$.dns.servers"),
        (LEAST | {"endpoints": [{}]}, "$.endpoints[0]"),
    ],
)
def test_what_is_required_is_named(tree: object, path: str) -> None:
    assert fault(tree).path == path


WRONG: dict[str, list[Any]] = {
    "name": [
        1,
        True,
        [],
        {},
        "",
        "A",
        "-a",
        "a_b",
        "a" * 33,
        "a" * 300,
        "a;b",
        "a/b",
        "..",
        "a\n",
        "\n",
        "a\0",
        "é",
    ],
    "addresses": ["10.8.0.2/24", {}, 1, [], True],
    "mtu": ["1420", True, 1420.0, 575, 65536, -1, 10**30, [], {}],
    "routes": ["10.0.0.0/8", {}, 1, True],
    "exclude": ["10.0.0.0/8", {}, 1, True],
    "endpoints": ["203.0.113.7", {"address": "203.0.113.7"}, 1, True, [str(i) for i in range(1025)]],
    "block": ["10.0.0.0/8", {}, 1, True],
    "dns": [[], "10.8.0.1", 1, True],
    "lockdown": [[], True, "on", 1],
    "linger_s": ["0", True, -1, -0.001, 86400.5, 86401, 10**30, 1e300, [], {}],
    "confirm_within_s": ["0", True, 0, 0.0, -1, 86400.5, 86401, [], {}],
    "tun": [[], "x", 1, True],
}


@pytest.mark.parametrize(
    ("field", "value"), [(f, v) for f, vs in WRONG.items() for v in vs], ids=lambda v: ascii(v)[:30]
)
def test_a_field_of_a_wrong_type_or_range(field: str, value: Any) -> None:
    assert place(**{field: value}) == f"$.{field}"


@pytest.mark.parametrize("value", [0.001, 1, 86400, 0.5])
def test_durations_are_any_numbers_in_range(value: float) -> None:
    assert spec(confirm_within_s=value, linger_s=value).confirm_within_s == value


@pytest.mark.parametrize(
    ("members", "path"),
    [
        ({"tun": {"queues": 0}}, "$.tun.queues"),
        ({"tun": {"queues": 17}}, "$.tun.queues"),
        ({"tun": {"queues": True}}, "$.tun.queues"),
        ({"tun": {"queues": 1.0}}, "$.tun.queues"),
        ({"tun": {"vnet_hdr": 1}}, "$.tun.vnet_hdr"),
        ({"tun": {"packet_info": "true"}}, "$.tun.packet_info"),
        ({"lockdown": {"enabled": 1}}, "$.lockdown.enabled"),
        ({"lockdown": {"allow_lan": 0}}, "$.lockdown.allow_lan"),
        ({"lockdown": {"persist": "x"}}, "$.lockdown.persist"),
        ({"dns": {"servers": []}}, "$.dns.servers"),
        ({"dns": {"servers": "10.8.0.1"}}, "$.dns.servers"),
        ({"dns": {"servers": [f"10.8.0.{i}" for i in range(1, 18)]}}, "$.dns.servers"),
        ({"dns": {"servers": [1]}}, "$.dns.servers[0]"),
        ({"dns": {"servers": ["10.8.0.1", "10.8.0.1/32"]}}, "$.dns.servers[1]"),
        ({"dns": {"servers": ["10.8.0.1", None]}}, "$.dns.servers[1]"),
        ({"dns": {"servers": ["10.8.0.1", "10.8.0.1"]}}, "$.dns.servers[1]"),
        ({"dns": {"servers": ["127.0.0.53"]}}, "$.dns.servers[0]"),
        ({"dns": {"servers": ["0.0.0.0"]}}, "$.dns.servers[0]"),
        ({"dns": {"servers": ["224.0.0.251"]}}, "$.dns.servers[0]"),
        ({"dns": {"servers": ["255.255.255.255"]}}, "$.dns.servers[0]"),
        ({"dns": {"servers": ["fe80::1%eth0"]}}, "$.dns.servers[0]"),
        ({"dns": {"servers": ["10.8.0.1"], "search": ["a", "-b"]}}, "$.dns.search[1]"),
        ({"dns": {"servers": ["10.8.0.1"], "search": ["a"] * 33}}, "$.dns.search"),
        ({"dns": {"servers": ["10.8.0.1"], "match": ["a", "A."]}}, "$.dns.match[1]"),
        ({"dns": {"servers": ["10.8.0.1"], "match": ["x" * 64]}}, "$.dns.match[0]"),
        ({"dns": {"servers": ["10.8.0.1"], "match": ["a..b"]}}, "$.dns.match[0]"),
        ({"dns": {"servers": ["10.8.0.1"], "match": [".".join(["a" * 60] * 5)]}}, "$.dns.match[0]"),
        ({"dns": {"servers": ["10.8.0.1"], "match": [""]}}, "$.dns.match[0]"),
        ({"endpoints": ["203.0.113.7", {"address": "203.0.113.8", "port": 0}]}, "$.endpoints[1].port"),
        ({"endpoints": [{"address": "203.0.113.8", "port": 65536}]}, "$.endpoints[0].port"),
        ({"endpoints": [{"address": "203.0.113.8", "port": True}]}, "$.endpoints[0].port"),
        ({"endpoints": [{"address": "203.0.113.8", "port": "1"}]}, "$.endpoints[0].port"),
        ({"endpoints": [{"address": "203.0.113.8", "protocol": "UDP"}]}, "$.endpoints[0].protocol"),
        ({"endpoints": [{"address": "203.0.113.8", "protocol": ["udp"]}]}, "$.endpoints[0].protocol"),
        ({"endpoints": [{"address": "203.0.113.8", "protocol": {}}]}, "$.endpoints[0].protocol"),
        ({"endpoints": [{"address": 1}]}, "$.endpoints[0].address"),
        ({"endpoints": [{"address": None}]}, "$.endpoints[0].address"),
        ({"endpoints": ["vpn.example.org"]}, "$.endpoints[0]"),
        ({"endpoints": ["203.0.113.7:51820"]}, "$.endpoints[0]"),
        ({"endpoints": ["203.0.113.7", "203.0.113.7"]}, "$.endpoints[1]"),
        ({"endpoints": ["::1"]}, "$.endpoints[0]"),
        ({"endpoints": ["::ffff:203.0.113.7"]}, "$.endpoints[0]"),
        ({"endpoints": ["10.8.0.2"]}, "$.addresses[0]"),
        ({"dns": {"servers": ["203.0.113.7"]}, "endpoints": ["203.0.113.7"]}, "$.dns.servers[0]"),
        ({"addresses": ["10.8.0.2/24", "10.8.0.3"]}, "$.addresses[1]"),
        ({"addresses": ["10.8.0.2/24", "10.8.0.2/24"]}, "$.addresses[1]"),
        ({"addresses": ["10.8.0.2/24", "10.8.0.2/32"]}, "$.addresses[1]"),
        ({"addresses": [f"10.8.0.{i}/32" for i in range(1, 18)]}, "$.addresses"),
        ({"addresses": ["10.8.0.2/0"]}, "$.addresses[0]"),
        ({"addresses": ["10.8.0.255/24"]}, "$.addresses[0]"),
        ({"addresses": ["127.0.0.1/8"]}, "$.addresses[0]"),
        ({"addresses": ["224.0.0.1/32"]}, "$.addresses[0]"),
        ({"addresses": ["0.0.0.0/32"]}, "$.addresses[0]"),
        ({"addresses": ["::/128"]}, "$.addresses[0]"),
        ({"addresses": ["::1/128"]}, "$.addresses[0]"),
        ({"addresses": [None]}, "$.addresses[0]"),
        ({"addresses": [["10.8.0.2/24"]]}, "$.addresses[0]"),
        ({"mtu": 1279}, "$.mtu"),
        ({"addresses": ["10.8.0.2/24"], "routes": ["::/0"]}, "$.routes"),
        ({"addresses": ["10.8.0.2/24"], "routes": ["::/1", "10.0.0.0/8", "8000::/1"]}, "$.routes"),
        ({"addresses": ["10.8.0.2/24"], "dns": {"servers": ["fd00::1"]}}, "$.dns.servers[0]"),
    ],
    ids=lambda v: ascii(v)[:60],
)
def test_a_fault_inside_is_told_with_its_place(members: dict[str, Any], path: str) -> None:
    assert place(**members) == path


@pytest.mark.parametrize("field", ["routes", "exclude", "block"])
@pytest.mark.parametrize(
    "text",
    [
        *[
            "10.0.0.1/8",
            "2001:db8::1/32",
            "10.0.0.0/33",
            "::/129",
            "10.0.0.0",
            "10.0.0.0/",
            "/8",
            "",
            "10.0.0.0/08",
        ],
        *[
            "10.0.0.0/255.0.0.0",
            "010.0.0.0/8",
            "10.0.0/8",
            "0x0a000000/8",
            "10.0.0.0/-1",
            "10.0.0.0/+8",
            " 10.0.0.0/8",
        ],
        *[
            "10.0.0.0/8\n",
            "10.0.0.0/8\0",
            "fe80::%1/64",
            "::ffff:10.0.0.0/104",
            "2001:db8::10.0.0.0/128",
            "::10.0.0.0/104",
            "10.0.0.0/8/8",
        ],
        *["127.0.0.0/8", "127.0.0.1/32", "224.0.0.0/4", "239.1.0.0/16", "169.254.0.0/16", "169.254.1.0/24"],
        *[
            "255.255.255.255/32",
            "0.0.0.0/32",
            "::/128",
            "::1/128",
            "ff00::/8",
            "ff02::1/128",
            "fe80::/10",
            "fe80::/64",
        ],
        *[
            "10.0.0.0/\u0668",
            "\u0661\u0660.0.0.0/8",
            "default",
            "a" * 300,
            1,
            None,
            True,
            1.5,
            [],
            {},
            ["10.0.0.0/8"],
        ],
    ],
    ids=ascii,
)
def test_a_bad_network_is_told_with_its_place(field: str, text: object) -> None:
    assert place(**{field: ["192.0.2.0/24", "0.0.0.0/0", text, "10.0.0.1/8"]}) == f"$.{field}[2]"


@pytest.mark.parametrize("field", ["routes", "exclude", "block"])
def test_a_network_that_stands_twice_however_it_is_written(field: str) -> None:
    assert place(**{field: ["2001:db8::/32", "10.0.0.0/8", "2001:DB8:0::/32"]}) == f"$.{field}[2]"


def test_wide_networks_that_contain_special_ones_are_fine() -> None:
    texts = ["0.0.0.0/0", "0.0.0.0/1", "128.0.0.0/1", "::/0", "fe00::/8", "0.0.0.0/8"]
    assert len(spec(routes=texts).routes) == 6


@pytest.mark.parametrize(
    ("members", "path", "hint"),
    [
        ({"mut": 1}, "$.mut", "mtu"),
        ({"Routes": []}, "$.Routes", "routes"),
        ({"zzzz": None}, "$.zzzz", None),
        ({"dns": {"servers": ["10.8.0.1"], "serch": []}}, "$.dns.serch", "search"),
        ({"lockdown": {"enable": True}}, "$.lockdown.enable", "enabled"),
        ({"tun": {"queue": 1}}, "$.tun.queue", "queues"),
        ({"endpoints": ["192.0.2.1", {"address": "192.0.2.1", "prot": 1}]}, "$.endpoints[1].prot", None),
        ({"": 1}, "$.", None),
        ({"a\n": 1}, "$.a\\n", None),
        ({"é" * 1000: 1}, None, None),
    ],
    ids=lambda v: ascii(v)[:60],
)
def test_an_unknown_field_at_any_level(members: dict[str, Any], path: str | None, hint: str | None) -> None:
    caught = fault(BOTH | members)
    assert caught.detail.startswith("unknown field")
    assert path is None or caught.path == path
    assert ("did you mean" in caught.detail) == (hint is not None)
    assert hint is None or f"`{hint}`" in caught.detail
    assert len(caught.message) < 1000


# --- amending


def test_a_patch_replaces_what_it_names_and_keeps_the_rest() -> None:
    before = spec(mtu=1300, linger_s=5, routes=["10.0.0.0/8"])
    after = amend({"routes": ["192.0.2.0/24"], "linger_s": None}, before)
    assert after == spec(mtu=1300, routes=["192.0.2.0/24"])
    assert amend({}, before) == before


def test_a_patch_replaces_a_nested_value_whole() -> None:
    before = spec(lockdown={"enabled": True, "persist": True})
    assert amend({"lockdown": {"enabled": True}}, before).lockdown == Lockdown(enabled=True)
    assert amend({"lockdown": None, "tun": None, "dns": None}, before) == spec()


@pytest.mark.parametrize(
    ("patch", "path"),
    [
        ({"addresses": None}, "$.addresses"),
        ({"addresses": []}, "$.addresses"),
        ({"addresses": ["x"]}, "$.addresses[0]"),
        ({"mut": 1}, "$.mut"),
        ({"dns": {"serch": 1}}, "$.dns.serch"),
        ({"dns": {"search": []}}, "$.dns.servers"),
        ({"mtu": True}, "$.mtu"),
        ({"mtu": 1000}, "$.mtu"),
        ({"addresses": ["10.8.0.2/24"]}, "$.routes"),
        ([], "$"),
        (None, "$"),
    ],
    ids=ascii,
)
def test_a_bad_patch_is_told_with_its_place(patch: object, path: str) -> None:
    with pytest.raises(InvalidParams) as caught:
        amend(patch, spec(routes=["2001:db8::/32"]))
    assert caught.value.path == path


# --- other requests

Key = NewType("Key", str)


@frozen
class Caller:
    name: str
    version: str | None = None


@frozen
class Request:
    """The shapes that requests of the helper have."""

    id: Key
    add: Networks = Networks()
    net: Network | None = None
    caller: Caller | None = None
    protocol: Literal[1] | None = None
    family: Literal[4, 6] | None = None
    limit: Annotated[int, Meta(ge=1, le=10)] = 10
    types: tuple[str, ...] | None = None
    callers: tuple[Caller, ...] = ()
    wait_s: Seconds | None = None
    tags: list[str] = Factory(list)

    def check(self) -> None:
        if self.id == "bad":
            raise InvalidParams("$.id", "is bad")


@frozen
class Outer:
    request: Request
    inners: tuple[Request, ...] = ()


@frozen
class Nothing:
    pass


def test_a_request_of_every_shape() -> None:
    tree = {"id": "x", "add": ["10.0.0.0/8"], "net": "10.0.0.0/8", "caller": {"name": "app"}, "protocol": 1}
    tree |= {
        "family": 6,
        "limit": 3,
        "types": ["a"],
        "callers": [{"name": "a", "version": "1"}],
        "wait_s": 1.5,
    }
    assert decode(tree | {"tags": ["t"]}, Request) == Request(
        Key("x"),
        Networks.parse(["10.0.0.0/8"]),
        Network(b"\x0a\0\0\0", 8),
        Caller("app"),
        1,
        6,
        3,
        ("a",),
        (Caller("a", "1"),),
        1.5,
        ["t"],
    )
    assert decode({"id": "x"}, Request) == Request(Key("x"))
    assert decode({}, Nothing) == Nothing()


@pytest.mark.parametrize(
    ("tree", "path"),
    [
        ({"id": 1}, "$.id"),
        ({"net": "10.0.0.1/8"}, "$.net"),
        ({"net": 5}, "$.net"),
        ({"caller": {}}, "$.caller.name"),
        ({"caller": "app"}, "$.caller"),
        ({"caller": {"name": "a", "nam": 1}}, "$.caller.nam"),
        ({"protocol": 2}, "$.protocol"),
        ({"protocol": True}, "$.protocol"),
        ({"protocol": 1.0}, "$.protocol"),
        ({"family": 5}, "$.family"),
        ({"limit": 0}, "$.limit"),
        ({"types": "a"}, "$.types"),
        ({"types": ["a", 1]}, "$.types[1]"),
        ({"callers": [{"name": "a"}, {"name": 1}]}, "$.callers[1].name"),
        ({"callers": [{"name": "a"}, {"nam": 1}]}, "$.callers[1].nam"),
        ({"callers": [{"name": "a"}, None]}, "$.callers[1]"),
        ({"callers": {}}, "$.callers"),
        ({"wait_s": -1}, "$.wait_s"),
        ({"tags": [None]}, "$.tags[0]"),
        ({"id": "bad"}, "$.id"),
    ],
    ids=ascii,
)
def test_a_bad_request_is_told_with_its_place(tree: dict[str, Any], path: str) -> None:
    assert fault({"id": "x"} | tree, Request).path == path


def test_a_check_inside_is_told_with_its_place() -> None:
    assert fault({"request": {"id": "bad"}}, Outer).path == "$.request.id"
    assert fault({"request": {"id": "x"}, "inners": [{"id": "bad"}]}, Outer).path == "$.inners[0].id"


def test_a_default_that_is_made_is_made_anew() -> None:
    first, second = (decode({"id": "x"}, Request) for _ in range(2))
    assert first.tags is not second.tags
    assert amend({"tags": None}, decode({"id": "x", "tags": ["t"]}, Request)).tags == []


values: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.sampled_from(["10.0.0.0/8", "a", "192.0.2.1"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["address", "port", "servers", "queues", "match", "enabled"]), inner, max_size=3
        )
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from([*WRONG, "x"]), values, max_size=4) | values)
def test_whatever_comes_is_a_spec_or_invalid_params(tree: Any) -> None:
    try:
        made = decode(tree, Spec)
    except InvalidParams as caught:
        json.dumps(caught.to_json(), allow_nan=False)
    else:
        assert decode(made.to_json(), Spec) == made
    with suppress(InvalidParams):
        amend(tree, spec())


@given(
    st.one_of(
        st.ip_addresses().map(str),
        st.sampled_from(
            [
                "10.0.0.0",
                "::",
                "::ffff:1.2.3.4",
                "2001:db8::1.2.3.4",
                "fe80::",
                "0.0.0.0",
                "169.254.0.0",
                "1.2.3.04",
                "::1.2.3.4",
            ]
        ),
        st.text("0123456789abcdef.:/%\0\n", max_size=12),
    ),
    st.integers(0, 129).map(str) | st.sampled_from(["", "08", "+8", "255.0.0.0", "\u0668"]),
)
def test_a_network_in_a_list_is_judged_as_one_alone(address: str, length: str) -> None:
    text = f"{address}/{length}"
    try:
        alone = parse_network(text).packed
    except InvalidParams as caught:
        with pytest.raises(InvalidParams, match=re.escape(caught.below("$[0]").message)):
            Networks.parse([text])
    else:
        parsed = ip_network(text)
        assert Networks.parse([text]).v4 + Networks.parse([text]).v6 == alone
        assert alone == parsed.network_address.packed + bytes((parsed.prefixlen,))

"""Schemas say of a value what coentro.wire.params does, as far as JSON Schema can say it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from ipaddress import ip_network
from typing import Annotated, Any, Literal, NotRequired, TypedDict

import pytest
from attrs import frozen
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta

from coentro.errors import InvalidParams
from coentro.model import PARSERS, Domain, Endpoint, InterfaceAddress, Lockdown, Server, Spec
from coentro.networks import Network, Networks
from coentro.wire.params import decode
from coentro.wire.schema import HAND_WRITTEN, Schemas
from tests.schemas import faults

V4 = st.ip_addresses(v=4).map(str)
V6 = st.ip_addresses(v=6).map(lambda a: a.compressed) | st.ip_addresses(v=6).map(lambda a: a.exploded.upper())
ADDRESS = V4 | V6
PREFIX = st.builds(lambda a, n: f"{a}/{n}", ADDRESS, st.integers(0, 130))
NETWORK = st.builds(
    lambda a, n: str(ip_network((a, n), strict=False)), st.ip_addresses(v=4), st.integers(0, 32)
)
LABEL = st.text("abcXYZ019-_", min_size=0, max_size=5)
NAME = st.lists(LABEL, max_size=4).map(".".join) | LABEL.map(lambda label: f"a{label}.b.")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists, max_leaves=4
)
ENDPOINT = ADDRESS | st.fixed_dictionaries(
    {"address": ADDRESS},
    optional={
        "port": st.none() | st.integers(-1, 65537) | st.booleans(),
        "protocol": st.sampled_from(["udp", "tcp", "icmp", None]),
        "prot": st.just("udp"),
    },
)
PARSE: Any = PARSERS
VALUES: dict[type, st.SearchStrategy[Any]] = {
    Network: NETWORK | PREFIX,
    Networks: st.lists(NETWORK, max_size=5) | NETWORK,
    InterfaceAddress: PREFIX,
    Endpoint: ENDPOINT,
    Server: ADDRESS,
    Domain: NAME,
}


def checker(hint: Any) -> Callable[[object], bool]:
    """Whether a value fits the schema of a hint."""
    schemas = Schemas()
    schema = schemas.of(hint)
    return lambda value: not faults({"components": {"schemas": schemas.definitions}}, schema, value)


def fits(hint: Any, value: object) -> bool:
    return checker(hint)(value)


def test_every_value_that_is_parsed_has_a_schema() -> None:
    assert set(HAND_WRITTEN) == set(PARSERS) == set(VALUES)


@pytest.mark.parametrize("cls", list(HAND_WRITTEN))
def test_what_a_parser_takes_its_schema_takes(cls: type) -> None:
    fits = checker(cls)

    @given(VALUES[cls] | JSON)
    def holds(value: Any) -> None:
        with suppress(InvalidParams):
            PARSE[cls](value)
            assert fits(value), value

    holds()


@pytest.mark.parametrize(
    ("cls", "values"),
    [
        (Network, [1, None, "10.0.0.0", "10.0.0.0/8 ", "10.0.0.0/255.0.0.0", "fe80::%1/64"]),
        (Networks, ["10.0.0.0/8", [1], ["10.0.0.0/8", "10.0.0.0/8"], {}]),
        (InterfaceAddress, ["10.8.0.2", 7, "", "/24"]),
        (
            Endpoint,
            [{}, {"address": 1}, {"address": "10.0.0.1", "port": 0}, {"address": "10.0.0.1", "prt": 1}],
        ),
        (Endpoint, ["vpn.example", {"address": "10.0.0.1", "protocol": "icmp"}, None, True]),
        (Server, ["dns.example", 1, "10.0.0.1:53 "]),
        (Domain, ["", ".", "a..b", "-a", "a-", "a" * 64, "a b", 1, "ä.example"]),
    ],
)
def test_what_is_of_another_shape_no_schema_takes(cls: type, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(InvalidParams):
            PARSE[cls](value)
        assert not fits(cls, value), value


SPECS = st.fixed_dictionaries(
    {"addresses": st.lists(st.sampled_from(["10.8.0.2/24", "fd00::2/64"]), max_size=3)},
    optional={
        "name": st.none() | st.sampled_from(["a", "a-b", "A", "-a", "a" * 33, "a\n", 1]),
        "mtu": st.none() | st.integers(500, 70000) | st.booleans(),
        "routes": st.none() | st.lists(NETWORK, max_size=3),
        "endpoints": st.none() | st.lists(ENDPOINT, max_size=2),
        "dns": st.none() | st.fixed_dictionaries({}, optional={"servers": st.lists(V4), "search": st.none()}),
        "lockdown": st.none() | st.dictionaries(st.sampled_from(["enabled", "persist", "x"]), st.booleans()),
        "linger_s": st.none() | st.integers(-1, 86401) | st.floats(-1, 86401),
        "confirm_within_s": st.none() | st.integers(-1, 86401) | st.floats(-1, 86401),
        "tun": st.none() | st.fixed_dictionaries({}, optional={"queues": st.integers(0, 17) | st.none()}),
        "rutes": st.just([]),
    },
)


@given(SPECS)
def test_what_is_decoded_fits(tree: dict[str, Any]) -> None:
    with suppress(InvalidParams):
        decode(tree, Spec)
        assert fits(Spec, tree)


# Each alone is wrong in a way that JSON Schema can say.
@pytest.mark.parametrize(
    "members",
    [
        {"addresses": []},
        {"addresses": None},
        {"addresses": [f"10.8.0.{n}/24" for n in range(1, 18)]},
        {"name": "A"},
        {"name": "a" * 33},
        {"mtu": 575},
        {"mtu": 65536},
        {"mtu": True},
        {"mtu": "1420"},
        {"linger_s": -0.5},
        {"linger_s": 86400.5},
        {"confirm_within_s": 0},
        {"confirm_within_s": True},
        {"endpoints": "203.0.113.7"},
        {"dns": {}},
        {"dns": {"servers": []}},
        {"lockdown": {"enable": True}},
        {"lockdown": {"enabled": 1}},
        {"tun": {"queues": 17}},
        {"tun": {"queues": 1, "vnet": True}},
        {"rutes": []},
    ],
)
def test_what_is_refused_for_its_shape_does_not_fit(members: dict[str, Any]) -> None:
    tree = {"addresses": ["10.8.0.2/24"], **members}
    with pytest.raises(InvalidParams):
        decode(tree, Spec)
    assert not fits(Spec, tree)


class Inner(TypedDict):
    """One inside another."""

    kind: Literal["a", "b"]
    note: NotRequired[Annotated[str, "A note."]]


class Outer(TypedDict):
    """A result."""

    inner: Annotated[Inner | None, "Perhaps."]
    share: Annotated[float, Meta(ge=0, lt=1), "A part."]
    flags: dict[Literal["x", "y"], bool]
    rest: list[dict[str, Any]]


def test_a_result_has_every_member_and_no_other() -> None:
    whole = {"inner": {"kind": "a"}, "share": 0.5, "flags": {"x": True, "y": False}, "rest": [{"z": 1}]}
    assert fits(Outer, whole)
    assert fits(Outer, {**whole, "inner": None})
    assert fits(Outer, {**whole, "inner": {"kind": "b", "note": ""}})
    for name in whole:
        assert not fits(Outer, {key: value for key, value in whole.items() if key != name})
    wrong: list[dict[str, Any]] = [
        {"more": 1},
        {"inner": {"kind": "c"}},
        {"inner": {"kind": "a", "note": None}},
        {"share": 1},
        {"share": True},
        {"flags": {"x": True}},
        {"flags": {"x": True, "y": False, "z": True}},
        {"rest": {}},
    ]
    for members in wrong:
        assert not fits(Outer, {**whole, **members}), members


def test_sentences_stand_where_a_reader_of_draft_7_sees_them() -> None:
    schemas = Schemas()
    schemas.of(Outer)
    assert schemas.definitions["Outer"]["properties"]["share"] == {
        "type": "number",
        "minimum": 0,
        "exclusiveMaximum": 1,
        "description": "A part.",
    }
    assert schemas.definitions["Outer"]["properties"]["inner"] == {
        "anyOf": [{"$ref": "#/components/schemas/Inner"}, {"type": "null"}],
        "description": "Perhaps.",
    }
    assert schemas.definitions["Inner"]["properties"]["note"] == {"type": "string", "description": "A note."}


def test_a_default_is_told_as_a_client_would_write_it() -> None:
    members = {m.name: m for m in Schemas().members(Spec)}
    assert [m.name for m in members.values() if m.required] == ["addresses"]
    assert next(iter(members)) == "addresses"
    assert members["mtu"].schema["default"] == 1420
    assert members["routes"].schema["default"] == []
    assert members["lockdown"].schema["default"] == Lockdown().to_json()
    assert members["tun"].schema["default"]["queues"] == 1
    assert "default" not in members["dns"].schema
    assert "default" not in members["mtu"].as_patch().schema


def test_two_classes_of_one_name_are_an_error() -> None:
    @frozen
    class Dns:
        x: int

    schemas = Schemas()
    schemas.of(Spec)
    with pytest.raises(TypeError, match="named Dns"):
        schemas.of(Dns)


def test_a_hint_of_no_value_is_an_error() -> None:
    for hint in (bytes, set[int], object):
        with pytest.raises(TypeError, match="no schema"):
            Schemas().of(hint)

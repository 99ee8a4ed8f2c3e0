"""The OpenRPC document: complete, as OpenRPC 1.3 and draft 7 want it, and true to the types."""

from __future__ import annotations

import json
import typing
from collections.abc import Iterator
from typing import Any

import attrs
import pytest

from coentro import errors
from coentro.errors import CoentroError
from coentro.helper import document, examples, payloads, requests
from coentro.helper.events import TYPES
from coentro.helper.methods import METHODS
from coentro.helper.parameters import WORDS
from coentro.helper.results import RESULTS
from coentro.model import Dns, Lockdown, Spec, TunOptions
from tests.schemas import faults, method, misshapen, params

DOCUMENT: dict[str, Any] = json.loads(json.dumps(document.document()))


def test_it_is_as_openrpc_1_3_wants_it() -> None:
    assert list(misshapen(DOCUMENT)) == []


@pytest.mark.parametrize(
    ("where", "wrong"),
    [
        ((), {"opnrpc": 1}),
        (("methods", 0), {"parms": []}),
        (("methods", 0, "params", 0), {"schema": {"type": "strin"}}),
        (("methods", 0, "params", 0), {"schema": {"typ": "string"}}),
        (("methods", 0, "result"), {"schema": {"$ref": "#/components/schemas/Nowhere"}}),
        (("methods", 1), {"name": "session.hello"}),
        (("components", "errors", "Busy"), {"x-more": 1}),
    ],
)
def test_what_is_not_is_seen(where: tuple[str | int, ...], wrong: dict[str, Any]) -> None:
    broken = json.loads(json.dumps(DOCUMENT))
    at: Any = broken
    for step in where:
        at = at[step]
    at.update(wrong)
    assert len(list(misshapen(broken))) == 1


def test_every_method_is_in_it_with_its_scope_and_result() -> None:
    assert [m["name"] for m in DOCUMENT["methods"]] == list(METHODS)
    assert set(RESULTS) == set(METHODS)
    for name, row in METHODS.items():
        told = method(DOCUMENT, name)
        assert told["x-scope"] == row.scope
        assert told["x-changes"] == row.changes
        assert told.get("x-unsupported") == row.unsupported
        assert told["summary"].endswith("."), name
        assert told["result"]["schema"] == {"$ref": f"#/components/schemas/{RESULTS[name].__name__}"}


def test_what_this_version_lacks_is_marked() -> None:
    lacking = {m["name"]: m["x-unsupported"] for m in DOCUMENT["methods"] if "x-unsupported" in m}
    assert lacking == {
        "session.authenticate": "tokens",
        "helper.metrics": "metrics",
        "helper.diagnose": "diagnose",
        "tunnel.confirm": "confirm",
        "dns.get": "dns",
        "token.create": "tokens",
        "token.list": "tokens",
        "token.revoke": "tokens",
        "audit.list": "audit",
    }


def test_every_parameter_has_its_sentence_and_no_sentence_is_of_none() -> None:
    classes = [c for c in vars(requests).values() if getattr(c, "__module__", "") == requests.__name__]
    assert set(WORDS) == {Spec, Dns, Lockdown, TunOptions, *classes}
    for cls, words in WORDS.items():
        assert set(words) == {a.name for a in attrs.fields(cls)}, cls
    assert [p["name"] for m in DOCUMENT["methods"] for p in m["params"] if not p.get("description")] == []


def test_parameters_are_those_of_the_types() -> None:
    fields = [a.name for a in attrs.fields(Spec)]
    assert set(params(method(DOCUMENT, "tunnel.create"))["properties"]) == set(fields)
    update = params(method(DOCUMENT, "tunnel.update"))
    assert set(update["properties"]) == {"id", *fields} - {"name", "tun"}
    assert update["required"] == ["id"]
    plan = params(method(DOCUMENT, "tunnel.plan"))
    assert set(plan["properties"]) == {"id", *fields}
    assert plan["required"] == []


def test_every_error_and_its_data_is_in_it() -> None:
    classes = {c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, CoentroError)}
    classes.discard(CoentroError)
    assert set(payloads.ERRORS) == classes
    told = DOCUMENT["components"]["errors"]
    assert {name: (e["code"], e["data"]["reason"]) for name, e in told.items()} == {
        c.__name__: (c.code, c.reason) for c in classes
    }
    for name, schema in DOCUMENT["x-error-data"].items():
        shape = DOCUMENT["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
        assert shape["properties"]["reason"]["enum"] == [told[name]["data"]["reason"]]


def test_the_data_of_errors_as_they_are_raised_fits() -> None:
    raised = [
        errors.ParseError("x"),
        errors.InvalidRequest("x"),
        errors.MethodNotFound("x"),
        errors.MethodNotFound("x", hint="session.ping"),
        errors.InvalidParams("$.x", "y"),
        errors.Internal("0123"),
        errors.NotAuthorized("x", scope="admin"),
        errors.NotAuthorized("x", hint="usermod"),
        errors.NotAuthorized("x", networks=["10.0.0.0/8"]),
        errors.NotFound("x"),
        errors.Conflict("x", [{"resource": "name", "name": "a", "held": "1"}]),
        errors.Conflict("x", [{"resource": "everything", "family": 4, "held": "another user"}]),
        errors.Conflict(
            "x", [{"resource": "route", "network": "10.0.0.0/8", "with": "10.0.0.0/8", "held": "a"}]
        ),
        errors.Limit("x"),
        errors.Limit("x", 0.5),
        errors.Kernel("x", errno="EPERM", op="route.add"),
        errors.Busy("x"),
        errors.Unsupported("dns"),
    ]
    assert {type(e) for e in raised} == set(payloads.ERRORS)
    for error in raised:
        schema = DOCUMENT["x-error-data"][type(error).__name__]
        assert faults(DOCUMENT, schema, error.to_json()["data"]) == []
        assert faults(DOCUMENT, schema, {**error.data, "more": 1}) != []


def test_every_event_is_told_or_named_as_not_yet_told() -> None:
    assert set(payloads.EVENTS) | set(payloads.NOT_YET) == {*TYPES, "event.lost"}
    assert set(payloads.EVENTS).isdisjoint(payloads.NOT_YET)
    assert set(examples.EVENTS) == set(payloads.EVENTS)
    assert {e["type"]: e["told"] for e in DOCUMENT["x-events"]} == {
        **dict.fromkeys(payloads.EVENTS, True),
        **dict.fromkeys(payloads.NOT_YET, False),
    }
    for event in DOCUMENT["x-events"]:
        if event["told"]:
            assert faults(DOCUMENT, event["data"], event["example"]) == [], event["type"]


def test_examples_fit_what_they_are_examples_of() -> None:
    for told in DOCUMENT["methods"]:
        for example in told["examples"]:
            given = {p["name"]: p["value"] for p in example["params"]}
            assert faults(DOCUMENT, params(told), given) == [], example["name"]
            assert faults(DOCUMENT, told["result"]["schema"], example["result"]["value"]) == []
        allowed = {e["$ref"].rpartition("/")[2] for e in told["errors"]}
        for refusal in told.get("x-refusals", ()):
            error = refusal["error"]
            (name,) = (n for n, e in DOCUMENT["components"]["errors"].items() if e["code"] == error["code"])
            assert name in allowed, refusal["name"]
            assert faults(DOCUMENT, DOCUMENT["x-error-data"][name], error["data"]) == []


def test_every_method_has_an_example() -> None:
    # Of a method that is refused it is that; the document is its own.
    without = [
        m["name"]
        for m in DOCUMENT["methods"]
        if not (m["x-refusals"] if "x-unsupported" in m else m["examples"])
    ]
    assert without == ["rpc.discover"]


def test_all_objects_are_closed_but_those_that_are_said_to_be_open() -> None:
    def open_in(schema: Any, where: str) -> Iterator[str]:
        if isinstance(schema, dict):
            if schema.get("type") == "object" and schema.get("additionalProperties") is not False:
                yield where
            for name, inner in schema.items():
                yield from open_in(inner, f"{where}.{name}" if name != "properties" else where)
        elif isinstance(schema, list):
            for inner in schema:
                yield from open_in(inner, where)

    found = {w for n, s in DOCUMENT["components"]["schemas"].items() for w in open_in(s, n)}
    assert found == {
        "Resolver.per_interface.items",
        "Tokens.tokens.items",
        "Records.records.items",
        "Document.info",
        "Document.methods.items",
        "Document.components",
        "Document.x-error-data",
        "Document.x-notification",
        "Document.x-events.items",
        "Event.data",
    }


def test_result_types_have_a_sentence_each() -> None:
    for shape in (*RESULTS.values(), *payloads.EVENTS.values(), *payloads.ERRORS.values()):
        assert typing.is_typeddict(shape)
        assert (shape.__doc__ or "").strip().endswith("."), shape

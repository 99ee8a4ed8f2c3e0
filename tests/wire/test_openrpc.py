"""An OpenRPC document of a small table."""

from __future__ import annotations

from typing import Any, TypedDict

import pytest
from attrs import frozen

from coentro.errors import Busy, CoentroError, InvalidParams
from coentro.wire.openrpc import EventRow, Example, Row, document, summary
from coentro.wire.schema import Schemas
from tests.schemas import misshapen


@frozen
class Asked:
    loud: bool = False
    name: str = ""


class Answered(TypedDict):
    """An answer."""

    text: str


class Told(TypedDict):
    """Something happened."""

    what: str


class Reason(TypedDict):
    """Why not."""

    reason: str


ERRORS: dict[type[CoentroError], type] = {Busy: Reason, InvalidParams: Reason}


def made(**other: Any) -> Any:
    schemas = Schemas({Asked: {"loud": "Whether it shouts.", "name": "Whom."}})
    row = {
        "name": "x.greet",
        "text": "Say hello.\n\n    Or shout\n    it.\n    ",
        "scope": "observe",
        "params": schemas.members(Asked),
        "result": Answered,
        "errors": [Busy],
        "changes": False,
        "unsupported": None,
        "examples": [
            Example("x.greet", "quietly", {"name": "you"}, {"text": "hello you"}),
            Example("x.greet", "too late", {}, error={"code": -32006, "message": "no", "data": {}}),
        ],
        **other,
    }
    events = [EventRow("x.said", "Said.", Told, {"what": "hello"}), EventRow("x.sung", "Sung.", None, None)]
    return document({"title": "x", "version": "1"}, [Row(**row)], events, Told, ERRORS, schemas)


def test_a_row_becomes_a_method() -> None:
    told = made()
    assert list(misshapen(told)) == []
    (method,) = told["methods"]
    assert method == {
        "name": "x.greet",
        "summary": "Say hello.",
        "description": "Or shout it.",
        "paramStructure": "by-name",
        "params": [
            {
                "name": "loud",
                "required": False,
                "schema": {"type": ["boolean", "null"], "default": False},
                "description": "Whether it shouts.",
            },
            {
                "name": "name",
                "required": False,
                "schema": {"type": ["string", "null"], "default": ""},
                "description": "Whom.",
            },
        ],
        "result": {"name": "Answered", "schema": {"$ref": "#/components/schemas/Answered"}},
        "errors": [{"$ref": "#/components/errors/Busy"}],
        "examples": [
            {
                "name": "quietly",
                "params": [{"name": "name", "value": "you"}],
                "result": {"name": "result", "value": {"text": "hello you"}},
            }
        ],
        "x-scope": "observe",
        "x-changes": False,
        "x-since": 1,
        "x-refusals": [
            {"name": "too late", "params": {}, "error": {"code": -32006, "message": "no", "data": {}}}
        ],
    }


def test_what_a_method_lacks_is_named() -> None:
    assert made(unsupported="songs")["methods"][0]["x-unsupported"] == "songs"
    assert "x-unsupported" not in made()["methods"][0]


def test_events_and_errors_are_told_beside_the_methods() -> None:
    told = made()
    assert told["x-events"] == [
        {
            "type": "x.said",
            "summary": "Said.",
            "told": True,
            "data": {"$ref": "#/components/schemas/Told"},
            "example": {"what": "hello"},
        },
        {"type": "x.sung", "summary": "Sung.", "told": False},
    ]
    assert told["x-notification"] == {
        "method": "event",
        "params": {"$ref": "#/components/schemas/Told"},
    }
    assert told["components"]["errors"]["Busy"] == {
        "code": -32006,
        "message": "The helper is shutting down.",
        "data": {"reason": "busy"},
    }
    assert told["x-error-data"]["Busy"] == {"$ref": "#/components/schemas/Reason"}


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("One.", ("One.", "")),
        ("One\n    goes on.\n\n    Two.\n\n    Three.\n", ("One goes on.", "Two. Three.")),
        ("", ("", "")),
    ],
)
def test_a_docstring_is_a_summary_and_the_rest(text: str, parts: tuple[str, str]) -> None:
    assert summary(text) == parts

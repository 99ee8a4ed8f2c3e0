"""An OpenRPC 1.3 document from a table of methods (https://spec.open-rpc.org).

What OpenRPC has no word for is told under its extensions: `x-scope` of a method, `x-changes`
where it takes a turn among the changes, `x-unsupported` with what is missing, `x-refusals` as
examples of errors; `x-events` and `x-error-data` of the whole. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from attrs import frozen

from coentro.errors import CoentroError
from coentro.wire.schema import Member, Schema, Schemas

VERSION: Final = "1.3.2"


@frozen
class Example:
    """One call and what is answered: `result`, or where the method refuses it `error`."""

    method: str
    name: str
    params: Mapping[str, Any]
    result: Mapping[str, Any] | None = None
    error: Mapping[str, Any] | None = None


@frozen
class Row:
    """One method. `text`: its first paragraph is the summary; `since`: a version of the protocol."""

    name: str
    text: str
    scope: str | None
    params: Sequence[Member]
    result: type
    errors: Sequence[type[CoentroError]]
    changes: bool
    unsupported: str | None
    examples: Sequence[Example]
    since: int = 1


@frozen
class EventRow:
    """One type of event, by its name. `data` None: this version does not tell it."""

    name: str
    text: str
    data: type | None
    example: Mapping[str, Any] | None


def document(
    info: Mapping[str, Any],
    rows: Sequence[Row],
    events: Sequence[EventRow],
    envelope: type,
    errors: Mapping[type[CoentroError], type],
    schemas: Schemas,
) -> dict[str, Any]:
    """The document. `envelope`: the params of a notification; `errors`: the data of each error."""
    methods = [_method(row, schemas) for row in rows]
    told = [_event(event, schemas) for event in events]
    data = {error.__name__: schemas.of(shape) for error, shape in errors.items()}
    return {
        "openrpc": VERSION,
        "info": dict(info),
        "methods": methods,
        "components": {
            "errors": {error.__name__: _error(error) for error in errors},
            "schemas": schemas.definitions,
        },
        "x-error-data": data,
        "x-notification": {"method": "event", "params": schemas.of(envelope)},
        "x-events": told,
    }


def summary(text: str) -> tuple[str, str]:
    """The first paragraph of a docstring, and the rest of it."""
    first, _, rest = text.strip().partition("\n\n")
    return " ".join(first.split()), " ".join(rest.split())


def _method(row: Row, schemas: Schemas) -> dict[str, Any]:
    first, rest = summary(row.text)
    told = {
        "name": row.name,
        "summary": first,
        **({"description": rest} if rest else {}),
        "paramStructure": "by-name",
        "params": [_descriptor(member) for member in row.params],
        "result": {"name": row.result.__name__, "schema": schemas.of(row.result)},
        "errors": [{"$ref": f"#/components/errors/{error.__name__}"} for error in row.errors],
        "examples": [_pairing(e) for e in row.examples if e.error is None],
        "x-scope": row.scope,
        "x-changes": row.changes,
        "x-since": row.since,
    }
    if refusals := [e for e in row.examples if e.error is not None]:
        told["x-refusals"] = [{"name": e.name, "params": e.params, "error": e.error} for e in refusals]
    if row.unsupported is not None:
        told["x-unsupported"] = row.unsupported
    return told


def _descriptor(member: Member) -> dict[str, Any]:
    told: dict[str, Any] = {"name": member.name, "required": member.required, "schema": member.schema}
    return {**told, "description": member.description} if member.description else told


def _pairing(example: Example) -> dict[str, Any]:
    return {
        "name": example.name,
        "params": [{"name": name, "value": value} for name, value in example.params.items()],
        "result": {"name": "result", "value": example.result},
    }


def _event(event: EventRow, schemas: Schemas) -> dict[str, Any]:
    told: dict[str, Any] = {
        "type": event.name,
        "summary": summary(event.text)[0],
        "told": event.data is not None,
    }
    if event.data is not None:
        told["data"] = schemas.of(event.data)
    if event.example is not None:
        told["example"] = event.example
    return told


def _error(error: type[CoentroError]) -> Schema:
    """Its message is another each time; here stands what the error is."""
    what = summary(error.__doc__ or "")[0]
    return {"code": error.code, "message": what, "data": {"reason": error.reason}}

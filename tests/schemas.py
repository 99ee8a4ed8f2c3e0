"""Values against the schemas of an OpenRPC document, and what such a document has to be."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from jsonschema import Draft7Validator

Json = Mapping[str, Any]


def faults(document: Json, schema: Any, value: object) -> list[str]:
    """What of the value is not as the schema says; references are the document's."""
    # As `allOf`, since beside a reference nothing is looked at in draft 7.
    validator = Draft7Validator({"allOf": [schema], "components": document["components"]})
    return [f"{'/'.join(map(str, e.absolute_path))}: {e.message}" for e in validator.iter_errors(value)]


def method(document: Json, name: str) -> Any:
    (found,) = (m for m in document["methods"] if m["name"] == name)
    return found


def params(method: Json) -> Json:
    """One schema of all of a method's parameters: no other is known."""
    return {
        "type": "object",
        "properties": {p["name"]: p["schema"] for p in method["params"]},
        "required": [p["name"] for p in method["params"] if p["required"]],
        "additionalProperties": False,
    }


def references(tree: object) -> Iterator[str]:
    """Every `$ref` in it."""
    if isinstance(tree, dict):
        if isinstance(tree.get("$ref"), str):
            yield tree["$ref"]
        for value in tree.values():
            yield from references(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from references(value)


def resolved(document: Json, reference: str) -> Any:
    """Errors: KeyError where it leads nowhere."""
    assert reference.startswith("#/"), reference
    found: Any = document
    for part in reference[2:].split("/"):
        found = found[part]
    return found


# Members of OpenRPC 1.3's objects: their types, and which must be there.
_OBJECTS: Final[Mapping[str, tuple[Mapping[str, type | tuple[type, ...]], set[str]]]] = {
    "document": (
        {
            "openrpc": str,
            "info": dict,
            "servers": list,
            "methods": list,
            "components": dict,
            "externalDocs": dict,
        },
        {"openrpc", "info", "methods"},
    ),
    "info": (
        {
            "title": str,
            "version": str,
            "description": str,
            "termsOfService": str,
            "contact": dict,
            "license": dict,
        },
        {"title", "version"},
    ),
    "method": (
        {
            "name": str,
            "summary": str,
            "description": str,
            "tags": list,
            "paramStructure": str,
            "params": list,
            "result": dict,
            "errors": list,
            "examples": list,
            "links": list,
            "servers": list,
            "deprecated": bool,
            "externalDocs": dict,
        },
        {"name", "params"},
    ),
    "descriptor": (
        {
            "name": str,
            "summary": str,
            "description": str,
            "required": bool,
            "schema": dict,
            "deprecated": bool,
        },
        {"name", "schema"},
    ),
    "error": ({"code": int, "message": str, "data": object}, {"code", "message"}),
    "pairing": ({"name": str, "description": str, "params": list, "result": dict}, {"name", "params"}),
    "example": (
        {"name": str, "summary": str, "description": str, "value": object},
        {"name", "value"},
    ),
}
_COMPONENTS: Final = {
    "schemas",
    "links",
    "errors",
    "examples",
    "examplePairings",
    "contentDescriptors",
    "tags",
}


def misshapen(document: Json) -> Iterator[str]:
    """What OpenRPC 1.3 does not allow."""
    yield from _members("document", document, "document")
    if not re.fullmatch(r"1\.3\.\d+", document["openrpc"]):
        yield f"not OpenRPC 1.3: {document['openrpc']}"
    yield from _members("info", document["info"], "info")
    if unknown := set(document["components"]) - _COMPONENTS:
        yield f"unknown components {unknown}"
    for kind, made in document["components"].items():
        for name in made:
            if not re.fullmatch(r"[A-Za-z0-9._-]+", name):
                yield f"{kind}: a component can't be named {name!r}"
    for name, error in document["components"]["errors"].items():
        yield from _members("error", error, name, extensible=False)
    for name, schema in document["components"]["schemas"].items():
        yield from _schema(schema, name)
    names = [m["name"] for m in document["methods"]]
    if len(set(names)) < len(names):
        yield "two methods of one name"
    for method in document["methods"]:
        yield from _method(document, method)
    for reference in references(document):
        try:
            resolved(document, reference)
        except KeyError:
            yield f"{reference} leads nowhere"


def _method(document: Json, method: Json) -> Iterator[str]:
    name = method["name"]
    yield from _members("method", method, name)
    if method.get("paramStructure", "either") not in ("by-name", "by-position", "either"):
        yield f"{name}: paramStructure"
    for descriptor in (*method["params"], method["result"]):
        yield from _members("descriptor", descriptor, f"{name}: {descriptor.get('name')}")
        yield from _schema(descriptor["schema"], f"{name}: {descriptor['name']}")
    known = [p["name"] for p in method["params"]]
    if len(set(known)) < len(known):
        yield f"{name}: two parameters of one name"
    needed = [p.get("required", False) for p in method["params"]]
    if needed != sorted(needed, reverse=True):
        yield f"{name}: a required parameter after an optional one"
    for error in method["errors"]:
        if set(error) != {"$ref"} or not error["$ref"].startswith("#/components/errors/"):
            yield f"{name}: an error that is no reference to one"
    for pairing in method["examples"]:
        yield from _members("pairing", pairing, f"{name}: {pairing.get('name')}", extensible=False)
        for example in (*pairing["params"], pairing["result"]):
            yield from _members("example", example, f"{name}: {pairing['name']}")


def _members(kind: str, value: Json, where: str, *, extensible: bool = True) -> Iterator[str]:
    known, required = _OBJECTS[kind]
    for name in required - set(value):
        yield f"{where}: {name} is missing"
    for name, member in value.items():
        if name in known:
            if not isinstance(member, known[name]) or member == "":
                yield f"{where}: {name} can't be {member!r}"
        elif not (extensible and name.startswith("x-")):
            yield f"{where}: {name} is unknown"


def _schema(schema: Json, where: str) -> Iterator[str]:
    meta = Draft7Validator(Draft7Validator.META_SCHEMA)
    for fault in meta.iter_errors(schema):
        yield f"{where}: {fault.message}"
    unknown = [path for path in _keywords(schema, where) if path]
    yield from unknown
    if "$ref" in schema and len(schema) > 1:
        yield f"{where}: beside a reference nothing counts"


# Draft 7 passes over words that it does not know, so a typing error in one would check nothing.
_WORDS: Final = set(Draft7Validator.META_SCHEMA["properties"])


def _keywords(schema: Any, where: str) -> Iterator[str]:
    if not isinstance(schema, dict):
        return
    yield from (f"{where}: {word} is no word of draft 7" for word in set(schema) - _WORDS)
    for word in ("properties", "definitions"):
        for name, inner in schema.get(word, {}).items():
            yield from _keywords(inner, f"{where}.{name}")
    for word in ("items", "additionalProperties"):
        yield from _keywords(schema.get(word), f"{where}[]")
    for word in ("anyOf", "oneOf", "allOf"):
        for inner in schema.get(word, ()):
            yield from _keywords(inner, where)

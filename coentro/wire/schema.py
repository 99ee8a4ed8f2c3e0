"""JSON Schema (draft 7) of a type hint, so that what is documented is what is decoded.

Parameters are attrs classes as coentro.wire.params reads them: no other members, and null means
absent wherever there is a default. Results are TypedDicts: every member is there. A class is
written once, under its name, and referred to from then on. Pure.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal, NotRequired, Union

import attrs
import msgspec
from attrs import define, evolve, field, frozen

from coentro.model import Domain, Endpoint, InterfaceAddress, Server
from coentro.networks import Network, Networks

Schema = dict[str, Any]

_ADDRESS: Final = r"[0-9A-Fa-f.:]+"
_LABEL: Final = r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST: Final[Schema] = {
    "type": "string",
    "title": "address",
    "pattern": f"^{_ADDRESS}$",
    "description": "An IPv4 or IPv6 address.",
}

# The values of coentro.model.PARSERS. A pattern lets through all that the parser does, and some more:
# what a number of bits means is the helper's business.
HAND_WRITTEN: Final[Mapping[type, Schema]] = {
    Network: {
        "type": "string",
        "title": "address/length",
        "pattern": f"^{_ADDRESS}/[0-9]{{1,3}}$",
        "description": "A network: no bit is set behind its length.",
        "examples": ["10.0.0.0/8", "2001:db8::/32"],
    },
    Networks: {
        "type": "array",
        "items": {"$ref": "#/components/schemas/Network"},
        "uniqueItems": True,
        "description": "A set of networks.",
    },
    InterfaceAddress: {
        "type": "string",
        "title": "address/length",
        "pattern": f"^{_ADDRESS}/[0-9]{{1,3}}$",
        "description": "An address and the length of its on-link prefix.",
        "examples": ["10.8.0.2/24", "fd00::2/64"],
    },
    Endpoint: {
        "description": "An address of the VPN server, alone or with what narrows it.",
        "oneOf": [
            _HOST,
            {
                "type": "object",
                "properties": {
                    "address": _HOST,
                    "port": {"type": ["integer", "null"], "minimum": 1, "maximum": 65535},
                    "protocol": {"enum": ["udp", "tcp", None]},
                },
                "required": ["address"],
                "additionalProperties": False,
            },
        ],
        "examples": ["203.0.113.7", {"address": "203.0.113.7", "port": 51820, "protocol": "udp"}],
    },
    Server: {**_HOST, "description": "A DNS server's address."},
    Domain: {
        "type": "string",
        "pattern": rf"^{_LABEL}(\.{_LABEL})*\.?$",
        "maxLength": 254,
        "description": "A DNS name; case and a final dot make no difference.",
        "examples": ["corp.example"],
    },
}

_SIMPLE: Final[Mapping[Any, Schema]] = {
    str: {"type": "string"},
    bool: {"type": "boolean"},
    int: {"type": "integer"},
    float: {"type": "number"},
    types.NoneType: {"type": "null"},
    Any: {},
}


@frozen
class Member:
    """One member of an object, or one parameter of a method."""

    name: str
    schema: Schema
    required: bool
    description: str

    def as_patch(self) -> Member:
        """The member where an object is changed: it may be left out, and then nothing is the default."""
        schema = {key: value for key, value in self.schema.items() if key != "default"}
        return evolve(self, schema=schema, required=False)

    def described(self) -> Schema:
        """The schema with the sentence in it; beside a $ref a draft 7 reader would not see it."""
        if not self.description:
            return self.schema
        if "$ref" in self.schema:
            return {"allOf": [self.schema], "description": self.description}
        return {**self.schema, "description": self.description}


@define
class Schemas:
    """Schemas of hints, and in `definitions` those of the classes that they refer to.

    `words` has a sentence for each field of an attrs class; a TypedDict's members bring theirs,
    a text beside the type.
    """

    words: Mapping[type, Mapping[str, str]] = field(factory=dict)
    definitions: dict[str, Schema] = field(factory=dict)
    _classes: dict[str, Any] = field(factory=dict)

    def of(self, hint: Any) -> Schema:
        """Errors: TypeError for a hint that no value of the protocol has."""
        origin, arguments = typing.get_origin(hint), typing.get_args(hint)
        if origin is Annotated:  # first, since a mark need not be hashable
            return _marked(self.of(arguments[0]), arguments[1:])
        if hint in _SIMPLE:
            return dict(_SIMPLE[hint])
        if hint in HAND_WRITTEN:
            if hint is Networks:
                self.of(Network)
            return self._defined(hint, HAND_WRITTEN[hint])
        if origin is Literal:
            return {"enum": list(arguments)}
        if origin is Union or origin is types.UnionType:
            return self._union(arguments)
        if origin in (list, tuple) and arguments:
            return {"type": "array", "items": self.of(arguments[0])}
        if origin is dict:
            return self._mapping(*arguments)
        if isinstance(hint, type) and (attrs.has(hint) or typing.is_typeddict(hint)):
            return self._defined(hint, None)
        raise TypeError(f"no schema of {hint!r}")

    def members(self, cls: Any) -> list[Member]:
        """The fields of an attrs class or the members of a TypedDict, those that must be there first."""
        hints = typing.get_type_hints(cls, include_extras=True)
        if not attrs.has(cls):
            return [self._told(name, hint, name in cls.__required_keys__) for name, hint in hints.items()]
        words = self.words.get(cls, {})
        made = [self._asked(a, hints[a.name], words.get(a.name, "")) for a in attrs.fields(cls)]
        return sorted(made, key=lambda member: not member.required)

    def _told(self, name: str, hint: Any, required: bool) -> Member:
        if typing.get_origin(hint) is NotRequired:
            # Of a class whose annotations are texts it is not among the keys that are not required.
            (hint,), required = typing.get_args(hint), False
        schema = self.of(hint)
        if "allOf" in schema:  # of a class, with a sentence about this member
            return Member(name, schema["allOf"][0], required, schema["description"])
        description = schema.pop("description", "") if typing.get_origin(hint) is Annotated else ""
        return Member(name, schema, required, description)

    def _asked(self, attribute: attrs.Attribute[Any], hint: Any, description: str) -> Member:
        schema = self.of(hint)
        if attribute.default is attrs.NOTHING:
            return Member(attribute.name, schema, True, description)
        default = _json(attribute.default)
        schema = _or_null(schema)
        if default is not None:
            schema["default"] = default
        return Member(attribute.name, schema, False, description)

    def _defined(self, cls: Any, schema: Schema | None) -> Schema:
        name = cls.__name__
        if self._classes.setdefault(name, cls) is not cls:
            raise TypeError(f"two classes are named {name}")
        if name not in self.definitions:
            self.definitions[name] = {}  # a class that holds itself finds its name taken
            self.definitions[name] = schema if schema is not None else self._object(cls)
        return {"$ref": f"#/components/schemas/{name}"}

    def _object(self, cls: type) -> Schema:
        members = self.members(cls)
        return {
            "type": "object",
            "description": " ".join((cls.__doc__ or "").split()),
            "properties": {m.name: m.described() for m in members},
            "required": [m.name for m in members if m.required],
            "additionalProperties": False,
        }

    def _mapping(self, key: Any, value: Any) -> Schema:
        inner = self.of(value)
        if typing.get_origin(key) is not Literal:
            return {"type": "object", **({"additionalProperties": inner} if inner else {})}
        names = list(typing.get_args(key))
        return {
            "type": "object",
            "properties": dict.fromkeys(names, inner),
            "required": names,
            "additionalProperties": False,
        }

    def _union(self, hints: Sequence[Any]) -> Schema:
        rest = [hint for hint in hints if hint is not types.NoneType]
        if set(rest) == {int, float}:
            schema = self.of(float)
        elif len(rest) == 1:
            schema = self.of(rest[0])
        else:
            schema = {"anyOf": [self.of(hint) for hint in rest]}
        return _or_null(schema) if len(rest) < len(hints) else schema


def _or_null(schema: Schema) -> Schema:
    """The schema of what may be null too."""
    if "anyOf" in schema:
        null = _SIMPLE[types.NoneType]
        return schema if null in schema["anyOf"] else {**schema, "anyOf": [*schema["anyOf"], dict(null)]}
    if "enum" in schema:
        return schema if None in schema["enum"] else {**schema, "enum": [*schema["enum"], None]}
    if isinstance(schema.get("type"), str):
        return {**schema, "type": [schema["type"], "null"]}
    if isinstance(schema.get("type"), list) or not schema:
        return dict(schema)
    return {"anyOf": [schema, {"type": "null"}]}


def _marked(schema: Schema, marks: Sequence[Any]) -> Schema:
    """With msgspec.Meta's bounds in JSON Schema's words; a text is a description."""
    for mark in marks:
        schema = _with(schema, msgspec.Meta(description=mark) if isinstance(mark, str) else mark)
    return schema


def _with(schema: Schema, mark: msgspec.Meta) -> Schema:
    long = "Items" if schema.get("type") == "array" or "array" in schema.get("type", ()) else "Length"
    said = {
        "minimum": mark.ge,
        "exclusiveMinimum": mark.gt,
        "maximum": mark.le,
        "exclusiveMaximum": mark.lt,
        f"min{long}": mark.min_length,
        f"max{long}": mark.max_length,
        # Python's end of a text, as ECMA 262 writes it.
        "pattern": mark.pattern.replace(r"\Z", "$") if mark.pattern is not None else None,
        "title": mark.title,
        "description": mark.description,
        **(mark.extra_json_schema or {}),
    }
    new = {key: value for key, value in said.items() if value is not None}
    if "$ref" in schema and new:
        return {"allOf": [schema], **new}
    return {**schema, **new}


def _json(default: Any) -> Any:
    """A default of a field, as a client would write it."""
    made = getattr(default, "factory", None)
    value = made() if made is not None else default
    if isinstance(value, Networks):
        return value.first(len(value))
    if isinstance(value, tuple):
        return [_json(each) for each in value]
    return value.to_json() if hasattr(value, "to_json") else value

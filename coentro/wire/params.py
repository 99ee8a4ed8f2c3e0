"""Parameters: a JSON tree to a frozen attrs value, with the JSON path of every fault.

msgspec converts and checks ranges. It can't be given the model's classes themselves: it lets
unknown members of attrs classes pass, and would read Networks or Endpoint member by member. So
each class has a shape, a msgspec Struct of the same fields in which the values of
coentro.model.PARSERS stay as they came; once the shape fits, they are parsed in place.
"""

from __future__ import annotations

import operator
import types
import typing
from collections.abc import Callable, Mapping
from functools import cache
from typing import Annotated, Any, Final, TypeVar, Union, cast

import attrs
import msgspec
from attrs import frozen

from coentro.errors import InvalidParams
from coentro.model import PARSERS
from coentro.networks import shown

T = TypeVar("T")


def decode(tree: object, cls: type[T]) -> T:
    """The value of `cls`, an attrs class, that `tree` says.

    null for a field with a default means absent, at every level. Calls `check` of every value
    that has one. Errors: InvalidParams alone.
    """
    shape = _shape(cast("type", cls))
    shape.admit(tree, "$")
    value: T = shape.build(_convert(tree, shape.struct), "$")
    return value


def amend(tree: object, current: T) -> T:
    """`current` with the fields that `tree` names, each replaced whole; null restores a default.

    Calls `check` of the outcome. Errors: InvalidParams alone.
    """
    shape = _shape(cast("type", type(current)))
    named = shape.members(tree, "$")
    for name, value in named.items():
        shape.fields[name].admit(value, f"$.{name}")
    converted = _convert(named, shape.struct)
    changes: dict[str, Any] = {}
    for name in named:
        field = shape.fields[name]
        value = getattr(converted, name)
        changes[name] = field.default() if value is None else field.build(value, f"$.{name}")
    current_: Any = current  # attrs says nothing of classes it has not seen
    amended: T = attrs.evolve(current_, **changes)
    _check(amended, "$")
    return amended


def _check(value: object, path: str) -> None:
    check = getattr(value, "check", None)
    if check is None:
        return
    try:
        check()
    except InvalidParams as fault:
        raise fault.below(path) from None


def _convert(tree: object, struct: type) -> Any:
    try:
        return msgspec.convert(tree, struct, strict=True)
    except msgspec.ValidationError as fault:
        raise _told(str(fault)) from None


# msgspec's names of JSON's types, as a sentence has them.
_WORDS: Final = {
    " | null": "",
    "`int | float`": "a number",
    "`int`": "an integer",
    "`float`": "a number",
    "`str`": "a text",
    "`bool`": "true or false",
    "`array`": "a list",
    "`object`": "an object",
    "`null`": "null",
}


def _told(message: str) -> InvalidParams:
    """msgspec says "Expected `int` >= 576 - at `$.mtu`", and no path for the root."""
    detail, at, path = message.rpartition(" - at `")
    if not at:
        detail, path = message, "$"
    for theirs, ours in _WORDS.items():
        detail = detail.replace(theirs, ours)
    return InvalidParams(path.removesuffix("`"), detail[:1].lower() + detail[1:])


@frozen
class _Kind:
    """How values of one type hint are read.

    `hint` is what msgspec converts to, `build` makes the model's value of that, `admit` refuses
    unknown and missing members before; both are given the path of the value.
    """

    hint: Any
    build: Callable[[Any, str], Any] | None = None
    admit: Callable[[Any, str], None] | None = None


@frozen
class _Field:
    kind: _Kind
    given: Any  # attrs' default: NOTHING, a Factory or the value

    @property
    def required(self) -> bool:
        return self.given is attrs.NOTHING

    def default(self) -> Any:
        factory = getattr(self.given, "factory", None)
        return self.given if factory is None else factory()

    def build(self, value: Any, path: str) -> Any:
        return value if self.kind.build is None else self.kind.build(value, path)

    def admit(self, value: object, path: str) -> None:
        if value is None:
            if self.required:
                raise InvalidParams(path, "is required")
        elif self.kind.admit is not None:
            self.kind.admit(value, path)


@frozen
class _Shape:
    """What stands for one attrs class while msgspec converts."""

    cls: type
    struct: type  # nothing is required in it: `admit` has seen to that, and a patch has less
    fields: Mapping[str, _Field]

    def members(self, tree: object, path: str) -> dict[str, Any]:
        """The tree, all of whose members are fields."""
        if not isinstance(tree, dict):
            raise InvalidParams(path, "expected an object")
        for name in tree:
            if name not in self.fields:
                raise _unknown(name, self.fields, path)
        return tree

    def admit(self, tree: object, path: str) -> None:
        """Refuse unknown and missing members, here and below."""
        named = self.members(tree, path)
        for name, field in self.fields.items():
            field.admit(named.get(name), f"{path}.{name}")

    def build(self, converted: Any, path: str) -> Any:
        values: dict[str, Any] = {}
        for name, field in self.fields.items():
            value = getattr(converted, name)
            if value is not None:
                values[name] = field.build(value, f"{path}.{name}")
        made = self.cls(**values)
        _check(made, path)
        return made


def _unknown(name: str, known: Mapping[str, _Field], path: str) -> InvalidParams:
    from difflib import get_close_matches  # only a mistake pays for its import

    near = get_close_matches(name[:64], known, 1)
    hint = f"; did you mean `{near[0]}`?" if near else ""
    return InvalidParams(f"{path}.{shown(name)[1:-1]}", f"unknown field{hint}")


@cache
def _shape(cls: Any) -> _Shape:
    hints = typing.get_type_hints(cls, include_extras=True)
    fields = {a.name: _Field(_kind(hints[a.name]), a.default) for a in attrs.fields(cls)}
    # "| None" since null is absence; a required field's null never comes so far.
    members = [(name, f.kind.hint | None, None) for name, f in fields.items()]
    return _Shape(cls, msgspec.defstruct(cls.__name__, members), fields)


def _kind(hint: Any) -> _Kind:
    """Errors: TypeError for a hint that no field of a request may have."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint in PARSERS:
        return _Kind(Any, _parser(PARSERS[hint]))
    if attrs.has(hint):
        shape = _shape(hint)
        return _Kind(shape.struct, shape.build, shape.admit)
    if origin is Annotated:
        return _annotated(*arguments)
    if origin is Union or origin is types.UnionType:
        return _union([a for a in arguments if a is not types.NoneType], types.NoneType in arguments)
    if origin in (list, tuple) and arguments:
        return _sequence(origin, arguments)
    return _Kind(hint)


def _parser(parse: Callable[[object], Any]) -> Callable[[Any, str], Any]:
    def build(value: Any, path: str) -> Any:
        try:
            return parse(value)
        except InvalidParams as fault:
            raise fault.below(path) from None

    return build


def _annotated(hint: Any, *marks: Any) -> _Kind:
    if typing.get_origin(hint) in (Union, types.UnionType):
        # msgspec takes bounds on int and on float, but none on their union.
        (mark,) = marks
        return _Kind(hint, _bounds(mark))
    kind = _kind(hint)
    return _Kind(Annotated[(kind.hint, *marks)], kind.build, kind.admit)


def _bounds(mark: msgspec.Meta) -> Callable[[Any, str], Any]:
    def build(value: Any, path: str) -> Any:
        for sign, bound, within in (
            (">=", mark.ge, operator.ge),
            (">", mark.gt, operator.gt),
            ("<=", mark.le, operator.le),
            ("<", mark.lt, operator.lt),
        ):
            if bound is not None and not within(value, bound):
                raise InvalidParams(path, f"expected a number {sign} {bound}")
        return value

    return build


def _union(hints: list[Any], null: bool) -> _Kind:
    kinds = [_kind(hint) for hint in hints]
    if len(kinds) > 1 and any(k.build for k in kinds):
        raise TypeError(f"a value can't be one of several classes: {hints}")
    return _Kind(Union[(*(k.hint for k in kinds), *([None] if null else []))], kinds[0].build, kinds[0].admit)


def _sequence(origin: type, arguments: tuple[Any, ...]) -> _Kind:
    inner = _kind(arguments[0])
    if inner.build is None:
        return _Kind(origin[arguments])  # type: ignore[index]  # a generic made at run time
    if origin is tuple and arguments[1:] != (...,):
        raise TypeError("a tuple of parsed values has any length")
    build_one, admit_one = inner.build, inner.admit

    def build(values: Any, path: str) -> Any:
        return origin([build_one(value, f"{path}[{i}]") for i, value in enumerate(values)])

    def admit(values: Any, path: str) -> None:
        if admit_one is not None and isinstance(values, list):
            for i, value in enumerate(values):
                admit_one(value, f"{path}[{i}]")

    hint = tuple[inner.hint, ...] if origin is tuple else list[inner.hint]  # type: ignore[name-defined]
    return _Kind(hint, build, admit)

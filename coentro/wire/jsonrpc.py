"""JSON-RPC 2.0 envelopes: one line of bytes to calls, and answers to lines.

msgspec parses, as it refuses NaN, bad UTF-8 and lone surrogates; two members of one name it
does not see, so json's scanner goes over the line as well (RFC 8259 4 leaves the meaning of
duplicates open, and two readers of one line must not differ). Nesting is bounded before either
sees it. The envelope's rules are https://www.jsonrpc.org/specification.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from itertools import accumulate
from json import JSONDecoder
from typing import Any, Final

import msgspec
from attrs import frozen

from coentro.errors import CoentroError, InvalidRequest, ParseError
from coentro.networks import shown

MAX_DEPTH: Final = 64
# A full batch of full specs has half as many. Each costs 50 bytes and a visit by the garbage
# collector: 8 MB of brackets would hold up everyone for seconds.
MAX_CONTAINERS: Final = 200_000
# Doubles need at most 25 characters, a 128-bit integer 39; beyond is arithmetic for its own sake.
MAX_NUMBER: Final = 100


class NoId(Enum):
    """The id of a notification, which has none."""

    NO_ID = "no id"


NO_ID: Final = NoId.NO_ID
Id = str | int | None


@frozen
class Call:
    """A request, or a notification when its id is NO_ID. `params` is a list if one was sent."""

    id: Id | NoId
    method: str
    params: dict[str, Any]


@frozen
class Refused:
    """A request that is not one, and what to answer."""

    id: Id
    error: CoentroError


@frozen
class Message:
    """What one line holds; `batch` says that the answers go into one array."""

    items: tuple[Call | Refused, ...]
    batch: bool


def parse(line: bytes, max_batch: int) -> Message:
    """One line, without its newline, as calls.

    Errors: ParseError, `fatal` for invalid UTF-8 and for nesting beyond MAX_DEPTH. Faults of a
    single request are its Refused, with its id if that can be read.
    """
    tree = _tree(line)
    if not isinstance(tree, list):
        return Message((_item(tree),), False)
    if not tree:
        return _refuse("a batch holds at least one request")
    if len(tree) > max_batch:
        return _refuse(f"a batch holds at most {max_batch} requests, not {len(tree)}")
    return Message(tuple(map(_item, tree)), True)


def _refuse(why: str) -> Message:
    return Message((Refused(None, InvalidRequest(why)),), False)


_MEMBERS: Final = frozenset({"jsonrpc", "id", "method", "params"})


def _item(tree: object) -> Call | Refused:
    if not isinstance(tree, dict):
        return Refused(None, InvalidRequest("a request is an object"))
    id_ = tree.get("id", NO_ID)
    if id_ is not None and id_ is not NO_ID and type(id_) is not str and type(id_) is not int:
        return Refused(None, InvalidRequest("`id` is a string, an integer or null"))
    why = _fault(tree)
    if why is not None:
        return Refused(None if id_ is NO_ID else id_, InvalidRequest(why))
    return Call(id_, tree["method"], tree.get("params", {}))


def _fault(tree: dict[str, Any]) -> str | None:
    """What is wrong with the members of a request other than its id."""
    if tree.get("jsonrpc") != "2.0":
        return '`jsonrpc` is "2.0"'
    if type(tree.get("method")) is not str:
        return "`method` is a string"
    if not isinstance(tree.get("params", {}), dict | list):
        return "`params` is an object"
    for name in tree:
        if name not in _MEMBERS:
            return f"a request has no member {shown(name)}"
    return None


def _tree(line: bytes) -> Any:
    """JSON as RFC 8259 and I-JSON (RFC 7493 2.3) have it."""
    try:
        text = line.decode()
    except UnicodeDecodeError as fault:
        raise ParseError(f"not UTF-8 at byte {fault.start}", fatal=True) from None
    if line.count(b"[") + line.count(b"{") > MAX_DEPTH:
        _bound(line)
    try:
        tree = msgspec.json.decode(line)
        if not _plain(line, tree):
            _SCANNER.decode(text)
    except (msgspec.MsgspecError, ValueError) as fault:
        raise ParseError(f"not JSON: {fault}") from None
    return tree


def _plain(line: bytes, tree: object) -> bool:
    """Whether a short line needs no second look, as nearly every call does not.

    It can't hold a number of more than MAX_NUMBER characters. Each member that stands in it,
    however often, takes a colon; so if there are no more colons than different members here, and
    in its params, then no member stands twice and none is deeper.
    """
    if len(line) > MAX_NUMBER or type(tree) is not dict:
        return False
    params = tree.get("params")
    return line.count(b":") == len(tree) + (len(params) if type(params) is dict else 0)


# Brackets as signed bytes, +1 and -1.
_DEPTH: Final = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
_OTHERS: Final = bytes(set(range(256)) - set(b"[{]}"))
_CHUNK: Final = 1 << 16


def _bound(line: bytes) -> None:
    """Refuse a line whose brackets, outside of strings, are too deep or too many.

    Where a backslash stands outside of a string the count goes wrong, but there every parser
    stops, and what stands before it has been counted right.
    """
    # In each run of backslashes pairs go first, then a quote that is left escaped.
    plain = line.replace(rb"\\", b"").replace(rb"\"", b"")
    brackets = b"".join(plain.split(b'"')[::2]).translate(_DEPTH, _OTHERS)
    depth = 0
    for start in range(0, len(brackets), _CHUNK):
        depths = list(accumulate(memoryview(brackets)[start : start + _CHUNK].cast("b"), initial=depth))
        if max(depths) > MAX_DEPTH:
            raise ParseError(f"nested deeper than {MAX_DEPTH}", fatal=True)
        depth = depths[-1]
    if brackets.count(b"\x01") > MAX_CONTAINERS:
        raise ParseError(f"more than {MAX_CONTAINERS} lists and objects")


def _members(pairs: list[tuple[str, Any]]) -> None:
    if len(pairs) > 1 and len({name for name, _ in pairs}) < len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise ValueError(f"the member {shown(name)} stands twice")
            seen.add(name)


def _number(text: str) -> None:
    if len(text) > MAX_NUMBER:
        raise ValueError(f"a number of {len(text)} characters")


def _constant(text: str) -> None:
    raise ValueError(f"{text} is not a JSON number")


# Its values are thrown away; numbers are measured, not converted.
_SCANNER: Final = JSONDecoder(
    object_pairs_hook=_members, parse_int=_number, parse_float=_number, parse_constant=_constant
)


def result_line(id_: Id, result: object) -> bytes:
    """A response's object, without a newline.

    Errors: UnicodeEncodeError for a text with lone surrogates, TypeError for what is not JSON.
    """
    return b'{"jsonrpc":"2.0","id":%b,"result":%b}' % (_encode(id_), _encode(result))


def error_line(id_: Id, error: CoentroError) -> bytes:
    """An error response's object, without a newline."""
    return b'{"jsonrpc":"2.0","id":%b,"error":%b}' % (_encode(id_), _encode(error.to_json()))


def event_line(params: object) -> bytes:
    """An event's notification, without a newline."""
    return b'{"jsonrpc":"2.0","method":"event","params":%b}' % _encode(params)


_encode: Final = msgspec.json.Encoder().encode


def join(parts: Sequence[bytes], batch: bool) -> bytes:
    """One line of answers with its newline: the only one, or an array of a batch's."""
    return b"[%b]\n" % b",".join(parts) if batch else b"%b\n" % b",".join(parts)

"""Envelopes: what is JSON-RPC 2.0 is taken, everything else is answered as docs/protocol.md says."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from coentro.errors import CoentroError, Conflict, InvalidRequest, ParseError
from coentro.wire.jsonrpc import (
    MAX_CONTAINERS,
    NO_ID,
    Call,
    Message,
    Refused,
    error_line,
    event_line,
    join,
    parse,
    result_line,
)


def call(**members: Any) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": 1, "method": "m", **members}).encode()


def only(line: bytes) -> Call | Refused:
    message = parse(line, 100)
    assert not message.batch
    (item,) = message.items
    return item


def refused(line: bytes) -> Refused:
    item = only(line)
    assert isinstance(item, Refused)
    assert isinstance(item.error, InvalidRequest)
    return item


# --- what is taken


def test_a_request_with_params_by_name() -> None:
    assert only(call(params={"a": [1, {"b": None}]})) == Call(1, "m", {"a": [1, {"b": None}]})


def test_absent_params_are_none_given_and_an_absent_id_is_a_notification() -> None:
    assert only(b'{"jsonrpc":"2.0","method":"m"}') == Call(NO_ID, "m", {})


def test_params_by_position_are_kept_to_be_refused_by_the_method() -> None:
    item = only(call(params=[1]))
    assert isinstance(item, Call)
    assert repr(item.params) == "[1]"


@pytest.mark.parametrize("id_", [0, -5, 2**63, 10**40, -(10**40), "", "x" * 1000, "\x00 \u2028", None])
def test_an_id_comes_back_as_it_was(id_: object) -> None:
    item = only(call(id=id_))
    assert item.id == id_
    assert item.id is not NO_ID
    for line in (result_line(item.id, {}), error_line(item.id, ParseError("x"))):
        assert json.loads(line)["id"] == id_


def test_a_batch_keeps_order_and_refuses_only_its_bad_elements() -> None:
    message = parse(b"[" + call(id="a") + b",1,[]," + call(id=2, method=3) + b"," + call(id=4) + b"]", 100)
    assert message.batch
    assert [type(i) for i in message.items] == [Call, Refused, Refused, Refused, Call]
    assert [i.id for i in message.items] == ["a", None, None, 2, 4]


@pytest.mark.parametrize("line", [b" {} ", b"\t" + call() + b"\r", b"\n\n" + call()])
def test_white_space_around_is_json(line: bytes) -> None:
    parse(line, 1)


# --- what is not JSON-RPC


@pytest.mark.parametrize("line", [b"1", b'"x"', b"null", b"true", b"1.5", b"-0"])
def test_what_is_no_object_is_an_invalid_request(line: bytes) -> None:
    assert refused(line).id is None


def test_an_empty_and_a_too_long_batch_are_one_invalid_request() -> None:
    assert refused(b"[]").id is None
    assert refused(b"[" + b",".join([call()] * 101) + b"]").id is None
    assert len(parse(b"[" + b",".join([call()] * 100) + b"]", 100).items) == 100


def test_a_batch_of_100_000_is_one_invalid_request() -> None:
    assert "at most 100" in refused(b"[" + b",".join([b"{}"] * 100_000) + b"]").error.message


@pytest.mark.parametrize(
    "members",
    [
        {"jsonrpc": "1.0"},
        {"jsonrpc": 2.0},
        {"jsonrpc": None},
        {"method": None},
        {"method": 1},
        {"method": ["m"]},
        {"params": None},
        {"params": "x"},
        {"params": 1},
        {"params": False},
        {"result": 1},
        {"Method": "m"},
    ],
)
def test_a_bad_envelope_is_refused_under_its_id(members: dict[str, Any]) -> None:
    assert refused(call(**members)).id == 1


@pytest.mark.parametrize("missing", ["jsonrpc", "method"])
def test_a_missing_member_is_refused(missing: str) -> None:
    tree = json.loads(call())
    del tree[missing]
    assert missing in refused(json.dumps(tree).encode()).error.message


@pytest.mark.parametrize("id_", [True, False, 1.0, 1.5, 1e300, [], {}, [1]])
def test_an_id_that_is_none_is_refused_under_null(id_: object) -> None:
    assert refused(call(id=id_)).id is None


# --- what is not JSON


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b" ",
        b"{",
        b"}",
        b"{]",
        b'{"a":1,}',
        b"{} {}",
        b"{}\x00",
        b"\x00",
        b"'x'",
        b"{a:1}",
        b"//",
        b"01",
        b"1.",
        b"+1",
        b"0x1",
        b"NaN",
        b"Infinity",
        b"-Infinity",
        b'{"a":NaN}',
        b"[Infinity]",
        b"1e999",
        b"-1e999",
        b'"a\nb"',
        b'"\t"',
        b'"\\x41"',
        b'"\\u00g0"',
        b'"unterminated',
        b'"\\',
        "\ufeff{}".encode(),
        b'"\\ud800"',
        b'"\\udc00\\ud800"',
        b'"\\ud800\\u0041"',
        b'{"\\ud800":1}',
        b'{"a":1,"a":1}',
        b'{"a":1,"\\u0061":2}',
        b'[{"x":{"y":[{"z":1,"b":2,"z":3}]}}]',
        b'{"":1,"":2}',
        b'{"\xc3\xa9":1,"\\u00e9":1}',
        b"1" * 101,
        b"-" + b"1" * 1_000_000,
        b"0." + b"1" * 1_000_000,
        b"1e" + b"0" * 1_000_000,
        b'{"a":' + b"9" * 1_000_000 + b"}",
    ],
    ids=lambda line: repr(line[:24]),
)
def test_other_text_that_is_not_json_is_a_parse_error_that_the_connection_survives(line: bytes) -> None:
    with pytest.raises(ParseError) as caught:
        parse(line, 100)
    assert not caught.value.fatal
    assert len(caught.value.message) < 300


@pytest.mark.parametrize(
    "line",
    [
        b"\xff",
        b'"\xff"',
        b'{"\xff":1}',
        b'"\xed\xa0\x80"',
        b'"\xc0\xaf"',
        b"\xfe\xff\x00{",
        call() + b"\x80",
        b'"\xf0"',
    ],
)
def test_invalid_utf8_is_fatal(line: bytes) -> None:
    with pytest.raises(ParseError) as caught:
        parse(line, 100)
    assert caught.value.fatal


@pytest.mark.parametrize(
    "line",
    [
        b"[" * 100_000,
        b"[" * 65 + b"]" * 65,
        b'{"a":' * 65 + b"1" + b"}" * 65,
        b'[{"a":' * 40 + b"1" + b"}]" * 40,
        b'["\\\\",' + b"[" * 64 + b"]" * 64 + b"]",
        b'["\\"",' + b"[" * 64 + b"]" * 64 + b"]",
        b"[[]]" * 50_000 + b"[" * 65,
        b"[" * 8_000_000,
        b"[" * 40 + b"[]," * 40_000 + b"[" * 30,
        b"[[]," * 65,
        b'{"a":[' * 33 + b'"]]]]]]]]]]"',
    ],
    ids=lambda line: repr(line[:24]),
)
def test_nesting_beyond_64_is_fatal(line: bytes) -> None:
    with pytest.raises(ParseError) as caught:
        parse(line, 100)
    assert caught.value.fatal


@pytest.mark.parametrize(
    "params",
    [
        b"[" * 63 + b"]" * 63,
        b"[[]," + b"[" * 62 + b"]" * 63,
        b'["' + b"[" * 200 + b'"]',
        b'["\\"' + b"[{" * 200 + b'"]',
        b'["\\\\\\"' + b"[{" * 200 + b'"]',
        b"[" + b"[]," * 1000 + b"[]]",
    ],
    ids=lambda line: repr(line[:24]),
)
def test_nesting_of_64_and_brackets_in_strings_pass(params: bytes) -> None:
    assert isinstance(only(b'{"jsonrpc":"2.0","method":"m","params":%b}' % params), Call)


def test_a_line_with_absurdly_many_lists_is_refused_unparsed() -> None:
    with pytest.raises(ParseError, match="lists and objects") as caught:
        parse(b"[" + b"[]," * MAX_CONTAINERS + b"1]", 100)
    assert not caught.value.fatal


# --- anything at all

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
json_values: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
fragments = st.lists(
    st.sampled_from(
        [
            *(bytes([c]) for c in b'{}[],:"\\a1-e. '),
            *rb'u0061 \ud800 null NaN "jsonrpc":"2.0" "method":"m" "id":'.split(),
            *(b"\xff", b"\xc3\xa9", b"[" * 40, b"9" * 90),
        ]
    ),
    max_size=40,
).map(b"".join)


@given(st.binary(max_size=200) | fragments)
@example(b'{"jsonrpc":"2.0","method":"m","id":1')
def test_any_bytes_give_a_message_or_a_parse_error(line: bytes) -> None:
    try:
        message = parse(line, 3)
    except ParseError:
        return
    assert isinstance(message, Message)
    # What we take every strict reader takes, and reads alike.
    json.loads(line, parse_constant=pytest.fail)
    for item in message.items:
        if isinstance(item, Refused):
            error_line(item.id, item.error)


@given(json_values)
def test_params_are_what_json_reads(value: Any) -> None:
    for ensure_ascii in (True, False):
        line = json.dumps(
            {"jsonrpc": "2.0", "method": "m", "params": {"p": value}}, ensure_ascii=ensure_ascii
        ).encode()
        item = only(line)
        assert isinstance(item, Call)
        assert item.params == {"p": value} == json.loads(line)["params"]
        assert repr(item.params) == repr(json.loads(line)["params"])  # 1 is not 1.0, nor True


@given(json_values)
def test_a_result_is_read_back_by_json(value: Any) -> None:
    assert json.loads(result_line("x", value)) == {"jsonrpc": "2.0", "id": "x", "result": value}
    assert b"\n" not in result_line("\n", value)


def test_an_error_and_an_event_on_the_wire() -> None:
    error: CoentroError = Conflict("held\n", [{"resource": "name", "held": "you"}])
    assert json.loads(error_line(None, error)) == {
        "jsonrpc": "2.0",
        "id": None,
        "error": {
            "code": -32003,
            "message": "held\n",
            "data": {"reason": "conflict", "conflicts": [{"resource": "name", "held": "you"}]},
        },
    }
    assert json.loads(event_line({"seq": 1})) == {"jsonrpc": "2.0", "method": "event", "params": {"seq": 1}}
    assert json.loads(result_line(1, math.nan))["result"] is None


def test_answers_are_joined_to_one_line() -> None:
    assert join([b"{}"], False) == b"{}\n"
    assert join([b"{}"], True) == b"[{}]\n"
    assert join([b"1", b"2"], True) == b"[1,2]\n"

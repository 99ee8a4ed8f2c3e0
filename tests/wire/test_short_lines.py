"""A short line that is looked at but once is judged as the second look would have it."""

from __future__ import annotations

import json
from unittest.mock import patch

from hypothesis import given
from hypothesis import strategies as st

from coentro.errors import ParseError
from coentro.wire import jsonrpc
from coentro.wire.jsonrpc import MAX_NUMBER, Message, parse

NAMES = ['"a"', '"b"', r'"\u0061"', '"a:"', r'"\":"', '"params"', '"id"', '"jsonrpc"', '"method"']
LEAVES = ["1", '"2.0"', '"x"', '":"', '"a:b"', "[]", "{}", "null", "1e9", '":,{"', r'"\\"']


def array(items: list[str]) -> str:
    return "[" + ",".join(items) + "]"


def objects(values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """As texts, since a dict can't hold a member twice."""
    members = st.lists(st.tuples(st.sampled_from(NAMES), values), max_size=4)
    return members.map(lambda pairs: "{" + ",".join(f"{name}:{value}" for name, value in pairs) + "}")


values = st.recursive(
    st.sampled_from(LEAVES),
    lambda inner: objects(inner) | st.lists(inner, max_size=2).map(array),
    max_leaves=6,
)
lines = st.builds(lambda text, pad: text + " " * pad, objects(values), st.integers(0, 2))


def judged(line: bytes) -> Message | str:
    try:
        return parse(line, 100)
    except ParseError as fault:
        return str(fault)


@given(lines)
def test_one_look_at_a_short_line_says_what_two_would(text: str) -> None:
    line = text.encode()
    with patch.object(jsonrpc, "_plain", lambda line, tree: False):
        expected = judged(line)
    found = judged(line)
    # An error is not equal to another of the same words.
    assert repr(found) == repr(expected)
    if jsonrpc._plain(line, json.loads(line)):
        assert not isinstance(found, str)


def test_an_ordinary_call_is_looked_at_once() -> None:
    line = b'{"jsonrpc":"2.0","id":1,"method":"tunnel.get","params":{"id":"0123456789abcdef"}}'
    assert jsonrpc._plain(line, json.loads(line))
    assert not jsonrpc._plain(b" " * MAX_NUMBER + line, json.loads(line))
    twice = b'{"jsonrpc":"2.0","id":1,"id":1,"method":"session.ping"}'
    assert not jsonrpc._plain(twice, json.loads(twice))
    assert "stands twice" in str(judged(twice))

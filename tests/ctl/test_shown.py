"""What is printed is aligned, and harmless to a terminal."""

from __future__ import annotations

import pytest

from coentro.ctl import shown


@pytest.mark.parametrize("evil", ["\x1b[2J", "a\nb", "\r", "\x9b31m", "\x07", "\u202e", "\0", "\ud800"])
def test_what_a_terminal_would_obey_is_escaped(evil: str) -> None:
    text = shown.plain(f"<{evil}>")
    assert text.isprintable()
    assert text.startswith("<")
    assert text.endswith(">")
    text.encode()  # a lone surrogate would raise


def test_what_a_terminal_would_obey_is_escaped_in_tables_and_json() -> None:
    evil = "\x1b]0;title\x07"
    for text in (shown.table(("A",), [(evil,)]), shown.pairs([("a", evil)]), shown.as_json({"a": evil})):
        assert "\x1b" not in text
        assert "\x07" not in text


def test_plain_text_is_left_as_it_is() -> None:
    assert shown.plain("João: VPN ✓") == "João: VPN ✓"
    assert shown.plain(None) == "-"


def test_columns_stand_below_their_heads() -> None:
    lines = shown.table(("NAME", "N"), [("a", 1), ("longer", 22)]).splitlines()
    assert lines == ["NAME    N", "a       1", "longer  22"]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (59.9, "59 s"), (3600, "1 h"), (93784, "1 d 2 h"), (61, "1 min 1 s")]
)
def test_durations_are_for_people(seconds: float, text: str) -> None:
    assert shown.duration(seconds) == text


@pytest.mark.parametrize(("count", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (2e13, "20.0 TB")])
def test_sizes_are_for_people(count: float, text: str) -> None:
    assert shown.size(count) == text

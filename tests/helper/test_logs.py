"""A record is one line that nobody outside can forge."""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Iterator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from coentro.helper import logs

log = logging.getLogger("coentro.test")


@pytest.fixture(autouse=True)
def root_as_before() -> Iterator[None]:
    root = logging.getLogger()
    before = root.handlers[:], root.level, logging.raiseExceptions
    yield
    root.handlers[:], root.level, logging.raiseExceptions = before


@pytest.fixture
def text() -> io.StringIO:
    stream = io.StringIO()
    logs.configure("info", "text", stream)
    return stream


def test_a_line_has_time_level_name_and_message(text: io.StringIO) -> None:
    log.warning("uid %d refused", 1000)
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z warning coentro\.test: uid 1000 refused\n", text.getvalue()
    )


def test_what_is_below_the_level_is_not_there(text: io.StringIO) -> None:
    log.debug("x")
    assert text.getvalue() == ""


def test_setting_it_up_again_replaces_the_old(text: io.StringIO) -> None:
    other = io.StringIO()
    logs.configure("debug", "text", other)
    log.debug("x")
    assert text.getvalue() == ""
    assert other.getvalue().count("\n") == 1


@given(st.text())
def test_no_text_makes_a_second_line_or_moves_the_cursor(message: str) -> None:
    stream = io.StringIO()
    logs.configure("info", "text", stream)
    log.info("%s", message)
    line, end, rest = stream.getvalue().partition("\n")
    assert (end, rest) == ("\n", "")
    assert line.isprintable()
    assert len(line.splitlines()) == 1


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("a\nb", "a\\nb"),
        ("\x1b[2J", "\\x1b[2J"),
        ("\u202e", "\\u202e"),
        ("\udcff", "\\udcff"),
        ("ö b", "ö b"),
    ],
)
def test_an_escape_is_readable(raw: str, shown: str) -> None:
    assert logs.plain(raw) == shown


def test_a_traceback_stands_below_its_record_and_is_no_record(text: io.StringIO) -> None:
    try:
        raise ValueError("x\n2026-01-01T00:00:00.000Z info coentro: forged\x1b[2J\u2028x")
    except ValueError:
        log.exception("failed")
    first, *rest = text.getvalue().splitlines()
    assert first.endswith("error coentro.test: failed")
    assert len(rest) > 3
    assert all(line.startswith("    | ") and line.isprintable() for line in rest)


@given(st.text())
@example("name \udcff")
def test_a_json_line_gives_the_message_back(message: str) -> None:
    stream = io.StringIO()
    logs.configure("info", "json", stream)
    log.info("%s", message)
    line, end, rest = stream.getvalue().partition("\n")
    assert (end, rest) == ("\n", "")
    record = json.loads(line)
    assert record["message"] == message.encode(errors="backslashreplace").decode()
    assert (record["level"], record["logger"]) == ("info", "coentro.test")


def test_a_json_line_holds_the_traceback() -> None:
    stream = io.StringIO()
    logs.configure("info", "json", stream)
    try:
        raise ValueError("x")
    except ValueError:
        log.exception("failed")
    assert json.loads(stream.getvalue())["exception"].endswith("ValueError: x")


def test_a_stderr_that_is_gone_ends_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    stream = io.StringIO()
    logs.configure("info", "text", stream)
    stream.close()
    log.info("x")
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.0, "1970-01-01T00:00:00.000Z"), (1767225599.9996, "2025-12-31T23:59:59.999Z")]
)
def test_times_are_utc_and_cut_not_rounded_up(seconds: float, shown: str) -> None:
    assert logs.timestamp(seconds) == shown

"""The helper's log: one record a line on stderr, as text or JSON.

Texts of peers get into messages, so whatever is not printable is written as an escape: nobody
can make a line that looks like one of ours (CWE-117). Times are RFC 3339 in UTC.
"""

from __future__ import annotations

import logging
import sys
import time
from typing import Final, Literal, TextIO

Level = Literal["debug", "info", "warning", "error"]
Format = Literal["text", "json"]

_LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}


def configure(level: Level, format_: Format, stream: TextIO | None = None) -> None:
    """Send all records of at least `level` to `stream` (stderr), in place of what was set before."""
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(_Json() if format_ == "json" else _Text())
    root.addHandler(handler)
    root.setLevel(_LEVELS[level])
    # A stderr that is gone must not end the daemon, nor print its own traceback there.
    logging.raiseExceptions = False


def plain(text: str) -> str:
    """The text on one line: control, format and other unprintable characters as Python escapes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def timestamp(created: float) -> str:
    """RFC 3339 in UTC with milliseconds, of seconds since the epoch."""
    milliseconds = int(created * 1000)
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(milliseconds // 1000))
    return f"{whole}.{milliseconds % 1000:03d}Z"


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        head = f"{timestamp(record.created)} {record.levelname.lower()} {record.name}: "
        lines = [head + plain(record.getMessage())]
        # An exception's text may hold anything, so no line of a traceback begins as a record does.
        lines += ["    | " + plain(line) for line in _trace(self, record).splitlines()]
        return "\n".join(lines)


class _Json(logging.Formatter):
    def __init__(self) -> None:
        super().__init__()
        import json  # text, the default, needs none

        self._dumps = json.dumps

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": timestamp(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if trace := _trace(self, record):
            entry["exception"] = trace
        # Lone surrogates stand for the bytes of names that are not UTF-8; RFC 8259 has no place for them.
        whole = {key: text.encode(errors="backslashreplace").decode() for key, text in entry.items()}
        return self._dumps(whole)


def _trace(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    trace = formatter.formatException(record.exc_info) if record.exc_info else ""
    return trace + ("\n" + record.stack_info if record.stack_info else "")

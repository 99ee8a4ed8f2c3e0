"""What is printed: tables for people, JSON for programs, and never what a terminal obeys.

Names, reasons and addresses come from the helper and, through it, from other programs; an escape
sequence among them would be acted on by the terminal (ECMA-48), so whatever is not printable is
written as its escape.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any, TextIO

GAP = "  "
LONGEST = 4096  # characters of one text from the helper that a terminal is shown


def plain(value: object) -> str:
    """Any value on one line, with everything that a terminal might obey escaped."""
    text = "-" if value is None else value if isinstance(value, str) else str(value)
    if len(text) > LONGEST:
        text = text[:LONGEST] + "…"
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text
    )


class ReaderGone(Exception):
    """Whoever read our output has enough of it, such as head(1)."""


def say(text: str, to: TextIO | None = None) -> None:
    """A text and the end of its line, at once; what the stream's encoding lacks is escaped.

    Errors: ReaderGone.
    """
    stream = sys.stdout if to is None else to
    encoding = stream.encoding or "utf-8"
    try:
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")
        stream.flush()
    except BrokenPipeError:
        raise ReaderGone from None


def stop_printing() -> None:
    """After ReaderGone: what is still buffered goes nowhere, so that exit does not stumble over it."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Aligned columns under their heads; the last column is not padded."""
    cells = [tuple(heads), *(tuple(plain(v) for v in row) for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(heads))]
    return "\n".join(GAP.join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in cells)


def pairs(rows: Iterable[tuple[str, object]]) -> str:
    """Names and values, the values aligned."""
    shown = [(name, plain(value)) for name, value in rows]
    width = max((len(name) for name, _ in shown), default=0)
    return "\n".join(f"{name.ljust(width)}{GAP}{value}".rstrip() for name, value in shown)


def as_json(value: Any, indent: int | None = 2) -> str:
    """ASCII, so that no character of a peer's reaches the terminal as it is."""
    return json.dumps(value, indent=indent)


def count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def size(count_: object) -> str:
    """Bytes for people, in powers of 1000."""
    if not isinstance(count_, int | float):
        return plain(count_)
    number = float(count_)
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"


def duration(seconds: object) -> str:
    """Seconds for people: the two largest units."""
    if not isinstance(seconds, int | float):
        return plain(seconds)
    left = int(seconds)
    parts: list[str] = []
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        number, left = divmod(left, length)
        if number or (unit == "s" and not parts):
            parts.append(f"{number} {unit}")
    return " ".join(parts[:2])

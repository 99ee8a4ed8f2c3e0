"""Where each key of a TOML text begins, so that an error can name its line.

tomllib keeps no lines. This reads a text that tomllib has accepted already, so it only has to
tell keys from values, not right from wrong (toml.io, version 1.0). Loaded when there is a fault to tell.
"""

from __future__ import annotations

import re
import tomllib
from typing import Final

Place = tuple[str, ...]

_STRING = (
    r'"""(?:[^\\]|\\.)*?"""(?:"{0,2})'
    r"|'''.*?'''(?:'{0,2})"
    r'|"(?:[^"\\\n]|\\.)*"'
    r"|'[^'\n]*'"
)
_SPACE: Final = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_TEXT: Final = re.compile(_STRING, re.DOTALL)
_KEY: Final = re.compile(
    rf"[ \t]*(?:(?P<bare>[A-Za-z0-9_-]+)|(?P<quoted>{_STRING}))[ \t]*(?P<more>\.?)", re.DOTALL
)
_SCALAR: Final = re.compile(r"[^,\]}#\n]*")


def lines(text: str) -> dict[Place, int]:
    """The line, from 1, on which each table and key first stands: `("scopes", "admin", "uids")`."""
    return _Reader(text.replace("\r\n", "\n")).document()


class _Reader:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.found: dict[Place, int] = {}

    def document(self) -> dict[Place, int]:
        table: Place = ()
        while self.space():
            if self.take("["):
                self.take("[")
                table = self.key(())
                self.take("]")
                self.take("]")
            else:
                self.pair(table)
        return self.found

    def space(self) -> bool:
        """Skip space and comments; whether something is left."""
        self.skip(_SPACE)
        return self.at < len(self.text)

    def take(self, character: str) -> bool:
        if self.text.startswith(character, self.at):
            self.at += 1
            return True
        return False

    def skip(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        if match := pattern.match(self.text, self.at):
            self.at = match.end()
        return match

    def key(self, table: Place) -> Place:
        """A key of one or more parts, noted with each table that it stands in."""
        line = self.text.count("\n", 0, self.at) + 1
        place = table
        while match := self.skip(_KEY):
            quoted = match["quoted"]
            place = (*place, match["bare"] or tomllib.loads(f"k = {quoted}")["k"])
            self.found.setdefault(place, line)
            if not match["more"]:
                break
        return place

    def pair(self, table: Place) -> None:
        place = self.key(table)
        self.take("=")
        self.value(place)

    def value(self, place: Place) -> None:
        self.space()
        if self.skip(_TEXT):
            return
        if self.take("["):
            while self.space() and not self.take("]"):
                self.value(place)
                self.space()
                self.take(",")
        elif self.take("{"):
            while self.space() and not self.take("}"):
                self.pair(place)
                self.space()
                self.take(",")
        else:
            self.skip(_SCALAR)

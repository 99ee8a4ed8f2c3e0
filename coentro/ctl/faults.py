"""How coentroctl ends: exit codes, and one sentence on stderr for each fault.

0 done, 1 refused by the helper, 2 usage, 3 no helper, 4 not authorised (docs/protocol.md,
"Command line"); 126 and 127 are the shell's, for a command of `run` that can't be started.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, Final

from coentro.client.errors import NOT_AUTHORIZED as NOT_AUTHORIZED_CODE
from coentro.client.errors import HelperError, NoHelper, NotAdmitted
from coentro.ctl.shown import plain, say

DONE: Final = 0
REFUSED: Final = 1
USAGE: Final = 2
NO_HELPER: Final = 3
NOT_AUTHORIZED: Final = 4

_INVALID_PARAMS_CODE: Final = -32602


class Fault(Exception):
    """The end of a command: a sentence, an exit code, and perhaps what to do about it."""

    def __init__(self, message: str, code: int, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.hint = hint


def usage(message: str, hint: str | None = None) -> Fault:
    return Fault(message, USAGE, hint)


def of(error: Exception, profile: str | None = None) -> Fault:
    """What the client library raised, as an end. `profile`: the file whose fields were sent."""
    if isinstance(error, NoHelper):
        return Fault(str(error), NO_HELPER)
    if isinstance(error, HelperError):
        return _refusal(error, profile)
    # A connection that breaks in the middle: the helper is not there any more.
    return Fault("the connection to the helper ended", NO_HELPER, str(error) or None)


def _refusal(error: HelperError, profile: str | None) -> Fault:
    data = error.data
    hint = data.get("hint")
    message = error.message
    if error.code == _INVALID_PARAMS_CODE and profile is not None:
        place = str(data.get("path", "$")).removeprefix("$").removeprefix(".")
        detail = data.get("detail", message)
        return Fault(f"{profile}: {place}: {detail}" if place else f"{profile}: {detail}", REFUSED, None)
    if isinstance(error, NotAdmitted) or error.code == NOT_AUTHORIZED_CODE:
        return Fault(message, NOT_AUTHORIZED, None if hint is None else str(hint))
    if found := conflicts(error):
        hint = "; ".join(found)
    retry = data.get("retry_after_s")
    if hint is None and isinstance(retry, int | float):
        hint = f"try again in {retry:g} s"
    if isinstance(errno := data.get("errno"), str) and errno not in message:
        message = f"{message} ({errno})"
    return Fault(message, REFUSED, None if hint is None else str(hint))


def conflicts(error: HelperError) -> list[str]:
    """Each conflict of a refusal in words."""
    found = error.data.get("conflicts")
    return [conflict(c) for c in found if isinstance(c, Mapping)] if isinstance(found, list) else []


def conflict(entry: Mapping[str, Any]) -> str:
    """One conflict: what, whose it is, and what of theirs it meets."""
    what = [str(entry[k]) for k in ("resource", "network", "name", "family") if entry.get(k) is not None]
    met = f" by its {entry['with']}" if entry.get("with") is not None else ""
    return f"{' '.join(what)}: held by {entry.get('held')}{met}"


def tell(fault: Fault) -> int:
    """Say it on stderr; returns its exit code."""
    say(f"coentroctl: {plain(fault.message)}", sys.stderr)
    if fault.hint:
        say(f"  {plain(fault.hint)}", sys.stderr)
    return fault.code

"""rpc.discover: the OpenRPC document of this helper, made when somebody first asks for it.

What it is made of (coentro.helper.document) is loaded then too: most helpers are never asked.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from coentro.helper.daemon import Daemon
    from coentro.helper.peer import Request
    from coentro.helper.requests import Nothing


def discover(daemon: Daemon, request: Request, params: Nothing) -> dict[str, Any]:
    """This document: every method, parameter, result, error and event (OpenRPC 1.3)."""
    return _document()


@cache
def _document() -> dict[str, Any]:
    from coentro.helper.document import document

    return document()

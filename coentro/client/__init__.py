"""Talking to the helper: `Client` blocks and needs the standard library alone, `connect` is trio's.

    with Client() as helper, helper.create(addresses=["10.8.0.2/24"]) as tunnel:
        os.read(tunnel.fds[0], 65535)

    async with connect() as helper:
        tunnel = await helper.create(addresses=["10.8.0.2/24"])

Names are imported when they are used, so that a program with `Client` never imports trio.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from coentro.client.aio import AsyncClient, AsyncTunnel, connect
    from coentro.client.errors import HelperError, HelperGone, NoHelper, NotAdmitted
    from coentro.client.place import socket_path
    from coentro.client.plain import Client, Tunnel

__all__ = [
    "AsyncClient",
    "AsyncTunnel",
    "Client",
    "HelperError",
    "HelperGone",
    "NoHelper",
    "NotAdmitted",
    "Tunnel",
    "connect",
    "socket_path",
]

_HOMES: Final = {
    "aio": ("AsyncClient", "AsyncTunnel", "connect"),
    "errors": ("HelperError", "HelperGone", "NoHelper", "NotAdmitted"),
    "place": ("socket_path",),
    "plain": ("Client", "Tunnel"),
}


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""Which preset an engine has: named by the user, named by its profile, or known by its command."""

from __future__ import annotations

import os
from importlib import import_module
from typing import Final

from coentro.engines.preset import EngineFault, Order, Preset

_HOMES: Final = {"generic": "preset:Preset", "wireguard-go": "wireguard:WireGuardGo"}
NAMES: Final = tuple(_HOMES)


def choose(order: Order, name: str | None) -> Preset:
    """The preset for an order. `name`: from the command line. Errors: EngineFault."""
    if name is None:
        name = order.engine.get("name")
        if name is not None and name not in _HOMES:
            raise _unknown(name, f"{order.profile}: engine.name: ")
    elif name not in _HOMES:
        raise _unknown(name, "--engine: ")
    if name is None:
        known = os.path.basename(order.command[0])
        name = known if known in _HOMES else "generic"
    module, _, class_name = _HOMES[name].partition(":")
    kind: type[Preset] = getattr(import_module(f"coentro.engines.{module}"), class_name)
    return kind(order)


def _unknown(name: str, place: str) -> EngineFault:
    return EngineFault(f"{place}no engine preset {name!a}; there are: {', '.join(NAMES)}", usage=True)

"""What a peer asks about the host: status, routes, one destination's way, interfaces."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from attrs import asdict

from coentro import __version__
from coentro.errors import InvalidParams
from coentro.networks import FAMILIES, parse_address

if TYPE_CHECKING:
    from coentro.helper import results
    from coentro.helper.daemon import Daemon
    from coentro.helper.peer import Request
    from coentro.helper.requests import Lookup, Nothing, RouteList
    from coentro.model import TunnelId
    from coentro.netops.interface import HostRoute


async def status(daemon: Daemon, request: Request, params: Nothing) -> results.Status:
    """The helper and its host in short, with what is not as it should be."""
    network = await daemon.network.status()
    return {
        "version": __version__,
        "pid": os.getpid(),
        "uptime_s": round(time.monotonic() - daemon.started_at, 3),
        "platform": daemon.network.platform,
        "activation": daemon.activation,
        "tunnels": len(daemon.manager.visible(request.peer.actor)),
        "peers": len(daemon.peers),
        "network": {
            "online": network.online,
            "default_routes": [_route(daemon, request, r) for r in network.default_routes],
        },
        "dns": {"backend": None},
        "power": None,
        "problems": [*daemon.problems, *daemon.manager.problems],
    }


async def route_list(daemon: Daemon, request: Request, params: RouteList) -> results.Routes:
    """The host's routes and the tunnels', a page at a time."""
    start = 0
    if params.cursor is not None:
        if not params.cursor.isascii() or not params.cursor.isdigit() or len(params.cursor) > 9:
            raise InvalidParams("$.cursor", "expected a cursor that an earlier answer gave")
        start = int(params.cursor)
    tunnel = daemon.manager.find(request.peer.actor, params.tunnel) if params.tunnel is not None else None
    families = FAMILIES if params.family is None else (params.family,)
    found = await daemon.network.routes(families)
    if tunnel is not None:
        found = [route for route in found if route.tunnel == tunnel.id]
    page = found[start : start + params.limit]
    more = start + params.limit < len(found)
    return {
        "routes": [_route(daemon, request, route) for route in page],
        "cursor": str(start + params.limit) if more else None,
    }


async def route_lookup(daemon: Daemon, request: Request, params: Lookup) -> results.Lookup:
    """Which way a packet to one destination goes, and why."""
    try:
        address = parse_address(params.destination)
    except InvalidParams as fault:
        raise fault.below("$.destination") from None
    found = await daemon.network.lookup(address)
    return {
        "destination": found.destination,
        "interface": found.interface,
        "gateway": found.gateway,
        "source": found.source,
        "tunnel": _owner(daemon, request, found.tunnel) if found.tunnel else None,
        "reason": found.reason,
        "steps": [
            {"kind": step.kind, "text": step.text, "made_by": _owner(daemon, request, step.tunnel)}
            for step in found.steps
        ],
    }


async def interface_list(daemon: Daemon, request: Request, params: Nothing) -> dict[str, Any]:
    """The host's interfaces with their addresses and counters."""
    return {"interfaces": [asdict(i) for i in await daemon.network.interfaces()]}


def _route(daemon: Daemon, request: Request, route: HostRoute) -> results.Route:
    return {
        "destination": route.destination,
        "kind": route.kind,
        "gateway": route.gateway,
        "interface": route.interface,
        "metric": route.metric,
        "owner": _owner(daemon, request, route.tunnel),
    }


def _owner(daemon: Daemon, request: Request, id_: TunnelId | None) -> str:
    """Who made a route or rule: `host`, the caller's tunnel by name, or another's unnamed."""
    if id_ is None:
        return "host"
    tunnel = daemon.manager.named(id_)
    if tunnel is None or not request.peer.actor.sees(tunnel.owner):
        return "another tunnel"
    return tunnel.name

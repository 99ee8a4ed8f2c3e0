"""tunnel.*: from decoded parameters to the manager and back to the protocol's shapes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import trio
from attrs import evolve, fields

from coentro.errors import InvalidParams
from coentro.helper.peer import LARGE, Answer, Request
from coentro.helper.requests import ById, Routes
from coentro.model import Spec
from coentro.netops.interface import Described
from coentro.networks import FAMILIES, Family
from coentro.tunnels.tunnel import Tunnel
from coentro.wire.params import amend, decode

if TYPE_CHECKING:
    from coentro.helper import results
    from coentro.helper.daemon import Daemon
    from coentro.helper.requests import Attach, Nothing

T = TypeVar("T")
SHOWN = 20  # of each group of a plan
FIXED = ("name", "tun")  # of a spec, for a tunnel's whole life


async def create(daemon: Daemon, request: Request, tree: dict[str, Any]) -> Answer:
    """Make a tunnel as the spec says, all or nothing.

    Its descriptors come with the answer, one per queue. The tunnel lives as long as the
    connection, or as its lease moved to another by `tunnel.attach`.
    """
    spec = await decoded(request, decode, tree, Spec)
    peer = request.peer
    daemon.access.allow(spec, peer.scopes)
    assert request.turn is not None  # the method table says that it changes
    tunnel = await daemon.manager.create(peer.actor, spec, peer, request.turn)
    info = daemon.manager.info(tunnel, {}, lease=True)  # nothing has gone through it yet

    def unsent() -> None:
        daemon.manager.undelivered(tunnel)

    return evolve(_with_fds(tunnel, info), unsent=unsent)


async def attach(daemon: Daemon, request: Request, params: Attach) -> Answer:
    """Move a tunnel's lease to this connection, with its descriptors where the helper holds them."""
    assert request.turn is not None  # as above
    peer = request.peer
    counters = await daemon.manager.counters()
    tunnel = await daemon.manager.attach(peer.actor, params.id, params.lease, peer, request.turn)
    return _with_fds(tunnel, daemon.manager.info(tunnel, counters))


def _with_fds(tunnel: Tunnel, info: dict[str, Any]) -> Answer:
    info["fds"] = [{"index": index, "kind": "tun"} for index, _ in enumerate(tunnel.device.fds)]

    def delivered() -> None:
        tunnel.lease.delivered = True

    return Answer(info, tunnel.device.fds, delivered)


async def update(daemon: Daemon, request: Request, tree: dict[str, Any]) -> dict[str, Any]:
    """Change fields of a tunnel's spec, all or nothing; only the difference is applied.

    A field that is left out stays, null restores its default.
    """
    id_, patch = _target(tree)
    assert request.turn is not None  # as above

    def amended(spec: Spec) -> Spec:
        new = _amend(spec, patch)
        daemon.access.allow(new, request.peer.scopes)
        return new

    async with request.turn:
        tunnel = daemon.manager.find(request.peer.actor, id_)
        spec = await decoded(request, amended, tunnel.spec)
        counters = await daemon.manager.counters()
        await daemon.manager.update(request.peer.actor, tunnel, spec, _named(patch))
    return daemon.manager.info(tunnel, counters)


async def routes(daemon: Daemon, request: Request, tree: dict[str, Any]) -> dict[str, Any]:
    """Add and remove routes of a tunnel, all or nothing.

    Adding what is there, removing what is not, and naming one network in both are refused.
    """
    params = await decoded(request, decode, tree, Routes)
    assert request.turn is not None  # as above

    def allowed(spec: Spec) -> None:
        daemon.access.allow(spec, request.peer.scopes)

    async with request.turn:
        return await daemon.manager.routes(request.peer.actor, params.id, params.add, params.remove, allowed)


async def destroy(daemon: Daemon, request: Request, params: ById) -> results.Gone:
    """End a tunnel; answered once the host is as it was before."""
    assert request.turn is not None  # as above
    await daemon.manager.destroy(request.peer.actor, params.id, request.turn)
    return {"id": params.id}


async def get(daemon: Daemon, request: Request, params: ById) -> dict[str, Any]:
    """One tunnel's info."""
    return (await daemon.manager.infos([daemon.manager.find(request.peer.actor, params.id)]))[0]


async def list_(daemon: Daemon, request: Request, params: Nothing) -> dict[str, Any]:
    """The tunnels that the caller sees: its own, with `admin` everyone's."""
    return {"tunnels": await daemon.manager.infos(daemon.manager.visible(request.peer.actor))}


async def plan(daemon: Daemon, request: Request, tree: dict[str, Any]) -> dict[str, Any]:
    """Say what a create, or with `id` an update, would change and what would refuse it.

    Nothing is changed. Equal changes are grouped. Without `id` the fields are a whole spec.
    """
    peer, manager = request.peer, daemon.manager
    tunnel: Tunnel | None = None
    named: frozenset[Family] = frozenset()
    if tree.get("id") is not None:
        id_, patch = _target(tree)
        named = _named(patch)
        tunnel = manager.find(peer.actor, id_)
        spec = await decoded(request, _amend, tunnel.spec, patch)
    else:
        whole = {name: value for name, value in tree.items() if name != "id"}
        spec = await decoded(request, decode, whole, Spec)
    daemon.access.allow(spec, peer.scopes)
    changes, conflicts = await manager.plan(peer.actor, spec, tunnel, named)
    groups: dict[tuple[str, str], tuple[int, list[str]]] = {}
    for change in changes:
        told: Described = daemon.network.describe(change)
        key = (told.op, daemon.network.describe(change.undo()).op)
        count, first = groups.get(key, (0, []))
        groups[key] = (count + told.count, [*first, *told.first][:SHOWN])
    return {
        "changes": [
            {"op": op, "count": count, "first": first, "undo": undo}
            for (op, undo), (count, first) in groups.items()
        ],
        "conflicts": list(conflicts),
    }


async def decoded(request: Request, work: Callable[..., T], *args: Any) -> T:
    """Decode the parameters of a large line in a worker thread, others at once."""
    if request.size <= LARGE:
        return work(*args)
    return await trio.to_thread.run_sync(work, *args)


def _target(tree: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """`id`, and the fields to change."""
    id_ = decode({"id": tree.get("id")} if "id" in tree else {}, ById).id
    return id_, {name: value for name, value in tree.items() if name != "id"}


def _named(patch: dict[str, Any]) -> frozenset[Family]:
    """The families of which an update names the routes, and so asks back what root took over."""
    return frozenset(FAMILIES if "routes" in patch or "block" in patch else ())


def _amend(spec: Spec, patch: dict[str, Any]) -> Spec:
    for name in patch:
        if name in FIXED:
            raise InvalidParams(f"$.{name}", "is fixed for the tunnel's life; make another tunnel for it")
    return amend(patch, spec)


assert all(name in {f.name for f in fields(Spec)} for name in FIXED)

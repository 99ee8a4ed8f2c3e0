"""What a peer asks about itself and the helper: hello, ping, reload, events."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, get_args

from coentro import __version__
from coentro.errors import InvalidParams
from coentro.helper.access import describe
from coentro.helper.config import ConfigError
from coentro.helper.events import TYPES, Subscription
from coentro.model import Uid

if TYPE_CHECKING:
    from coentro.helper import results
    from coentro.helper.daemon import Daemon
    from coentro.helper.peer import Request
    from coentro.helper.requests import Hello, Nothing, Subscribe

PROTOCOL: Final = 1

# Of the protocol; what the platform can do of them is its own list (NetworkOps.capabilities).
Capability = Literal[
    "tun",
    "tun.queues",
    "tun.vnet_hdr",
    "tun.packet_info",
    "dns",
    "dns.split",
    "lockdown",
    "lockdown.persist",
    "confirm",
    "block",
    "tokens",
    "audit",
    "power",
    "simulated",
]
CAPABILITIES: Final[tuple[Capability, ...]] = get_args(Capability)


def hello(daemon: Daemon, request: Request, params: Hello) -> results.Hello:
    """Say who is there and what can be done. Optional; a client of another protocol is refused."""
    if params.protocol not in (None, PROTOCOL):
        raise InvalidParams("$.protocol", f"this helper speaks protocol {PROTOCOL}")
    peer, limits = request.peer, daemon.config.limits
    return {
        "protocol": PROTOCOL,
        "helper": {"name": "coentro-helper", "version": __version__},
        "platform": daemon.network.platform,
        "peer": describe(peer.credentials, peer.user),
        "scopes": sorted(peer.scopes),
        "capabilities": {name: name in daemon.network.capabilities for name in CAPABILITIES},
        "limits": {
            "max_message_bytes": limits.max_message_bytes,
            "max_batch": limits.max_batch,
            "requests_under_way": limits.requests_under_way,
            "tunnels_per_uid": limits.tunnels_per_uid,
            "routes_per_tunnel": limits.routes_per_tunnel,
        },
    }


def ping(daemon: Daemon, request: Request, params: Nothing) -> results.Empty:
    """Answer at once. Not counted by the rate."""
    return {}


async def reload(daemon: Daemon, request: Request, params: Nothing) -> results.Reloaded:
    """Read the configuration again; the old one stays if the new one is bad."""
    try:
        return {"changed": await daemon.reload()}
    except ConfigError as fault:
        raise InvalidParams("$", f"the old configuration stays, as the new one is bad: {fault}") from None


def subscribe(daemon: Daemon, request: Request, params: Subscribe) -> results.Position:
    """Be told of events from now on, or from `since` on.

    Subscribing again replaces the subscription; missed events follow the answer.
    """
    for index, name in enumerate(params.types or ()):
        if name not in TYPES:
            raise InvalidParams(f"$.types[{index}]", f"expected one of {', '.join(TYPES)}")
    peer = request.peer
    if peer.subscription is not None:
        daemon.events.unsubscribe(peer.subscription)
    types = frozenset(params.types) if params.types is not None else None

    def sees(owner: int | None) -> bool:
        # As the peer's scopes are now: a reload may have taken some.
        return "observe" in peer.scopes and (owner is None or peer.actor.sees(Uid(owner)))

    peer.subscription = Subscription(types, sees, peer.push)
    here: results.Position = {"run": daemon.events.run, "seq": daemon.events.seq}
    if params.since is not None:
        missed = list(daemon.events.replay(peer.subscription, params.since.run, params.since.seq))
        peer.push_after_answer(missed)
    daemon.events.subscribe(peer.subscription)
    return here


def unsubscribe(daemon: Daemon, request: Request, params: Nothing) -> results.Empty:
    """Be told of no more events."""
    if request.peer.subscription is not None:
        daemon.events.unsubscribe(request.peer.subscription)
        request.peer.subscription = None
    return {}

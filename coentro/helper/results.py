"""What each method answers, member by member, for the checker and for `rpc.discover`.

No answer is built from these when the helper runs: they say what the code that builds it means,
mypy holds it to them, and tests hold every real answer to the schemas made of them. The text
beside a type is the member's description.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, NotRequired, TypedDict

from msgspec import Meta

from coentro.helper.config import Scope
from coentro.helper.session_methods import Capability
from coentro.networks import Family

Time = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]
Address = Annotated[str, Meta(title="address", pattern=r"^[0-9a-f.:]+\Z")]
Prefix = Annotated[str, Meta(title="address/length", pattern=r"^[0-9a-f.:]+/[0-9]{1,3}\Z")]
Count = Annotated[int, Meta(ge=0)]


class Empty(TypedDict):
    """Nothing but that it is done."""


class Program(TypedDict):
    """A program by name and version."""

    name: str
    version: str


class Credentials(TypedDict):
    """A peer, as the kernel knew it when it connected."""

    uid: int
    gid: int
    groups: Annotated[list[int], "Its supplementary groups."]
    pid: Annotated[int, "For information; never a ground for a decision."]
    user: Annotated[str | None, "Its login name, where its uid has one."]


class SessionLimits(TypedDict):
    """What one connection, one line and one user may take."""

    max_message_bytes: int
    max_batch: Annotated[int, "Calls in one line."]
    requests_under_way: Annotated[int, "Calls of one connection that are not answered yet."]
    tunnels_per_uid: int
    routes_per_tunnel: Annotated[int, "`routes`, `exclude` and `block` together."]


class Hello(TypedDict):
    """Who is there and what can be done."""

    protocol: Literal[1]
    helper: Program
    platform: Annotated[str, "`linux` or `darwin`."]
    peer: Annotated[Credentials, "The caller itself."]
    scopes: Annotated[list[Scope], "What this connection may do."]
    capabilities: Annotated[dict[Capability, bool], "What this helper can do; asking for another is -32007."]
    limits: SessionLimits


class Scopes(TypedDict):
    """The scopes of a connection."""

    scopes: list[Scope]


class Route(TypedDict):
    """One route of the host."""

    destination: Prefix
    kind: Annotated[str, "`unicast`, `throw`, `unreachable`, …: the system's name."]
    gateway: Annotated[Address | None, "null: on-link, or nowhere."]
    interface: str | None
    metric: int
    owner: Annotated[str, "`host`, the name of a tunnel that the caller sees, or `another tunnel`."]


class NetworkStatus(TypedDict):
    """The physical network."""

    online: Annotated[bool, "Whether a default route leads somewhere that is up."]
    default_routes: list[Route]


class DnsBackend(TypedDict):
    """Who resolves names here."""

    backend: Annotated[str | None, "null: this version sets none."]


class Status(TypedDict):
    """The helper and its host in short."""

    version: str
    pid: int
    uptime_s: Annotated[float, Meta(ge=0)]
    platform: str
    activation: Annotated[str, "Who made the socket: `self`, or the service manager."]
    tunnels: Annotated[Count, "Those that the caller sees."]
    peers: Annotated[Count, "Connections."]
    network: NetworkStatus
    dns: DnsBackend
    power: Annotated[None, "Not told in this version."]
    problems: Annotated[list[str], "Sentences; none: all is as it should be."]


class Metrics(TypedDict):
    """The helper's counters."""

    text: Annotated[str, "Prometheus text format."]


class Check(TypedDict):
    """One thing that was looked at."""

    name: str
    ok: bool
    detail: str
    hint: str | None


class Diagnosis(TypedDict):
    """What was looked at, and what to do about it."""

    checks: list[Check]


class Reloaded(TypedDict):
    """What a new configuration changed."""

    changed: Annotated[list[str], "Tables of the configuration."]


class Owner(TypedDict):
    """Whose a tunnel is."""

    uid: int
    user: str | None


class TunnelInterface(TypedDict):
    """A tunnel's interface."""

    name: str
    index: int
    mtu: int
    addresses: list[Prefix]


class NarrowEndpoint(TypedDict):
    """An endpoint that names a port or a protocol."""

    address: Address
    port: NotRequired[int]
    protocol: NotRequired[Literal["udp", "tcp"]]


class TunnelDns(TypedDict):
    """A tunnel's name servers."""

    servers: list[Address]
    search: list[str]
    match: list[str]


class TunnelLockdown(TypedDict):
    """A tunnel's lockdown."""

    enabled: bool
    allow_lan: bool
    persist: bool


class TunnelTun(TypedDict):
    """How a tunnel's device was opened."""

    queues: int
    vnet_hdr: bool
    packet_info: bool


class TunnelSpec(TypedDict):
    """A spec as it stands, every default filled in."""

    name: str
    addresses: list[Prefix]
    mtu: int
    routes: Annotated[
        list[Prefix], Meta(max_length=256), "The first; `routes.total` of the tunnel counts all."
    ]
    exclude: Annotated[list[Prefix], Meta(max_length=256), "The first."]
    endpoints: list[Address | NarrowEndpoint]
    block: list[Prefix]
    dns: TunnelDns | None
    lockdown: TunnelLockdown
    linger_s: float
    confirm_within_s: float | None
    tun: TunnelTun


class RouteTotal(TypedDict):
    """How many routes a tunnel has."""

    total: Count


class Stats(TypedDict):
    """Counters of an interface."""

    rx_bytes: Count
    tx_bytes: Count
    rx_packets: Count
    tx_packets: Count


class Descriptor(TypedDict):
    """A file descriptor that comes with the line (SCM_RIGHTS)."""

    index: Annotated[Count, "Its place among the descriptors of the line."]
    kind: Literal["tun"]


class Tunnel(TypedDict):
    """A tunnel's info."""

    id: str
    name: str
    owner: Owner
    state: Annotated[
        Literal["up", "lingering", "recovering", "locked"],
        "This version knows `up` and `lingering`.",
    ]
    confirm_by: Annotated[Time | None, "When all is undone unless `tunnel.confirm` comes."]
    ends_at: Annotated[Time | None, "When it goes if nobody attaches."]
    problems: Annotated[list[str], "Sentences; some: it is degraded."]
    interface: TunnelInterface
    packet_header_bytes: Annotated[Count, "What stands before each packet read from a descriptor."]
    spec: TunnelSpec
    routes: RouteTotal
    dns: TunnelDns | None
    lockdown: TunnelLockdown
    lease: Annotated[str | None, "The secret, in the answer to `tunnel.create` alone."]
    created_at: Time
    stats: Stats
    fds: Annotated[list[Descriptor], "The descriptors that come with this line, one per queue."]


class Tunnels(TypedDict):
    """The tunnels that the caller sees."""

    tunnels: list[Tunnel]


class Group(TypedDict):
    """Equal changes of a plan, together."""

    op: Annotated[str, "Such as `route.add`."]
    count: Annotated[int, Meta(ge=1)]
    first: Annotated[list[str], Meta(max_length=20), "The first of them."]
    undo: Annotated[str, "The `op` that takes them back."]


class NameTaken(TypedDict):
    """A name that the owner has in use."""

    resource: Literal["name"]
    name: str
    held: Annotated[str, "The id of the tunnel that has it."]


class EverythingTaken(TypedDict):
    """Everything-routes of a family that somebody holds."""

    resource: Literal["everything"]
    family: Family
    held: Annotated[str, "A tunnel's name, or `another user`."]


NetworkTaken = TypedDict(
    "NetworkTaken",
    {
        "resource": Literal["route", "block", "address", "endpoint"],
        "network": Annotated[Prefix, "What was asked for."],
        "with": Annotated[str, "What it meets: a network, or `endpoint` and one."],
        "held": Annotated[str, "A tunnel's name, or `another tunnel`."],
    },
)
NetworkTaken.__doc__ = "A network that meets one of another tunnel's."

Conflict = NameTaken | EverythingTaken | NetworkTaken


class Plan(TypedDict):
    """What would be done; nothing was."""

    changes: list[Group]
    conflicts: Annotated[list[Conflict], Meta(max_length=20), "What would refuse it."]


class Rerouted(TypedDict):
    """How many routes came and went."""

    added: Count
    removed: Count
    total: Annotated[Count, "Of the tunnel now."]


class Gone(TypedDict):
    """The tunnel that is gone."""

    id: str


class Routes(TypedDict):
    """A page of the host's routes."""

    routes: list[Route]
    cursor: Annotated[str | None, "Where the next page begins; null: this is the last."]


class Step(TypedDict):
    """One step of the way that a packet takes through the system's decisions."""

    kind: Literal["rule", "table", "route", "dns", "firewall"]
    text: str
    made_by: Annotated[str, "As a route's `owner`."]


class Lookup(TypedDict):
    """Which way a packet goes."""

    destination: Address
    interface: str | None
    gateway: Address | None
    source: Annotated[Address | None, "The address that the system would send from."]
    tunnel: Annotated[str | None, "As a route's `owner`; null: it goes into none."]
    reason: Annotated[str, "One sentence."]
    steps: list[Step]


class Interface(TypedDict):
    """One of the host's interfaces."""

    name: str
    index: int
    mtu: int
    up: bool
    addresses: list[Prefix]
    stats: Stats


class Interfaces(TypedDict):
    """The host's interfaces."""

    interfaces: list[Interface]


class Resolver(TypedDict):
    """How names are resolved now."""

    backend: str
    servers: list[Address]
    search: list[str]
    match: list[str]
    per_interface: Annotated[list[dict[str, Any]], "Its members are not fixed yet."]


class Position(TypedDict):
    """A place in the events of one helper's run."""

    run: Annotated[str, "New with each start of the helper."]
    seq: Annotated[Count, "The number of the last event; 0: none yet."]


class Token(TypedDict):
    """A token, shown once."""

    id: str
    token: str


class Tokens(TypedDict):
    """The tokens, without their secrets."""

    tokens: Annotated[list[dict[str, Any]], "Their members are not fixed yet."]


class Records(TypedDict):
    """A part of the audit."""

    records: Annotated[list[dict[str, Any]], "Their members are not fixed yet."]


Document = TypedDict(
    "Document",
    {
        "openrpc": Annotated[str, Meta(pattern=r"^1\.3\.")],
        "info": dict[str, Any],
        "methods": list[dict[str, Any]],
        "components": dict[str, Any],
        "x-error-data": Annotated[dict[str, Any], "By the error's name, the schema of its `data`."],
        "x-notification": Annotated[dict[str, Any], "The notification that tells events, and its params."],
        "x-events": Annotated[list[dict[str, Any]], "Every type, what it says, and whether it is told yet."],
    },
)
Document.__doc__ = "An OpenRPC 1.3 document: this one."


RESULTS: Final[Mapping[str, type]] = {
    "session.hello": Hello,
    "session.authenticate": Scopes,
    "session.ping": Empty,
    "helper.status": Status,
    "helper.metrics": Metrics,
    "helper.diagnose": Diagnosis,
    "helper.reload": Reloaded,
    "tunnel.create": Tunnel,
    "tunnel.plan": Plan,
    "tunnel.update": Tunnel,
    "tunnel.routes": Rerouted,
    "tunnel.attach": Tunnel,
    "tunnel.confirm": Tunnel,
    "tunnel.destroy": Gone,
    "tunnel.get": Tunnel,
    "tunnel.list": Tunnels,
    "route.list": Routes,
    "route.lookup": Lookup,
    "interface.list": Interfaces,
    "dns.get": Resolver,
    "event.subscribe": Position,
    "event.unsubscribe": Empty,
    "token.create": Token,
    "token.list": Tokens,
    "token.revoke": Empty,
    "audit.list": Records,
    "rpc.discover": Document,
}

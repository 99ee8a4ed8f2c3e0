"""What events carry and what errors say beside their sentence; see coentro.helper.results."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, NotRequired, TypedDict

from msgspec import Meta

from coentro import errors
from coentro.errors import CoentroError
from coentro.helper.results import Conflict, Count, Credentials, Owner, Prefix, Time


class Event(TypedDict):
    """The params of a notification `event`."""

    run: Annotated[str, "New with each start of the helper."]
    seq: Annotated[Count, "Its number in this run."]
    time: Time
    type: str
    data: Annotated[dict[str, Any], "As its type says."]


class About(TypedDict):
    """What every event of a tunnel says."""

    id: str
    name: str
    owner: Owner
    interface: str


class TunnelUp(About):
    """A tunnel stands."""


class TunnelDown(About):
    """A tunnel is gone."""

    why: Annotated[str, "A sentence."]
    left: Annotated[list[str], "What could not be taken down; it is tried again."]


class TunnelChanged(About):
    """A tunnel's spec or lease is another."""

    lease: NotRequired[
        Annotated[Literal["moved", "lingering"], "What became of the lease; left out: the spec changed."]
    ]


class TunnelDegraded(About):
    """A tunnel is not all that its spec says."""

    problem: Annotated[str, "A sentence, also one of the tunnel's `problems`."]


class PeerConnected(Credentials):
    """A connection was admitted. Heard by its own uid and by admins."""

    connection: int


class PeerGone(Credentials):
    """A connection ended. Heard by its own uid and by admins."""

    connection: int


class PeerRefused(Credentials):
    """Somebody was not admitted. Heard by that uid and by admins."""

    count: Annotated[int, "How often; after the first within a minute they are told together."]


class HelperStopping(TypedDict):
    """The helper is about to undo every tunnel and end."""


class EventLost(TypedDict):
    """Events that can't be told any more, or that this peer was too slow for."""

    count: Annotated[int | None, "null: not known."]


EVENTS: Final[Mapping[str, type]] = {
    "tunnel.up": TunnelUp,
    "tunnel.down": TunnelDown,
    "tunnel.changed": TunnelChanged,
    "tunnel.degraded": TunnelDegraded,
    "peer.connected": PeerConnected,
    "peer.refused": PeerRefused,
    "peer.gone": PeerGone,
    "helper.stopping": HelperStopping,
    "event.lost": EventLost,
}

NOT_YET: Final[Mapping[str, str]] = {
    "tunnel.drift": "Someone else changed what is the tunnel's.",
    "tunnel.repaired": "It was put back.",
    "dns.changed": "Names are resolved another way.",
    "lockdown.changed": "What a lockdown lets through is another.",
    "network.changed": "The physical network is another.",
    "network.offline": "There is no physical network.",
    "network.online": "There is one again.",
    "power.sleep": "The machine goes to sleep.",
    "power.wake": "The machine is awake, and for how long it slept.",
}
"""Events of the protocol that this version never tells."""


class ParseErrorData(TypedDict):
    """Beside -32700."""

    reason: Literal["parse_error"]


class InvalidRequestData(TypedDict):
    """Beside -32600."""

    reason: Literal["invalid_request"]


class MethodNotFoundData(TypedDict):
    """Beside -32601."""

    reason: Literal["method_not_found"]
    hint: NotRequired[Annotated[str, "The nearest name, where one is near."]]


class InvalidParamsData(TypedDict):
    """Beside -32602."""

    reason: Literal["invalid_params"]
    path: Annotated[str, "A JSON path from `$`, the params."]
    detail: Annotated[str, "What was expected there."]


class InternalData(TypedDict):
    """Beside -32603."""

    reason: Literal["internal_error"]
    report: Annotated[str, "Stands in the helper's log with all that is known."]


class NotAuthorizedData(TypedDict):
    """Beside -32001."""

    reason: Literal["not_authorized"]
    scope: NotRequired[Annotated[str, "The scope that is missing."]]
    hint: NotRequired[Annotated[str, "The command that would admit the peer."]]
    networks: NotRequired[
        Annotated[list[Prefix], "What the administrator lets members route, or the first 20 of it."]
    ]


class NotFoundData(TypedDict):
    """Beside -32002."""

    reason: Literal["not_found"]


class ConflictData(TypedDict):
    """Beside -32003."""

    reason: Literal["conflict"]
    conflicts: Annotated[list[Conflict], Meta(max_length=20)]


class LimitData(TypedDict):
    """Beside -32004."""

    reason: Literal["limit"]
    retry_after_s: Annotated[float | None, "null: waiting alone won't help."]


class KernelData(TypedDict):
    """Beside -32005."""

    reason: Literal["kernel"]
    errno: Annotated[str, "Its name, such as EPERM."]
    op: Annotated[str, "The change that failed."]


class BusyData(TypedDict):
    """Beside -32006."""

    reason: Literal["busy"]


class UnsupportedData(TypedDict):
    """Beside -32007."""

    reason: Literal["unsupported"]
    capability: Annotated[str, "Its name in `session.hello`, or what this version lacks."]


ERRORS: Final[Mapping[type[CoentroError], type]] = {
    errors.ParseError: ParseErrorData,
    errors.InvalidRequest: InvalidRequestData,
    errors.MethodNotFound: MethodNotFoundData,
    errors.InvalidParams: InvalidParamsData,
    errors.Internal: InternalData,
    errors.NotAuthorized: NotAuthorizedData,
    errors.NotFound: NotFoundData,
    errors.Conflict: ConflictData,
    errors.Limit: LimitData,
    errors.Kernel: KernelData,
    errors.Busy: BusyData,
    errors.Unsupported: UnsupportedData,
}

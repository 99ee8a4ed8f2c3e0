"""The parameters of each method, as frozen values that coentro.wire.params decodes."""

from __future__ import annotations

from typing import Annotated, Literal

from attrs import frozen
from msgspec import Meta

from coentro.networks import Networks

Text = Annotated[str, Meta(max_length=256)]


@frozen
class Nothing:
    """A method without parameters."""


@frozen
class ClientInfo:
    """How a program names itself; for logs alone, never a ground for a decision."""

    name: Text
    version: Text = ""


@frozen
class Hello:
    client: ClientInfo | None = None
    protocol: int | None = None


@frozen
class ById:
    id: Text


@frozen
class Attach:
    id: Text
    lease: Text


@frozen
class Routes:
    id: Text
    add: Networks = Networks()
    remove: Networks = Networks()


@frozen
class RouteList:
    tunnel: Text | None = None
    family: Literal[4, 6] | None = None
    limit: Annotated[int, Meta(ge=1, le=10_000)] = 1_000
    cursor: Text | None = None


@frozen
class Lookup:
    destination: Text


@frozen
class Since:
    """How far a subscriber had heard."""

    run: Text
    seq: Annotated[int, Meta(ge=0)]


@frozen
class Subscribe:
    types: Annotated[tuple[Text, ...], Meta(max_length=64)] | None = None
    since: Since | None = None


@frozen
class Authenticate:
    token: Text


@frozen
class TokenCreate:
    name: Text
    scopes: Annotated[tuple[Literal["observe", "tunnel", "admin"], ...], Meta(min_length=1)]
    ttl_s: Annotated[int | float, Meta(gt=0)] | None = None
    uid: Annotated[int, Meta(ge=0)] | None = None


@frozen
class AuditList:
    since: Text | None = None
    limit: Annotated[int, Meta(ge=1, le=10_000)] | None = None

"""The OpenRPC document of this helper: the method table, the types and the examples put together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from attrs import evolve

from coentro import __version__
from coentro.errors import (
    Busy,
    CoentroError,
    Conflict,
    Internal,
    InvalidParams,
    Kernel,
    Limit,
    NotAuthorized,
    NotFound,
    Unsupported,
)
from coentro.helper import examples, payloads, requests
from coentro.helper.methods import METHODS, Method
from coentro.helper.parameters import WORDS
from coentro.helper.results import RESULTS
from coentro.helper.session_methods import PROTOCOL
from coentro.helper.tunnel_methods import FIXED
from coentro.model import Spec
from coentro.wire import openrpc
from coentro.wire.schema import Member, Schemas

# Beside those that any method may be refused with.
_REFUSED: Final[Mapping[str, tuple[type[CoentroError], ...]]] = {
    "helper.status": (Kernel,),
    "tunnel.create": (Conflict, Kernel, Busy, Unsupported),
    "tunnel.plan": (NotFound, Kernel, Unsupported),
    "tunnel.update": (NotFound, Conflict, Kernel, Busy, Unsupported),
    "tunnel.routes": (NotFound, Conflict, Kernel, Busy),
    "tunnel.attach": (NotFound, Kernel, Busy),
    "tunnel.destroy": (NotFound, Kernel),
    "tunnel.get": (NotFound, Kernel),
    "tunnel.list": (Kernel,),
    "route.list": (NotFound, Kernel),
    "route.lookup": (Kernel,),
    "interface.list": (Kernel,),
}


def document() -> dict[str, Any]:
    """All that is answered to `rpc.discover`, the same for every caller."""
    schemas = Schemas(WORDS)
    rows = [_row(name, method, schemas) for name, method in METHODS.items()]
    info = {
        "title": "CoentroVPN helper",
        "version": str(PROTOCOL),
        "description": (
            "JSON-RPC 2.0, one message a line, over a Unix socket. Parameters are given by name, null "
            "means absent wherever a parameter is optional, and one that is not named here is refused."
        ),
        "x-helper-version": __version__,
    }
    return openrpc.document(info, rows, _events(), payloads.Event, payloads.ERRORS, schemas)


def _row(name: str, method: Method, schemas: Schemas) -> openrpc.Row:
    return openrpc.Row(
        name=name,
        text=method.run.__doc__ or "",
        scope=method.scope,
        params=_parameters(name, method, schemas),
        result=RESULTS[name],
        errors=_errors(name, method),
        changes=method.changes,
        unsupported=method.unsupported,
        examples=[example for example in examples.EXAMPLES if example.method == name],
    )


def _parameters(name: str, method: Method, schemas: Schemas) -> list[Member]:
    if method.params is not None:
        return schemas.members(method.params)
    if name == "tunnel.routes":
        return schemas.members(requests.Routes)
    spec = schemas.members(Spec)
    if name == "tunnel.create":
        return spec
    (id_,) = schemas.members(requests.ById)
    fields = [member.as_patch() for member in spec]
    if name == "tunnel.plan":
        text = "The tunnel that would be changed; left out: a new one."
        return [evolve(id_.as_patch(), schema={"type": ["string", "null"]}, description=text), *fields]
    assert name == "tunnel.update", name
    return [id_, *(member for member in fields if member.name not in FIXED)]


def _errors(name: str, method: Method) -> list[type[CoentroError]]:
    any_: list[type[CoentroError]] = [InvalidParams, Internal]
    if method.scope is not None:
        any_.append(NotAuthorized)
    if not method.exempt or method.waits:
        any_.append(Limit)
    if method.unsupported is not None:
        any_.append(Unsupported)
    return any_ + list(_REFUSED.get(name, ()))


def _events() -> list[openrpc.EventRow]:
    told = [
        openrpc.EventRow(type_, data.__doc__ or "", data, examples.EVENTS[type_])
        for type_, data in payloads.EVENTS.items()
    ]
    return told + [openrpc.EventRow(type_, text, None, None) for type_, text in payloads.NOT_YET.items()]

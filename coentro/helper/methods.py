"""The method table: for each method its scope, its parameters and what runs it.

One wrapper stands before all of them: scope, then rate, then the parameters' shape; only then
the method. Methods that are plain functions are answered in the pass that read them; the
others may wait. `changes` marks those that take a turn when their line arrives.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from attrs import frozen

from coentro.errors import NotAuthorized, Unsupported
from coentro.helper import discover, host_methods, requests, session_methods, tunnel_methods
from coentro.helper.config import Scope
from coentro.helper.peer import Request
from coentro.wire.dispatch import Dispatcher
from coentro.wire.params import decode

if TYPE_CHECKING:
    from coentro.helper.daemon import Daemon

Run = Callable[["Daemon", Request, Any], Any]


@frozen
class Method:
    """One row. `params` None: the method decodes its own. `exempt`: not counted by the rate."""

    scope: Scope | None
    params: type | None
    run: Run
    changes: bool = False
    exempt: bool = False

    @property
    def waits(self) -> bool:
        return inspect.iscoroutinefunction(self.run)

    @property
    def unsupported(self) -> str | None:
        """The capability that this version lacks for it."""
        return vars(self.run).get("capability")


def later(capability: str, summary: str) -> Run:
    """A method of the protocol that this version does not have, and says so."""

    def refuse(daemon: Daemon, request: Request, params: Any) -> Any:
        raise Unsupported(capability)

    refuse.__doc__ = summary
    vars(refuse)["capability"] = capability
    return refuse


METHODS: Final[Mapping[str, Method]] = {
    "session.hello": Method(None, requests.Hello, session_methods.hello),
    "session.authenticate": Method(
        None, requests.Authenticate, later("tokens", "Add a token's scopes to this connection.")
    ),
    "session.ping": Method(None, requests.Nothing, session_methods.ping, exempt=True),
    "helper.status": Method("observe", requests.Nothing, host_methods.status),
    "helper.metrics": Method(
        "observe", requests.Nothing, later("metrics", "The helper's counters, for Prometheus.")
    ),
    "helper.diagnose": Method(
        "observe", requests.Nothing, later("diagnose", "Look for what is wrong, and say what to do.")
    ),
    "helper.reload": Method("admin", requests.Nothing, session_methods.reload),
    "tunnel.create": Method("tunnel", None, tunnel_methods.create, changes=True),
    "tunnel.plan": Method("tunnel", None, tunnel_methods.plan),
    "tunnel.update": Method("tunnel", None, tunnel_methods.update, changes=True),
    "tunnel.routes": Method("tunnel", None, tunnel_methods.routes, changes=True),
    "tunnel.attach": Method("tunnel", requests.Attach, tunnel_methods.attach, changes=True),
    "tunnel.confirm": Method(
        "tunnel", requests.ById, later("confirm", "Keep what `confirm_within_s` would undo.")
    ),
    "tunnel.destroy": Method("tunnel", requests.ById, tunnel_methods.destroy, changes=True, exempt=True),
    "tunnel.get": Method("observe", requests.ById, tunnel_methods.get),
    "tunnel.list": Method("observe", requests.Nothing, tunnel_methods.list_),
    "route.list": Method("observe", requests.RouteList, host_methods.route_list),
    "route.lookup": Method("observe", requests.Lookup, host_methods.route_lookup),
    "interface.list": Method("observe", requests.Nothing, host_methods.interface_list),
    "dns.get": Method("observe", requests.Nothing, later("dns", "How names are resolved now.")),
    "event.subscribe": Method("observe", requests.Subscribe, session_methods.subscribe),
    "event.unsubscribe": Method("observe", requests.Nothing, session_methods.unsubscribe),
    "token.create": Method("admin", requests.TokenCreate, later("tokens", "Make a token; it is shown once.")),
    "token.list": Method("admin", requests.Nothing, later("tokens", "The tokens that are valid.")),
    "token.revoke": Method("admin", requests.ById, later("tokens", "End a token.")),
    "audit.list": Method("admin", requests.AuditList, later("audit", "Who changed what, and when.")),
    "rpc.discover": Method(None, requests.Nothing, discover.discover),
}


def dispatcher(daemon: Daemon) -> Dispatcher[Request]:
    """All methods, behind the one wrapper."""
    now: dict[str, Callable[[Request, dict[str, Any]], Any]] = {}
    waiting: dict[str, Callable[[Request, dict[str, Any]], Awaitable[Any]]] = {}
    for name, method in METHODS.items():
        if method.waits:
            waiting[name] = _waiting(daemon, name, method)
        else:
            now[name] = _now(daemon, name, method)
    return Dispatcher(now, waiting, logging.getLogger("coentro.methods"))


def admit(daemon: Daemon, request: Request, name: str, method: Method) -> None:
    """Scope and rate, before a byte of the parameters is looked at. Errors: NotAuthorized, Limit."""
    if method.scope is not None and method.scope not in request.peer.scopes:
        raise NotAuthorized(f"{name} needs the scope {method.scope}", scope=method.scope)
    if not method.exempt:
        daemon.rate.take(request.peer.credentials.uid)


def _now(daemon: Daemon, name: str, method: Method) -> Callable[[Request, dict[str, Any]], Any]:
    params = method.params
    assert params is not None, name  # only methods that wait may decode their own

    def run(request: Request, tree: dict[str, Any]) -> Any:
        admit(daemon, request, name, method)
        return method.run(daemon, request, decode(tree, params))

    return run


def _waiting(
    daemon: Daemon, name: str, method: Method
) -> Callable[[Request, dict[str, Any]], Awaitable[Any]]:
    async def run(request: Request, tree: dict[str, Any]) -> Any:
        admit(daemon, request, name, method)
        params = tree if method.params is None else decode(tree, method.params)
        return await method.run(daemon, request, params)

    return run

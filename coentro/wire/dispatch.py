"""From a call to its method and back: jsonrpcserver finds the method, calls it and names errors.

Its parser, validator, batches and `async_dispatch` are not used: they take what is not JSON,
need asyncio, and tell peers the texts of exceptions. What is used are the steps of its
`dispatch_request`, which do no I/O, but for the one that binds params to a signature: it takes
half of the time, and every method here has params of any name. A method that has to wait gives
its coroutine as the result, awaited here.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping
from logging import Logger
from typing import Any, Generic, TypeVar

from jsonrpcserver.codes import ERROR_METHOD_NOT_FOUND
from jsonrpcserver.dispatcher import call as call_method
from jsonrpcserver.dispatcher import get_method
from jsonrpcserver.exceptions import JsonRpcError
from jsonrpcserver.request import Request
from jsonrpcserver.result import ErrorResult, Success
from oslash.either import Left

from coentro.errors import CoentroError, Internal, InvalidParams, MethodNotFound
from coentro.networks import shown
from coentro.wire.jsonrpc import Call

Ctx = TypeVar("Ctx")
Handler = Callable[[Ctx, dict[str, Any]], Any]
AsyncHandler = Callable[[Ctx, dict[str, Any]], Awaitable[Any]]


class Dispatcher(Generic[Ctx]):
    """Two tables of methods: those that answer `now`, and those that may have to wait.

    A handler gets the caller's context and the params, and raises CoentroError to refuse. What
    else it raises is logged here, once and with its traceback, and becomes Internal.
    """

    def __init__(
        self, now: Mapping[str, Handler[Ctx]], later: Mapping[str, AsyncHandler[Ctx]], log: Logger
    ) -> None:
        self._log = log
        self._later = frozenset(later)
        self._methods = {
            **{name: self._method(name, handler) for name, handler in now.items()},
            **{name: self._method(name, self._waiting(name, handler)) for name, handler in later.items()},
        }

    def is_now(self, method: str) -> bool:
        """Whether `call_now` answers it: so for a method that does not exist, too."""
        return method not in self._later

    def call_now(self, ctx: Ctx, call: Call) -> Any:
        """The result. Errors: CoentroError alone."""
        if not self.is_now(call.method):
            raise ValueError(f"{call.method} has to be awaited")
        return self._dispatch(ctx, call)

    async def call(self, ctx: Ctx, call: Call) -> Any:
        """The result, of a method of either kind. Errors: CoentroError, trio.Cancelled."""
        result = self._dispatch(ctx, call)
        return result if self.is_now(call.method) else await result

    def _dispatch(self, ctx: Ctx, call: Call) -> Any:
        if not isinstance(call.params, dict):
            raise InvalidParams("$", "parameters are given by name")
        outcome = get_method(self._methods, call.method)
        if not isinstance(outcome, Left):
            outcome = call_method(Request(call.method, call.params, call.id), ctx, outcome._value)
        if isinstance(outcome, Left):
            raise self._refusal(call.method, outcome._error)
        return outcome._value.result

    def _refusal(self, method: str, error: ErrorResult) -> CoentroError:
        """jsonrpcserver's name of what went wrong, as ours."""
        if isinstance(error.data, CoentroError):
            return error.data
        if error.code == ERROR_METHOD_NOT_FOUND:
            return self._not_found(method)
        raise AssertionError(f"jsonrpcserver answers {error!r}, which no method of ours can cause")

    def _not_found(self, method: str) -> MethodNotFound:
        from difflib import get_close_matches  # only a mistake pays for its import

        near = get_close_matches(method[:64], self._methods, 1)
        if not near:
            return MethodNotFound(f"there is no method {shown(method)}")
        return MethodNotFound(f"there is no method {shown(method)}; did you mean {near[0]}?", hint=near[0])

    def _method(self, name: str, handler: Handler[Ctx]) -> Callable[..., Any]:
        """A handler as jsonrpcserver calls it: params as keywords, refusals as JsonRpcError.

        Nothing else is raised, or jsonrpcserver would log it again and tell the peer its text.
        """

        def method(ctx: Ctx, /, **params: Any) -> Any:
            try:
                return Success(handler(ctx, params))
            except CoentroError as fault:
                refusal: CoentroError = fault
            except Exception as fault:  # noqa: BLE001 - logged there, with a report for the peer
                refusal = self._internal(name, fault)
            raise JsonRpcError(refusal.code, refusal.message, refusal)

        return method

    def _waiting(self, name: str, handler: AsyncHandler[Ctx]) -> Handler[Ctx]:
        """A handler that gives its coroutine, which raises CoentroError alone."""

        async def wait(ctx: Ctx, params: dict[str, Any]) -> Any:
            try:
                return await handler(ctx, params)
            except CoentroError:
                raise
            except Exception as fault:  # noqa: BLE001 - logged there, with a report for the peer
                raise self._internal(name, fault) from None

        return wait

    def _internal(self, name: str, fault: Exception) -> Internal:
        report = os.urandom(6).hex()
        self._log.error("report %s: %s failed", report, name, exc_info=fault)
        return Internal(report)

"""Dispatch: the right method, our own errors through jsonrpcserver, and not a word of an exception."""

from __future__ import annotations

import logging
from importlib.metadata import version
from typing import Any

import pytest
import trio

from coentro.errors import CoentroError, Conflict, Internal, InvalidParams, MethodNotFound
from coentro.wire.dispatch import Dispatcher
from coentro.wire.jsonrpc import Call

TEXT = "/etc/shadow is unreadable"


class Boom(Exception):
    pass


def echo(ctx: str, params: dict[str, Any]) -> Any:
    return {"ctx": ctx, "params": params}


def refuse(ctx: str, params: dict[str, Any]) -> Any:
    raise Conflict("in use", [{"resource": "name", "held": "you"}])


def boom(ctx: str, params: dict[str, Any]) -> Any:
    raise Boom(TEXT)


def type_error(ctx: str, params: dict[str, Any]) -> Any:
    raise TypeError(TEXT)


async def later(ctx: str, params: dict[str, Any]) -> Any:
    await trio.lowlevel.checkpoint()
    return echo(ctx, params)


async def refuse_later(ctx: str, params: dict[str, Any]) -> Any:
    await trio.lowlevel.checkpoint()
    refuse(ctx, params)


async def boom_later(ctx: str, params: dict[str, Any]) -> Any:
    async with trio.open_nursery():
        raise Boom(TEXT)


async def forever(ctx: str, params: dict[str, Any]) -> Any:
    await trio.sleep_forever()


NOW = {"session.ping": echo, "x.refuse": refuse, "x.boom": boom, "x.type_error": type_error}
LATER = {"x.later": later, "x.refuse_later": refuse_later, "x.boom_later": boom_later, "x.forever": forever}


@pytest.fixture
def dispatcher() -> Dispatcher[str]:
    return Dispatcher(NOW, LATER, logging.getLogger("coentro.test"))


def call(method: str, params: Any = None) -> Call:
    return Call(1, method, {} if params is None else params)


def test_a_method_gets_the_context_and_its_params(dispatcher: Dispatcher[str]) -> None:
    assert dispatcher.call_now("me", call("session.ping", {"a": 1})) == {"ctx": "me", "params": {"a": 1}}


def test_params_may_have_any_name(dispatcher: Dispatcher[str]) -> None:
    params = dict.fromkeys(["ctx", "context", "self", "params", "handler", "request", "", "a b", "class"])
    assert dispatcher.call_now("me", call("session.ping", params))["params"] == params


def test_which_methods_answer_at_once(dispatcher: Dispatcher[str]) -> None:
    assert dispatcher.is_now("session.ping")
    assert dispatcher.is_now("no.such")
    assert not dispatcher.is_now("x.later")
    with pytest.raises(ValueError, match="awaited"):
        dispatcher.call_now("me", call("x.later"))


async def test_a_method_that_waits_is_awaited(dispatcher: Dispatcher[str]) -> None:
    assert await dispatcher.call("me", call("x.later", {"a": 1})) == {"ctx": "me", "params": {"a": 1}}
    assert await dispatcher.call("me", call("session.ping")) == {"ctx": "me", "params": {}}


@pytest.mark.parametrize(
    ("method", "hint"),
    [
        ("sesion.ping", "session.ping"),
        ("x.latr", "x.later"),
        ("zzzzzzzz", None),
        ("", None),
        ("\x00" * 10**6, None),
    ],
    ids=lambda v: ascii(v)[:20],
)
async def test_an_unknown_method_is_told_with_the_nearest_name(
    dispatcher: Dispatcher[str], method: str, hint: str | None
) -> None:
    with pytest.raises(MethodNotFound) as now:
        dispatcher.call_now("me", call(method))
    with pytest.raises(MethodNotFound) as awaited:
        await dispatcher.call("me", call(method))
    assert now.value.data == awaited.value.data
    assert now.value.data.get("hint") == hint
    assert len(now.value.message) < 300


@pytest.mark.parametrize("params", [[], [1], [{}], ["me", {}]])
async def test_params_by_position_are_refused(dispatcher: Dispatcher[str], params: Any) -> None:
    for method in ("session.ping", "x.later"):
        with pytest.raises(InvalidParams) as caught:
            await dispatcher.call("me", call(method, params))
        assert caught.value.path == "$"


async def test_a_refusal_travels_as_it_is(
    dispatcher: Dispatcher[str], caplog: pytest.LogCaptureFixture
) -> None:
    for method in ("x.refuse", "x.refuse_later"):
        with pytest.raises(Conflict) as caught:
            await dispatcher.call("me", call(method))
        assert caught.value.to_json() == {
            "code": -32003,
            "message": "in use",
            "data": {"reason": "conflict", "conflicts": [{"resource": "name", "held": "you"}]},
        }
    assert not caplog.records


@pytest.mark.parametrize("method", ["x.boom", "x.type_error", "x.boom_later"])
async def test_a_fault_of_ours_is_logged_once_and_told_without_a_word_of_it(
    dispatcher: Dispatcher[str], caplog: pytest.LogCaptureFixture, method: str
) -> None:
    with pytest.raises(Internal) as caught:
        await dispatcher.call("me", call(method))
    told = str(caught.value.to_json())
    assert TEXT not in told
    assert "Boom" not in told
    (record,) = caplog.records
    assert record.name == "coentro.test"
    assert record.exc_info is not None
    assert caught.value.data["report"] in record.getMessage()
    assert TEXT in caplog.text


async def test_reports_differ(dispatcher: Dispatcher[str]) -> None:
    reports = set()
    for _ in range(3):
        with pytest.raises(Internal) as caught:
            await dispatcher.call("me", call("x.boom"))
        reports.add(caught.value.data["report"])
    assert len(reports) == 3


async def test_cancelling_and_ctrl_c_pass(dispatcher: Dispatcher[str]) -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        await dispatcher.call("me", call("x.forever"))
    assert scope.cancelled_caught

    def interrupted(ctx: str, params: dict[str, Any]) -> Any:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Dispatcher({"x": interrupted}, {}, logging.getLogger("x")).call_now("me", call("x"))


# --- what we rely on of jsonrpcserver's insides, which promise nothing


def test_jsonrpcserver_is_the_one_whose_insides_were_read() -> None:
    assert version("jsonrpcserver") == "5.0.9"


def test_jsonrpcserver_dispatches_as_it_did() -> None:
    from jsonrpcserver.dispatcher import call, get_method
    from jsonrpcserver.exceptions import JsonRpcError
    from jsonrpcserver.request import Request
    from jsonrpcserver.result import Success
    from oslash.either import Left, Right

    data = object()

    def method(ctx: str, /, **params: Any) -> Any:
        if "refuse" in params:
            raise JsonRpcError(-1, "no", data)
        return Success((ctx, params))

    found = get_method({"m": method}, "m")
    assert isinstance(found, Right)
    assert found._value is method
    missing = get_method({"m": method}, "n")
    assert isinstance(missing, Left)
    assert (missing._error.code, missing._error.data) == (-32601, "n")
    outcome = call(Request("m", {"a": 1}, 7), "me", method)
    assert isinstance(outcome, Right)
    assert outcome._value.result == ("me", {"a": 1})
    outcome = call(Request("m", {"refuse": 1}, 7), "me", method)
    assert isinstance(outcome, Left)
    assert (outcome._error.code, outcome._error.message) == (-1, "no")
    assert outcome._error.data is data


def test_every_error_knows_its_code() -> None:
    """The codes of the protocol's table, each once."""
    codes = {c.code: c.reason for c in CoentroError.__subclasses__() if c.__module__ == "coentro.errors"}
    assert codes == {
        -32700: "parse_error",
        -32600: "invalid_request",
        -32601: "method_not_found",
        -32602: "invalid_params",
        -32603: "internal_error",
        -32001: "not_authorized",
        -32002: "not_found",
        -32003: "conflict",
        -32004: "limit",
        -32005: "kernel",
        -32006: "busy",
        -32007: "unsupported",
    }

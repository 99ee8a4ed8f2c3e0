"""`status`, `ping`, `events` and `call`: the helper itself, and any of its methods."""

from __future__ import annotations

import json
import os
import sys
import time
from argparse import Namespace
from collections.abc import Iterator
from typing import Any

from coentro.client.plain import Client
from coentro.ctl import faults, shown
from coentro.ctl.signals import Signals, readable


def status(client: Client, args: Namespace) -> Any:
    return client.call("helper.status")


def status_table(result: Any) -> Iterator[str]:
    network, dns = result.get("network") or {}, result.get("dns") or {}
    rows: list[tuple[str, object]] = [
        ("helper", f"{result['version']} (pid {result['pid']}, {result['platform']})"),
        ("up for", shown.duration(result["uptime_s"])),
        ("started by", result.get("activation")),
        ("tunnels", result["tunnels"]),
        ("peers", result["peers"]),
        ("network", "online" if network.get("online") else "offline"),
    ]
    rows += [("default route", _route(route)) for route in network.get("default_routes", [])]
    if dns.get("backend") is not None:
        rows.append(("dns", dns["backend"]))
    rows += [("problem", problem) for problem in result["problems"]]
    yield shown.pairs(rows)


def _route(route: Any) -> str:
    if not isinstance(route, dict):
        return str(route)
    via = f" via {route['gateway']}" if route.get("gateway") else ""
    device = f" on {route['interface']}" if route.get("interface") else ""
    return f"{route.get('destination', 'default')}{via}{device}"


def ping(client: Client, args: Namespace) -> Any:
    began = time.perf_counter()
    result = client.call("session.ping")
    args.took_s = time.perf_counter() - began
    return result


def ping_line(args: Namespace) -> str:
    return f"the helper answers in {args.took_s * 1000:.1f} ms"


def call(client: Client, args: Namespace) -> Any:
    """Any method. Descriptors that come with the answer are closed, since nobody would use them."""
    result, descriptors = client.call_with_fds(args.method, args.input)
    for fd in descriptors:
        os.close(fd)
    if descriptors:
        shown.say("coentroctl: the descriptors are closed, and the tunnel goes with this call", sys.stderr)
    return result


def params(args: Namespace) -> dict[str, Any]:
    """The parameters of `call`. Errors: Fault of usage."""
    text = args.params
    if text is None:
        return {}
    try:
        given = json.loads(sys.stdin.read() if text == "-" else text)
    except (ValueError, RecursionError) as error:
        raise faults.usage(f"the parameters are not JSON: {error}") from None
    if not isinstance(given, dict):
        raise faults.usage(
            "parameters are given by name: expected a JSON object", 'such as \'{"destination": "192.0.2.1"}\''
        )
    return given


def events(client: Client, args: Namespace) -> int:
    """Print events until Ctrl-C. Returns the exit code."""
    with Signals() as signals:
        client.subscribe(args.types)
        while True:
            while (event := client.next_event(0)) is not None:
                shown.say(shown.as_json(event, None) if args.output == "json" else _event(event))
            readable([signals, client])
            if signals.take():
                return faults.DONE


def _event(event: Any) -> str:
    data = event.get("data") or {}
    told = " ".join(f"{k}={shown.plain(_short(v))}" for k, v in data.items())
    return f"{shown.plain(event.get('time'))}  {shown.plain(event.get('type')):<16}  {told}".rstrip()


def _short(value: Any) -> Any:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=True)

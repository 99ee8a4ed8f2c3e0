"""A story of calls and answers, told in order on one connection, that documents each method.

The host has eth0 with 192.168.1.2/24 and a gateway. A test has the real helper play it from
beginning to end. What is another each time stands in VARYING, or is a number of the moment.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from coentro.wire.openrpc import Example

Json = dict[str, Any]

_OFFICE: Final = "40e3554f58cc1338"
_OFFICE_LEASE: Final = "3dc039ce56dee9e64bfe22685253d194"
_OFFICE_MADE: Final = "2026-01-05T09:30:00.000Z"
_ALL: Final = "d777ea42b33f0b0a"
_ALL_LEASE: Final = "ba40a28a566b20c9b4dc1744eb29d50c"
_ALL_MADE: Final = "2026-01-05T09:41:12.250Z"
_RUN: Final = "05ba96a950d4c8b1"

VARYING: Final = frozenset({_OFFICE, _OFFICE_LEASE, _OFFICE_MADE, _ALL, _ALL_LEASE, _ALL_MADE, _RUN})
"""Ids, secrets and times: another each time, but everywhere the same within one story."""

_ME: Final = {"uid": 0, "user": "root"}
_QUIET: Final = {"rx_bytes": 0, "tx_bytes": 0, "rx_packets": 0, "tx_packets": 0}
_OPEN: Final = {"enabled": False, "allow_lan": False, "persist": False}
_TUN: Final = {"queues": 1, "vnet_hdr": False, "packet_info": False}

_OFFICE_ASKED: Final[Json] = {
    "name": "office",
    "addresses": ["10.8.0.2/24"],
    "routes": ["10.20.0.0/16"],
    "endpoints": [{"address": "203.0.113.7", "port": 51820, "protocol": "udp"}],
    "linger_s": 30,
}
_ALL_ASKED: Final[Json] = {
    "name": "all",
    "addresses": ["10.9.0.2/32"],
    "routes": ["0.0.0.0/0"],
    "exclude": ["198.51.100.0/24"],
    "endpoints": ["203.0.113.9"],
    "block": ["::/0"],
}


def _tunnel(id_: str, asked: Json, interface: str, index: int, made: str, **other: Any) -> Json:
    """A tunnel's info as it follows from its spec."""
    spec = {
        "mtu": 1420,
        "routes": [],
        "exclude": [],
        "endpoints": [],
        "block": [],
        "dns": None,
        "lockdown": _OPEN,
        "linger_s": 0,
        "confirm_within_s": None,
        "tun": _TUN,
        **asked,
    }
    return {
        "id": id_,
        "name": spec["name"],
        "owner": _ME,
        "state": "up",
        "confirm_by": None,
        "ends_at": None,
        "problems": [],
        "interface": {
            "name": interface,
            "index": index,
            "mtu": spec["mtu"],
            "addresses": spec["addresses"],
        },
        "packet_header_bytes": 0,
        "spec": spec,
        "routes": {"total": len(spec["routes"])},
        "dns": None,
        "lockdown": _OPEN,
        "lease": None,
        "created_at": made,
        "stats": _QUIET,
        "fds": [],
        **other,
    }


def _office(*, lease: str | None = None, fds: bool = False, **changed: Any) -> Json:
    told = [{"index": 0, "kind": "tun"}] if fds else []
    return _tunnel(_OFFICE, {**_OFFICE_ASKED, **changed}, "coentro0", 4, _OFFICE_MADE, lease=lease, fds=told)


def _invalid(path: str, detail: str) -> Json:
    data = {"reason": "invalid_params", "path": path, "detail": detail}
    return {"code": -32602, "message": f"{path}: {detail}", "data": data}


def _unsupported(capability: str) -> Json:
    return {
        "code": -32007,
        "message": f"this helper can't do {capability}; see `capabilities` in session.hello",
        "data": {"reason": "unsupported", "capability": capability},
    }


def _not_found(message: str) -> Json:
    return {"code": -32002, "message": message, "data": {"reason": "not_found"}}


def _route(destination: str, owner: str, **other: Any) -> Json:
    told = {"kind": "unicast", "gateway": None, "interface": None, "metric": 0, "owner": owner}
    return {"destination": destination, **told, **other}


def _step(kind: str, text: str, made_by: str) -> Json:
    return {"kind": kind, "text": text, "made_by": made_by}


_DEFAULT: Final = _route("0.0.0.0/0", "host", gateway="192.168.1.1", interface="eth0")

EXAMPLES: Final[tuple[Example, ...]] = (
    Example(
        "session.hello",
        "the first call",
        {"client": {"name": "example", "version": "1.0"}, "protocol": 1},
        {
            "protocol": 1,
            "helper": {"name": "coentro-helper", "version": "0.1.0"},
            "platform": "linux",
            "peer": {"uid": 0, "gid": 0, "groups": [0], "pid": 4711, "user": "root"},
            "scopes": ["admin", "observe", "tunnel"],
            "capabilities": {
                "tun": True,
                "tun.queues": True,
                "tun.vnet_hdr": True,
                "tun.packet_info": True,
                "dns": False,
                "dns.split": False,
                "lockdown": False,
                "lockdown.persist": False,
                "confirm": False,
                "block": True,
                "tokens": False,
                "audit": False,
                "power": False,
                "simulated": False,
            },
            "limits": {
                "max_message_bytes": 8388608,
                "max_batch": 100,
                "requests_under_way": 64,
                "tunnels_per_uid": 8,
                "routes_per_tunnel": 1000000,
            },
        },
    ),
    Example(
        "session.hello",
        "another protocol",
        {"protocol": 2},
        error=_invalid("$.protocol", "this helper speaks protocol 1"),
    ),
    Example("session.authenticate", "a token", {"token": "3f6d"}, error=_unsupported("tokens")),
    Example("session.ping", "is it there", {}, {}),
    Example(
        "event.subscribe",
        "tunnels that come and go",
        {"types": ["tunnel.up", "tunnel.down"]},
        {"run": _RUN, "seq": 2},
    ),
    Example(
        "tunnel.plan",
        "before a create",
        _OFFICE_ASKED,
        {
            "changes": [
                {
                    "op": "link.add",
                    "count": 1,
                    "first": ["the new TUN device mtu 1420"],
                    "undo": "link.delete",
                },
                {"op": "link.up", "count": 1, "first": ["the new TUN device"], "undo": "link.down"},
                {"op": "address.add", "count": 1, "first": ["10.8.0.2/24"], "undo": "address.delete"},
                {
                    "op": "route.add",
                    "count": 4,
                    "first": [
                        "10.8.0.0/24 table 0x636f0001",
                        "10.20.0.0/16 table 0x636f0001",
                        "throw 192.168.1.0/24 table 0x636f0001",
                        "throw 203.0.113.7/32 table 0x636f0001",
                    ],
                    "undo": "route.delete",
                },
                {
                    "op": "rule.add",
                    "count": 1,
                    "first": ["10100: from all lookup 0x636f0001 (IPv4)"],
                    "undo": "rule.delete",
                },
            ],
            "conflicts": [],
        },
    ),
    Example("tunnel.create", "one network", _OFFICE_ASKED, _office(lease=_OFFICE_LEASE, fds=True)),
    Example(
        "tunnel.create",
        "host bits in a network",
        {"addresses": ["10.8.0.2/24"], "routes": ["10.20.0.1/16"]},
        error=_invalid("$.routes[0]", "10.20.0.1/16 has host bits set; did you mean 10.20.0.0/16?"),
    ),
    Example(
        "tunnel.create",
        "what is somebody's already",
        {"name": "office", "addresses": ["10.7.0.2/24"], "routes": ["10.20.1.0/24"]},
        error={
            "code": -32003,
            "message": "you have a tunnel named office already, and 1 more",
            "data": {
                "reason": "conflict",
                "conflicts": [
                    {"resource": "name", "name": "office", "held": _OFFICE},
                    {
                        "resource": "route",
                        "network": "10.20.1.0/24",
                        "with": "10.20.0.0/16",
                        "held": "office",
                    },
                ],
            },
        },
    ),
    Example(
        "tunnel.create",
        "what this version can't do",
        {"addresses": ["10.8.0.2/24"], "dns": {"servers": ["10.8.0.1"]}},
        error=_unsupported("dns"),
    ),
    Example("tunnel.get", "one tunnel", {"id": _OFFICE}, _office()),
    Example(
        "tunnel.get",
        "none, or another user's",
        {"id": "0123456789abcdef"},
        error=_not_found("there is no such tunnel; `tunnel.list` shows yours"),
    ),
    Example("tunnel.list", "all that the caller sees", {}, {"tunnels": [_office()]}),
    Example("tunnel.confirm", "keep an update", {"id": _OFFICE}, error=_unsupported("confirm")),
    Example(
        "helper.status",
        "in short",
        {},
        {
            "version": "0.1.0",
            "pid": 812,
            "uptime_s": 3600.25,
            "platform": "linux",
            "activation": "self",
            "tunnels": 1,
            "peers": 2,
            "network": {"online": True, "default_routes": [_DEFAULT]},
            "dns": {"backend": None},
            "power": None,
            "problems": [],
        },
    ),
    Example("helper.metrics", "for Prometheus", {}, error=_unsupported("metrics")),
    Example("helper.diagnose", "what is wrong", {}, error=_unsupported("diagnose")),
    Example(
        "tunnel.update",
        "one field another, one as by default",
        {"id": _OFFICE, "mtu": 1380, "linger_s": None},
        _office(mtu=1380, linger_s=0),
    ),
    Example(
        "tunnel.update",
        "what is fixed",
        {"id": _OFFICE, "name": "home"},
        error=_invalid("$.name", "is fixed for the tunnel's life; make another tunnel for it"),
    ),
    Example(
        "tunnel.routes",
        "two come, one goes",
        {"id": _OFFICE, "add": ["10.30.0.0/16", "10.40.0.0/16"], "remove": ["10.20.0.0/16"]},
        {"added": 2, "removed": 1, "total": 2},
    ),
    Example(
        "tunnel.routes",
        "one that is there",
        {"id": _OFFICE, "add": ["10.30.0.0/16"]},
        error=_invalid("$.add", "10.30.0.0/16 is a route of the tunnel already"),
    ),
    Example(
        "tunnel.create",
        "everything of IPv4, and no IPv6",
        _ALL_ASKED,
        _tunnel(
            _ALL,
            _ALL_ASKED,
            "coentro1",
            5,
            _ALL_MADE,
            lease=_ALL_LEASE,
            fds=[{"index": 0, "kind": "tun"}],
        ),
    ),
    Example(
        "tunnel.plan",
        "before an update that would be refused",
        {"id": _OFFICE, "routes": ["10.30.0.0/16"], "block": ["10.9.0.0/16"]},
        {
            "changes": [
                {
                    "op": "route.add",
                    "count": 1,
                    "first": ["unreachable 10.9.0.0/16 table 0x636f0001"],
                    "undo": "route.delete",
                },
                {
                    "op": "route.delete",
                    "count": 1,
                    "first": ["10.40.0.0/16 dev coentro0 table 0x636f0001"],
                    "undo": "route.add",
                },
            ],
            "conflicts": [
                {"resource": "block", "network": "10.9.0.0/16", "with": "10.9.0.2/32", "held": "all"}
            ],
        },
    ),
    Example(
        "route.list",
        "a tunnel's",
        {"tunnel": _OFFICE},
        {
            "routes": [
                *(
                    _route(destination, "office", interface="coentro0")
                    for destination in ("10.8.0.0/24", "10.30.0.0/16", "10.40.0.0/16")
                ),
                *(
                    _route(destination, "office", kind="throw")
                    for destination in ("192.168.1.0/24", "203.0.113.7/32", "203.0.113.9/32")
                ),
            ],
            "cursor": None,
        },
    ),
    Example(
        "route.list",
        "the first two of IPv4",
        {"family": 4, "limit": 2},
        {"routes": [_DEFAULT, _route("192.168.1.0/24", "host", interface="eth0")], "cursor": "2"},
    ),
    Example(
        "route.lookup",
        "into a tunnel",
        {"destination": "10.30.1.1"},
        {
            "destination": "10.30.1.1",
            "interface": "coentro0",
            "gateway": None,
            "source": "10.8.0.2",
            "tunnel": "office",
            "reason": "it goes into the tunnel by 10.30.0.0/16",
            "steps": [
                _step("rule", "10100: from all lookup 0x636f0001", "office"),
                _step("table", "0x636f0001", "office"),
                _step("route", "unicast 10.30.0.0/16", "office"),
            ],
        },
    ),
    Example(
        "route.lookup",
        "an endpoint",
        {"destination": "203.0.113.7"},
        {
            "destination": "203.0.113.7",
            "interface": "eth0",
            "gateway": "192.168.1.1",
            "source": "192.168.1.2",
            "tunnel": None,
            "reason": "it is kept outside of the tunnels, and the host's own routes send it to eth0",
            "steps": [
                _step("rule", "10100: from all lookup 0x636f0001", "office"),
                _step("route", "throw 203.0.113.7/32", "office"),
                _step("rule", "10500: from all lookup 0x636f0002", "all"),
                _step("route", "throw 203.0.113.7/32", "all"),
                _step("rule", "32766: from all lookup main", "host"),
                _step("table", "main", "host"),
                _step("route", "unicast 0.0.0.0/0", "host"),
            ],
        },
    ),
    Example(
        "interface.list",
        "the physical one and two of ours",
        {},
        {
            "interfaces": [
                {
                    "name": "eth0",
                    "index": 2,
                    "mtu": 1500,
                    "up": True,
                    "addresses": ["192.168.1.2/24"],
                    "stats": {"rx_bytes": 430, "tx_bytes": 516, "rx_packets": 5, "tx_packets": 6},
                },
                {
                    "name": "coentro0",
                    "index": 4,
                    "mtu": 1380,
                    "up": True,
                    "addresses": ["10.8.0.2/24"],
                    "stats": _QUIET,
                },
                {
                    "name": "coentro1",
                    "index": 5,
                    "mtu": 1420,
                    "up": True,
                    "addresses": ["10.9.0.2/32"],
                    "stats": _QUIET,
                },
            ]
        },
    ),
    Example("dns.get", "how names are resolved", {}, error=_unsupported("dns")),
    Example(
        "tunnel.attach",
        "from another connection of the same user",
        {"id": _OFFICE, "lease": _OFFICE_LEASE},
        _office(fds=True, mtu=1380, linger_s=0, routes=["10.30.0.0/16", "10.40.0.0/16"]),
    ),
    Example(
        "tunnel.attach",
        "a wrong lease",
        {"id": _OFFICE, "lease": "0123456789abcdef0123456789abcdef"},
        error=_not_found("there is no such tunnel, or this is not its lease"),
    ),
    Example("tunnel.destroy", "one tunnel", {"id": _OFFICE}, {"id": _OFFICE}),
    Example(
        "event.subscribe",
        "again, and what was missed",
        {"since": {"run": _RUN, "seq": 2}},
        {"run": _RUN, "seq": 7},
    ),
    Example("event.unsubscribe", "no more", {}, {}),
    Example("helper.reload", "nothing was changed", {}, {"changed": []}),
    Example(
        "token.create", "for a script", {"name": "ci", "scopes": ["observe"]}, error=_unsupported("tokens")
    ),
    Example("token.list", "all", {}, error=_unsupported("tokens")),
    Example("token.revoke", "one", {"id": "7d1e"}, error=_unsupported("tokens")),
    Example("audit.list", "the latest", {"limit": 10}, error=_unsupported("audit")),
)

_ABOUT: Final = {"id": _OFFICE, "name": "office", "owner": _ME, "interface": "coentro0"}
_SOMEBODY: Final = {"uid": 1000, "gid": 1000, "groups": [100, 1000], "pid": 4711, "user": "alex"}

EVENTS: Final[Mapping[str, Mapping[str, Any]]] = {
    "tunnel.up": _ABOUT,
    "tunnel.down": {**_ABOUT, "why": "destroyed", "left": []},
    "tunnel.changed": {**_ABOUT, "lease": "lingering"},
    "tunnel.degraded": {
        **_ABOUT,
        "problem": "root has taken over everything of IPv4; its routes are withdrawn",
    },
    "peer.connected": {**_SOMEBODY, "connection": 12},
    "peer.refused": {**_SOMEBODY, "count": 1},
    "peer.gone": {**_SOMEBODY, "connection": 12},
    "helper.stopping": {},
    "event.lost": {"count": 12},
}
"""The data of an event of each type that this version tells."""

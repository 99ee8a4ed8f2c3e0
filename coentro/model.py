"""What a tunnel is: the spec that a client writes, as frozen values.

A spec says what shall be, never what to do. Values here are decoded from JSON by
coentro.wire.params with the type hints below, so a value of one of these classes has the
right shapes and ranges; `Spec.check` holds what ties fields together (docs/protocol.md, "A
tunnel's spec"). Pure: no I/O, no platform.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from socket import inet_ntop
from typing import Annotated, Any, Final, Literal, NewType

from attrs import evolve, field, fields, frozen
from msgspec import Meta

from coentro.errors import InvalidParams
from coentro.networks import (
    AF,
    FAMILIES,
    Family,
    Network,
    Networks,
    covers_family,
    parse_address,
    parse_network,
    parse_prefix,
    shown,
    special,
)

TunnelId = NewType("TunnelId", str)
Uid = NewType("Uid", int)

Seconds = Annotated[int | float, Meta(ge=0, le=86400)]
Name = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,31}\Z")]

SHOWN_NETWORKS: Final = 256  # of `routes` and `exclude` in a tunnel's info
MIN_MTU_V6: Final = 1280  # RFC 8200 5


@frozen
class InterfaceAddress:
    """An address of the tunnel's interface, with the prefix that it says is its own."""

    prefix: Network

    @classmethod
    def parse(cls, value: object) -> InterfaceAddress:
        if type(value) is not str:
            raise InvalidParams("$", "expected a text such as 10.0.0.2/24")
        prefix = parse_prefix(value)
        full = len(prefix.address) * 8
        kind = special(Network(prefix.address, full))
        if kind is None and prefix.family == 4 and prefix.address[0] == 0:
            kind = "0.0.0.0/8"
        if kind is not None and kind != "link-local":
            raise InvalidParams("$", f"{value} is {kind}, which no interface can have")
        if prefix.length == 0:
            raise InvalidParams("$", f"{value} says that every address is on-link")
        host = (1 << full - prefix.length) - 1
        if full == 32 and host > 1 and int.from_bytes(prefix.address, "big") & host == host:
            raise InvalidParams("$", f"{value} is the broadcast address of its own network")
        return cls(prefix)

    @property
    def address(self) -> bytes:
        return self.prefix.address

    @property
    def family(self) -> Family:
        return self.prefix.family

    @property
    def network(self) -> Network:
        """The prefix without its host bits."""
        full = len(self.address) * 8
        mask = ~((1 << full - self.prefix.length) - 1)
        base = int.from_bytes(self.address, "big") & mask
        return Network(base.to_bytes(full // 8, "big"), self.prefix.length)

    def __str__(self) -> str:
        return str(self.prefix)


def _host(value: object, what: str) -> bytes:
    """A single address that packets can be sent to."""
    if type(value) is not str:
        raise InvalidParams("$", f"expected {what}'s address as a text")
    address = parse_address(value)
    kind = special(Network(address, len(address) * 8))
    if kind is not None:
        raise InvalidParams("$", f"{value} is {kind}, where {what} can't be")
    return address


def address_text(address: bytes) -> str:
    return inet_ntop(AF[4 if len(address) == 4 else 6], address)


@frozen
class Endpoint:
    """An address of the VPN server itself: outside of every tunnel.

    `port` and `protocol` narrow what a lockdown lets through; routing knows only addresses.
    """

    address: bytes
    port: int | None = None
    protocol: Literal["udp", "tcp"] | None = None

    @classmethod
    def parse(cls, value: object) -> Endpoint:
        if not isinstance(value, dict):
            return cls(_host(value, "an endpoint"))
        for member in value:
            if member not in ("address", "port", "protocol"):
                raise InvalidParams(f"$.{shown(member)[1:-1]}", "unknown field")
        if "address" not in value:
            raise InvalidParams("$", "expected `address`")
        try:
            address = _host(value["address"], "an endpoint")
        except InvalidParams as fault:
            raise fault.below("$.address") from None
        port, protocol = value.get("port"), value.get("protocol")
        if port is not None and (type(port) is not int or not 1 <= port <= 65535):
            raise InvalidParams("$.port", "expected an integer from 1 to 65535")
        if protocol not in (None, "udp", "tcp"):
            raise InvalidParams("$.protocol", "expected udp or tcp")
        return cls(address, port, protocol)

    @property
    def host(self) -> Network:
        return Network(self.address, len(self.address) * 8)

    def to_json(self) -> str | dict[str, Any]:
        text = address_text(self.address)
        if self.port is None and self.protocol is None:
            return text
        rest = {"port": self.port, "protocol": self.protocol}
        return {"address": text, **{k: v for k, v in rest.items() if v is not None}}


@frozen
class Server:
    """A DNS server's address."""

    address: bytes

    @classmethod
    def parse(cls, value: object) -> Server:
        return cls(_host(value, "a DNS server"))

    @property
    def host(self) -> Network:
        return Network(self.address, len(self.address) * 8)

    def __str__(self) -> str:
        return address_text(self.address)


_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)\Z")


@frozen
class Domain:
    """A DNS name, lower case, without the final dot (RFC 1035 2.3.1, RFC 2181 11)."""

    name: str

    @classmethod
    def parse(cls, value: object) -> Domain:
        if type(value) is not str:
            raise InvalidParams("$", "expected a domain name as a text")
        name = value.lower().removesuffix(".")
        if not name or len(name) > 253 or not all(map(_LABEL.match, name.split("."))):
            raise InvalidParams("$", f"expected a domain name, not {shown(value)}")
        return cls(name)

    def __str__(self) -> str:
        return self.name


@frozen
class Dns:
    """Name servers behind the tunnel; `match` non-empty means only those domains."""

    servers: Annotated[tuple[Server, ...], Meta(min_length=1, max_length=16)]
    search: Annotated[tuple[Domain, ...], Meta(max_length=32)] = ()
    match: Annotated[tuple[Domain, ...], Meta(max_length=1024)] = ()

    def to_json(self) -> dict[str, Any]:
        return {f.name: [str(v) for v in getattr(self, f.name)] for f in fields(Dns)}


@frozen
class Lockdown:
    """Nothing leaves but through the tunnels; `persist` outlives crashes and boots."""

    enabled: bool = False
    allow_lan: bool = False
    persist: bool = False

    def to_json(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(Lockdown)}


@frozen
class TunOptions:
    """How the device is opened (Linux): see tun(4)'s IFF_MULTI_QUEUE, IFF_VNET_HDR, IFF_NO_PI."""

    queues: Annotated[int, Meta(ge=1, le=16)] = 1
    vnet_hdr: bool = False
    packet_info: bool = False

    def to_json(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(TunOptions)}


@frozen
class Spec:
    """A tunnel as its client wants it."""

    addresses: Annotated[tuple[InterfaceAddress, ...], Meta(min_length=1, max_length=16)]
    name: Name | None = None
    mtu: Annotated[int, Meta(ge=576, le=65535)] = 1420
    routes: Networks = Networks()
    exclude: Networks = Networks()
    endpoints: Annotated[tuple[Endpoint, ...], Meta(max_length=1024)] = ()
    block: Networks = Networks()
    dns: Dns | None = None
    lockdown: Lockdown = Lockdown()
    linger_s: Seconds = 0
    confirm_within_s: Annotated[int | float, Meta(gt=0, le=86400)] | None = None
    tun: TunOptions = field(factory=TunOptions)

    def check(self) -> None:
        """What ties fields together. Errors: InvalidParams with the place of the fault."""
        _unique("addresses", [a.address for a in self.addresses])
        _unique("endpoints", self.endpoints)
        for index, address in enumerate(self.addresses):
            if address.family == 6 and self.mtu < MIN_MTU_V6:
                raise InvalidParams(
                    "$.mtu", f"an IPv6 address ({address}) needs an MTU of at least {MIN_MTU_V6}"
                )
            if any(address.address == e.address for e in self.endpoints):
                raise InvalidParams(f"$.addresses[{index}]", f"{address} is an endpoint as well")
        for family in FAMILIES:
            if self.has(family):
                continue
            for net in self.routes.family(family):
                raise InvalidParams(
                    "$.routes", f"{net} needs an IPv{family} address in `addresses`, or stands in `block`"
                )
        if self.dns is None:
            return
        for field_ in ("servers", "search", "match"):
            _unique(f"dns.{field_}", getattr(self.dns, field_))
        endpoints = {e.address for e in self.endpoints}
        for index, server in enumerate(self.dns.servers):
            place = f"$.dns.servers[{index}]"
            if server.address in endpoints:
                raise InvalidParams(place, f"{server} is an endpoint: it can't be inside the tunnel")
            if not self.has(server.host.family):
                raise InvalidParams(
                    place, f"{server} needs an IPv{server.host.family} address in `addresses`"
                )

    def has(self, family: Family) -> bool:
        """Whether the tunnel has an address of the family."""
        return any(a.family == family for a in self.addresses)

    def everything(self, family: Family) -> bool:
        """Whether routes and blocks together take all of the family."""
        routes, block = self.routes.packed(family), self.block.packed(family)
        if not block:
            return covers_family(routes, family)
        return covers_family(self.routes.union(self.block).packed(family), family)

    def prefixes(self) -> Networks:
        """The networks that the interface's addresses claim."""
        return Networks.of(a.network for a in self.addresses)

    def servers(self) -> tuple[Server, ...]:
        return self.dns.servers if self.dns else ()

    def capabilities(self) -> Iterator[str]:
        """What a helper must be able to do for this spec (names as in `session.hello`)."""
        asked = {
            "tun.queues": self.tun.queues > 1,
            "tun.vnet_hdr": self.tun.vnet_hdr,
            "tun.packet_info": self.tun.packet_info,
            "block": bool(self.block),
            "dns": self.dns is not None,
            "dns.split": self.dns is not None and bool(self.dns.match),
            "lockdown": self.lockdown.enabled,
            "lockdown.persist": self.lockdown.enabled and self.lockdown.persist,
            "confirm": self.confirm_within_s is not None,
        }
        return (name for name, wanted in asked.items() if wanted)

    def with_routes(self, routes: Networks) -> Spec:
        return evolve(self, routes=routes)

    def to_json(self) -> dict[str, Any]:
        """As the client wrote it, networks in order; long lists end after SHOWN_NETWORKS."""
        return {
            "name": self.name,
            "addresses": [str(a) for a in self.addresses],
            "mtu": self.mtu,
            "routes": self.routes.first(SHOWN_NETWORKS),
            "exclude": self.exclude.first(SHOWN_NETWORKS),
            "endpoints": [e.to_json() for e in self.endpoints],
            "block": self.block.first(len(self.block)),
            "dns": self.dns.to_json() if self.dns else None,
            "lockdown": self.lockdown.to_json(),
            "linger_s": self.linger_s,
            "confirm_within_s": self.confirm_within_s,
            "tun": self.tun.to_json(),
        }


def _unique(name: str, values: Iterable[object]) -> None:
    seen: dict[object, int] = {}
    for index, value in enumerate(values):
        if seen.setdefault(value, index) != index:
            raise InvalidParams(f"$.{name}[{index}]", f"the same as [{seen[value]}]")


# How msgspec's decoding hook makes each of these from a JSON value.
PARSERS: Final = {
    InterfaceAddress: InterfaceAddress.parse,
    Endpoint: Endpoint.parse,
    Server: Server.parse,
    Domain: Domain.parse,
    Network: lambda value: _network(value),
    Networks: lambda value: _networks(value),
}


def _network(value: object) -> Network:
    if type(value) is not str:
        raise InvalidParams("$", "expected a text such as 10.0.0.0/8")
    return parse_network(value)


def _networks(value: object) -> Networks:
    if not isinstance(value, list):
        raise InvalidParams("$", "expected a list of networks")
    return Networks.parse(value)

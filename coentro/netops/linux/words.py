"""A change in words, near to what `ip` would show of it. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from socket import inet_ntop
from typing import Any, Final

from coentro.netops.interface import Described
from coentro.netops.linux.desired import Address, Floor, Ipv6, Link, LinkSettings, Rule, Table, Up
from coentro.netops.linux.routes import KIND_NAMES, LAST_METRIC, UNICAST
from coentro.networks import AF, SIZE, Network
from coentro.plan import Change, Op, Packed

SHOWN: Final = 20
NameOf = Callable[[str | None], str | None]


def describe(change: Change, name_of: NameOf) -> Described:
    """`name_of` gives the name of a tunnel's device, None where there is none yet."""
    key = change.key
    count = 1
    match key:
        case Link():
            op, texts = f"link.{change.op.value}", iter([_link(change, name_of(key.tunnel))])
        case Ipv6():
            switch = "off" if change.op is Op.DELETE else "on"
            op, texts = "link.set", iter([f"{_device(name_of(key.tunnel))} ipv6 {switch}"])
        case Up():
            op = "link.down" if change.op is Op.DELETE else "link.up"
            texts = iter([_device(name_of(key.tunnel))])
        case Address():
            address = f"{inet_ntop(AF[key.family], key.address)}/{key.length}"
            op, texts = f"address.{change.op.value}", iter([f"{address}{_dev(name_of(key.tunnel))}"])
        case Table():
            packed = change.old if change.op is Op.DELETE else change.new
            count = len(packed)
            op, texts = f"route.{change.op.value}", _routes(key, packed, name_of(key.tunnel))
        case Floor():
            everything = Network(bytes(SIZE[key.family]), 0)
            text = f"unreachable {everything} table {key.number:#x} metric {LAST_METRIC}"
            op, texts = f"route.{change.op.value}", iter([text])
        case Rule():
            text = f"{key.priority}: from all lookup {key.table:#x} (IPv{key.family})"
            op, texts = f"rule.{change.op.value}", iter([text])
        case _:
            raise TypeError(f"no object of a Linux host: {key!r}")
    return Described(op, count, tuple(islice(texts, SHOWN)))


def step(change: Change, name_of: NameOf) -> str:
    """The change, or the first of its objects, as one name for an error."""
    told = describe(change, name_of)
    return f"{told.op} {told.first[0]}"


def _link(change: Change, name: str | None) -> str:
    settings: Any = change.new
    if not isinstance(settings, LinkSettings):
        return _device(name)
    words = [_device(name), f"mtu {settings.mtu}"]
    if change.op is Op.ADD:
        words += [f"queues {settings.queues}"] if settings.queues > 1 else []
        words += ["vnet_hdr"] if settings.vnet_hdr else []
        words += ["packet_info"] if settings.packet_info else []
    return " ".join(words)


def _routes(key: Table, packed: Packed, name: str | None) -> Iterator[str]:
    for entry in packed.entries():
        network, kind = Network(entry[:-2], entry[-2]), entry[-1]
        if kind == UNICAST:
            yield f"{network}{_dev(name)} table {key.number:#x}"
        else:
            yield f"{KIND_NAMES[kind]} {network} table {key.number:#x}"


def _device(name: str | None) -> str:
    return name or "the new TUN device"


def _dev(name: str | None) -> str:
    return f" dev {name}" if name else ""

"""The pure part of making or amending a tunnel: the name it gets, the routes it has then."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import count

from coentro.errors import InvalidParams
from coentro.model import Spec
from coentro.networks import Networks


def made_up(names: Iterable[str]) -> str:
    """A name that none of these is."""
    taken = set(names)
    return next(name for n in count() if (name := f"vpn{n}") not in taken)


def rerouted(spec: Spec, add: Networks, remove: Networks) -> Spec:
    """The spec with routes added and removed. Errors: InvalidParams, as the protocol says."""
    known = spec.routes
    # Whole sets first: of a thousand networks it is almost never one that must be named.
    if len(fresh := add.minus(known)) < len(add):
        raise InvalidParams("$.add", f"{add.minus(fresh).first(1)[0]} is a route of the tunnel already")
    for net in remove.minus(known):
        if len(add.minus(Networks.of([net]))) < len(add):
            raise InvalidParams("$.remove", f"{net} stands in `add` as well")
        raise InvalidParams("$.remove", f"{net} is no route of the tunnel")
    return spec.with_routes(known.minus(remove).union(add))

"""What `run` does differently for one engine, and the generic one, for which it does nothing.

A preset is made from the order before the tunnel exists, may change the spec that is sent, says
how the engine is started once there is a device, and speaks with it until it is ready. All that
it opened is closed by `close`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol

from coentro.engines.confinement import Confinement
from coentro.engines.identity import Identity


class EngineFault(Exception):
    """One sentence, and perhaps what helps. `usage`: a fault of what the user wrote."""

    def __init__(self, message: str, hint: str | None = None, *, usage: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.usage = usage


class HasFileno(Protocol):
    def fileno(self) -> int: ...


Wait = Callable[[Sequence[HasFileno], float], None]
"""Until one of these can be read or seconds are over. Whatever ends the engine's start raises here."""


class Order(NamedTuple):
    """What was asked for. `engine`: the profile's [engine]; `say`: one line for people."""

    command: tuple[str, ...]
    profile: str
    spec: Mapping[str, Any]
    engine: Mapping[str, Any]
    identity: Identity
    environ: Mapping[str, str]
    say: Callable[[str], None]


class Device(NamedTuple):
    """The tunnel's device. `stats`: its counters, as in a tunnel's info."""

    name: str
    ifindex: int
    mtu: int
    addresses: tuple[str, ...]
    descriptors: tuple[int, ...]
    stats: Callable[[], Mapping[str, int]]


class Launch(NamedTuple):
    """How the engine is started. `environ` comes on top of the order's."""

    argv: tuple[str, ...]
    environ: Mapping[str, str]
    descriptors: tuple[int, ...]
    confinement: Confinement = Confinement()


class Preset:
    """The generic engine: a descriptor in COENTRO_TUN_FD, and it is left alone with it."""

    name: ClassVar = "generic"
    silent: ClassVar = True
    """Whether only its packets can show that it uses its descriptor."""

    def __init__(self, order: Order) -> None:
        self.order = order
        if type(self) is Preset and "config" in order.engine:
            raise EngineFault(
                f"{order.profile}: engine.config: the engine `generic` has none that could be sent",
                "name another with [engine] name, or --engine",
                usage=True,
            )

    def spec(self) -> Mapping[str, Any]:
        """What the helper is sent. Errors: EngineFault."""
        return self.order.spec

    def launch(self, device: Device) -> Launch:
        """Errors: EngineFault."""
        return Launch(self.order.command, {}, device.descriptors)

    def begin(self, device: Device, wait: Wait) -> None:
        """Make the engine ready, once it runs. Errors: EngineFault, and what `wait` raises."""

    def close(self) -> None:
        """Close and remove what this made, however it ended. Twice is as good as once."""

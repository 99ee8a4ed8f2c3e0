"""A tunnel as its client holds it: what the helper says of it, and its descriptors."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any


class Held:
    """`info` is T of docs/protocol.md as of the answer that made this; `fds` are ours to close."""

    def __init__(self, info: dict[str, Any], fds: list[int], lease: str | None) -> None:
        self.info = info
        self.fds = fds
        self.lease = lease

    @property
    def id(self) -> str:
        return str(self.info["id"])

    @property
    def name(self) -> str:
        return str(self.info["name"])

    @property
    def interface(self) -> str:
        """The device's name, such as coentro0 or utun4."""
        return str(self.info["interface"]["name"])

    def take_fds(self) -> list[int]:
        """The descriptors, now the caller's: closing the tunnel leaves them open."""
        fds, self.fds = self.fds, []
        return fds

    def close_fds(self) -> None:
        for fd in self.take_fds():
            os.close(fd)


def given(**params: Any) -> Mapping[str, Any]:
    """Those params that are not None."""
    return {name: value for name, value in params.items() if value is not None}

"""A tunnel of a profile, held open by this process: what `up` and `run` have in common."""

from __future__ import annotations

import os
from types import TracebackType
from typing import Any, Final, Self

from coentro.client.errors import HelperError, HelperGone
from coentro.client.plain import Client
from coentro.ctl import faults, shown
from coentro.ctl.faults import Fault
from coentro.ctl.profile import Profile

DESTROYED: Final = "destroyed"  # the helper's word for an end that somebody asked for
_NOT_FOUND: Final = -32002


class Opened:
    """The tunnel while its connection lives. Leaving the `with` ends the tunnel."""

    def __init__(self, client: Client, profile: Profile) -> None:
        """Errors: Fault, with the place in the profile where the helper names one."""
        self._client = client
        self.descriptors: list[int] = []
        self.why_down: str | None = None
        self.left: list[str] = []
        self.lost = False
        # Before the tunnel is there, so that its end can't be missed.
        client.subscribe(["tunnel.down"])
        try:
            self.info, self.descriptors = client.call_with_fds("tunnel.create", profile.spec)
        except HelperError as error:
            raise faults.of(error, profile.path) from None
        if not self.descriptors:
            raise Fault("the helper made the tunnel but sent no descriptor with it", faults.REFUSED)

    @property
    def name(self) -> str:
        return shown.plain(self.info["name"])

    def line(self) -> str:
        """One line of what came up."""
        device = self.info["interface"]
        routes = shown.count(self.info["routes"]["total"], "route")
        addresses = ", ".join(device["addresses"])
        return shown.plain(f"{self.name} is up: {device['name']}, {addresses}, MTU {device['mtu']}, {routes}")

    def ended(self) -> str | None:
        """Why the tunnel is gone, or None while it stands. Never waits."""
        try:
            while self.why_down is None and (event := self._client.next_event(0)) is not None:
                data = event.get("data") or {}
                if event.get("type") == "tunnel.down" and data.get("id") == self.info["id"]:
                    self.why_down = shown.plain(data.get("why") or "no reason given")
                    self.left = [shown.plain(one) for one in data.get("left") or ()]
        except HelperGone:
            self.lost = True
            self.why_down = "the helper has gone away"
        return self.why_down

    def stats(self) -> dict[str, int]:
        """The device's counters as they are now. Errors: HelperError, HelperGone."""
        found: dict[str, int] = self._client.call("tunnel.get", {"id": self.info["id"]})["stats"]
        return found

    def last_line(self) -> str:
        """One line of why it ended, and what of it could not be taken down."""
        left = f" (left: {', '.join(self.left)})" if self.left else ""
        return f"{self.name} is down: {self.why_down}{left}"

    def destroyed(self) -> bool:
        return self.why_down == DESTROYED

    def close_descriptors(self) -> None:
        """The device then lives by the helper's copies and those of whoever inherited ours."""
        while self.descriptors:
            os.close(self.descriptors.pop())

    def destroy(self) -> None:
        """End the tunnel, unless it has ended. Errors: HelperError, HelperGone."""
        self.close_descriptors()
        if self.ended() is not None:
            return
        try:
            self._client.call("tunnel.destroy", {"id": self.info["id"]})
        except HelperError as error:
            if error.code != _NOT_FOUND:
                raise
        self.why_down = DESTROYED

    def fileno(self) -> int:
        return self._client.fileno()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close_descriptors()

    def environment(self) -> dict[str, str]:
        """What an engine needs to know (docs/protocol.md, "Command line")."""
        told: dict[str, Any] = {
            "COENTRO_TUN_FD": self.descriptors[0],
            "COENTRO_TUN_NAME": self.info["interface"]["name"],
            "COENTRO_TUN_MTU": self.info["interface"]["mtu"],
            "COENTRO_PACKET_HEADER_BYTES": self.info["packet_header_bytes"],
        }
        if len(self.descriptors) > 1:
            told["COENTRO_TUN_FDS"] = ",".join(map(str, self.descriptors))
        return {name: str(value) for name, value in told.items()}

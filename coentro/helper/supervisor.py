"""The supervisor: one task that hears what the system says and has the tunnels looked after.

Whatever is heard is a hint: the manager looks at the host itself before it acts. Now it hears
of devices that go; sleep, wake and network changes join it here.
"""

from __future__ import annotations

import logging

from coentro.netops.interface import NetworkOps
from coentro.tunnels.manager import Manager

log = logging.getLogger("coentro.supervisor")


async def supervise(network: NetworkOps, manager: Manager) -> None:
    """Run until cancelled."""
    async for event in network.events():
        log.debug("heard: %s %s", event.kind, dict(event.detail))
        if event.kind == "link-gone":
            await manager.lost(event)

"""Events: the last 1,024 things that happened, and who hears of them.

Each has a number within this run of the helper. A subscriber that comes back says how far it
had heard and gets the rest; if that is too long ago, or was another helper's run, it is told
that something is lost rather than being left to believe that nothing happened.
"""

from __future__ import annotations

import secrets
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from attrs import frozen

from coentro.clock import rfc3339

KEPT: Final = 1024

TYPES: Final = (
    "tunnel.up",
    "tunnel.down",
    "tunnel.changed",
    "tunnel.drift",
    "tunnel.repaired",
    "tunnel.degraded",
    "dns.changed",
    "lockdown.changed",
    "network.changed",
    "network.offline",
    "network.online",
    "power.sleep",
    "power.wake",
    "peer.connected",
    "peer.refused",
    "peer.gone",
    "helper.stopping",
)


@frozen
class Event:
    """`uid`: whose it is, for their eyes and an admin's; None: everyone's."""

    seq: int
    time: str
    type: str
    data: Mapping[str, Any]
    uid: int | None = None


@frozen(eq=False)
class Subscription:
    """Who hears: `sees` decides by the event's uid, `push` takes it without blocking."""

    types: frozenset[str] | None
    sees: Callable[[int | None], bool]
    push: Callable[[dict[str, Any]], None]


class Events:
    """The ring of one run, and its subscribers. `seq` is the number of the last event."""

    def __init__(self) -> None:
        self.run = secrets.token_hex(8)
        self.seq = 0
        self._ring: deque[Event] = deque(maxlen=KEPT)
        self._subscribers: set[Subscription] = set()

    def tell(self, type_: str, data: Mapping[str, Any], uid: int | None = None) -> None:
        self.seq += 1
        event = Event(self.seq, rfc3339(time.time()), type_, data, uid)
        self._ring.append(event)
        for subscriber in list(self._subscribers):
            if self._concerns(event, subscriber):
                subscriber.push(self.params(event))

    def params(self, event: Event) -> dict[str, Any]:
        """The `params` of the notification."""
        return {
            "run": self.run,
            "seq": event.seq,
            "time": event.time,
            "type": event.type,
            "data": dict(event.data),
        }

    def lost(self, count: int | None) -> dict[str, Any]:
        """What is said in place of events that can't be told."""
        event = Event(self.seq, rfc3339(time.time()), "event.lost", {"count": count})
        return self.params(event)

    def subscribe(self, subscription: Subscription) -> None:
        self._subscribers.add(subscription)

    def unsubscribe(self, subscription: Subscription) -> None:
        self._subscribers.discard(subscription)

    def replay(self, subscription: Subscription, run: str, seq: int) -> Iterator[dict[str, Any]]:
        """What happened after `seq` of `run`; begins with `event.lost` if not all is known."""
        oldest = self._ring[0].seq if self._ring else self.seq + 1
        if run != self.run or seq + 1 < oldest or seq > self.seq:
            yield self.lost(None)
            seq = 0
        for event in list(self._ring):
            if event.seq > seq and self._concerns(event, subscription):
                yield self.params(event)

    def _concerns(self, event: Event, subscription: Subscription) -> bool:
        wanted = subscription.types is None or event.type in subscription.types
        return wanted and subscription.sees(event.uid)

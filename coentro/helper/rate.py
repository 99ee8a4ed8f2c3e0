"""How fast one uid may ask: a token bucket, so that a burst is fine and a flood is not."""

from __future__ import annotations

from collections.abc import Callable

from attrs import define, frozen

from coentro.errors import Limit


@define
class Bucket:
    level: float
    at: float


@frozen
class Rate:
    """Token buckets by uid. `per_s` requests a second, after a burst of `burst`."""

    per_s: float
    burst: float
    now: Callable[[], float]
    buckets: dict[int, Bucket]

    @classmethod
    def of(cls, per_s: float, burst: float, now: Callable[[], float]) -> Rate:
        return cls(per_s, burst, now, {})

    def take(self, uid: int) -> None:
        """Account for one request. Errors: Limit, with when to come again."""
        now = self.now()
        bucket = self.buckets.get(uid)
        if bucket is None:
            # A full bucket says nothing that a new one wouldn't: forget those first.
            if len(self.buckets) >= 1024:
                for other in [u for u, b in self.buckets.items() if self._level(b, now) >= self.burst]:
                    del self.buckets[other]
            bucket = self.buckets[uid] = Bucket(self.burst, now)
        level = self._level(bucket, now)
        bucket.at = now
        bucket.level = level
        if level < 1:
            wait = (1 - level) / self.per_s
            raise Limit(f"more than {self.per_s:g} requests a second", retry_after_s=round(wait, 3))
        bucket.level = level - 1

    def _level(self, bucket: Bucket, now: float) -> float:
        return min(self.burst, bucket.level + (now - bucket.at) * self.per_s)

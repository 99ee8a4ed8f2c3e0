"""A burst passes, a flood does not, and one uid's flood is not another's."""

from __future__ import annotations

import pytest

from coentro.errors import Limit
from coentro.helper.rate import Rate


class Time:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_burst_passes_and_then_the_rate_holds() -> None:
    time = Time()
    rate = Rate.of(10, 3, time)
    for _ in range(3):
        rate.take(1000)
    with pytest.raises(Limit) as refused:
        rate.take(1000)
    assert refused.value.data["retry_after_s"] == pytest.approx(0.1)
    time.now = 0.1
    rate.take(1000)
    with pytest.raises(Limit):
        rate.take(1000)


def test_one_uid_can_not_use_up_anothers() -> None:
    rate = Rate.of(1, 1, Time())
    rate.take(1000)
    rate.take(1001)
    with pytest.raises(Limit):
        rate.take(1000)


def test_waiting_longer_gives_no_more_than_the_burst() -> None:
    time = Time()
    rate = Rate.of(10, 2, time)
    rate.take(1000)
    time.now = 3600
    rate.take(1000)
    rate.take(1000)
    with pytest.raises(Limit):
        rate.take(1000)


def test_buckets_of_uids_that_are_quiet_are_forgotten() -> None:
    time = Time()
    rate = Rate.of(10, 2, time)
    for uid in range(1024):
        rate.take(uid)
    time.now = 60
    rate.take(5000)
    assert len(rate.buckets) == 1

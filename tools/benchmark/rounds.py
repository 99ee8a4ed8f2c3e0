"""Rounds: both sides one after the other, again and again, so that a busy moment meets both."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import Any

from tools.benchmark.rows import Result

Measure = Callable[[], float]


def ratios(row: str, rounds: int, ours: Measure, theirs: Measure, *, unit: str = "s") -> Result:
    """The ratio of each round; whose turn is first alternates."""
    sides: list[tuple[float, float]] = []
    for number in range(rounds):
        if number % 2:
            second = theirs()
            sides.append((ours(), second))
        else:
            sides.append((ours(), theirs()))
    return of_pairs(row, sides, unit=unit)


def of_pairs(row: str, sides: list[tuple[float, float]], *, unit: str = "s") -> Result:
    """From (ours, theirs) of each round."""
    detail: dict[str, Any] = {
        f"ours_{unit}": median(ours for ours, _ in sides),
        f"theirs_{unit}": median(theirs for _, theirs in sides),
    }
    return Result(row, [ours / theirs for ours, theirs in sides], detail)

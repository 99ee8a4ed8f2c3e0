"""What is measured: each piece of work, what it is held against, what is aimed at and required."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any, Final

from attrs import field, frozen


@frozen
class Row:
    """`unit` empty: the figure is a ratio to `against`. `more`: more is better."""

    name: str
    work: str
    against: str
    aim: float
    required: float
    unit: str = ""
    more: bool = False

    def reaches(self, figure: float, bound: float) -> bool:
        return figure >= bound if self.more else figure <= bound

    def text(self, figure: float) -> str:
        return f"{figure:.3g} {self.unit}" if self.unit else f"{figure:.3g}"


ROWS: Final = (
    Row("create", "tunnel.create with 100,000 v4 routes, whole call", "ip -batch for the same", 0.33, 0.5),
    Row("destroy", "its destroy", "the same", 0.05, 0.1),
    Row("create-v6", "10,000 v6 routes", "the same", 0.4, 0.6),
    Row("update", "update of 1,000 among 100,000", "create of 1,000", 2, 4),
    Row("ping-meanwhile", "another client's ping meanwhile, worst", "-", 20, 50, "ms"),
    Row("memory-meanwhile", "helper's peak memory meanwhile", "-", 100, 150, "MiB"),
    Row("up-down", "up + down of one tunnel", "wg-quick with wireguard-go", 0.5, 1),
    Row("up-down-many", "up + down of 1,000 networks", "wg-quick with wireguard-go", 0.02, 0.05),
    Row("ping", "session.ping with all checks, sequential", "a raw trio echo", 1.5, 2),
    Row("pipelined", "pipelined calls a second", "Go's net/rpc/jsonrpc", 1, 0.7, more=True),
    Row("start", "start to first answer", "python -I -c 'import trio'", 1.8, 2.3),
    Row("status", "coentroctl status --output json", "a bare interpreter", 3, 4),
    Row("idle-connection", "idle connection", "-", 5, 10, "KiB"),
    Row("idle-helper", "idle helper", "-", 30, 40, "MiB"),
)


@frozen
class Result:
    """One row's rounds. `why`: why there are none, such as a peer that is not installed."""

    row: str
    rounds: list[float] = field(factory=list)
    detail: dict[str, Any] = field(factory=dict)
    """What stands behind the ratio, such as both sides' medians with their units."""
    why: str | None = None


def verdict(row: Row, result: Result, short: bool) -> str:
    if result.why is not None:
        return f"skipped: {result.why}"
    if short:
        return "not judged: short"
    figure = median(result.rounds)
    if row.reaches(figure, row.aim):
        return "as aimed"
    if row.reaches(figure, row.required):
        return "as required"
    return f"MISSED, {abs(figure / row.required - 1):.0%} off"


def as_json(row: Row, result: Result, short: bool) -> dict[str, Any]:
    return {
        "name": row.name,
        "work": row.work,
        "against": row.against,
        "unit": row.unit or "ratio",
        "figure": median(result.rounds) if result.rounds else None,
        "aim": row.aim,
        "required": row.required,
        "more_is_better": row.more,
        "verdict": verdict(row, result, short),
        "rounds": result.rounds,
        "detail": result.detail,
    }


def table(lines: Sequence[dict[str, Any]]) -> Iterable[str]:
    """The rows as columns; `figure` and bounds in the row's unit."""
    rows = {row.name: row for row in ROWS}
    cells = [("work", "against", "ratio", "aim", "required", "verdict")]
    for line in lines:
        row = rows[line["name"]]
        figure = "-" if line["figure"] is None else row.text(line["figure"])
        bounds = (row.text(row.aim), row.text(row.required))
        cells.append((row.work, row.against, figure, *bounds, line["verdict"]))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for cell in cells:
        yield "  ".join(text.ljust(width) for text, width in zip(cell, widths, strict=True)).rstrip()

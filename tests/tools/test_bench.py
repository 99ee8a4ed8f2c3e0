"""The benchmark works, every time that the tests run; what it measures is nobody's concern here."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tools.benchmark.growth import exponent
from tools.benchmark.rows import ROWS, Result, verdict

PROJECT = Path(__file__).parent.parent.parent


@pytest.mark.skipif(sys.platform != "linux", reason="it measures in Linux's namespaces")
def test_the_short_form_has_a_figure_for_every_row(tmp_path: Path) -> None:
    told = tmp_path / "figures.json"
    argv = [sys.executable, "-m", "tools.benchmark", "--short", "--json", str(told)]
    # `go` and `wg-quick` may stand there, and the build of Go's server must not fill anyone's cache.
    done = subprocess.run(argv, cwd=PROJECT, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode == 77:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stdout + done.stderr
    whole = json.loads(told.read_text())
    assert [row["name"] for row in whole["rows"]] == [row.name for row in ROWS]
    peers = {"up-down": "wg-quick", "up-down-many": "wg-quick", "pipelined": "go"}
    for row in whole["rows"]:
        if row["figure"] is None:
            assert "not installed" in row["verdict"]
            assert row["name"] in peers
        else:
            assert row["figure"] > 0
            assert len(row["rounds"]) >= 1
            assert row["verdict"] == "not judged: short"
        peer = peers.get(row["name"])
        if peer == "go" and shutil.which(peer) is not None:
            assert row["figure"] is not None
    printed = done.stdout.splitlines()
    assert len(printed) == 1 + len(ROWS)
    assert printed[0].split() == ["work", "against", "ratio", "aim", "required", "verdict"]
    assert "coentro0" not in os.listdir("/sys/class/net")


def test_a_verdict_says_which_bound_is_reached() -> None:
    rows = {row.name: row for row in ROWS}
    for name, figure, expected in (
        ("create", 0.33, "as aimed"),
        ("create", 0.5, "as required"),
        ("create", 0.6, "MISSED, 20% off"),
        ("pipelined", 1.0, "as aimed"),
        ("pipelined", 0.7, "as required"),
        ("pipelined", 0.35, "MISSED, 50% off"),
    ):
        assert verdict(rows[name], Result(name, [figure]), short=False) == expected
    skipped = Result("pipelined", why="go is not installed")
    assert verdict(rows["pipelined"], skipped, short=False) == "skipped: go is not installed"


def test_an_exponent_is_that_of_the_power_law() -> None:
    assert exponent({10: 3.0, 1000: 3.0}) == pytest.approx(0)
    assert exponent({n: 0.5 * n**1.5 for n in (1, 8, 64)}) == pytest.approx(1.5)

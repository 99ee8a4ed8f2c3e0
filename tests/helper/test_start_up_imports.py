"""What the daemon imports before it answers is counted: a heavy module must be meant."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = {
    "cattrs",
    "coentro.helper.document",
    "coentro.helper.examples",
    "coentro.helper.parameters",
    "coentro.helper.payloads",
    "coentro.helper.results",
    "coentro.wire.openrpc",
    "coentro.wire.schema",
    "difflib",
    "hypothesis",
    "jeepney",
    "pyroute2",
    "pytest",
    "rich",
    "sqlite3",
    "structlog",
    "tomllib",
    "trio.testing",
    "unittest",
}


def imported(code: str) -> set[str]:
    # jsonrpcserver's own import warns of importlib.resources on 3.11.
    argv = [sys.executable, "-W", "ignore", "-c", f"import sys\n{code}\nprint(*sys.modules)"]
    return set(subprocess.run(argv, check=True, capture_output=True, text=True, timeout=60).stdout.split())


@pytest.mark.skipif(sys.platform != "linux", reason="the daemon's network ops are Linux's in this version")
def test_the_daemon_starts_without_what_it_may_never_need() -> None:
    modules = imported("import coentro.helper.main, coentro.helper.single, coentro.netops.linux.network")
    assert modules & HEAVY == set()
    assert {"trio", "msgspec", "jsonrpcserver"} <= modules


def test_coentroctl_starts_with_the_standard_library_alone() -> None:
    modules = imported("import coentro.ctl.main")
    assert modules & (HEAVY | {"trio", "msgspec", "attr", "attrs", "jsonrpcserver", "asyncio"}) == set()

"""What a start loads is time that everyone waits, so it is counted here."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests import sandbox


def loaded(module: str) -> set[str]:
    """All modules of a fresh interpreter that imported this one."""
    code = f"import sys, {module}; print(*sorted(sys.modules), sep='\\n')"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        env={**os.environ, "PYTHONPATH": sandbox.PYTHONPATH},
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    return set(done.stdout.split())


@pytest.mark.parametrize("module", ["coentro.client", "coentro.client.plain", "coentro.wire.lines"])
def test_a_plain_client_needs_the_standard_library_alone(module: str) -> None:
    assert loaded(module).isdisjoint(
        {"trio", "msgspec", "attr", "attrs", "jsonrpcserver", "pyroute2", "asyncio"}
    )


def test_the_command_line_tool_loads_no_trio() -> None:
    assert loaded("coentro.ctl.main").isdisjoint({"trio", "msgspec", "jsonrpcserver", "pyroute2", "asyncio"})


@pytest.mark.skipif(sys.platform != "linux", reason="trio itself is another on each platform")
def test_the_helper_loads_nothing_that_it_does_not_use_at_once() -> None:
    unwanted = {"pyroute2", "trio.testing", "tomllib", "difflib", "coentro.helper.locate"}
    assert unwanted.isdisjoint(loaded("coentro.helper.main"))


@pytest.mark.parametrize("module", ["coentro.plan", "coentro.model"])
def test_what_is_pure_loads_no_event_loop(module: str) -> None:
    assert loaded(module).isdisjoint({"trio", "asyncio", "subprocess", "coentro.netops"})

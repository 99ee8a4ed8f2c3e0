"""The demo holds, every time that the tests run; it makes its own namespaces."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parent.parent.parent


@pytest.mark.skipif(sys.platform != "linux", reason="the demo is made of Linux's namespaces")
def test_the_demo_holds() -> None:
    argv = [sys.executable, "-m", "tools.demo"]
    done = subprocess.run(argv, cwd=PROJECT, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode == 77:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stdout + done.stderr
    assert "into the tunnel" in done.stdout

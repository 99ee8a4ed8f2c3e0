"""What tests of the whole helper share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.netns.linux_host import lan
from tests.sandbox import Helper, run_helper


@pytest.fixture
def helper(tmp_path: Path) -> Iterator[Helper]:
    """The helper with its defaults, on a host with an uplink."""
    lan()
    with run_helper(tmp_path) as started:
        yield started

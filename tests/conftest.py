"""Tests marked `netns`, and all under tests/netns/, run in a process and a network of their own.

See tests/forked.py for how, tests/sandbox.py for what such a test has at hand.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests import enclosure, forked, sandbox

# tools/check asks for two of these by name. With CI set hypothesis takes its own "ci", which repeats itself.
settings.register_profile("default", deadline=None)
settings.register_profile("more", deadline=None, max_examples=500)
settings.register_profile("long", deadline=None, max_examples=5000)
if "CI" not in os.environ:
    settings.load_profile("default")

_NETNS = Path(__file__).parent / "netns"
_refusal = pytest.StashKey[str]()


def pytest_configure(config: pytest.Config) -> None:
    os.environ["PATH"] += ":/usr/sbin:/sbin"  # ip(8) and sysctl(8) live there, and Debian's users lack it
    config.addinivalue_line("markers", "netns: runs in a forked process with a network of its own")
    config.addinivalue_line("markers", "limit(seconds): the time a netns test may take (60)")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _NETNS in item.path.parents:
            item.add_marker(pytest.mark.netns)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> bool | None:
    if item.get_closest_marker("netns") is None:
        return None
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    refusal = item.config.stash.get(_refusal, None)
    if sys.platform != "linux":
        refusal = "network namespaces are Linux's: run it there, as root or with user namespaces"
    try:
        reports = [forked.skipped(item, refusal)] if refusal else forked.run(item)
    except enclosure.Refused as fault:
        if (
            os.environ.get("COENTRO_NAMESPACES") == "required"
        ):  # tools/test, as root: a skip would say nothing
            reports = [forked.failed(item, str(fault))]
        else:
            item.config.stash[_refusal] = str(fault)
            reports = [forked.skipped(item, str(fault))]
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


@pytest.fixture
def two_uids() -> tuple[int, int]:
    """Two uids (and gids of the same numbers) that are neither root nor each other."""
    try:
        return sandbox.two_uids()
    except sandbox.Missing as missing:
        pytest.skip(str(missing))


@pytest.fixture
def tun_available() -> None:
    """Skips where no TUN can be made."""
    try:
        sandbox.check_tun()
    except sandbox.Missing as missing:
        pytest.skip(str(missing))


@pytest.fixture
def namespaces() -> Iterator[sandbox.Namespaces]:
    """Makes further network namespaces, `namespaces.new("router")`, and removes them."""
    with sandbox.Namespaces() as made:
        yield made

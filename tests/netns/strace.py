"""A system call of the running helper that fails, stops it or kills it, by strace's injection.

strace attaches to the process and tampers with the n-th call of a kind on one descriptor, known by
what it leads to (`socket:[…]`, a path); see strace(1), "Tampering". It counts for each thread of its
own, so a helper that has just changed threads may be hit twice: `hits` says.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from attrs import frozen

from tests.netns.peers import PATIENCE_S, descriptors
from tests.sandbox import Helper

_LOG: Final = Path("/run/strace.log")
_NETLINK: Final = Path("/proc/net/netlink")


@frozen
class Tampering:
    """What strace saw; complete once the block is over."""

    log: Path

    @property
    def calls(self) -> list[str]:
        """All calls of that kind on that descriptor, in words."""
        return [line for line in self.log.read_text().splitlines() if "(" in line]

    @property
    def hits(self) -> list[str]:
        """Those that were tampered with."""
        return [line for line in self.calls if "INJECTED" in line]


@contextmanager
def tampered(helper: Helper, where: str, call: str, fault: str, *options: str) -> Iterator[Tampering]:
    """For the block: `fault` is strace's, such as `error=EPERM:when=3`, `signal=KILL:when=5`, or nothing."""
    inject = f"inject={call}:{fault}" if fault else f"trace={call}"
    _LOG.unlink(missing_ok=True)
    argv = ["strace", "-f", "-o", str(_LOG), "-P", where, "-e", f"trace={call}", "-e", inject]
    tracer = subprocess.Popen(
        [*argv, *options, "-p", str(helper.pid)], stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True
    )
    assert tracer.stderr is not None
    with tracer, tracer.stderr as told:
        try:
            first = told.readline()
            while "ttached" not in first:
                assert first, "strace ended before it was attached"
                first = told.readline()
            yield Tampering(_LOG)
        finally:
            tracer.terminate()  # it lets go of the process
            tracer.wait(PATIENCE_S)


def netlink_sockets(helper: Helper) -> list[str]:
    """In the order in which it opened them: what changes the host, what reads it, what listens."""
    inodes = {line.split()[-1] for line in _NETLINK.read_text().splitlines()[1:]}
    there = sorted(descriptors(helper.pid).items())
    return [to for _, to in there if to.removeprefix("socket:[").rstrip("]") in inodes]

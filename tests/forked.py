"""One test in a process and a network of its own, so that no test can touch the machine's.

The test's process is forked before it has any thread (unshare(2) refuses a user namespace to
one that has), runs the test as pytest would, and sends the reports back. Above it stands the
first process of a pid namespace: when that ends the kernel kills whatever the test left running.
The way of pytest-forked, with namespaces and a time limit.

    pytest ── outer (new user, net, mount namespaces) ── init (pid 1) ── test
"""

from __future__ import annotations

import faulthandler
import json
import os
import selectors
import signal
import socket
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final, Literal, NoReturn

import pytest
from _pytest.runner import runtestprotocol
from attrs import frozen

from tests import enclosure

LIMIT_S: Final = 60.0

Message = dict[str, Any]


def run(item: pytest.Item) -> list[pytest.TestReport]:
    """The reports of a test that ran in namespaces of its own, whatever became of it.

    Errors: enclosure.Refused where this machine does not allow namespaces.
    """
    marker = item.get_closest_marker("limit")
    limit_s = float(marker.args[0]) if marker else LIMIT_S
    # A child starts from nothing: what earlier tests of wider scope set up would be torn down twice.
    taken_down = pytest.CallInfo.from_call(
        lambda: item.session._setupstate.teardown_exact(None), when="setup"
    )
    if taken_down.excinfo is not None:
        return [item.ihook.pytest_runtest_makereport(item=item, call=taken_down)]
    # The folder that all tests' tmp_path lie in is made once, here.
    item.config._tmp_path_factory.getbasetemp()  # type: ignore[attr-defined]  # set by pytest's tmpdir plugin
    started = time.monotonic()
    with tempfile.TemporaryFile() as stacks:
        messages, late = _messages(item, limit_s, stacks.fileno())
        stacks.seek(0)
        where = stacks.read().decode(errors="replace")
    reports = [
        item.config.hook.pytest_report_from_serializable(config=item.config, data=m["report"])
        for m in messages
        if "report" in m
    ]
    for report in reports:
        if isinstance(report.longrepr, list):  # a skip's (path, line, reason), which JSON has no tuples for
            report.longrepr = tuple(report.longrepr)
    cannot = next((m["cannot"] for m in messages if "cannot" in m), None)
    if cannot is not None:
        raise enclosure.Refused(cannot)
    ended = next((m["ended"] for m in messages if "ended" in m), None)
    if ended != 0 or not reports or reports[-1].when != "teardown":
        why = f"longer than its limit of {limit_s:g} s\n{where}" if late else _death(ended, messages)
        reports.append(_died(item, why, time.monotonic() - started))
    return reports


def skipped(item: pytest.Item, reason: str) -> pytest.TestReport:
    path, line, _ = item.location
    return pytest.TestReport(
        item.nodeid,
        item.location,
        dict.fromkeys(item.keywords, 1),
        "skipped",
        (str(path), (line or 0) + 1, f"Skipped: {reason}"),
        "setup",
    )


def failed(
    item: pytest.Item, why: str, seconds: float = 0.0, sections: Sequence[tuple[str, str]] = ()
) -> pytest.TestReport:
    marks: dict[str, Literal[1]] = dict.fromkeys(item.keywords, 1)
    return pytest.TestReport(item.nodeid, item.location, marks, "failed", why, "call", sections, seconds)


def _died(item: pytest.Item, why: str, seconds: float) -> pytest.TestReport:
    """A failure with what the test had printed: its capture file is ours as well."""
    sections = []
    capture = item.config.pluginmanager.getplugin("capturemanager")
    if capture is not None and capture.is_globally_capturing():
        output = capture.read_global_capture()
        sections = [(f"Captured {n}", t) for n, t in (("stdout", output.out), ("stderr", output.err)) if t]
    return failed(item, f"the test's process ended: {why}", seconds, sections)


def _death(ended: int | None, messages: list[Message]) -> str:
    faults = "".join(m["fault"] for m in messages if "fault" in m)
    if faults:
        return faults
    if ended is None:
        return "killed together with its namespace"
    code = os.waitstatus_to_exitcode(ended)
    return f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"


def _messages(item: pytest.Item, limit_s: float, stacks: int) -> tuple[list[Message], bool]:
    """What the child sent until its end, and whether it was killed for being late.

    Just before that the child writes to the descriptor `stacks` where its threads are.
    """
    # pytest's faulthandler_timeout is a thread, which a fork leaves behind: cancelling it in the child, as
    # pytest does when a test fails, would wait for that thread for ever. This test has its own limit.
    faulthandler.cancel_dump_traceback_later()
    mine, childs = socket.socketpair()
    reading, writing = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    with quiet_fork():
        pid = os.fork()
    if pid == 0:
        mine.close()
        os.close(reading)
        _outer(item, childs, _Out(writing, stacks, limit_s))
    childs.close()
    os.close(writing)
    data, late = bytearray(), False
    try:
        enclosure.serve_maps(mine, pid)
        late = not _read(reading, data, time.monotonic() + limit_s)
    finally:
        if late or sys.exc_info()[0] is not None:
            os.kill(pid, signal.SIGKILL)  # its init has PR_SET_PDEATHSIG, and everyone dies with that
        os.waitpid(pid, 0)
        os.close(reading)
        mine.close()
    return list(_parse(data)), late


def _parse(data: bytes | bytearray) -> Iterator[Message]:
    """Whole messages; of a test killed while it sent one, init's stands behind the half of it."""
    for line in data.splitlines():
        with suppress(ValueError):
            yield json.loads(line)


def _read(fd: int, into: bytearray, deadline: float) -> bool:
    """Read until the last writer is gone; False when the deadline came first."""
    with selectors.DefaultSelector() as selector:
        selector.register(fd, selectors.EVENT_READ)
        while selector.select(max(0.0, deadline - time.monotonic())):
            chunk = os.read(fd, 1 << 16)
            if not chunk:
                return True
            into += chunk
    return False


@frozen
class _Out:
    """Where the child writes: descriptors of the pipe for messages and the file for stacks."""

    messages: int
    stacks: int
    limit_s: float


def _outer(item: pytest.Item, outside: socket.socket, out: _Out) -> NoReturn:
    try:
        os.setsid()
        enclosure.die_with_parent()
        enclosure.leave(outside)
        outside.close()
        pid = os.fork()
        if pid == 0:
            _init(item, out)
        os.waitpid(pid, 0)
    except enclosure.Refused as refusal:
        _send(out, {"cannot": str(refusal)})
    except BaseException:  # noqa: BLE001  # told to pytest's own process
        _send(out, {"fault": traceback.format_exc()})
    finally:
        os._exit(0)


def _init(item: pytest.Item, out: _Out) -> NoReturn:
    """pid 1: furnishes the namespaces, starts the test, reaps orphans, says how the test ended."""
    try:
        enclosure.die_with_parent()
        enclosure.furnish()
        test = os.fork()
        if test == 0:
            _test(item, out)
        while True:
            pid, status = os.wait()
            if pid == test:
                break
        _send(out, {"ended": status})
    except enclosure.Refused as refusal:
        _send(out, {"cannot": str(refusal)})
    except BaseException:  # noqa: BLE001  # told to pytest's own process
        _send(out, {"fault": traceback.format_exc()})
    finally:
        os._exit(0)


def _test(item: pytest.Item, out: _Out) -> NoReturn:
    code = 1
    try:
        os.setsid()
        faulthandler.dump_traceback_later(out.limit_s * 0.95, file=out.stacks)
        for report in runtestprotocol(item, log=False, nextitem=None):
            data = item.config.hook.pytest_report_to_serializable(config=item.config, report=report)
            _send(out, {"report": data})
        sys.stdout.flush()
        sys.stderr.flush()
        code = 0
    except BaseException:  # noqa: BLE001  # told to pytest's own process
        _send(out, {"fault": traceback.format_exc()})
    finally:
        os._exit(code)


def _send(out: _Out, message: Message) -> None:
    rest = memoryview(b"\n" + json.dumps(message, default=str).encode() + b"\n")
    while rest:
        rest = rest[os.write(out.messages, rest) :]


@contextmanager
def quiet_fork() -> Iterator[None]:
    """Python warns of a fork beside threads (3.12 on); ours are trio's idle workers, which hold no lock."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
        yield

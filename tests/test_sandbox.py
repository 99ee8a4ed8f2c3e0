"""What becomes of a test in a sandbox that dies, hangs, or leaves something running."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests import sandbox

pytest_plugins = ["pytester"]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="namespaces are Linux's")


@pytest.fixture
def inner(pytester: pytest.Pytester) -> pytest.Pytester:
    """A project whose conftest is ours."""
    pytester.makeconftest("from tests.conftest import *  # noqa: F403")
    pytester.makeini(
        f"[pytest]\npythonpath = {sandbox.PROJECT}\naddopts = -p no:cacheprovider\n"
        "faulthandler_timeout = 20\n"  # as ours has: its thread must not be waited for in a fork
    )
    return pytester


def _run(
    inner: pytest.Pytester, source: str, mark: str = "pytestmark = pytest.mark.netns"
) -> pytest.RunResult:
    inner.makepyfile(f"import os, signal, subprocess, pytest\n{mark}\n{source}")
    result = inner.runpytest_subprocess("-rs", timeout=30)
    if "no namespaces here" in result.stdout.str():
        pytest.skip("no namespaces here: run as root, or allow user namespaces")
    return result


def test_a_killed_test_is_a_failure_with_its_output(inner: pytest.Pytester) -> None:
    result = _run(
        inner,
        """
def test_dies():
    print("last words")
    os.kill(os.getpid(), signal.SIGKILL)
def test_lives():
    pass
""",
    )
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*the test's process ended: by SIGKILL*", "*last words*"])


def test_a_late_test_is_a_failure_and_its_processes_are_gone(inner: pytest.Pytester, tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    result = _run(
        inner,
        f"""
@pytest.mark.limit(1)
def test_hangs():
    child = subprocess.Popen(["sh", "-c", "exec 3>{witness}; setsid sleep 1234.5"], start_new_session=True)
    print("it hung")
    child.wait()
""",
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*longer than its limit of 1 s*", "*in test_hangs*", "*it hung*"])
    assert witness.exists()
    assert not _running("1234.5")


def test_what_a_test_leaves_running_ends_with_it(inner: pytest.Pytester) -> None:
    result = _run(
        inner,
        """
def test_leaves():
    subprocess.Popen(["sleep", "1235.5"], start_new_session=True, stdout=subprocess.DEVNULL)
""",
    )
    result.assert_outcomes(passed=1)
    assert not _running("1235.5")


def test_a_failure_a_skip_and_an_error_of_a_fixture_come_back(inner: pytest.Pytester) -> None:
    result = _run(
        inner,
        """
@pytest.fixture
def broken():
    yield
    raise RuntimeError("at the end")
def test_fails():
    assert 6 * 9 == 42
def test_skips():
    pytest.skip("for a reason")
def test_teardown(broken):
    pass
""",
    )
    result.assert_outcomes(passed=1, failed=1, skipped=1, errors=1)
    result.stdout.fnmatch_lines(["*at the end*", "*for a reason*"])


def test_wide_fixtures_are_made_anew_on_both_sides(inner: pytest.Pytester) -> None:
    result = _run(
        inner,
        """
@pytest.fixture(scope="module")
def owner():
    pid = os.getpid()
    yield pid
    assert os.getpid() == pid
def test_outside(owner):
    assert owner == os.getpid()
@pytest.mark.netns
def test_inside(owner):
    assert owner == os.getpid()
def test_outside_again(owner):
    assert owner == os.getpid()
""",
        mark="",
    )
    result.assert_outcomes(passed=3)


def test_helpers_refuse_to_work_on_the_machine_itself() -> None:
    with pytest.raises(AssertionError, match="mark the test `netns`"):
        sandbox.run("ip", "link", "show")


def _running(argument: str) -> bool:
    """Whether a process with this argument exists."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if argument.encode() in path.read_bytes().split(b"\0"):
                return True
        except OSError:
            continue
    return False

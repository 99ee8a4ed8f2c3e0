"""The filter as the kernel would run it, and as the kernel does."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coentro.engines.confinement import SIOCSIFMTU, Unconfined, program

PROJECT = Path(__file__).parent.parent.parent
ALLOW, ANSWER = 0x7FFF0000, 0x00050000
X86_64, AARCH64, I386 = 0xC000003E, 0xC00000B7, 0x40000003

linux = pytest.mark.skipif(sys.platform != "linux", reason="seccomp is Linux's")


def verdict(code: bytes, arch: int, number: int, second: int) -> int:
    """What classic BPF makes of one call: of its instructions the three that are used."""
    data = struct.pack("<IIQ6Q", number, arch, 0x1234, 3, second, 0, 0, 0, 0)
    steps = list(struct.iter_unpack("=HBBI", code))
    at, accumulator = 0, 0
    while True:
        kind, if_true, if_false, k = steps[at]
        at += 1
        match kind:
            case 0x20:
                (accumulator,) = struct.unpack_from("<I", data, k)
            case 0x15:
                at += if_true if accumulator == k else if_false
            case 0x06:
                return int(k)
            case _:
                raise AssertionError(f"instruction {kind:#x}")


@pytest.mark.parametrize(("machine", "arch", "ioctl"), [("x86_64", X86_64, 16), ("aarch64", AARCH64, 29)])
def test_the_request_is_answered_and_no_other(machine: str, arch: int, ioctl: int) -> None:
    code = program(machine, (SIOCSIFMTU,))
    assert verdict(code, arch, ioctl, 0x8922) == ANSWER
    # The kernel takes the request for 32 bits, whatever stands above them.
    assert verdict(code, arch, ioctl, 0xFFFFFFFF_00008922) == ANSWER
    assert verdict(code, arch, ioctl, 0x8921) == ALLOW
    assert verdict(code, arch, ioctl + 1, 0x8922) == ALLOW
    assert verdict(code, I386, ioctl, 0x8922) == ALLOW


@given(st.lists(st.integers(0, 2**32 - 1), max_size=8), st.integers(0, 2**32 - 1), st.integers(0, 600))
def test_any_number_of_requests_is_told_apart(requests: list[int], request_: int, number: int) -> None:
    code = program("x86_64", requests)
    expected = ANSWER if number == 16 and request_ in requests else ALLOW
    assert verdict(code, X86_64, number, request_) == expected
    for one in requests:
        assert verdict(code, X86_64, 16, one) == ANSWER


def test_a_machine_whose_calls_are_not_known_is_refused() -> None:
    with pytest.raises(Unconfined, match="riscv64"):
        program("riscv64", (SIOCSIFMTU,))


START = """
import os, sys
from coentro.engines.confinement import Confinement
from coentro.engines.identity import choose, environment
from coentro.engines.unprivileged import start
who = choose(None, {})
pid = start(sys.argv[1:], environment(who, os.environ), (), who, Confinement((0x8922,)))
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
# In perl, which every Debian has: this Python may be out of the user's reach.
ASK = (
    'socket(S, 2, 2, 0) or die; for my $r (0x8922, 0x8921) { my $i = pack("a16 x24", "nosuch0");'
    ' print(defined(ioctl(S, $r, $i)) ? "yes\\n" : "no\\n"); }'
)


@linux
def test_the_kernel_answers_setting_an_mtu_with_success_and_reading_one_as_ever() -> None:
    done = subprocess.run(
        [sys.executable, "-c", START, "perl", "-e", ASK],
        cwd=PROJECT, capture_output=True, text=True, timeout=30, check=False, env=dict(os.environ),
    )  # fmt: skip
    if "no such command" in done.stderr:
        pytest.skip("no perl here")
    # There is no interface nosuch0: only a call that never came to the kernel's ioctl can succeed.
    assert (done.returncode, done.stdout) == (0, "yes\nno\n"), done.stderr

"""Where the demo happens: namespaces that take everything with them when they end.

A pid namespace's first process takes all others with it, a mount namespace its mounts, a network
namespace its devices (namespaces(7)), so nothing has to be tidied, however the demo ends.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from types import FrameType
from typing import Final, NamedTuple, NoReturn

CANNOT: Final = 77  # automake's "skipped": this machine can't show it
NEEDED: Final = {
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "setpriv": "util-linux",
    "mount": "mount",
    "ip": "iproute2",
}

_SPACES: Final = ("--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc")
_SPACES_WITHOUT_PIDS: Final = (
    "--mount",
    "--net",
    "--fork",
    "--kill-child",
)  # where /proc may not be mounted anew


class Cannot(Exception):
    """This machine can't show it; the text says what to do."""


class Way(NamedTuple):
    """`uids`: root (the machine's own), many (a user namespace with other uids), one."""

    uids: str
    options: tuple[str, ...]


def ways() -> list[Way]:
    """What to try, best first."""
    user = ("--user", "--map-root-user")
    found = [Way("root", _SPACES), Way("root", _SPACES_WITHOUT_PIDS)] if os.geteuid() == 0 else []
    for spaces in (_SPACES, _SPACES_WITHOUT_PIDS):
        found += [Way("many", (*user, "--map-auto", *spaces)), Way("one", (*user, *spaces))]
    return found


def find() -> Way:
    """The first way that this machine allows. Errors: Cannot."""
    for tool, package in NEEDED.items():
        if shutil.which(tool) is None:
            raise Cannot(f"{tool} is missing; install the package {package}")
    refused = ""
    for way in ways():
        probe = subprocess.run(
            ["unshare", *way.options, "mount", "-t", "tmpfs", "demo", "/run"],
            capture_output=True, text=True, timeout=20, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        if probe.returncode == 0:
            return way
        refused = refused or probe.stderr.strip()
    raise Cannot(f"no namespaces can be made here ({refused}).\n{_hint()}")


def _hint() -> str:
    if os.geteuid() == 0:
        return "In a container it needs --privileged, or CAP_SYS_ADMIN and CAP_NET_ADMIN."
    switches = (
        ("kernel.apparmor_restrict_unprivileged_userns", "1", "0"),  # Ubuntu 23.10 and later
        ("kernel.unprivileged_userns_clone", "0", "1"),  # Debian's own, before 11
        ("user.max_user_namespaces", "0", "10000"),
    )
    for name, forbidding, allowing in switches:
        try:
            with open("/proc/sys/" + name.replace(".", "/")) as file:
                if file.read().strip() == forbidding:
                    switch = f"`sudo sysctl {name}={allowing}`"
                    return f"User namespaces are switched off: {switch}, or run this as root."
        except FileNotFoundError:
            continue
    return "Run it as root, or allow user namespaces."


class Ended(BaseException):
    """A signal says that it is enough."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def enter(way: Way, argv: list[str]) -> int:
    """Run `argv` inside and return its exit code. A signal ends everything inside at once."""

    def end(number: int, frame: FrameType | None) -> NoReturn:
        raise Ended(number)

    for signal_ in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signal_, end)
    inside: subprocess.Popen[bytes] | None = None
    try:
        inside = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", "unshare", *way.options, *argv])
        code = inside.wait()
    except Ended as ended:
        if inside is not None:
            inside.kill()  # and with unshare, by its --kill-child, all that is inside
            inside.wait()
        print(f"\ndemo: ended by {signal.Signals(ended.number).name}; nothing is left", file=sys.stderr)
        return 128 + ended.number
    return code if code >= 0 else 128 - code

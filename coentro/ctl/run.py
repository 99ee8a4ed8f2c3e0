"""`run`: a tunnel with its engine, which has the descriptor and no privileges.

The two live and die together: the tunnel ends with the command, and a command whose tunnel has
gone is told to end, since a descriptor without a device moves nothing.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from argparse import Namespace
from typing import Final

from coentro.client.errors import HelperError, HelperGone
from coentro.client.plain import Client
from coentro.ctl import faults, shown
from coentro.ctl.faults import Fault
from coentro.ctl.opened import Opened
from coentro.ctl.profile import load
from coentro.ctl.signals import ENDING, Signals, readable, typed_at_our_terminal
from coentro.engines.identity import Unfit, choose, environment
from coentro.engines.unprivileged import NotStarted, start

GRACE_S: Final = 5.0  # between SIGTERM and SIGKILL, when the tunnel has gone first


def run(args: Namespace) -> int:
    """Returns the command's exit code, 128 + n if signal n killed it."""
    try:
        identity = choose(args.user, os.environ)
    except Unfit as fault:
        raise faults.usage(str(fault)) from None
    profile = load(args.profile)
    with Client(args.socket) as client, Opened(client, profile) as tunnel:
        _say(tunnel.line())
        if identity.said is not None:
            _say(identity.said)
        inherited = {
            k: v for k, v in environment(identity, os.environ).items() if not k.startswith("COENTRO_TUN_")
        }
        with Signals((*ENDING, signal.SIGCHLD)) as signals:
            try:
                environ = {**inherited, **tunnel.environment()}
                pid = start(args.command, environ, tuple(tunnel.descriptors), identity)
            except NotStarted as fault:
                tunnel.destroy()
                raise Fault(str(fault), fault.code, f"the tunnel {tunnel.name} is gone again") from None
            tunnel.close_descriptors()
            code = _mind(pid, tunnel, signals)
        try:
            tunnel.destroy()
        except (HelperError, HelperGone) as error:
            _say(f"the tunnel {tunnel.name} could not be ended by this command: {shown.plain(error)}")
    return code


def _mind(pid: int, tunnel: Opened, signals: Signals) -> int:
    """Until the command has ended: hand signals on, and end it when its tunnel goes."""
    deadline: float | None = None
    while True:
        for number in signals.take():
            if number is not signal.SIGCHLD and not typed_at_our_terminal(number):
                os.kill(pid, number)
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended == pid:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code
        if deadline is None and tunnel.ended() is not None:
            _say(f"{tunnel.last_line()}; the command is told to end")
            os.kill(pid, signal.SIGTERM)
            deadline = time.monotonic() + GRACE_S
        elif deadline is not None and time.monotonic() >= deadline:
            _say(f"the command did not end within {GRACE_S:g} s of SIGTERM, so it is killed")
            os.kill(pid, signal.SIGKILL)
            deadline = float("inf")
        left = None if deadline in (None, float("inf")) else deadline - time.monotonic()
        readable([signals] if tunnel.why_down is not None else [signals, tunnel], left)


def _say(text: str) -> None:
    shown.say(f"coentroctl: {text}", sys.stderr)

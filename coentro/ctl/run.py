"""`run`: a tunnel with its engine, which has the descriptor and no privileges.

The two live and die together: the tunnel ends with the command, and a command whose tunnel has
gone is told to end, since a descriptor without a device moves nothing.
"""

from __future__ import annotations

import os
import signal
import sys
from argparse import Namespace
from contextlib import closing

from coentro.client.errors import HelperError, HelperGone
from coentro.client.plain import Client
from coentro.ctl import faults, shown, ssh
from coentro.ctl.faults import Fault
from coentro.ctl.minded import Interrupted, Minded, adopt_orphans
from coentro.ctl.opened import Opened
from coentro.ctl.profile import load
from coentro.ctl.signals import ENDING, Signals
from coentro.engines.identity import Unfit, choose, environment
from coentro.engines.preset import Device, EngineFault, Order, Preset
from coentro.engines.registry import choose as choose_preset
from coentro.engines.unprivileged import NotStarted, start


def run(args: Namespace) -> int:
    """Returns the command's exit code, 128 + n if signal n killed it."""
    try:
        identity = choose(args.user, os.environ)
    except Unfit as fault:
        raise faults.usage(str(fault)) from None
    profile = load(args.profile)
    inherited = {
        k: v for k, v in environment(identity, os.environ).items() if not k.startswith("COENTRO_TUN_")
    }
    command = tuple(args.command)
    order = Order(command, profile.path, profile.spec, profile.engine, identity, inherited, _say)
    try:
        with closing(choose_preset(order, args.engine)) as preset, Client(args.socket) as client:
            profile = profile._replace(spec=dict(preset.spec()))
            ssh.warn(client, profile.spec, _say)
            with Opened(client, profile) as tunnel:
                return _run(tunnel, preset)
    except EngineFault as fault:
        raise Fault(fault.message, faults.USAGE if fault.usage else faults.REFUSED, fault.hint) from None


def _run(tunnel: Opened, preset: Preset) -> int:
    order = preset.order
    _say(tunnel.line())
    if order.identity.said is not None:
        _say(order.identity.said)
    device = _device(tunnel)
    adopt_orphans()
    with Signals((*ENDING, signal.SIGCHLD)) as signals:
        try:
            launch = preset.launch(device)
            environ = {**order.environ, **tunnel.environment(), **launch.environ}
            pid = start(launch.argv, environ, launch.descriptors, order.identity, launch.confinement)
        except NotStarted as fault:
            _destroy(tunnel)
            raise Fault(str(fault), fault.code, f"the tunnel {tunnel.name} is gone again") from None
        except EngineFault:
            _destroy(tunnel)
            raise
        tunnel.close_descriptors()
        minded = Minded(pid, tunnel, signals, _say)
        try:
            preset.begin(device, minded.wait)
            if preset.silent:
                minded.look_later()
        except (Interrupted, HelperGone):
            if minded.code is not None:
                _say(f"{preset.name} ended before it was ready")
        except (EngineFault, HelperError):
            minded.end()
            minded.end_the_rest()
            _destroy(tunnel)
            raise
        code = minded.until_end()
        if code:
            _say(_ending(code))
        minded.end_the_rest()
    if preset.silent and tunnel.why_down is None and _moved_nothing(tunnel):
        _say("no packet went through the tunnel: the command has its descriptor in COENTRO_TUN_FD")
    _destroy(tunnel)
    return code


def _device(tunnel: Opened) -> Device:
    found = tunnel.info["interface"]
    return Device(
        str(found["name"]),
        int(found["index"]),
        int(found["mtu"]),
        tuple(map(str, found["addresses"])),
        tuple(tunnel.descriptors),
        tunnel.stats,
    )


def _moved_nothing(tunnel: Opened) -> bool:
    try:
        stats = tunnel.stats()
    except (HelperError, HelperGone):
        return False  # the tunnel's end says why
    return stats["rx_packets"] == stats["tx_packets"] == 0


def _destroy(tunnel: Opened) -> None:
    try:
        tunnel.destroy()
    except (HelperError, HelperGone) as error:
        _say(f"the tunnel {tunnel.name} could not be ended by this command: {shown.plain(error)}")


def _ending(code: int) -> str:
    if code <= 128:
        return f"the command ended with exit code {code}"
    try:
        return f"the command was ended by {signal.Signals(code - 128).name}"
    except ValueError:
        return f"the command ended with exit code {code}"


def _say(text: str) -> None:
    shown.say(f"coentroctl: {shown.plain(text)}", sys.stderr)

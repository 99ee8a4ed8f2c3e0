"""`up`: a tunnel that stands as long as this process does, or until `down`."""

from __future__ import annotations

import sys
from argparse import Namespace

from coentro.client.plain import Client
from coentro.ctl import faults, shown, ssh
from coentro.ctl.opened import Opened
from coentro.ctl.profile import Profile, load
from coentro.ctl.signals import Signals, readable


def up(args: Namespace) -> int:
    """Returns the exit code: 0 for an end that was asked for, 3 if the helper went away, else 1."""
    profile = load(args.profile)
    with Client(args.socket) as client:
        ssh.warn(client, profile.spec, lambda text: shown.say(f"coentroctl: {text}", sys.stderr))
        return _up(client, profile, args)


def _up(client: Client, profile: Profile, args: Namespace) -> int:
    with Opened(client, profile) as tunnel:
        with Signals() as signals:
            in_json = args.output == "json"
            shown.say(shown.as_json(tunnel.info, None) if in_json else tunnel.line())
            while tunnel.ended() is None and not (came := signals.take()):
                readable([signals, tunnel])
        if tunnel.why_down is None:
            tunnel.destroy()
            tunnel.why_down = came[0].name
            code = faults.DONE
        else:
            code = faults.DONE if tunnel.destroyed() else faults.NO_HELPER if tunnel.lost else faults.REFUSED
        asked = code == faults.DONE and not in_json
        shown.say(tunnel.last_line(), sys.stdout if asked else sys.stderr)
    return code

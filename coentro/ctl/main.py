"""coentroctl: the command line, and how every command ends.

A command is a function from a connection and its arguments to the method's result; what is
printed is either that, as JSON, or its table. `up`, `run` and `events` stay and print by themselves.
"""

from __future__ import annotations

import os
import sys
from argparse import SUPPRESS, ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from coentro import __version__
from coentro.client.errors import HelperError, HelperGone, NoHelper
from coentro.client.plain import Client
from coentro.ctl import faults, host, shown, tunnels
from coentro.ctl.faults import Fault

Ask = Callable[[Client, Namespace], Any]
Show = Callable[[Any], Iterable[str]]
Read = Callable[[Namespace], dict[str, Any]]

EPILOG = """\
exit codes: 0 done, 1 refused by the helper, 2 usage or a bad profile, 3 no helper,
4 not authorised; `run` returns the command's own once it has started (128 + n if
signal n killed it), 126 or 127 if it can't be started.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    try:
        args = _parse(list(sys.argv[1:] if argv is None else argv))
        return int(args.go(args))
    except Fault as fault:
        return faults.tell(fault)
    except (HelperError, NoHelper, HelperGone) as error:
        return faults.tell(faults.of(error))
    except shown.ReaderGone:
        shown.stop_printing()
        return faults.DONE
    except KeyboardInterrupt:
        return 130


def _parse(argv: list[str]) -> Namespace:
    """The arguments; what stands after `--` belongs to the command of `run`."""
    parser = _parser()
    head, command = argv, None
    if "--" in argv:
        at = argv.index("--")
        head, command = argv[:at], argv[at + 1 :]
        if "run" not in head:
            head, command = argv, None
    args = parser.parse_args(head)
    if args.name_of_command == "run":
        if not command:
            parser.error("run: the command comes after --, as in: coentroctl run PROFILE.toml -- COMMAND…")
        args.command = command
    return args


class _Help(RawDescriptionHelpFormatter):
    """argparse makes one for every argument that is added, and asks shutil for the width unless it is
    told: a tenth of the time of a short command is the import of shutil and its compressors."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=_columns() - 2)


def _columns() -> int:
    """Of the terminal, as shutil.get_terminal_size has it."""
    try:
        return int(os.environ.get("COLUMNS", "")) or 80
    except ValueError:
        pass
    try:
        return os.get_terminal_size(1).columns or 80
    except OSError:
        return 80


def _parser() -> ArgumentParser:
    parser = ArgumentParser("coentroctl", description="Talk to the privileged VPN helper.", epilog=EPILOG,
                            formatter_class=_Help, allow_abbrev=False)  # fmt: skip
    parser.add_argument("--version", action="version", version=f"coentroctl {__version__}")
    _common(parser, None, "table")
    commands = parser.add_subparsers(dest="name_of_command", metavar="COMMAND", required=True)

    _ask(commands, "status", "how the helper is", host.status, host.status_table)
    ping = _leaf(commands, "ping", "whether the helper answers")
    ping.set_defaults(go=_ping)
    up = _leaf(commands, "up", "open a tunnel and hold it until Ctrl-C or `down`")
    up.add_argument("profile", metavar="PROFILE.toml")
    up.set_defaults(go=_up)
    down = _ask(commands, "down", "end a tunnel", tunnels.down, lambda r: [f"{shown.plain(r['id'])} is down"])
    down.add_argument("name", metavar="NAME", help="a tunnel's name or id")

    group = _group(commands, "tunnel", "tunnels")
    _ask(group, "list", "all that you may see", tunnels.list_, tunnels.list_table)
    show = _ask(group, "show", "one in full", tunnels.show, tunnels.show_table)
    show.add_argument("name", metavar="NAME", help="a tunnel's name or id")
    plan = _ask(group, "plan", "what `up` would change, and its undo", tunnels.plan, tunnels.plan_table,
                _spec)  # fmt: skip
    plan.add_argument("profile", metavar="PROFILE.toml")

    group = _group(commands, "routes", "routes")
    routes = _ask(group, "list", "the host's and the tunnels'", tunnels.routes_list, tunnels.routes_table)
    routes.add_argument("name", metavar="NAME", nargs="?", help="only this tunnel's")
    routes.add_argument("--family", type=int, choices=(4, 6))
    routes.add_argument("--limit", type=int, metavar="N", help="one page of at most N")
    routes.add_argument("--cursor", metavar="CURSOR", help="the page after this one")
    for name, ask, text in (("add", tunnels.routes_add, "into"), ("del", tunnels.routes_del, "out of")):
        change = _ask(group, name, f"take networks {text} a tunnel, all or none", ask, tunnels.routes_changed)
        change.add_argument("name", metavar="NAME", help="a tunnel's name or id")
        change.add_argument("networks", metavar="NET", nargs="+")
    lookup = _ask(group, "lookup", "which way an address goes, and why", tunnels.lookup, tunnels.lookup_table)
    lookup.add_argument("address", metavar="ADDRESS")

    events = _leaf(commands, "events", "print events until Ctrl-C")
    events.add_argument(
        "--types", type=_types, metavar="TYPE,…", help="only these, such as tunnel.up,tunnel.down"
    )
    events.set_defaults(go=_with_client(host.events))
    call = _ask(commands, "call", "any method", host.call, lambda r: [shown.as_json(r)], host.params)
    call.add_argument("method", metavar="METHOD")
    call.add_argument("params", metavar="JSON", nargs="?", help="an object; - reads it from standard input")
    run = _leaf(commands, "run", "open a tunnel for a command that has its descriptor and no privileges")
    run.usage = "coentroctl run PROFILE.toml [--engine NAME] [--user USER] -- COMMAND…"
    run.add_argument("profile", metavar="PROFILE.toml")
    run.add_argument(
        "--engine", metavar="NAME", help="how to treat the command (default: as its name says, else generic)"
    )
    run.add_argument("--user", help="as root: whom to run it as (default: the user behind sudo, else nobody)")
    run.set_defaults(go=_run)
    import_ = _leaf(commands, "import", "make a profile of a wg-quick file; nothing in it is run")
    import_.add_argument("file", metavar="FILE.conf")
    import_.add_argument("-o", dest="to", metavar="PROFILE.toml", help="(default: FILE.toml in this folder)")
    import_.set_defaults(go=_import)
    return parser


def _common(parser: ArgumentParser, socket: object, output: object) -> None:
    parser.add_argument("--socket", metavar="PATH", default=socket,
                        help="the helper's socket (default: $COENTRO_SOCKET, else the system's)")  # fmt: skip
    parser.add_argument("--output", choices=("table", "json"), default=output,
                        help="json: the method's result and nothing else")  # fmt: skip


def _leaf(commands: Any, name: str, text: str) -> ArgumentParser:
    leaf: ArgumentParser = commands.add_parser(
        name, help=text, description=text, formatter_class=_Help, allow_abbrev=False
    )
    # Accepted behind the command too; absent there, what stood before it holds.
    _common(leaf, SUPPRESS, SUPPRESS)
    return leaf


def _group(commands: Any, name: str, text: str) -> Any:
    group = commands.add_parser(name, help=text, formatter_class=_Help, allow_abbrev=False)
    return group.add_subparsers(metavar="COMMAND", required=True)


def _ask(
    commands: Any, name: str, text: str, ask: Ask, show: Show, read: Read | None = None
) -> ArgumentParser:
    """A command that asks once and prints what came. `read`: its input, before the helper is asked."""

    def go(args: Namespace) -> int:
        if read is not None:
            args.input = read(args)
        with Client(args.socket) as client:
            result = ask(client, args)
        _print(result, args, show)
        return faults.DONE

    leaf = _leaf(commands, name, text)
    leaf.set_defaults(go=go)
    return leaf


def _print(result: Any, args: Namespace, show: Show) -> None:
    if args.output == "json":
        shown.say(shown.as_json(result))
        return
    try:
        lines = list(show(result))
    except (KeyError, TypeError, AttributeError, ValueError):
        # Another version's result: not what this table knows, but still worth reading.
        lines = [shown.as_json(result)]
    for line in lines:
        shown.say(line)


def _with_client(go: Callable[[Client, Namespace], int]) -> Callable[[Namespace], int]:
    def with_client(args: Namespace) -> int:
        with Client(args.socket) as client:
            return go(client, args)

    return with_client


def _ping(args: Namespace) -> int:
    with Client(args.socket) as client:
        result = host.ping(client, args)
    _print(result, args, lambda _: [host.ping_line(args)])
    return faults.DONE


def _up(args: Namespace) -> int:
    from coentro.ctl.up import up

    return up(args)


def _run(args: Namespace) -> int:
    from coentro.ctl.run import run

    return run(args)


def _import(args: Namespace) -> int:
    from coentro.ctl.wgquick import import_

    return import_(args)


def _spec(args: Namespace) -> dict[str, Any]:
    from coentro.ctl.profile import load

    return load(args.profile).spec


def _types(text: str) -> list[str]:
    return [name for name in text.split(",") if name]

"""`coentro-helper`: the command line, and what must be true before the daemon begins.

A start that fails says why on stderr and exits with 1; nothing on the host has been touched by
then. Exit 0: stopped by SIGTERM or SIGINT with every tunnel undone.
"""

from __future__ import annotations

import argparse
import logging
import os
import resource
import sys
from collections.abc import Sequence
from typing import Final, NoReturn

import trio

from coentro import __version__, files
from coentro.errors import CoentroError
from coentro.helper import listen, logs
from coentro.helper.access import Access
from coentro.helper.config import Config, ConfigError, load
from coentro.helper.daemon import Daemon
from coentro.netops.interface import NetworkOps

log = logging.getLogger("coentro.helper")

DARWIN: Final = sys.platform == "darwin"
_HOME: Final = "/Library/Application Support/CoentroVPN"
STATE: Final = _HOME if DARWIN else "/var/lib/coentro"
CONFIG: Final = f"{_HOME}/helper.toml" if DARWIN else "/etc/coentro/helper.toml"
SOCKET: Final = "/var/run/coentrovpn/helper.sock" if DARWIN else "/run/coentrovpn/helper.sock"
DESCRIPTORS: Final = 65_536
SWITCH_S: Final = 0.0005


class StartError(Exception):
    """The helper can't start, and what to do."""


def parser() -> argparse.ArgumentParser:
    told = argparse.ArgumentParser(
        prog="coentro-helper",
        description="The privileged half of a VPN: devices and routes for programs without privileges.",
    )
    told.add_argument("--socket", metavar="PATH", default=SOCKET, help=f"where to listen ({SOCKET})")
    told.add_argument("--state-dir", metavar="DIR", default=STATE, help=f"what outlives a run ({STATE})")
    told.add_argument("--config", metavar="FILE", help=f"TOML configuration ({CONFIG}, if it is there)")
    told.add_argument("--log-level", metavar="L", choices=["debug", "info", "warning", "error"])
    told.add_argument("--log-format", choices=["text", "json"])
    told.add_argument("--check-config", action="store_true", help="say whether the configuration is good")
    told.add_argument("--simulate", action="store_true", help="not in this version")
    told.add_argument("--cleanup", action="store_true", help="not in this version")
    told.add_argument("--insecure-development", action="store_true", help="for a checkout: says so loudly")
    told.add_argument("--version", action="version", version=f"coentro-helper {__version__}")
    return told


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Entry point; does not return."""
    options = parser().parse_args(argv)
    try:
        if options.simulate:
            raise StartError("--simulate is not in this version")
        if options.cleanup:
            raise StartError("--cleanup is not in this version; a start takes leftovers down")
        config = load(options.config, CONFIG, {0, os.geteuid()})
        if options.check_config:
            print(f"{options.config or CONFIG}: good")
            sys.exit(0)
        _configure(options, config)
        _start(options, config)
    except (StartError, ConfigError, listen.ListenError, files.Untrusted, files.Locked, OSError) as fault:
        sys.exit(f"coentro-helper: {logs.plain(str(fault))}")
    except BaseExceptionGroup as group:
        # trio wraps what `listen` raised inside of its nurseries; anything else is a fault of ours.
        first = _only(group)
        if isinstance(first, StartError | listen.ListenError | CoentroError | OSError):
            sys.exit(f"coentro-helper: {logs.plain(str(first))}")
        raise
    sys.exit(0)


def _configure(options: argparse.Namespace, config: Config) -> None:
    logs.configure(options.log_level or config.log_level, options.log_format or config.log_format)


def _start(options: argparse.Namespace, config: Config) -> None:
    if options.insecure_development:
        log.warning("--insecure-development: this helper may be changed by whoever may write its files")
    os.umask(0o077)
    files.ensure_directory(options.state_dir, 0o700)
    held = files.lock(os.path.join(options.state_dir, "lock"))
    guard = None
    try:
        if sys.platform == "linux":
            from coentro.helper import single

            guard = single.claim()
        _raise_descriptor_limit()
        # The loop asks for the interpreter's lock after each system call; by default it waits 5 ms each
        # time for a thread that works off a hundred thousand routes, and every peer waits with it.
        sys.setswitchinterval(SWITCH_S)
        network = _network()

        def read() -> tuple[Config, Access]:
            new = load(options.config, CONFIG, {0, os.geteuid()})
            return new, Access.of(new)

        daemon = Daemon(
            network, config, Access.of(config), read, configured=lambda new: _configure(options, new)
        )
        trio.run(_run, daemon, options.socket)
    finally:
        if guard is not None:
            guard.close()
        os.close(held)


async def _run(daemon: Daemon, path: str) -> None:
    def bind() -> listen.Listening:
        return listen.bind(path, daemon.config.socket.group, daemon.config.socket.mode)

    await daemon.network.start()
    try:
        await daemon.run(bind, listen.remove, lambda: log.info("ready: listening at %s", path))
    finally:
        await daemon.network.close()
    log.info("stopped; every tunnel is undone")


def _network() -> NetworkOps:
    if sys.platform == "linux":
        from coentro.netops.linux.network import LinuxNetwork

        return LinuxNetwork()
    raise StartError(f"this version has no network ops for {sys.platform}")


def _raise_descriptor_limit() -> None:
    """Room for every connection and device that the limits allow."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _only(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The one exception inside nested groups, or the group itself if there are more."""
    inner: BaseException = group
    while isinstance(inner, BaseExceptionGroup) and len(inner.exceptions) == 1:
        inner = inner.exceptions[0]
    return inner

"""wireguard-go without any capability: what it can't do by itself has been done when it starts.

The helper has made the device and set its MTU, so the engine's own SIOCSIFMTU is answered with
success. Its control socket is ours: in /run/wireguard, where wg(8) finds it, if we are root, else
in a mount namespace where the engine finds the path that it insists on watching (ipc/uapi_linux.go).
Whether packets carry tun(4)'s packet information is a matter of its version, and is confirmed.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import stat
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from ipaddress import ip_address, ip_network
from typing import Any, ClassVar, Final

from coentro.engines import wgconf
from coentro.engines.confinement import SIOCSIFMTU, Confinement
from coentro.engines.preset import Device, EngineFault, Launch, Order, Preset, Wait
from coentro.engines.probe import Deaf, confirm
from coentro.engines.uapi import Uapi, configuration
from coentro.engines.unprivileged import NotStarted, output
from coentro.engines.wgconf import Config, Endpoint, IPNetwork, Malformed

SOCKETS: Final = "/var/run/wireguard"  # as wireguard-go and wg(8) have it; /var/run leads to /run
WITHOUT_PACKET_INFO: Final = 20230223
"""From this version on packets come without: this very one says so of later snapshots too, as Debian 13's."""

_VERSION: Final = re.compile(rb"wireguard-go v?0\.0\.([0-9]{8})\b")
_VERSION_S: Final = 5.0
_INTERFACE: Final = re.compile(r"[A-Za-z0-9_=+-][A-Za-z0-9_=+.-]{0,14}\Z")
# Of IPv4 and IPv6 what the helper routes into no tunnel (docs/protocol.md, "A tunnel's spec").
_NEVER_ROUTED: Final = tuple(
    map(ip_network, ("127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "::1/128", "fe80::/10", "ff00::/8"))
)


class WireGuardGo(Preset):
    """Order: `spec`, `launch`, `begin`, `close`."""

    name: ClassVar = "wireguard-go"
    silent: ClassVar = False

    def __init__(self, order: Order) -> None:
        super().__init__(order)
        self._config = self._read_config()
        self._version: int | None = None
        self._resolved: dict[Endpoint, tuple[str, int]] = {}
        self._packet_info: object = None
        self._listener: socket.socket | None = None
        self._uapi: Uapi | None = None
        self._bound: str | None = None
        self._made_folder = False

    def spec(self) -> Mapping[str, Any]:
        """With `tun.packet_info` as the version wants it, endpoints, and the peers' networks as routes."""
        spec = dict(self.order.spec)
        tun = spec.get("tun", {})
        if isinstance(tun, dict):
            if tun.get("queues", 1) != 1:
                raise self._wrong("tun.queues", "wireguard-go reads one queue")
            self._version = self._ask_version()
            if "packet_info" not in tun:
                if self._version is None:
                    raise EngineFault(
                        f"{self.order.command[0]} does not tell its version as wireguard-go does, "
                        "so whether its packets carry packet information is unknown",
                        "say it in the profile: [tun] packet_info = true up to 0.0.20220316, false after it",
                    )
                tun = {**tun, "packet_info": self._version < WITHOUT_PACKET_INFO}
            spec["tun"] = tun
            self._packet_info = tun["packet_info"]
        if self._config is not None:
            self._resolve(self._config)
            spec["endpoints"] = _with(spec.get("endpoints", []), self._outside())
            if "routes" not in spec:
                spec |= self._routes(self._config, spec)
        return spec

    def launch(self, device: Device) -> Launch:
        if not _INTERFACE.match(device.name):
            raise EngineFault("the helper gave the device a name that no interface has")
        path = os.path.join(os.path.realpath(SOCKETS), f"{device.name}.sock")
        identity = self.order.identity
        self._listener, far = self._public(path) if identity.change else _private()
        self._uapi = Uapi(far, self.name)
        argv = self.order.command
        if len(argv) == 1 or argv[-1] in ("-f", "--foreground"):
            argv = (*argv, device.name)
        return Launch(
            argv,
            {
                "WG_TUN_FD": str(device.descriptors[0]),
                "WG_UAPI_FD": str(self._listener.fileno()),
                "WG_PROCESS_FOREGROUND": "1",
            },
            (device.descriptors[0], self._listener.fileno()),
            Confinement((SIOCSIFMTU,), None if identity.change else path),
        )

    def begin(self, device: Device, wait: Wait) -> None:
        assert self._listener is not None
        assert self._uapi is not None
        self._listener.close()  # so that its end is the engine's end
        try:
            confirm(device, self._uapi, self.name, wait)
        except Deaf as fault:
            raise EngineFault(fault.message, self._advice()) from None
        config = self._config
        if config is None:
            none = b"set=1\nprivate_key=" + b"0" * 64 + b"\nlisten_port=0\nreplace_peers=true\n\n"
            self._uapi.set(none, wait, "to forget the probe", {})
            self.order.say("wireguard-go waits for its configuration: wg setconf " + device.name + " FILE")
            return
        self._uapi.set(
            configuration(config, self._resolved),
            wait,
            f"the configuration {self._path()}",
            {errno.EADDRINUSE: f"its ListenPort {config.listen_port} is in use"},
        )
        peers = len(config.peers)
        self.order.say(f"wireguard-go is configured: {peers} peer{'' if peers == 1 else 's'}")

    def close(self) -> None:
        for held in (self._listener, self._uapi):
            if held is not None:
                held.close()
        if self._bound is not None:
            with suppress(FileNotFoundError):
                os.unlink(self._bound)
            if self._made_folder:
                with suppress(OSError):  # another interface's socket is there by now
                    os.rmdir(os.path.dirname(self._bound))
            self._bound = None

    def _path(self) -> str:
        """The configuration's, which a profile names from where it lies."""
        name = self.order.engine["config"]
        return os.path.join(os.path.dirname(self.order.profile), name)

    def _read_config(self) -> Config | None:
        if "config" not in self.order.engine:
            if not self.order.identity.change:
                raise EngineFault(
                    f"{self.order.profile}: wireguard-go needs [engine] config: "
                    "without root its control socket is nowhere that wg could find it",
                    usage=True,
                )
            return None
        path = self._path()
        try:
            with open(path, "rb") as file:
                mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
                data = file.read(wgconf.MAX_BYTES + 1)
        except (OSError, ValueError) as fault:
            why = getattr(fault, "strerror", None) or fault
            raise EngineFault(f"{self.order.profile}: engine.config: {path}: {why}", usage=True) from None
        if mode & 0o077:
            self.order.say(f"{path} holds keys and others may read it ({mode:04o}): chmod 600 {path}")
        try:
            config = wgconf.parse(data, quick=False)
        except Malformed as fault:
            raise EngineFault(f"{path}:{fault.line}: {fault.text}", usage=True) from None
        if config.fwmark_line is not None:
            self.order.say(
                f"{path}:{config.fwmark_line}: FwMark is left out: an engine without capabilities "
                "can't set it, and endpoints stay outside of the tunnel without it"
            )
        return config

    def _ask_version(self) -> int | None:
        """The date in what `--version` prints; None if it prints something else. Errors: EngineFault."""
        argv = (self.order.command[0], "--version")
        try:
            said = output(argv, self.order.environ, self.order.identity, _VERSION_S)
        except NotStarted:
            return WITHOUT_PACKET_INFO  # it is not there at all, which its start tells best
        except TimeoutError:
            return None
        found = _VERSION.search(said)
        return int(found[1]) if found is not None else None

    def _resolve(self, config: Config) -> None:
        for peer in config.peers:
            if (endpoint := peer.endpoint) is None:
                continue
            try:
                found = socket.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_DGRAM)
            except (OSError, UnicodeError) as fault:
                why = getattr(fault, "strerror", None) or "no host name"
                place = f"{self._path()}:{endpoint.line}"
                raise EngineFault(f"{place}: the Endpoint's address can't be found: {why}") from None
            host, port = found[0][4][:2]
            self._resolved[endpoint] = (str(host), int(port))

    def _outside(self) -> list[dict[str, Any]]:
        """The endpoints that could get inside of a tunnel: loopback and link-local never do."""
        return [
            {"address": host, "port": port, "protocol": "udp"}
            for host, port in dict.fromkeys(self._resolved.values())
            if not ((address := ip_address(host)).is_loopback or address.is_link_local)
        ]

    def _routes(self, config: Config, spec: Mapping[str, Any]) -> dict[str, list[str]]:
        routes, block, never = split_networks(config.allowed(), spec.get("addresses"))
        if never:
            self.order.say(f"{', '.join(never)} of AllowedIPs is routed into no tunnel")
        if block and "block" not in spec:
            self.order.say(
                f"{', '.join(block)} is blocked: the tunnel has no address of that family, "
                "and its packets shall not go past it"
            )
            return {"routes": routes, "block": block}
        return {"routes": routes}

    def _public(self, path: str) -> tuple[socket.socket, socket.socket]:
        """The control socket at its usual place, the user's own: the listener and our end."""
        folder, identity = os.path.dirname(path), self.order.identity
        try:
            try:
                os.mkdir(folder)
                os.chmod(folder, 0o755)  # noqa: S103 # the engine's user must get through, as with wg-quick
                self._made_folder = True
            except FileExistsError:
                found = os.lstat(folder)
                if not stat.S_ISDIR(found.st_mode) or found.st_uid != 0 or found.st_mode & 0o022:
                    raise EngineFault(f"{folder} is not root's alone to write to") from None
                if not found.st_mode & 0o001:
                    raise EngineFault(f"{identity.name} can't enter {folder}: chmod 755 {folder}") from None
            listener, far = _bound(path)
            self._bound = path
            os.chown(path, identity.uid, identity.gid, follow_symlinks=False)
        except OSError as fault:
            raise EngineFault(f"the control socket {path} can't be made: {fault.strerror or fault}") from None
        return listener, far

    def _advice(self) -> str:
        other = "false" if self._packet_info is True else "true"
        version = "" if self._version is None else f", version 0.0.{self._version},"
        where = "[tun] packet_info"
        if isinstance(tun := self.order.spec.get("tun"), dict) and "packet_info" in tun:
            return f"this one{version} wants {where} = {other}, or leave it out of {self.order.profile}"
        return f"this one{version} may want {where} = {other} in {self.order.profile}"

    def _wrong(self, place: str, text: str) -> EngineFault:
        return EngineFault(f"{self.order.profile}: {place}: {text}", usage=True)


def split_networks(
    networks: tuple[IPNetwork, ...], addresses: object
) -> tuple[list[str], list[str], list[str]]:
    """Which go into the tunnel, which can't and are blocked instead, which are routed nowhere.

    wg-quick routes a family into the device even where that has no address of it, which ends
    those packets; `block` says so outright.
    """
    families = {6 if ":" in str(text) else 4 for text in addresses} if isinstance(addresses, list) else {4, 6}
    routes: list[str] = []
    block: list[str] = []
    never: list[str] = []
    for network in networks:
        if any(network.version == no.version and network.subnet_of(no) for no in _NEVER_ROUTED):  # type: ignore[arg-type]  # the versions are equal
            never.append(str(network))
        else:
            (routes if network.version in families else block).append(str(network))
    return routes, block, never


def _with(given: object, more: list[dict[str, Any]]) -> object:
    """The profile's endpoints and ours; one that is no list is the helper's to refuse."""
    if not isinstance(given, list):
        return given
    return [*given, *(endpoint for endpoint in more if endpoint not in given)]


def _private() -> tuple[socket.socket, socket.socket]:
    """A listener that nobody else can reach and our end: its name is gone once we are connected."""
    folder = tempfile.mkdtemp(prefix="coentro-")
    path = os.path.join(folder, "s")
    try:
        return _bound(path)
    except OSError as fault:
        raise EngineFault(f"no control socket can be made: {fault.strerror or fault}") from None
    finally:
        with suppress(FileNotFoundError):
            os.unlink(path)
        os.rmdir(folder)


def _bound(path: str) -> tuple[socket.socket, socket.socket]:
    """A listener at the path, mode 0600, and a connection to it. Errors: OSError, EngineFault."""
    listener, far = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
    before = os.umask(0o177)
    try:
        try:
            listener.bind(path)
        except OSError as fault:
            if fault.errno != errno.EADDRINUSE:
                raise
            _remove_stale(path)
            listener.bind(path)
        listener.listen()
        far.connect(path)
    except BaseException:
        listener.close()
        far.close()
        raise
    finally:
        os.umask(before)
    return listener, far


def _remove_stale(path: str) -> None:
    """What an engine left that was killed; nobody listens there."""
    with socket.socket(socket.AF_UNIX) as knock:
        try:
            knock.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
        else:
            raise EngineFault(f"another WireGuard listens on {path}")

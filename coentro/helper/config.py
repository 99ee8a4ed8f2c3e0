"""The helper's configuration: a TOML file, every key with a default, every fault with its line.

A privileged program that guesses what an administrator meant is worse than one that does not
start, so an unknown key, a wrong type or a value out of range is an error. The keys are those of
docs/protocol.md, "Command line, signals, configuration". Names of users and groups stay names;
coentro.helper.access looks them up.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final, Literal

from attrs import fields, frozen

from coentro import files
from coentro.errors import InvalidParams
from coentro.networks import Networks

Scope = Literal["observe", "tunnel", "admin"]


class ConfigError(Exception):
    """The configuration is no good: `path:line: [table] key: what was expected`."""


@frozen
class SocketConfig:
    """Who may reach the socket. `mode` None: 0660, or 0600 where the group does not exist."""

    group: str = "coentrovpn"
    mode: int | None = None


@frozen
class Who:
    """People, by names or numbers."""

    users: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    uids: tuple[int, ...] = ()
    gids: tuple[int, ...] = ()


@frozen
class Scopes:
    """Who has a scope. None: for `observe` and `tunnel` whoever may connect, for `admin` nobody but root."""

    observe: Who | None = None
    tunnel: Who | None = None
    admin: Who | None = None
    require_token: tuple[Scope, ...] = ()


@frozen
class Policy:
    """The scope that each host-wide thing needs. `networks`: what may be routed; None: all."""

    everything: Scope = "tunnel"
    dns: Scope = "tunnel"
    lockdown: Scope = "tunnel"
    networks: Networks | None = None


@frozen
class Limits:
    """Bounds on what peers may ask for."""

    max_message_bytes: int = 8388608
    max_batch: int = 100
    connections: int = 1024
    connections_per_uid: int = 128
    requests_per_s: float = 500
    burst: float = 1000
    requests_under_way: int = 64
    tunnels_per_uid: int = 8
    routes_per_tunnel: int = 1000000


@frozen
class Config:
    """All of it. `idle_exit_s` 0: never."""

    idle_exit_s: float = 0
    recover_grace_s: float = 30
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["text", "json"] = "text"
    socket: SocketConfig = SocketConfig()
    access: Who = Who(groups=("coentrovpn",))
    scopes: Scopes = Scopes()
    policy: Policy = Policy()
    limits: Limits = Limits()

    def changed(self, old: Config) -> list[str]:
        """The top keys and tables that differ, in order."""
        return [f.name for f in fields(Config) if getattr(self, f.name) != getattr(old, f.name)]


def load(path: str | None, default_path: str, trusted_uids: Collection[int]) -> Config:
    """The configuration at `path`, or at `default_path`, where a missing file means the defaults.

    The file must belong to one of `trusted_uids` and be writable by no one else. Errors: ConfigError.
    """
    place = path if path is not None else default_path
    try:
        data = files.open_trusted(place, trusted_uids)
    except FileNotFoundError:
        if path is None:
            return Config()
        raise ConfigError(f"{place}: there is no such file") from None
    except files.Untrusted as fault:
        raise ConfigError(str(fault)) from fault
    except OSError as fault:
        raise ConfigError(f"{place}: can't be read: {fault.strerror}") from fault
    return parse(data, place)


def parse(data: bytes, path: str) -> Config:
    """The configuration in a file's bytes. Errors: ConfigError with `path` and the line."""
    import tomllib  # only where there is a file

    try:
        text = data.decode()
    except UnicodeDecodeError as fault:
        line = data.count(b"\n", 0, fault.start) + 1
        raise ConfigError(f"{path}:{line}: not UTF-8") from None
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as fault:
        raise ConfigError(_syntax(path, text, str(fault))) from None
    except (ValueError, RecursionError):  # a number of 5,000 digits, 5,000 brackets
        raise ConfigError(f"{path}: a value is too long or too deep to be read") from None
    try:
        return _config(tree)
    except _Fault as fault:
        from coentro.helper.locate import lines

        found = lines(text)
        known = (fault.place[:n] for n in range(len(fault.place), 0, -1))
        line = next((found[place] for place in known if place in found), 1)
        colon = "" if fault.detail.startswith("[") else ": "  # of an element of a list: `uids[1]: expected …`
        name = _name(fault.place, fault.is_table)
        raise ConfigError(f"{path}:{line}: {name}{colon}{fault.detail}") from None


class _Fault(Exception):
    """What is wrong at a place of the tree."""

    def __init__(self, place: tuple[str, ...], detail: str, *, is_table: bool = False) -> None:
        super().__init__(detail)
        self.place = place
        self.detail = detail
        self.is_table = is_table


Check = Callable[[object], Any]
"""From a TOML value to ours. Errors: ValueError with what was expected."""


def _number(low: float, high: float) -> Check:
    def check(value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(f"expected a number from {low:g} to {high:.12g}")
        if not low <= value <= high:
            raise ValueError(f"expected a number from {low:g} to {high:.12g}, not {value}")
        return value

    return check


def _integer(low: int, high: int) -> Check:
    def check(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError(f"expected an integer from {low} to {high}")
        if not low <= value <= high:
            raise ValueError(f"expected an integer from {low} to {high}, not {value}")
        return value

    return check


def _one_of(*names: str) -> Check:
    def check(value: object) -> str:
        if value not in names:
            raise ValueError("expected " + _or(names))
        return str(value)

    return check


def _list_of(check_one: Check, what: str) -> Check:
    def check(value: object) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise ValueError(f"expected a list of {what}")
        made = []
        for index, one in enumerate(value):
            try:
                made.append(check_one(one))
            except ValueError as fault:
                raise ValueError(f"[{index}]: {fault}") from None
            if made[-1] in made[:-1]:
                raise ValueError(f"[{index}]: {one!r} stands there twice")
        return tuple(made)

    return check


_NAME: Final = re.compile(r"[^\x00-\x1f\x7f:/]{1,256}")
_MODE: Final = re.compile(r"0?[0-7]{3}")


def _account(value: object) -> str:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise ValueError("expected a name")
    return value


def _mode(value: object) -> int:
    if not isinstance(value, str) or not _MODE.fullmatch(value):
        raise ValueError('expected the mode as a text, such as "0660"')
    mode = int(value, 8)
    if mode & 0o600 != 0o600 or mode & 0o111:
        raise ValueError("expected a mode that lets the owner read and write, and no one execute")
    return mode


def _networks(value: object) -> Networks:
    if not isinstance(value, list):
        raise ValueError("expected a list of networks")
    try:
        return Networks.parse(value)
    except InvalidParams as fault:
        raise ValueError(f"{fault.path.removeprefix('$')}: {fault.detail}") from None


def _no_tokens(value: object) -> tuple[Scope, ...]:
    if value != []:
        raise ValueError("expected []: tokens are not in this version")
    return ()


_ID: Final = _integer(0, 2**32 - 2)  # chown(2) keeps the last for "leave it"
_WHO: Final[dict[str, Check]] = {
    "users": _list_of(_account, "user names"),
    "groups": _list_of(_account, "group names"),
    "uids": _list_of(_ID, "user numbers"),
    "gids": _list_of(_ID, "group numbers"),
}
_SCOPE: Final = _one_of("observe", "tunnel", "admin")
_TOP: Final[dict[str, Check]] = {
    "idle_exit_s": _number(0, 365 * 86400),
    "recover_grace_s": _number(0, 86400),
    "log_level": _one_of("debug", "info", "warning", "error"),
    "log_format": _one_of("text", "json"),
}
_SOCKET: Final[dict[str, Check]] = {"group": _account, "mode": _mode}
_POLICY: Final[dict[str, Check]] = {
    "everything": _SCOPE,
    "dns": _SCOPE,
    "lockdown": _SCOPE,
    "networks": _networks,
}
_LIMITS: Final[dict[str, Check]] = {
    "max_message_bytes": _integer(65536, 67108864),
    "max_batch": _integer(1, 10000),
    "connections": _integer(1, 65536),
    "connections_per_uid": _integer(1, 65536),
    "requests_per_s": _number(1, 1000000),
    "burst": _number(1, 1000000),
    "requests_under_way": _integer(1, 10000),
    "tunnels_per_uid": _integer(1, 400),
    "routes_per_tunnel": _integer(1, 10000000),
}
_TABLES: Final = ("socket", "access", "scopes", "policy", "limits", "dns", "network", "audit")


def _config(tree: Mapping[str, object]) -> Config:
    top = {key: value for key, value in tree.items() if key not in _TABLES}
    made = _table((), top, _TOP, also=_TABLES)
    for name in ("dns", "network", "audit"):
        for key in _mapping((name,), tree.get(name, {})):
            raise _Fault((name, key), f"this version has no keys in [{name}]")
    return Config(
        **made,
        socket=SocketConfig(**_section(tree, "socket", _SOCKET)),
        access=Who(**_section(tree, "access", _WHO)) if tree.get("access") else Config().access,
        scopes=_scopes(tree.get("scopes", {})),
        policy=Policy(**_section(tree, "policy", _POLICY)),
        limits=Limits(**_section(tree, "limits", _LIMITS)),
    )


def _scopes(value: object) -> Scopes:
    tree = dict(_mapping(("scopes",), value))
    who: dict[str, Any] = {
        name: Who(**_table(("scopes", name), tree.pop(name), _WHO))
        for name in ("observe", "tunnel", "admin")
        if name in tree
    }
    rest = _table(("scopes",), tree, {"require_token": _no_tokens}, also=("observe", "tunnel", "admin"))
    return Scopes(**who, **rest)


def _section(tree: Mapping[str, object], name: str, keys: Mapping[str, Check]) -> dict[str, Any]:
    return _table((name,), tree.get(name, {}), keys)


def _table(
    place: tuple[str, ...], value: object, keys: Mapping[str, Check], also: Collection[str] = ()
) -> dict[str, Any]:
    """The values of a table's keys, checked. `also`: what else would be a known name here."""
    made = {}
    for key, one in _mapping(place, value).items():
        here = (*place, key)
        if key not in keys:
            raise _Fault(here, _unknown(key, one, [*keys, *also]), is_table=isinstance(one, dict))
        try:
            made[key] = keys[key](one)
        except ValueError as fault:
            raise _Fault(here, str(fault)) from None
    return made


def _mapping(place: tuple[str, ...], value: object) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise _Fault(place, f"expected a table [{'.'.join(place)}]")
    return value


def _unknown(key: str, value: object, known: Collection[str]) -> str:
    import difflib  # 5 ms that only a mistake costs

    near = difflib.get_close_matches(key, known, 1)
    what = "table" if isinstance(value, dict) else "key"
    return f"unknown {what}" + (f"; did you mean {near[0]}?" if near else f"; expected {_or(known)}")


def _or(names: Collection[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} or {last}" if first else last


def _name(place: tuple[str, ...], is_table: bool) -> str:
    """`[limits] burst`, `log_level`, or `[limts]`; control characters escaped."""
    shown = [part if part.isprintable() else ascii(part) for part in place]
    if is_table:
        return f"[{'.'.join(shown)}]"
    *table, key = shown
    return f"[{'.'.join(table)}] {key}" if table else key


def _syntax(path: str, text: str, message: str) -> str:
    """tomllib's message, its line in our place."""
    match = re.fullmatch(r"(.*) \(at (?:line (\d+), column \d+|end of document)\)", message, re.DOTALL)
    if match is None:
        return f"{path}: {message}"
    line = int(match[2]) if match[2] else text.rstrip("\n").count("\n") + 1
    return f"{path}:{line}: {match[1]}"

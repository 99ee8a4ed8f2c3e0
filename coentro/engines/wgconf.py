"""WireGuard's configuration files, wg(8)'s and wg-quick(8)'s: text to values, without any I/O.

A fault is told by its line and never by what stands there, since it might be a key that was put
in the wrong place.
"""

from __future__ import annotations

import re
from base64 import b64decode
from binascii import Error as NotBase64
from collections.abc import Callable
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_interface, ip_network
from typing import Any, Final, NamedTuple

MAX_BYTES: Final = 1 << 20

IPNetwork = IPv4Network | IPv6Network

_KEY_BYTES: Final = 32
_HOOKS: Final = ("preup", "postup", "predown", "postdown")
_QUICK: Final = ("address", "dns", "mtu", "table", "saveconfig", *_HOOKS)
_HOST: Final = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9_])?\.?\Z")
_NAMED: Final = re.compile(r"[A-Za-z]{1,24}\Z")  # shorter than a key can be


class Malformed(Exception):
    """`line`: 1 is the first."""

    def __init__(self, line: int, text: str) -> None:
        super().__init__(text)
        self.line = line
        self.text = text


class Key(bytes):
    """32 bytes that nothing prints by accident."""

    def __repr__(self) -> str:
        return "Key(...)"

    __str__ = __repr__


class Endpoint(NamedTuple):
    """Where a peer is: an address or a host name."""

    host: str
    port: int
    line: int


class Peer(NamedTuple):
    line: int
    public_key: Key
    preshared_key: Key | None
    allowed: tuple[IPNetwork, ...]
    endpoint: Endpoint | None
    keepalive_s: int | None


class Hook(NamedTuple):
    """A command that wg-quick would run as root, by the key that it stands at."""

    line: int
    name: str
    command: str


class Quick(NamedTuple):
    """What wg-quick adds. `table`: None for wg-quick's own choice; `addresses` have a length."""

    addresses: tuple[str, ...] = ()
    servers: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    mtu: int | None = None
    table: str | None = None
    save: int | None = None
    hooks: tuple[Hook, ...] = ()


class Config(NamedTuple):
    """`fwmark_line`, `quick.save`: where it stands, None where it does not."""

    private_key: Key
    listen_port: int | None
    fwmark_line: int | None
    peers: tuple[Peer, ...]
    quick: Quick

    def allowed(self) -> tuple[IPNetwork, ...]:
        """The networks of all peers, each once, in order."""
        return tuple(dict.fromkeys(network for peer in self.peers for network in peer.allowed))


def parse(data: bytes, *, quick: bool) -> Config:
    """`quick`: a wg-quick file; else its keys are refused. Errors: Malformed."""
    sections = _sections(data)
    own = [section for section in sections if section.kind == "interface"]
    if not own:
        raise Malformed(1, "there is no [Interface] section")
    if len(own) > 1:
        raise Malformed(own[1].line, "a second [Interface] section")
    interface = own[0]
    given: dict[str, Any] = {}
    more = _MORE if quick else {}
    for entry in interface.entries:
        _take(entry, {**_INTERFACE, **more}, given)
    if "privatekey" not in given:
        raise Malformed(interface.line, "[Interface] has no PrivateKey")
    peers: list[Peer] = []
    for section in sections:
        if section.kind == "peer":
            peer = _peer(section)
            if any(peer.public_key == other.public_key for other in peers):
                raise Malformed(peer.line, "a second [Peer] section with the same PublicKey")
            peers.append(peer)
    fwmark = given.get("fwmark")
    return Config(
        given["privatekey"],
        given.get("listenport"),
        fwmark.line if fwmark is not None and fwmark.on else None,
        tuple(peers),
        _quick(given),
    )


class _Entry(NamedTuple):
    line: int
    key: str
    value: str


class _Section(NamedTuple):
    line: int
    kind: str
    entries: list[_Entry]


class _Mark(NamedTuple):
    line: int
    on: bool


def _sections(data: bytes) -> list[_Section]:
    if len(data) > MAX_BYTES:
        raise Malformed(1, f"longer than {MAX_BYTES} bytes")
    sections: list[_Section] = []
    for number, raw in enumerate(data.split(b"\n"), 1):
        try:
            line = raw.decode()
        except UnicodeDecodeError:
            raise Malformed(number, "not UTF-8 text") from None
        if "\0" in line:
            raise Malformed(number, "a NUL byte")
        line = line.partition("#")[0].strip()
        if not line:
            continue
        if line.startswith("["):
            kind = line.lower()
            if kind not in ("[interface]", "[peer]"):
                raise Malformed(number, "expected [Interface] or [Peer]")
            sections.append(_Section(number, kind[1:-1], []))
            continue
        key, equals, value = (part.strip() for part in line.partition("="))
        if not equals or not key:
            raise Malformed(number, "expected a section, or `Key = value`")
        if not sections:
            raise Malformed(number, "stands before any section")
        sections[-1].entries.append(_Entry(number, key, value))
    return sections


def _take(entry: _Entry, known: dict[str, Callable[[_Entry], Any]], into: dict[str, Any]) -> None:
    name = entry.key.lower()
    if name not in known:
        # The name may be a key that has lost its place, so only what can't be one is shown.
        shown = f"`{entry.key}`" if _NAMED.match(entry.key) else "this"
        hint = ""
        if name in _QUICK:
            hint = ": it is wg-quick's; `coentroctl import` makes a profile of such a file"
        raise Malformed(entry.line, f"{shown} is not known here{hint}")
    value = known[name](entry)
    if isinstance(value, tuple) and not isinstance(value, _Mark | Endpoint):
        into[name] = (*into.get(name, ()), *value)
    elif name in into:
        raise Malformed(entry.line, f"a second {entry.key}")
    else:
        into[name] = value


def _peer(section: _Section) -> Peer:
    given: dict[str, Any] = {}
    for entry in section.entries:
        _take(entry, _PEER, given)
    if "publickey" not in given:
        raise Malformed(section.line, "[Peer] has no PublicKey")
    return Peer(
        section.line,
        given["publickey"],
        given.get("presharedkey"),
        tuple(dict.fromkeys(given.get("allowedips", ()))),
        given.get("endpoint"),
        given.get("persistentkeepalive"),
    )


def _quick(given: dict[str, Any]) -> Quick:
    names = given.get("dns", ())
    return Quick(
        given.get("address", ()),
        tuple(text for text in names if _is_address(text)),
        tuple(text for text in names if not _is_address(text)),
        given.get("mtu"),
        given.get("table"),
        given.get("saveconfig"),
        tuple(sorted(hook for name in _HOOKS for hook in given.get(name, ()))),
    )


def _key(entry: _Entry) -> Key:
    try:
        raw = b64decode(entry.value, validate=True)
    except (NotBase64, ValueError):
        raw = b""
    if len(raw) != _KEY_BYTES or len(entry.value) != 44:
        raise Malformed(entry.line, f"{entry.key}: expected a key, 44 characters of base64")
    return Key(raw)


def _number(low: int, high: int, off: int | None = None) -> Callable[[_Entry], int]:
    def number(entry: _Entry) -> int:
        if off is not None and entry.value.lower() == "off":
            return off
        text = entry.value
        if not (text.isascii() and text.isdigit() and len(text) <= 9 and low <= int(text) <= high):
            raise Malformed(entry.line, f"{entry.key}: expected a number from {low} to {high}")
        return int(text)

    return number


def _fwmark(entry: _Entry) -> _Mark:
    text = entry.value.lower()
    if text == "off":
        return _Mark(entry.line, False)
    if not re.match(r"(0x[0-9a-f]{1,8}|[0-9]{1,10})\Z", text):
        raise Malformed(entry.line, "FwMark: expected a number, decimal or with 0x, or off")
    return _Mark(entry.line, int(text, 16 if text.startswith("0x") else 10) != 0)


def _list(entry: _Entry) -> list[str]:
    return [text for part in entry.value.split(",") if (text := part.strip())]


def _networks(entry: _Entry) -> tuple[IPNetwork, ...]:
    return tuple(_network(entry, text) for text in _list(entry))


def _network(entry: _Entry, text: str) -> IPNetwork:
    _, slash, length = text.partition("/")
    try:
        if "%" in text or (slash and not (length.isascii() and length.isdigit())):
            raise ValueError
        return ip_network(text, strict=False)  # wg(8) takes host bits and clears them
    except ValueError:
        raise Malformed(
            entry.line, f"{entry.key}: expected networks such as 10.0.0.0/8, with commas between"
        ) from None


def _addresses(entry: _Entry) -> tuple[str, ...]:
    texts = _list(entry)
    for text in texts:
        _network(entry, text)
    return tuple(ip_interface(text).with_prefixlen for text in texts)


def _names(entry: _Entry) -> tuple[str, ...]:
    texts = _list(entry)
    for text in texts:
        if not _is_address(text) and not _HOST.match(text):
            raise Malformed(entry.line, "DNS: expected addresses and domains, with commas between")
    return tuple(texts)


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return "%" not in text


def _endpoint(entry: _Entry) -> Endpoint:
    host, _, port = entry.value.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    bare = host[1:-1] if bracketed else host
    good = (_is_address(bare) and (":" in bare) == bracketed) or (not bracketed and _HOST.match(bare))
    if not good or not (port.isascii() and port.isdigit() and len(port) <= 5 and 1 <= int(port) <= 65535):
        raise Malformed(entry.line, "Endpoint: expected host:port, or [address]:port for IPv6")
    return Endpoint(bare, int(port), entry.line)


def _table(entry: _Entry) -> str | None:
    text = entry.value.lower()
    if text == "auto":
        return None
    if not re.match(r"[a-z0-9_-]{1,32}\Z", text):
        raise Malformed(entry.line, "Table: expected off, auto or a table")
    return text


def _save(entry: _Entry) -> int | None:
    if entry.value.lower() not in ("true", "false"):
        raise Malformed(entry.line, "SaveConfig: expected true or false")
    return entry.line if entry.value.lower() == "true" else None


def _hook(entry: _Entry) -> tuple[Hook, ...]:
    return (Hook(entry.line, entry.key, entry.value),)


_PORT: Final = _number(0, 65535)
_INTERFACE: Final[dict[str, Callable[[_Entry], Any]]] = {
    "privatekey": _key,
    "listenport": _PORT,
    "fwmark": _fwmark,
}
_PEER: Final[dict[str, Callable[[_Entry], Any]]] = {
    "publickey": _key,
    "presharedkey": _key,
    "allowedips": _networks,
    "endpoint": _endpoint,
    "persistentkeepalive": _number(0, 65535, off=0),
}
_MORE: Final[dict[str, Callable[[_Entry], Any]]] = {
    "address": _addresses,
    "dns": _names,
    "mtu": _number(576, 65535),
    "table": _table,
    "saveconfig": _save,
    **dict.fromkeys(_HOOKS, _hook),
}

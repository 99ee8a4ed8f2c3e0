"""`import`: a wg-quick file becomes a profile, and its keys a file beside it that root alone may read.

wg-quick(8) runs commands as root; an import runs none. Each is listed with what takes its place.
"""

from __future__ import annotations

import json
import os
import re
import sys
from argparse import Namespace
from base64 import b64encode
from contextlib import suppress
from typing import Final

from coentro.ctl import faults, shown
from coentro.ctl.faults import usage
from coentro.engines import wgconf
from coentro.engines.wgconf import Config, Hook, Key, Malformed, Peer
from coentro.engines.wireguard import split_networks

MTU: Final = 1420  # WireGuard's own: 1500 less 40 for IPv6, 8 for UDP, 32 for itself

_EXPLAINED: Final = (
    (r"\bwg\s+set\b.*\b(private-key|preshared-key)\b", "it reads a key; put the key itself into the file"),
    (
        r"\b(resolvectl|systemd-resolve|resolvconf)\b",
        "it sets DNS, which will be the helper's (`dns` in the profile)",
    ),
    (
        r"\bip6?tables(-\w+)?\b.*\b(MASQUERADE|SNAT|FORWARD)\b|\bnft\b.*\bmasquerade\b|\bip_forward\b",
        "it makes this host a router for others: set that up beside the tunnel",
    ),
    (
        r"\bip6?tables(-\w+)?\b.*\b(REJECT|DROP)\b|\bnft\b.*\b(drop|reject)\b",
        "it keeps packets from going past the tunnel; `block` does so for networks, `lockdown` will for all",
    ),
    (
        r"\bip\s+(-\S+\s+)*(ro?u?t?e?|rule|ru)\b|\broute\b",
        "it changes routes; write them as `routes` and `exclude`",
    ),
)  # fmt: skip
_OTHERWISE: Final = "if it is needed, run it yourself, or from the command that `run` starts"


def import_(args: Namespace) -> int:
    """Write the profile and the file of its keys; returns the exit code. Errors: Fault."""
    source = args.file
    try:
        with open(source, "rb") as file:
            data = file.read(wgconf.MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        raise usage(f"{source}: {getattr(error, 'strerror', None) or error}") from None
    try:
        config = wgconf.parse(data, quick=True)
    except Malformed as fault:
        raise usage(f"{source}:{fault.line}: {fault.text}") from None
    if not config.quick.addresses:
        raise usage(f"{source}: [Interface] has no Address, which a tunnel needs")
    stem = os.path.basename(source).removesuffix(".conf")
    to = args.to if args.to is not None else f"{stem}.toml"
    keys = f"{to.removesuffix('.toml')}.wg.conf"
    _create(keys, keys_text(config), 0o600)
    try:
        _create(to, profile_text(config, source, os.path.basename(keys), _name(stem)), 0o644)
    except BaseException:
        os.unlink(keys)
        raise
    for line in notes(config, source):
        shown.say(shown.plain(line), sys.stderr)
    shown.say(shown.plain(f"{to} and {keys} are written; start it with: coentroctl run {to} -- wireguard-go"))
    return faults.DONE


def profile_text(config: Config, source: str, keys: str, name: str | None) -> str:
    """The profile, which holds no key."""
    quick = config.quick
    routes, block, never = split_networks(config.allowed(), list(quick.addresses))
    lines = [f"# Made of {shown.plain(source)} by coentroctl import."]
    if name is not None:
        lines.append(f"name = {_text(name)}")
    lines.append(f"addresses = {_list(quick.addresses)}")
    lines.append(f"mtu = {quick.mtu or MTU}")
    if quick.table == "off":
        lines.append("# Table = off: nothing is routed into the tunnel.")
        routes = []
    lines.append(f"routes = {_list(routes)}")
    if block and quick.table != "off":
        lines.append("# The tunnel has no address of this family, and its packets shall not go past it.")
        lines.append(f"block = {_list(block)}")
    if never and quick.table != "off":
        lines.append(f"# Not routed, since that is never into a tunnel: {', '.join(never)}")
    if quick.servers or quick.search:
        lines += [
            "# The helper of this version sets no DNS (its capability `dns` is false) and refuses the field.",
            f"# dns = {{ servers = {_list(quick.servers)}, search = {_list(quick.search)} }}",
        ]
    lines += [
        "",
        "[engine]",
        'name = "wireguard-go"',
        "# Keys and peers; their endpoints are looked up at each start and stay outside of the tunnel.",
        f"config = {_text(keys)}",
    ]
    return "\n".join(lines) + "\n"


def keys_text(config: Config) -> str:
    """The part that wg(8) knows."""
    lines = ["[Interface]", f"PrivateKey = {_base64(config.private_key)}"]
    if config.listen_port is not None:
        lines.append(f"ListenPort = {config.listen_port}")
    for peer in config.peers:
        lines += ["", *_peer(peer)]
    return "\n".join(lines) + "\n"


def notes(config: Config, source: str) -> list[str]:
    """What was not taken over, each with its line and what takes its place."""
    quick = config.quick
    found = [(h.line, f"{h.name} is not run: {_keyless(h.command)} -- {explained(h)}") for h in quick.hooks]
    if quick.save is not None:
        found.append((quick.save, "SaveConfig: nothing is ever written back into the files made here"))
    if config.fwmark_line is not None:
        found.append(
            (config.fwmark_line, "FwMark is left out: endpoints stay outside of the tunnel without it")
        )
    lines = [f"{source}:{line}: {text}" for line, text in sorted(found)]
    if quick.table not in (None, "off"):
        lines.append(f"{source}: Table is left out: the helper keeps a table of its own for each tunnel")
    if quick.servers or quick.search:
        lines.append(f"{source}: DNS is a comment in the profile: the helper of this version sets none")
    return lines


def explained(hook: Hook) -> str:
    """What takes a command's place."""
    return next((text for pattern, text in _EXPLAINED if re.search(pattern, hook.command)), _OTHERWISE)


def _peer(peer: Peer) -> list[str]:
    lines = ["[Peer]", f"PublicKey = {_base64(peer.public_key)}"]
    if peer.preshared_key is not None:
        lines.append(f"PresharedKey = {_base64(peer.preshared_key)}")
    if peer.allowed:
        lines.append(f"AllowedIPs = {', '.join(map(str, peer.allowed))}")
    if peer.endpoint is not None:
        host = f"[{peer.endpoint.host}]" if ":" in peer.endpoint.host else peer.endpoint.host
        lines.append(f"Endpoint = {host}:{peer.endpoint.port}")
    if peer.keepalive_s is not None:
        lines.append(f"PersistentKeepalive = {peer.keepalive_s}")
    return lines


def _keyless(command: str) -> str:
    """As it stands, but for what might be a key."""
    return re.sub(r"[A-Za-z0-9+/]{42,43}=", "(a key)", command)


def _base64(key: Key) -> str:
    return b64encode(key).decode()


def _name(stem: str) -> str | None:
    """A tunnel's name of a file's, or None for the helper's own choice."""
    name = re.sub(r"[^a-z0-9-]+", "-", stem.lower()).strip("-")[:32]
    return name or None


def _text(text: str) -> str:
    """A basic string: TOML's escapes are JSON's, but for surrogates and DEL (toml.io, "String")."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _list(texts: tuple[str, ...] | list[str]) -> str:
    return f"[{', '.join(map(_text, texts))}]"


def _create(path: str, text: str, mode: int) -> None:
    """A new file, whole or not at all. Errors: Fault."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    except FileExistsError:
        raise usage(f"{path} exists already; name another with -o") from None
    except (OSError, ValueError) as error:
        raise usage(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    try:
        with open(fd, "w", encoding="utf-8") as file:
            file.write(text)
    except (OSError, ValueError) as error:
        with suppress(OSError):
            os.unlink(path)
        raise usage(f"{path}: {getattr(error, 'strerror', None) or error}") from None

"""A warning to whoever is here by SSH: the tunnel would swallow the very connection that they type in.

sshd(8) tells who that is in SSH_CONNECTION; sudo(8) takes it away, so parents are asked too.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_interface, ip_network
from typing import Any

from coentro.client.errors import HelperError
from coentro.client.plain import Client

IPAddress = IPv4Address | IPv6Address


def warn(client: Client, spec: Mapping[str, Any], say: Callable[[str], None]) -> None:
    """Say it before the tunnel comes up. Reads the host's on-link networks from the helper."""
    peer = connection(os.environ) or _of_parents()
    if peer is None or not swallows(spec, peer, ()):
        return
    try:
        links = client.call("interface.list")["interfaces"]
    except HelperError:
        links = []  # without the scope to look, the warning may be one too many
    own = [str(text) for link in links for text in link["addresses"]]
    if not swallows(spec, peer, own):
        return
    say(
        f"you are here by SSH from {peer}, which this tunnel takes in: the connection will hang. To keep "
        f'it, put exclude = ["{peer}"] into the profile; confirm_within_s, which would undo a tunnel that '
        "nobody confirms, is not in this version"
    )


def connection(environ: Mapping[str, str]) -> IPAddress | None:
    """The address that the SSH connection comes from."""
    try:
        found = ip_address(environ.get("SSH_CONNECTION", "").partition(" ")[0].partition("%")[0])
    except ValueError:
        return None
    return found if not found.is_loopback else None


def swallows(spec: Mapping[str, Any], peer: IPAddress, own: list[str] | tuple[()]) -> bool:
    """Whether packets to the peer would go into the tunnel or be blocked: the narrowest network says.

    `own`: the host's interface addresses with their lengths. Of equal networks the ones that stay
    outside win (docs/protocol.md, "A tunnel's spec").
    """
    into = _narrowest([*_texts(spec, "routes"), *_texts(spec, "block")], peer)
    on_link = [str(i.network) for text in own if (i := ip_interface(text)).network.is_private]
    outside = _narrowest([*_texts(spec, "exclude"), *_texts(spec, "endpoints"), *on_link], peer)
    return into > outside


def _texts(spec: Mapping[str, Any], field: str) -> Iterator[str]:
    """What is no list, or no text in one, is the helper's to refuse."""
    values = spec.get(field, ())
    for value in values if isinstance(values, list) else ():
        text = value.get("address") if isinstance(value, dict) else value
        if isinstance(text, str):
            yield text


def _narrowest(texts: list[str], peer: IPAddress) -> int:
    """The length of the narrowest of these networks that the peer is in, or -1."""
    longest = -1
    for text in texts:
        try:
            network = ip_network(text)
        except ValueError:
            continue
        if network.version == peer.version and peer in network:
            longest = max(longest, network.prefixlen)
    return longest


def _of_parents() -> IPAddress | None:
    pid = os.getppid()
    while pid > 1:
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                entries = [entry.partition(b"=") for entry in file.read().split(b"\0")]
            with open(f"/proc/{pid}/stat", "rb") as file:
                parent = int(file.read().rpartition(b")")[2].split()[1])
        except OSError:
            return None  # not ours to read, or no /proc
        found = connection({os.fsdecode(key): os.fsdecode(value) for key, _, value in entries})
        if found is not None:
            return found
        pid = parent
    return None

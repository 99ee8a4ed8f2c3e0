"""A sentence for each parameter, for the OpenRPC document alone: a start never loads it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from coentro.helper import requests
from coentro.model import Dns, Lockdown, Spec, TunOptions

WORDS: Final[Mapping[type, Mapping[str, str]]] = {
    Spec: {
        "addresses": "The interface's addresses, each with its on-link prefix.",
        "name": "Unique per owner, and fixed for the tunnel's life; left out: made up.",
        "mtu": "In bytes; at least 1280 with an IPv6 address.",
        "routes": "What goes into the tunnel; `0.0.0.0/0` and `::/0` take everything.",
        "exclude": "What goes as if this tunnel were not there.",
        "endpoints": "The VPN server's addresses: outside of every tunnel.",
        "block": "What is unreachable while the tunnel stands.",
        "dns": "Name servers behind the tunnel.",
        "lockdown": "Nothing leaves but through the tunnels.",
        "linger_s": "How long the tunnel stays when its lease's connection ends.",
        "confirm_within_s": "Undo everything unless `tunnel.confirm` comes in this time.",
        "tun": "How the device is opened; fixed for the tunnel's life.",
    },
    Dns: {
        "servers": "Reached through the tunnel.",
        "search": "Domains that short names are tried in.",
        "match": "Only names in these domains; none: all names.",
    },
    Lockdown: {
        "enabled": "Whether it is on.",
        "allow_lan": "Whether on-link networks stay reachable.",
        "persist": "Whether it outlives crashes and boots.",
    },
    TunOptions: {
        "queues": "Descriptors, each a queue of its own.",
        "vnet_hdr": "A virtio-net header of 10 bytes stands before each packet.",
        "packet_info": "Flags and protocol, 4 bytes, stand before each packet.",
    },
    requests.Nothing: {},
    requests.ClientInfo: {
        "name": "For logs alone.",
        "version": "For logs alone.",
    },
    requests.Hello: {
        "client": "How the program names itself.",
        "protocol": "What the client speaks; another than the helper's is refused.",
    },
    requests.ById: {"id": "As an earlier answer gave it."},
    requests.Attach: {
        "id": "The tunnel's.",
        "lease": "The secret from the answer to `tunnel.create`.",
    },
    requests.Routes: {
        "id": "The tunnel's.",
        "add": "None of them may be there.",
        "remove": "All of them must be there.",
    },
    requests.RouteList: {
        "tunnel": "Only this tunnel's, by its id.",
        "family": "Only IPv4's or IPv6's.",
        "limit": "Of one page.",
        "cursor": "From the page before; changes between two pages move it.",
    },
    requests.Lookup: {"destination": "One IPv4 or IPv6 address."},
    requests.Since: {
        "run": "From an earlier answer or event.",
        "seq": "The last event that was heard.",
    },
    requests.Subscribe: {
        "types": "Only these; left out: all.",
        "since": "Tell what happened after this first.",
    },
    requests.Authenticate: {"token": "As `token.create` showed it."},
    requests.TokenCreate: {
        "name": "For people.",
        "scopes": "What it adds to a connection.",
        "ttl_s": "How long it is valid; left out: until it is revoked.",
        "uid": "Who may use it; left out: anyone who may connect.",
    },
    requests.AuditList: {
        "since": "Only what is later.",
        "limit": "At most so many.",
    },
}

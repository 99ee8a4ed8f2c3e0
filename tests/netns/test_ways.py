"""Which way a packet goes: every cell of ways.txt, by the kernel's own answer and by a real packet.

The answer is RTM_GETROUTE's (`ip route get`, with `oif` for a bound socket, with `from` and `iif`
for a forwarded packet), and `route.lookup`'s. The packet is sent by an ordinary socket and
looked for on every wire. A cell is right when all of them say it, and nothing else is seen.
"""

from __future__ import annotations

import errno
import fcntl
import ipaddress
import json
import os
import re
import socket
import struct
from collections.abc import Collection, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest
from attrs import frozen

from coentro.client import Client
from coentro.client.plain import Tunnel
from tests.netns.peers import configured, connected
from tests.netns.wires import MARK, Descriptor, FarEnd, Wire, inside, watch
from tests.sandbox import Helper, Namespace, Namespaces, run, run_helper, veth

pytestmark = pytest.mark.usefixtures("tun_available")

TUNSETCARRIER: Final = 0x400454E2
NEIGHBOUR: Final = "02:00:00:00:00:01"
PORT: Final = 7777


def _lines(title: str) -> list[list[str]]:
    """The columns of each line under a title of ways.txt."""
    parts = re.split(r"^== ", Path(__file__).with_name("ways.txt").read_text(), flags=re.MULTILINE)
    (part,) = (part for part in parts if part.startswith(title + "\n"))
    lines = (line.strip() for line in part.splitlines()[1:])
    return [re.split(r"\s{2,}", line) for line in lines if line and not line.startswith("#")]


@frozen
class Destination:
    """A row: whereto, and how the packet is sent."""

    row: str
    how: str
    family: int
    address: str


def _specs() -> dict[str, dict[str, list[str]]]:
    specs: dict[str, dict[str, list[str]]] = {}
    for tunnel, name, values in _lines("Tunnels"):
        specs.setdefault(tunnel, {})[name] = values.split()
    return specs


def _ways() -> dict[str, dict[str, str]]:
    """By situation the cell of each row."""
    ways: dict[str, dict[str, str]] = {}
    for title in ("Ways: one owner", "Ways: others, and trouble"):
        (_, *situations), *rows = _lines(title)
        for name, family, *cells in rows:
            for situation, cell in zip(situations, cells, strict=True):
                ways.setdefault(situation, {})[f"{name} {family}"] = cell
    return ways


LINKS: Final = {name: {4: v4, 6: v6} for name, v4, v6, _ in _lines("Devices")}
SPECS: Final = _specs()
WAYS: Final = _ways()
DESTINATIONS: Final = [
    Destination(f"{name} {family}", how, family, address)
    for name, how, *addresses in _lines("Destinations")
    for family, address in zip((4, 6), addresses, strict=True)
]
GUEST: Final = {f: str(ipaddress.ip_interface(a).ip + 1) for f, a in LINKS["guest"].items()}


SITUATIONS: Final = {
    "none": [],
    "split": ["split"],
    "full": ["full"],
    "4 + 6": ["full4", "full6"],
    "only4": ["only4"],
    "both": ["full", "split"],
    "two users": ["split", "full"],
    "dark split": ["split"],
    "dark both": ["split", "full"],
    "helper dead": ["split", "full"],
    "all dead": ["split", "full"],
}
"""The tunnels of each, in the order in which they are made."""


def test_the_table_has_a_cell_for_each_row_in_each_situation() -> None:
    rows = [there.row for there in DESTINATIONS]
    assert {situation: list(ways) for situation, ways in WAYS.items()} == dict.fromkeys(SITUATIONS, rows)


@pytest.mark.parametrize("situation", SITUATIONS)
def test_packets_take_the_way_that_the_table_says(
    situation: str, tmp_path: Path, namespaces: Namespaces, request: pytest.FixtureRequest
) -> None:
    uids = request.getfixturevalue("two_uids") if situation == "two users" else (0, 0)
    guest, router = namespaces.new("guest"), namespaces.new("router")
    with (
        ExitStack() as stack,
        run_helper(tmp_path, "--config", configured("", sorted(set(uids)))) as helper,
        ExitStack() as clients,
    ):
        _topology(router, guest)
        wires: dict[str, Wire] = {
            d: FarEnd(stack, d, f"{d}-far", guest if d == "guest" else router) for d in LINKS
        }
        made = {
            name: clients.enter_context(connected(helper, uid)).create(name=name, **SPECS[name])
            for name, uid in zip(SITUATIONS[situation], uids, strict=False)
        }
        carrier = not situation.startswith("dark")
        if not carrier:
            _turn_carriers_off(made.values())
        for name, tunnel in made.items():
            wires[name] = Descriptor(stack, tunnel.fds[0], tunnel.interface, carrier)
        if situation.endswith("dead"):
            helper.kill()
        if situation == "all dead":
            for name, tunnel in made.items():
                tunnel.close_fds()
                del wires[name]
        devices = {t.interface: name if carrier else f"({name})" for name, t in made.items()}
        devices |= {name: name for name in LINKS}
        faults = _faults(situation, "by RTM_GETROUTE", _asked(devices))
        if helper.process.returncode is None:
            faults += _faults(situation, "by route.lookup", _looked_up(helper, devices))
        faults += _faults(situation, "by its packet", _sent(wires, guest, WAYS[situation]))
    assert not faults, "\n".join(faults)


def _faults(situation: str, how: str, found: Mapping[str, str]) -> list[str]:
    """A line for each row that is found to be another than the table says."""
    faults = []
    for there in DESTINATIONS:
        cell, seen = WAYS[situation][there.row], found.get(there.row)
        if seen is None or seen == cell:
            continue
        # What is lost on a device is seen nowhere, and so is the end of what is forwarded.
        if seen == "nothing" and (cell.startswith("(") or (cell == "x" and there.how == "forwarded")):
            continue
        faults.append(f"{situation} | {there.row} ({there.address}): expected {cell}, {how} {seen}")
    return faults


# The host


def _topology(router: Namespace, guest: Namespace) -> None:
    """The devices of the table, each with a far end that never answers: its neighbours are known."""
    os.sched_setaffinity(
        0, {min(os.sched_getaffinity(0))}
    )  # each CPU has a queue of its own for veth's packets
    lines: dict[int, list[str]] = {4: [], 6: []}
    for device, addresses in LINKS.items():
        veth(device, f"{device}-far", theirs=guest if device == "guest" else router)
        for family, text in addresses.items():
            here = ipaddress.ip_interface(text)
            lines[family].append(f"address add {text} dev {device}")
            near = {str(here.network[1])}
            near |= {t.address for t in DESTINATIONS if ipaddress.ip_address(t.address) in here.network}
            near |= {GUEST[family]} if device == "guest" else set()
            lines[family] += (
                f"neighbour replace {a} lladdr {NEIGHBOUR} nud permanent dev {device}" for a in sorted(near)
            )
    for family, gateway in ((4, "192.168.77.1"), (6, "fd77::1")):
        lines[family].append(f"route add default via {gateway} dev lan")
        run("ip", f"-{family}", "-batch", "-", stdin="\n".join(lines[family]) + "\n")
    run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
    run("sysctl", "-qw", *(f"net.ipv4.conf.{name}.rp_filter=0" for name in ("all", "default", *LINKS)))
    # A host may have links without a carrier lose their routes; a tunnel's descriptor must not decide that.
    run("sysctl", "-qw", *(f"net.ipv{f}.conf.default.ignore_routes_with_linkdown=1" for f in LINKS["lan"]))
    _settle_in(guest)


def _settle_in(guest: Namespace) -> None:
    mac = Path("/sys/class/net/guest/address").read_text().strip()
    for family, address in GUEST.items():
        gateway = ipaddress.ip_interface(LINKS["guest"][family])
        guest.run(
            "ip",
            f"-{family}",
            "-batch",
            "-",
            stdin=f"address add {address}/{gateway.network.prefixlen} dev guest-far\n"
            f"neighbour add {gateway.ip} lladdr {mac} nud permanent dev guest-far\n"
            f"route add default via {gateway.ip}\n",
        )


def _turn_carriers_off(tunnels: Collection[Tunnel]) -> None:
    """Ask for it as any holder may, and wait until the kernel says that it is so: it takes its time."""
    left = {tunnel.info["interface"]["index"] for tunnel in tunnels}
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as news:
        news.settimeout(10)
        news.bind((0, 1))  # RTMGRP_LINK
        for tunnel in tunnels:
            fcntl.ioctl(tunnel.fds[0], TUNSETCARRIER, struct.pack("i", 0))
        while left:
            _, index, flags = struct.unpack_from("=IiI", news.recv(1 << 16), 16)  # struct ifinfomsg
            if not flags & 0x10000:  # IFF_LOWER_UP
                left.discard(index)


# What is found


def _asked(devices: Mapping[str, str]) -> dict[str, str]:
    """What the kernel answers for each row."""
    found = {}
    for there in DESTINATIONS:
        argv = ["ip", f"-{there.family}", "-j", "route", "get", there.address]
        argv += {
            "plain": [],
            "bound": ["oif", "lan"],
            "forwarded": ["from", GUEST[there.family], "iif", "guest"],
        }[there.how]
        answer = run(*argv, check=False)
        if answer.returncode:
            unreachable = os.strerror(errno.EHOSTUNREACH) in answer.stderr
            found[there.row] = "x" if unreachable else answer.stderr.strip()
            continue
        (way,) = json.loads(answer.stdout)
        device = devices.get(way["dev"], way["dev"])
        asks = there.how == "bound" and "gateway" not in way
        found[there.row] = f"{device}?" if asks else device
    return found


def _looked_up(helper: Helper, devices: Mapping[str, str]) -> dict[str, str]:
    """What `route.lookup` answers for those that are plain."""
    found = {}
    with Client(str(helper.socket), timeout_s=10) as client:
        for there in DESTINATIONS:
            if there.how == "plain":
                way = client.call("route.lookup", {"destination": there.address})
                found[there.row] = devices.get(way["interface"], "x") if way["interface"] else "x"
    return found


def _sent(wires: Mapping[str, Wire], guest: Namespace, ways: Mapping[str, str]) -> dict[str, str]:
    """Where a packet of each row came out, on whichever wires."""
    refused: dict[str, str] = {}
    with ExitStack() as stack:
        senders = {
            (how, family): stack.enter_context(_sender(how, family, guest))
            for how in ("plain", "bound", "forwarded")
            for family in (4, 6)
        }
        for there in DESTINATIONS:
            try:
                sender = senders[there.how, there.family]
                sender.sendto(MARK + there.row.encode(), (there.address, PORT))
            except OSError as fault:
                refused[there.row] = "x" if fault.errno == errno.EHOSTUNREACH else str(fault)
        expected = {
            ("lan", f"{there.address}?") if cell == "lan?" else (cell, there.row)
            for there in DESTINATIONS
            if (cell := ways[there.row]).rstrip("?") in wires
        }
        seen = watch(wires, expected)
    found = {}
    for there in DESTINATIONS:
        where = {wire for wire, what in seen if what == there.row}
        where |= {f"{wire}?" for wire, what in seen if what == f"{there.address}?"}
        found[there.row] = " and ".join(sorted(where)) or refused.get(there.row, "nothing")
    return found


def _sender(how: str, family: int, guest: Namespace) -> socket.socket:
    def make() -> socket.socket:
        return socket.socket(socket.AF_INET if family == 4 else socket.AF_INET6, socket.SOCK_DGRAM)

    sender = inside(guest, make) if how == "forwarded" else make()
    if how == "bound":
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lan")
    return sender

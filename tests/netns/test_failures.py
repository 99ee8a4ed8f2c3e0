"""What goes wrong in the middle, really provoked: the kernel refuses, others interfere, the helper is killed.

Over the real helper and its client. Whatever happens the caller knows what was refused, and the
host is as before to the last byte; what is somebody else's is still there.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, Final

import pytest

from coentro.client import Client, HelperError, HelperGone
from coentro.client.plain import Tunnel
from tests.netns.hostile import hostile
from tests.netns.linux_host import batch, lan, many, many_texts, same, settled
from tests.netns.peers import connected, descriptors, event, eventually, refused
from tests.netns.strace import netlink_sockets, tampered
from tests.sandbox import Helper, host_state, run, run_helper

KERNEL, NOT_FOUND = -32005, -32002
TUNSETPERSIST: Final = 0x400454CB
TUNSETCARRIER: Final = 0x400454E2

pytestmark = pytest.mark.usefixtures("tun_available")

SPEC: Final = {
    "addresses": ["10.9.0.2/24", "fd00:9::2/64"],
    "routes": ["10.1.0.0/16", "2001:db8::/32"],
    "exclude": ["10.1.2.0/24"],
    "endpoints": ["203.0.113.7"],
}
CHANGED: Final = {
    "addresses": ["10.9.0.3/24", "fd00:9::2/64"],
    "routes": ["0.0.0.0/0", "2001:db8::/32", "2001:db9::/32"],
    "mtu": 1400,
}
FULL: Final = {"addresses": ["10.8.0.2/24", "fd00:8::2/64"], "routes": ["0.0.0.0/0", "::/0"]}


@pytest.fixture
def strace() -> None:
    """Skips where strace can't be had or may not trace."""
    if shutil.which("strace") is None:
        pytest.skip("strace(1) is not installed")
    if subprocess.run(["strace", "-o", "/dev/null", "true"], check=False, timeout=20).returncode:
        pytest.skip("strace(1) may not trace here (ptrace_scope, seccomp)")


@pytest.fixture
def client(helper: Helper) -> Iterator[Client]:
    with connected(helper) as made:
        yield made


@pytest.mark.usefixtures("strace")
def test_a_create_refused_at_any_request_to_the_kernel_is_undone(helper: Helper, client: Client) -> None:
    before, open_before = settled(), len(descriptors(helper.pid))
    where, *_ = netlink_sockets(helper)
    kinds: set[str] = set()
    for nth in count(1):
        with tampered(helper, where, "sendto", f"error=EPERM:when={nth}") as tampering:
            failure = _refusal(client, "tunnel.create", SPEC)
        if not tampering.hits:
            assert failure is None
            break
        kinds |= _told(failure, tampering.hits, nth)
        same(before, str(tampering.hits))
        # The helper goes on, with nothing left over in its memory or its descriptors.
        client.create(**SPEC).close()
        same(before)
    assert {"RTM_GETLINK", "RTM_NEWLINK", "RTM_NEWADDR", "RTM_NEWROUTE", "RTM_NEWRULE"} <= kinds
    for tunnel in client.call("tunnel.list")["tunnels"]:
        client.call("tunnel.destroy", {"id": tunnel["id"]})
    same(before)
    assert len(descriptors(helper.pid)) == open_before


@pytest.mark.usefixtures("strace")
def test_an_update_refused_at_any_request_to_the_kernel_is_undone(helper: Helper, client: Client) -> None:
    before = settled()
    where, *_ = netlink_sockets(helper)
    kinds: set[str] = set()
    with client.create(**SPEC) as tunnel:
        standing, shown = settled(), _shown(client, tunnel)
        for nth in count(1):
            with tampered(helper, where, "sendto", f"error=EPERM:when={nth}") as tampering:
                failure = _refusal(client, "tunnel.update", {"id": tunnel.id, **CHANGED})
            if not tampering.hits:
                assert failure is None
                break
            kinds |= _told(failure, tampering.hits, nth)
            same(standing, str(tampering.hits))
            assert _shown(client, tunnel) == shown
        assert _shown(client, tunnel) != shown
        expected = {"RTM_GETLINK", "RTM_NEWLINK", "RTM_NEWADDR", "RTM_DELADDR", "RTM_NEWROUTE", "RTM_NEWRULE"}
        assert expected | {"RTM_DELRULE", "RTM_DELROUTE"} <= kinds
    same(before)


@pytest.mark.usefixtures("strace")
def test_what_was_done_is_never_answered_with_an_error(helper: Helper, client: Client) -> None:
    before = settled()
    _, where, *_ = netlink_sockets(helper)
    for nth in count(1):
        with tampered(helper, where, "sendto", f"error=EPERM:when={nth}") as tampering:
            failure = _refusal(client, "tunnel.create", SPEC)
        made = client.call("tunnel.list")["tunnels"]
        # Where it was not refused the helper may have been looking after an event.
        assert len(made) == (failure is None), (failure, tampering.hits)
        for tunnel in made:
            client.call("tunnel.destroy", {"id": tunnel["id"]})
        same(before)
        if not tampering.hits:
            break
    assert nth > 1
    with client.create(**SPEC) as standing:
        shown = _shown(client, standing)
        with tampered(helper, where, "sendto", "error=EPERM:when=1") as tampering:
            failure = _refusal(client, "tunnel.update", {"id": standing.id, "routes": []})
        assert (_shown(client, standing) == shown) is (failure is not None), (failure, tampering.hits)
        with (
            connected(helper) as other,
            tampered(helper, where, "sendto", "error=EPERM:when=1") as tampering,
        ):
            moved = _refusal(other, "tunnel.attach", {"id": standing.id, "lease": standing.lease}) is None
        # Only the lease's own connection takes the tunnel along when it ends.
        if moved:
            eventually(lambda: not client.call("tunnel.list")["tunnels"], "the end of the tunnel")
        else:
            client.call("tunnel.update", {"id": standing.id, "mtu": 1400})
            assert client.call("tunnel.get", {"id": standing.id})["spec"]["mtu"] == 1400
    same(before)


def _shown(client: Client, tunnel: Tunnel) -> dict[str, Any]:
    told: dict[str, Any] = client.call("tunnel.get", {"id": tunnel.id})
    return {name: value for name, value in told.items() if name != "stats"}


def _refusal(client: Client, method: str, params: dict[str, Any]) -> HelperError | None:
    try:
        client.call(method, params)
    except HelperError as fault:
        return fault
    return None


def _told(failure: HelperError | None, hits: list[str], nth: int) -> set[str]:
    """The caller is told what was refused; the kinds of requests that were."""
    assert failure is not None, f"request {nth} was refused, and nobody was told: {hits}"
    assert failure.code == KERNEL, (failure, failure.data, hits)
    assert failure.data["errno"] == "EPERM"
    assert failure.data["op"]
    return set(re.findall(r"nlmsg_type=(RTM_\w+)", "".join(hits)))


@pytest.mark.usefixtures("strace")
def test_an_undo_that_is_refused_too_is_told_and_made_good_by_the_next_change(
    helper: Helper, client: Client
) -> None:
    before = settled()
    where, *_ = netlink_sockets(helper)
    with tampered(helper, where, "sendto", "") as counting:
        client.create(**SPEC).close()
    (last, *_) = (n for n, call in enumerate(counting.calls, 1) if "RTM_NEWRULE" in call and "INET6" in call)
    with tampered(helper, where, "sendto", f"error=EPERM:when={last}+"), refused(KERNEL) as refusal:
        client.create(**SPEC)
    assert "not all of what had been applied could be undone" in refusal.message
    assert "rule.delete" in refusal.message
    assert client.call("tunnel.list") == {"tunnels": []}
    client.create(**SPEC).close()
    same(before)


REFUSED_OPENS: Final = [
    ("/dev/net/tun", "ioctl", "ENOMEM", 1),
    ("/dev/net/tun", "ioctl", "ENOBUFS", 1),
    ("/dev/net/tun", "ioctl", "EBUSY", 2),
    ("/dev/net/tun", "openat", "EMFILE", 1),
    ("/dev/net/tun", "openat", "EMFILE", 2),
    ("/proc/sys/net/ipv6/conf/coentro0/accept_ra", "openat", "EACCES", 1),
    ("/proc/sys/net/ipv4/conf/coentro0/rp_filter", "openat", "EMFILE", 1),
]


@pytest.mark.usefixtures("strace")
def test_a_device_that_can_not_be_had_or_hardened_is_not_there(helper: Helper, client: Client) -> None:
    before, open_before = settled(), len(descriptors(helper.pid))
    for path, call, error, nth in REFUSED_OPENS:
        with (
            tampered(helper, path, call, f"error={error}:when={nth}") as tampering,
            refused(KERNEL, "kernel") as refusal,
        ):
            client.create(**SPEC, tun={"queues": 2})
        assert len(tampering.hits) == 1
        assert (refusal.data["errno"], refusal.data["op"].split()[0]) == (error, "link.add"), refusal
        same(before, f"{path} {call} {error}")
        assert len(descriptors(helper.pid)) == open_before
        client.create(**SPEC, tun={"queues": 2}).close()
        same(before)


@contextmanager
def halted(helper: Helper, client: Client, spec: dict[str, Any]) -> Iterator[Any]:
    """A create that stands still between look and apply: its plan is made, its device not yet open.

    Gives the future of its answer; the helper goes on at the end of the block.
    """
    with ThreadPoolExecutor(1) as other, tampered(helper, "/dev/net/tun", "openat", "signal=STOP:when=1"):
        answer = other.submit(client.call_with_fds, "tunnel.create", spec)
        os.waitid(os.P_PID, helper.pid, os.WSTOPPED)
        try:
            yield answer
        finally:
            helper.process.send_signal(signal.SIGCONT)
            answer.exception(20)


def _table(client: Client) -> str:
    """The table that the next tunnel would get, by the plan."""
    (table,) = set(re.findall(r"0x[0-9a-f]+", str(client.call("tunnel.plan", SPEC))))
    return str(table)


@pytest.mark.usefixtures("strace")
def test_what_somebody_puts_there_between_look_and_apply_refuses_the_create_and_stays(
    helper: Helper, client: Client
) -> None:
    before, table = settled(), _table(client)
    for family, theirs, op in (
        ("-4", f"route add 10.1.0.0/16 dev e0 table {table}", "route.add 10.1.0.0/16 dev coentro0 table"),
        ("-4", f"route add throw 203.0.113.7 table {table}", "route.add throw 203.0.113.7/32 table"),
        ("-6", f"route add 2001:db8::/32 dev e0 table {table}", "route.add 2001:db8::/32 dev coentro0 table"),
        ("-6", f"rule add pref 10100 table {table} protocol kernel", "rule.add 10100: from all lookup"),
    ):
        with halted(helper, client, SPEC) as answer:
            batch(theirs, family=family)
            with_theirs = settled()
        with refused(KERNEL, "kernel") as refusal:
            answer.result()
        assert refusal.data["errno"] == "EEXIST"
        assert refusal.data["op"].startswith(op), refusal
        same(with_theirs)
        if not theirs.startswith("rule"):  # that one bears all our marks, so the next look takes it for ours
            # Seen in time it is no refusal: another table is taken.
            with client.create(**SPEC) as tunnel:
                assert _tables(tunnel) == {hex(int(table, 16) + 1)}
            same(with_theirs)
        batch(theirs.replace(" add ", " delete "), family=family)
    same(before)


def _tables(tunnel: Tunnel) -> set[str]:
    """Those in which a tunnel's device stands."""
    found = set()
    for family in ("-4", "-6"):
        routes = run("ip", family, "route", "show", "table", "all", "dev", tunnel.interface).stdout
        found |= {hex(int(number, 0)) for number in re.findall(r"table (0x\w+|\d+)", routes)}
    return found


def test_a_device_deleted_by_another_process_ends_its_tunnel(helper: Helper, client: Client) -> None:
    before = settled()
    with connected(helper) as onlooker, client.create(**FULL) as other:
        onlooker.subscribe()
        standing = settled()
        with client.create(**SPEC, linger_s=600) as tunnel:
            assert host_state() != standing
            run("ip", "link", "delete", tunnel.interface)
            down = event(onlooker, "tunnel.down", id=tunnel.id)
            assert (down["data"]["why"], down["data"]["left"]) == ("its interface was removed", [])
            same(standing)
            with refused(NOT_FOUND):
                client.call("tunnel.get", {"id": tunnel.id})
        # The other one, and the connection that had both, go on.
        assert [t["id"] for t in client.call("tunnel.list")["tunnels"]] == [other.id]
        run("ip", "link", "delete", other.interface)
        event(onlooker, "tunnel.down", id=other.id)
        assert client.call("tunnel.list") == {"tunnels": []}
        client.create(**SPEC).close()
    same(before)


THEIR_LINKS: Final = [
    "tuntap add dev coentro0 mode tun",
    "tuntap add dev coentro7 mode tun",
    "tuntap add dev theirs0 mode tun",
    "tuntap add dev coentrox mode tun",
    "tuntap add dev coentro12 mode tap",
    "link add coentro9 type veth peer name coentro10",
    "link set dev coentro7 alias office",
    "link set dev theirs0 alias coentro:0123456789abcdef",
    "link set dev coentrox alias coentro:0123456789abcdef",
    "link set dev coentro12 alias coentro:0123456789abcdef",
    "link set dev coentro9 alias coentro:0123456789abcdef",
    "address add 10.66.0.1/24 dev coentro7",
    "link set dev coentro7 up",
    "link set dev coentro9 up",
]
THEIR_NETWORK: Final = [
    ("-4", "rule add pref 10100 table 99"),
    ("-4", "rule add pref 10101 table 0x636f0003 protocol static"),
    ("-4", "rule add pref 10102 from 10.7.0.0/16 table 0x636f0003 protocol kernel"),
    ("-4", "rule add pref 10500 from 10.7.0.0/16 table main"),
    ("-4", "rule add pref 10099 table 0x636f0001 protocol kernel"),
    ("-6", "rule add pref 10499 table 0x636f1001 protocol kernel"),
    ("-6", "rule add pref 10500 table 99"),
    ("-4", "route add 198.18.0.0/15 dev e0 table 0x636f0001"),
    ("-4", "route add 198.18.0.0/15 dev coentro7 table 0x636f0002 protocol static"),
    ("-4", "route add throw 198.18.1.0/24 table 0x636f0002 protocol static"),
    ("-4", "route add unreachable default table 0x636f0002 protocol static metric 4294967294"),
    ("-6", "route add 2001:db8:5::/48 dev e0 table 0x636f0004 protocol 206"),
    ("-6", "route add unreachable 2001:db8:6::/48 table 99"),
]


def test_what_only_looks_like_ours_is_never_adopted_and_never_removed(tmp_path: Path) -> None:
    lan()
    for line in THEIR_LINKS:
        run("ip", *line.split())
    for family, line in THEIR_NETWORK:
        run("ip", family, *line.split())
    before = settled()
    with run_helper(tmp_path) as helper:
        same(before)
        with connected(helper) as client:
            assert client.call("tunnel.list") == {"tunnels": []}
            with client.create(**FULL) as full, client.create(**SPEC) as split:
                theirs = {"coentro0", "coentro7", "coentro9", "coentro10", "coentro12"}
                assert not {full.interface, split.interface} & theirs
                numbers = {0x636F0001, 0x636F0002, 0x636F0003, 0x636F0004}
                assert not {int(t, 16) for t in _tables(full) | _tables(split)} & numbers
                client.call("tunnel.update", {"id": split.id, **CHANGED, "routes": ["10.2.0.0/16"]})
            same(before)
            client.create(**SPEC)
        helper.kill()
    with run_helper(tmp_path):
        same(before)
    same(before)


@pytest.mark.parametrize("ending", ["destroyed", "client gone", "helper killed"])
def test_a_device_made_persistent_and_dark_by_its_holder_goes_all_the_same(
    ending: str, tmp_path: Path
) -> None:
    lan()
    before = settled()
    with run_helper(tmp_path) as helper, connected(helper) as onlooker:
        onlooker.subscribe()
        with connected(helper) as client:
            tunnel = client.create(**SPEC)
            fcntl.ioctl(tunnel.fds[0], TUNSETPERSIST, 1)
            fcntl.ioctl(tunnel.fds[0], TUNSETCARRIER, struct.pack("i", 0))
            assert client.call("tunnel.get", {"id": tunnel.id})["state"] == "up"
            way = client.call("route.lookup", {"destination": "10.1.0.9"})
            assert (way["interface"], way["tunnel"]) == (tunnel.interface, tunnel.name)
            if ending == "destroyed":
                tunnel.close()
                same(before)
            elif ending == "helper killed":
                helper.kill()
        if ending == "client gone":
            event(onlooker, "tunnel.down", id=tunnel.id, left=[])
            same(before)
        tunnel.close_fds()
    if ending == "helper killed":
        assert tunnel.interface in run("ip", "link").stdout
        with run_helper(tmp_path):
            same(before)
    same(before)


def test_nothing_that_an_engine_writes_into_the_descriptor_changes_the_host(
    helper: Helper, client: Client
) -> None:
    for number in (1, 66):  # a redirect counts only from a gateway in use, and to a neighbour that is known
        near = f"192.168.1.{number} lladdr 02:00:00:00:00:{number:02} dev e0 nud permanent"
        run("ip", "neighbour", "add", *near.split())
    before = settled()
    with (
        client.create(**{**SPEC, "routes": ["0.0.0.0/0", "::/0"]}) as tunnel,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as flow,
    ):
        flow.bind(("192.168.1.2", 5555))
        flow.connect(("203.0.113.7", 5555))
        standing, shown = settled(), _shown(client, tunnel)
        ways = _ways(client)
        for packet in hostile():
            assert os.write(tunnel.fds[0], packet) == len(packet)
        # The kernel takes a packet in before write(2) returns.
        same(standing)
        assert _ways(client) == ways
        assert _shown(client, tunnel) == shown
        assert run("ip", "route", "show", "cache").stdout == ""
        assert run("ip", "neighbour", "show", "dev", tunnel.interface).stdout == ""
    same(before)


def _ways(client: Client) -> list[Any]:
    there = ("203.0.113.7", "192.168.1.9", "10.1.2.9", "8.8.8.8", "fd00:1::9", "fd00:1::1", "2606:4700::8")
    return [client.call("route.lookup", {"destination": address}) for address in there]


@pytest.mark.usefixtures("strace")
@pytest.mark.limit(120)
def test_a_helper_killed_in_the_middle_of_a_bulk_leaves_nothing_to_its_successor(tmp_path: Path) -> None:
    lan()
    before = settled()
    bulk = many_texts(many(100_000))
    spec = {**FULL, "routes": [*FULL["routes"], *bulk[::2]], "exclude": bulk[1::2]}
    left: list[int] = []
    with run_helper(tmp_path) as helper, connected(helper) as client:
        with tampered(helper, netlink_sockets(helper)[0], "sendto", "", "--raw=sendto") as counting:
            client.create(**spec)
        requests = len(counting.calls)
    for nth in (requests // 10, requests // 2, requests):
        with run_helper(tmp_path) as helper, connected(helper) as client:
            same(before)
            fault = f"signal=KILL:when={nth}"
            with tampered(helper, netlink_sockets(helper)[0], "sendto", fault, "--raw=sendto"):
                with pytest.raises(HelperGone):
                    client.create(**spec)
                assert helper.process.wait(20) == -signal.SIGKILL
            left.append(len(run("ip", "route", "show", "table", "all").stdout.splitlines()))
    # Those with the device went with it; what leads past it stayed, and in the end the rule of IPv4.
    assert 0 < left[0] < left[1] < 50_000 < left[2], left
    with run_helper(tmp_path):
        same(before)
    same(before)

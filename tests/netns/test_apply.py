"""A set of changes is applied whole or not at all: real refusals, a cancel at every step."""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import re
import socket
import struct
import subprocess
import sys
from typing import Any

import pytest
import trio

from coentro.errors import Kernel
from coentro.model import Dns, Endpoint, Server, Spec, TunOptions
from coentro.netops.linux.desired import Link, Table
from coentro.netops.linux.network import LinuxNetwork
from coentro.networks import Networks
from coentro.plan import Change, diff, undo
from tests import sandbox
from tests.netns.hostile import hostile
from tests.netns.linux_host import (
    TABLE,
    AfterStep,
    batch,
    lan,
    make,
    many,
    many_texts,
    nets,
    opened,
    plan,
    same,
    settled,
    spec,
    take_down,
    wanted,
)

pytestmark = pytest.mark.usefixtures("tun_available")

TUNSETPERSIST = 0x400454CB
TUNSETCARRIER = 0x400454E2

SPLIT = spec(
    "10.9.0.2/24", routes=nets("10.1.0.0/16", "192.0.2.0/24"), endpoints=(Endpoint.parse("203.0.113.7"),)
)
FULL = spec(
    "10.9.0.2/24",
    "fd00:9::2/64",
    routes=nets("0.0.0.0/0", "::/0"),
    exclude=nets("198.51.100.0/24", "2001:db8:2::/48"),
    block=nets("203.0.113.128/25"),
    dns=Dns(servers=(Server.parse("10.1.0.53"), Server.parse("2001:db8:53::1"))),
    endpoints=(Endpoint.parse("203.0.113.7"), Endpoint.parse("2001:db8:ffff::1")),
)
BLOCKS6 = spec("10.9.0.2/24", routes=nets("0.0.0.0/1", "128.0.0.0/1"), block=nets("::/0"), mtu=1200)
QUEUES = spec("10.9.0.2/32", tun=TunOptions(queues=4, vnet_hdr=True, packet_info=True))
LINK_LOCAL = spec("fe80::9/64", "10.9.0.2/31", routes=nets("2001:db8::/32"))


@pytest.mark.parametrize(
    "what",
    [SPLIT, FULL, BLOCKS6, QUEUES, LINK_LOCAL],
    ids=["split", "full", "v6 blocked", "queues", "link-local"],
)
async def test_a_tunnel_is_made_and_taken_down_to_the_last_route(what: Spec) -> None:
    lan()
    before = settled()
    async with opened() as net:
        await make(net, wanted(what))
        assert sandbox.host_state() != before
        device = net.device(wanted(what).id)
        assert device is not None
        assert len(device.fds) == what.tun.queues
        await take_down(net)
        assert net.device(wanted(what).id) is None
    same(before)


async def test_the_hosts_own_tables_are_never_written() -> None:
    lan()
    before = sandbox.run("ip", "route", "show", "table", "main").stdout
    before6 = sandbox.run("ip", "-6", "route", "show", "table", "main").stdout
    async with opened() as net:
        await make(net, wanted(FULL))
        assert sandbox.run("ip", "route", "show", "table", "main").stdout == before
        assert sandbox.run("ip", "-6", "route", "show", "table", "main").stdout == before6


UPDATES: list[tuple[Spec, Spec]] = [
    (SPLIT, FULL),
    (FULL, SPLIT),
    (FULL, BLOCKS6),
    (BLOCKS6, FULL),
    (FULL, spec("10.9.0.3/24", routes=nets("0.0.0.0/0"))),
    (spec("10.9.0.2/24", mtu=1279), spec("10.9.0.2/24", "10.8.0.2/24", mtu=1280)),
]


@pytest.mark.parametrize(("old", "new"), UPDATES)
async def test_an_update_gives_what_a_create_would_have_given(old: Spec, new: Spec) -> None:
    lan()
    async with opened() as net:
        await make(net, wanted(new))
        fresh = settled()
        await take_down(net)
        await make(net, wanted(old))
        await make(net, wanted(new))
        updated = settled()
    assert _without_indexes(updated) == _without_indexes(fresh)


def _without_indexes(state: str) -> list[str]:
    """The device of another creation has another name and index."""
    return sorted(re.sub(r"\"ifindex\": \d+|coentro\d", "", line) for line in state.splitlines())


@pytest.mark.parametrize(("old", "new"), [(None, FULL), *UPDATES])
async def test_cancelled_at_any_step_the_host_is_as_before(old: Spec | None, new: Spec) -> None:
    lan()
    async with opened() as net:
        if old is not None:
            await make(net, wanted(old))
        before = settled()
        changes = await plan(net, wanted(new))
        for steps in itertools.count():
            with trio.CancelScope() as scope, AfterStep(steps, scope.cancel) as hand:
                await net.apply(changes)
            if not scope.cancelled_caught:
                assert steps > len(changes), "every change is a step that can be cancelled"
                assert not hand.called or await plan(net, wanted(new)) == []
                break
            same(before, f"cancelled after {steps} steps")
            assert await plan(net, *([wanted(old)] if old else []), everything=True) == []


async def test_a_cancel_lands_between_two_chunks_of_routes() -> None:
    before = settled()
    async with opened() as net:
        changes = await plan(net, wanted(spec("10.9.0.2/24", routes=many(5000))))
        with trio.CancelScope() as scope:
            seen: list[int] = []

            def look() -> None:
                seen.append(
                    len(sandbox.run("ip", "route", "show", "table", TABLE, check=False).stdout.splitlines())
                )
                scope.cancel()

            # Five steps of whole objects come first: device, IPv6, up, address; then chunks.
            with AfterStep(12, look):
                await net.apply(changes)
        assert scope.cancelled_caught
        assert 0 < seen[0] < 5000
        same(before)


FOREIGN = [
    (
        "-4",
        f"route add 10.1.0.0/16 dev e0 table {TABLE}",
        "route.add 10.1.0.0/16 dev coentro0 table 0x636f0001",
    ),
    ("-4", f"route add 203.0.113.7 dev e0 table {TABLE}", "route.add throw 203.0.113.7/32 table 0x636f0001"),
    ("-4", f"route add throw 203.0.113.7 table {TABLE}", "route.add throw 203.0.113.7/32 table 0x636f0001"),
    (
        "-6",
        f"route add 2001:db8::/32 dev e0 table {TABLE}",
        "route.add 2001:db8::/32 dev coentro0 table 0x636f0001",
    ),
    (
        "-4",
        f"route add unreachable default metric 4294967294 table {TABLE}",
        f"route.add unreachable 0.0.0.0/0 table {TABLE} metric 4294967294",
    ),
    (
        "-4",
        f"rule add pref 10500 table {TABLE} protocol kernel",
        "rule.add 10500: from all lookup 0x636f0001 (IPv4)",
    ),
    (
        "-6",
        f"rule add pref 10100 table {TABLE} protocol kernel",
        "rule.add 10100: from all lookup 0x636f0001 (IPv6)",
    ),
]


@pytest.mark.parametrize(("family", "line", "op"), FOREIGN)
async def test_what_is_somebody_elses_is_a_refusal_and_stays(family: str, line: str, op: str) -> None:
    lan()
    what = spec(
        "10.9.0.2/24",
        "fd00:9::2/64",
        routes=nets("0.0.0.0/0", "10.1.0.0/16", "2001:db8::/32"),
        endpoints=(Endpoint.parse("203.0.113.7"),),
    )
    async with opened() as net:
        changes = await plan(net, wanted(what))
        batch(line, family=family)
        before = settled()
        with pytest.raises(Kernel) as refused:
            await net.apply(changes)
        assert refused.value.data == {"reason": "kernel", "errno": "EEXIST", "op": op}
        assert "what had been applied was undone" in refused.value.message
        same(before)


@pytest.mark.parametrize("theirs", ["route add {} dev e0", "route add throw {} protocol kernel"])
@pytest.mark.parametrize("field", ["routes", "exclude"])
async def test_of_a_half_applied_bulk_exactly_what_went_in_is_undone(field: str, theirs: str) -> None:
    lan()
    networks = many(3000)
    texts = many_texts(networks)
    async with opened() as net:
        await make(net, wanted(SPLIT))
        fields: dict[str, Any] = {"routes": SPLIT.routes, "endpoints": SPLIT.endpoints, field: networks}
        changes = await plan(net, wanted(spec("10.9.0.2/24", **fields)))
        batch(*(f"{theirs.format(text)} table {TABLE}" for text in texts[1500:1503]))
        before = settled()
        with pytest.raises(Kernel) as refused:
            await net.apply(changes)
        assert refused.value.data["errno"] == "EEXIST"
        assert f" {texts[1500]} " in refused.value.data["op"]
        same(before)


async def test_an_update_that_is_refused_goes_back_to_what_was() -> None:
    lan()
    async with opened() as net:
        await make(net, wanted(SPLIT))
        changes = await plan(net, wanted(FULL))
        batch(f"route add 0.0.0.0/0 dev e0 table {TABLE}")
        before = settled()
        with pytest.raises(Kernel):
            await net.apply(changes)
        same(before)
        batch(f"route delete 0.0.0.0/0 dev e0 table {TABLE}")
        assert await plan(net, wanted(SPLIT), everything=True) == []


async def test_a_changed_route_never_replaces_somebody_elses() -> None:
    lan()
    old = spec("10.9.0.2/24", routes=nets("10.1.0.0/16", "10.2.0.0/16"))
    new = spec("10.9.0.2/24", routes=nets("10.2.0.0/16"), exclude=nets("10.1.0.0/16"))
    async with opened() as net:
        await make(net, wanted(old))
        batch(f"route delete 10.1.0.0/16 table {TABLE}", f"route add 10.1.0.0/16 dev e0 table {TABLE}")
        before = settled()
        with pytest.raises(Kernel) as refused:
            await net.apply(await plan(net, wanted(new)))
        assert refused.value.data["errno"] == "EEXIST"
        same(before)


async def test_a_buffer_too_small_for_the_answers_is_seen_and_the_truth_looked_up() -> None:
    lan()
    routes = many(1000)
    async with opened() as net:
        # Chunks are made to fit the buffer; so it is taken away once they are.
        net._netlink.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        changes = await plan(net, wanted(spec("10.9.0.2/24", routes=routes)))
        batch(*(f"route add {text} dev e0 table {TABLE}" for text in many_texts(routes)[300:600]))
        before = settled()
        with pytest.raises(Kernel) as refused:
            await net.apply(changes)
        assert refused.value.data["errno"] == "ENOBUFS"
        assert refused.value.data["op"].startswith(f"route.add {many_texts(routes)[300]} ")
        same(before)


async def test_answers_lost_about_routes_that_are_gone_are_no_refusal() -> None:
    before = settled()
    async with opened() as net:
        await make(net, wanted(spec("10.9.0.2/24", exclude=many(900))))
        changes = await plan(net)
        net._netlink.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        sandbox.run("ip", "route", "flush", "table", TABLE)
        assert await net.force(changes) == []
    same(before)


async def test_a_minimal_receive_buffer_makes_smaller_chunks_and_nothing_else() -> None:
    before = settled()
    async with opened(receive_bytes=1) as net:
        assert net._netlink.chunk < 10
        await make(net, wanted(spec("10.9.0.2/24", routes=many(100))))
        await take_down(net)
    same(before)


@pytest.mark.parametrize("what", [SPLIT, FULL], ids=["split", "full"])
async def test_a_device_deleted_by_another_process_at_any_step(what: Spec) -> None:
    lan()
    before = settled()
    seen: set[str] = set()
    async with opened() as net:
        for steps in itertools.count():
            changes = await plan(net, wanted(what))
            with AfterStep(steps, _delete_link) as hand:
                refusal = await _refusal(net, changes)
            if refusal is None:
                # The device went after its last change, or before it was there.
                await take_down(net)
                net.release(wanted(what).id)
            else:
                assert refusal["errno"] == "ENODEV", refusal
                seen.add(refusal["op"].split()[0])
            same(before, f"deleted after {steps} steps")
            if not hand.called:
                break
    assert {"address.add", "link.up", "route.add"} <= seen


async def _refusal(net: LinuxNetwork, changes: list[Change]) -> dict[str, Any] | None:
    try:
        await net.apply(changes)
    except Kernel as refused:
        return refused.data
    return None


APPLIES = """
import json, os, sys, trio
from tests.netns.linux_host import opened, plan, wanted
from tests.netns.test_apply import FULL, _refusal

async def main():
    async with opened() as net:
        changes = await plan(net, wanted(FULL))
        netlink = os.readlink(f"/proc/self/fd/{net._netlink.sock.fileno()}")
        print(json.dumps([os.getpid(), netlink]), flush=True)
        sys.stdin.readline()
        refusal = await _refusal(net, changes)
        async with opened() as other:
            print(json.dumps([refusal, len((await other.look(everything=True)).state)]))

trio.run(main)
"""


@pytest.mark.limit(180)
async def test_a_permission_taken_away_at_any_request() -> None:
    """seccomp, an LSM, a capability that is lost: one request after the other gets EPERM from strace."""
    lan()
    before = settled()
    refused: list[str] = []
    for nth in itertools.count(1):
        refusal, left = _applied_with(f"inject=sendto:error=EPERM:when={nth}")
        if refusal is None:
            assert left, "all requests were let through"
            break
        same(before, f"refused at request {nth}")
        assert (refusal["errno"], left) == ("EPERM", 0)
        refused.append(refusal["op"].split()[0])
    assert set(refused) == {"link.add", "link.up", "address.add", "route.add", "rule.add"}


def _applied_with(injection: str) -> tuple[dict[str, Any] | None, int]:
    """What a process of its own was refused whose netlink requests strace tampers with, and how
    many objects it left."""
    command = [sys.executable, "-P", "-c", APPLIES]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    env = {**os.environ, "PYTHONPATH": sandbox.PYTHONPATH}
    with subprocess.Popen(command, text=True, env=env, **pipes) as child:
        pid, netlink = json.loads(child.stdout.readline())  # type: ignore[union-attr]  # a pipe
        strace = ["strace", "-f", "-o", "/dev/null", "-P", netlink, "-e", injection, "-p", str(pid)]
        with subprocess.Popen(strace, text=True, stderr=subprocess.PIPE) as tracer:
            assert "attached" in tracer.stderr.readline()  # type: ignore[union-attr]  # a pipe
            out, errors = child.communicate("go\n", timeout=20)
    assert child.returncode == 0, errors
    refusal, left = json.loads(out)
    return refusal, left


def _delete_link() -> None:
    subprocess.run(["ip", "link", "delete", "coentro0"], check=False, capture_output=True, timeout=10)


async def test_a_device_gone_between_two_halves_of_a_plan() -> None:
    before = settled()
    async with opened() as net:
        changes = await plan(net, wanted(SPLIT))
        at = next(i for i, c in enumerate(changes) if isinstance(c.key, Table))
        await net.apply(changes[:at])
        sandbox.run("ip", "link", "delete", "coentro0")
        with pytest.raises(Kernel) as refused:
            await net.apply(changes[at:])
        assert refused.value.data["errno"] == "ENODEV"
        assert await net.force(undo(changes[:at])) == []
    same(before)


@pytest.mark.limit(120)
async def test_a_hundred_thousand_routes_go_the_way_of_three() -> None:
    routes = many(100_000)
    before = settled()
    async with opened() as net:
        changes = await plan(
            net, wanted(spec("10.9.0.2/24", routes=routes, endpoints=(Endpoint.parse("203.0.113.7"),)))
        )
        assert len(changes) == len(await _few(net))
        await net.apply(changes)
        state = (await net.look(everything=True)).state
        assert len(state[Table("t0", 4, int(TABLE, 16))]) == 100_002
        assert state == (await net.look()).state
        assert len(await net.routes([4])) == 100_002
        fewer = spec("10.9.0.2/24", routes=many(99_990), endpoints=(Endpoint.parse("203.0.113.7"),))
        update = await plan(net, wanted(fewer))
        assert [len(c.old) for c in update] == [10]
        await net.apply(update)
        await take_down(net)
    same(before)


async def _few(net: Any) -> list[Any]:
    return await plan(
        net, wanted(spec("10.9.0.2/24", routes=many(3), endpoints=(Endpoint.parse("203.0.113.7"),)))
    )


async def test_an_undo_that_is_refused_is_told_and_the_rest_still_done(
    caplog: pytest.LogCaptureFixture,
) -> None:
    lan()
    async with opened() as net:
        await make(net, wanted(SPLIT))
        gone = spec("10.9.0.2/24", routes=nets("192.0.2.0/24"), endpoints=(Endpoint.parse("203.0.113.7"),))
        host = await net.look()
        # One route goes and the device with it; then something is refused; the route can't come back.
        changes = diff(net.want(host, [wanted(gone)]), host.state)
        more = [c for c in await plan(net, wanted(FULL)) if isinstance(c.key, Table) and c.key.family == 4][
            :1
        ]
        with AfterStep(3, _delete_link), pytest.raises(Kernel) as refused:
            await net.apply([*changes, *more])
        assert refused.value.data["errno"] == "ENODEV"
        assert (
            "not all of what had been applied could be undone: route.add 10.1.0.0/16" in refused.value.message
        )
        assert any("route.add 10.1.0.0/16" in record.getMessage() for record in caplog.records)


async def test_rules_and_routes_of_others_in_our_ranges_stay() -> None:
    lan()
    async with opened() as net:
        await make(net, wanted(SPLIT))
        batch(
            f"route add 198.18.0.0/15 dev e0 table {TABLE}",
            f"route add 10.1.0.0/16 dev e0 metric 5 table {TABLE}",
            f"route add unreachable 10.3.0.0/16 table {TABLE}",
            f"rule add pref 10100 table {TABLE}",
            f"rule add pref 10100 from 10.7.0.0/16 table {TABLE}",
            "address add 10.99.0.1/32 dev coentro0",
        )
        assert await plan(net, wanted(SPLIT), everything=True) == []
        await take_down(net, everything=True)
    assert sandbox.run("ip", "rule", "show", "pref", "10100").stdout.splitlines() == [
        f"10100:\tfrom all lookup {int(TABLE, 16)}",
        f"10100:\tfrom 10.7.0.0/16 lookup {int(TABLE, 16)}",
    ]
    assert sandbox.run("ip", "route", "show", "table", TABLE).stdout.splitlines() == [
        "10.1.0.0/16 dev e0 scope link metric 5 ",
        "unreachable 10.3.0.0/16 ",
        "198.18.0.0/15 dev e0 scope link ",
    ]


async def test_a_rule_that_the_kernel_would_delete_in_place_of_ours_stays() -> None:
    async with opened() as net:
        batch(f"rule add pref 10100 table {TABLE} suppress_prefixlength 0 protocol kernel")
        await make(net, wanted(SPLIT))
        (failure,) = await net.force(await plan(net))
        assert failure.op == "rule.delete 10100: from all lookup 0x636f0001 (IPv4)"
        assert failure.errno == "EBUSY"
        assert "suppress_prefixlength 0" in sandbox.run("ip", "rule").stdout


async def test_a_device_that_its_holder_made_persistent_goes_all_the_same() -> None:
    before = settled()
    async with opened() as net:
        await make(net, wanted(SPLIT))
        device = net.device(wanted(SPLIT).id)
        assert device is not None
        fcntl.ioctl(device.fds[0], TUNSETPERSIST, 1)
        await take_down(net)
    same(before)


async def test_a_foreign_device_is_never_attached_to() -> None:
    sandbox.run("ip", "tuntap", "add", "dev", "coentro0", "mode", "tun")
    before = settled()
    async with opened() as net:
        await make(net, wanted(SPLIT))
        device = net.device(wanted(SPLIT).id)
        assert device is not None
        assert device.name == "coentro1"
        await take_down(net, everything=True)
    same(before)


@pytest.mark.parametrize("kept", [False, True], ids=["no one holds the device", "an engine holds it"])
async def test_what_a_killed_helper_left_is_found_by_its_marks(kept: bool) -> None:
    lan()
    before = settled()
    async with opened() as net:
        await make(net, wanted(FULL), wanted(SPLIT_OTHER, "t1", 1))
        device = net.device(wanted(FULL).id)
        assert device is not None
        held = os.dup(device.fds[0]) if kept else None
    assert sandbox.host_state() != before
    async with opened() as net:
        host = await net.look(everything=True)
        assert {key for key in host.state if isinstance(key, Link)} == ({Link("t0")} if kept else set())
        assert host.taken_slots == {0, 1}
        assert await net.force(diff({}, host.state)) == []
    if held is not None:
        os.close(held)
    same(before)


SPLIT_OTHER = spec("10.8.0.2/24", "fd00:8::2/64", routes=nets("10.2.0.0/16"), exclude=nets("10.2.3.0/24"))


def _settings(name: str) -> dict[str, str]:
    found = {}
    for setting in ("disable_ipv6", "addr_gen_mode", "accept_ra", "accept_redirects", "autoconf"):
        with open(f"/proc/sys/net/ipv6/conf/{name}/{setting}") as file:
            found[setting] = file.read().strip()
    return found


async def test_an_mtu_across_1280_and_back_leaves_the_device_as_closed_as_before() -> None:
    lan()
    async with opened() as net:
        await make(net, wanted(FULL))
        before = _settings("coentro0")
        assert before == {
            "disable_ipv6": "0",
            "addr_gen_mode": "1",
            "accept_ra": "0",
            "accept_redirects": "0",
            "autoconf": "0",
        }
        await make(net, wanted(BLOCKS6))
        assert not os.path.exists("/proc/sys/net/ipv6/conf/coentro0")
        await make(net, wanted(FULL))
        assert _settings("coentro0") == before


async def test_without_an_ipv6_address_the_device_has_no_ipv6() -> None:
    async with opened() as net:
        await make(net, wanted(SPLIT))
        assert _settings("coentro0")["disable_ipv6"] == "1"
        assert sandbox.run("ip", "-6", "address", "show", "dev", "coentro0").stdout == ""


@pytest.mark.parametrize("what", [SPLIT, FULL], ids=["without IPv6", "with IPv6"])
async def test_nothing_written_into_the_descriptor_configures_the_host(what: Spec) -> None:
    lan()
    sandbox.run("ip", "neighbour", "add", "192.168.1.1", "lladdr", "02:00:00:00:00:01", "dev", "e0")
    sandbox.run("ip", "neighbour", "add", "192.168.1.66", "lladdr", "02:00:00:00:00:66", "dev", "e0")
    async with opened() as net:
        await make(net, wanted(what))
        device = net.device(wanted(what).id)
        assert device is not None
        before = settled()
        ways = _ways()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as flow:
            flow.bind(("192.168.1.2", 5555))
            flow.connect(("203.0.113.7", 5555))
            for packet in hostile():
                os.write(device.fds[0], packet)
            # Netlink and neighbour state of the same namespace are read after: input is done within write(2).
            same(before)
            assert _ways() == ways
            assert sandbox.run("ip", "route", "show", "cache").stdout == ""
            assert sandbox.run("ip", "neighbour", "show", "dev", device.name).stdout == ""


def _ways() -> str:
    there = ("203.0.113.7", "198.51.100.9", "192.168.1.9")
    there6 = ("2001:db8:ffff::1", "2001:db8:2::1", "fd00:1::9")
    v4 = [sandbox.run("ip", "route", "get", a).stdout for a in there]
    return "".join(v4 + [sandbox.run("ip", "-6", "route", "get", a).stdout for a in there6])


@pytest.mark.parametrize("what", [SPLIT, FULL], ids=["split", "full"])
async def test_a_carrier_turned_off_by_the_holder_leaks_nothing(what: Spec) -> None:
    lan()
    async with opened() as net:
        await make(net, wanted(what))
        device = net.device(wanted(what).id)
        assert device is not None
        there = [str(n).split("/")[0] for n in what.routes] + ["10.9.0.77"]
        there = [
            t if t not in ("0.0.0.0", "::") else {"0.0.0.0": "8.8.8.8", "::": "2606::1"}[t] for t in there
        ]
        fcntl.ioctl(device.fds[0], TUNSETCARRIER, struct.pack("i", 0))
        assert "NO-CARRIER" in sandbox.run("ip", "link", "show", device.name).stdout
        for address in there:
            assert f"dev {device.name}" in sandbox.run("ip", "route", "get", address).stdout
        await take_down(net)


async def test_networks_of_a_withdrawn_family_go_and_come_back() -> None:
    async with opened() as net:
        await make(net, wanted(FULL))
        await make(net, wanted(FULL, withdrawn=frozenset({4})))
        assert "10500" not in sandbox.run("ip", "rule").stdout
        await make(net, wanted(FULL))


async def test_the_first_address_is_the_one_that_packets_come_from() -> None:
    async with opened() as net:
        await make(net, wanted(spec("10.9.0.9/24", "10.9.0.2/24", routes=nets("10.1.0.0/16"))))
        for destination in ("10.1.2.3", "10.9.0.77"):
            assert "src 10.9.0.9" in sandbox.run("ip", "route", "get", destination).stdout


async def test_a_spec_with_no_networks_of_a_family_leaves_no_table() -> None:
    async with opened() as net:
        await make(net, wanted(spec("10.9.0.2/24", routes=Networks())))
        assert sandbox.run("ip", "-6", "route", "show", "table", TABLE, check=False).stdout == ""
        assert TABLE not in sandbox.run("ip", "-6", "rule").stdout

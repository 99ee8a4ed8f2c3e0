"""coentro.plan with Linux's objects, on a model of the kernel that forgives nothing.

The model knows what the real one does on its own (docs/architecture.md, "Linux routing"): a
link that goes down takes its IPv6 addresses and device routes, an MTU across 1280 takes IPv6.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from coentro.model import Endpoint, InterfaceAddress, Spec, TunnelId
from coentro.netops.interface import Wanted
from coentro.netops.linux import desired
from coentro.netops.linux.desired import (
    Address,
    Floor,
    Ipv6,
    Link,
    LinkSettings,
    Rule,
    Table,
    Up,
    want,
)
from coentro.netops.linux.routes import THROW, UNICAST, UNREACHABLE
from coentro.networks import SIZE, Networks, network
from coentro.plan import Change, Op, Packed, applied, diff, undo

RANGES = desired.Ranges()
V4 = [network(t) for t in ("10.0.0.0/8", "10.1.0.0/16", "192.0.2.0/24", "198.51.100.0/25")]
V6 = [network(t) for t in ("2001:db8::/32", "2001:db8:1::/48", "fd00:1::/64")]
ALL = [network(t) for t in ("0.0.0.0/0", "0.0.0.0/1", "128.0.0.0/1")]
ALL6 = [network("::/0")]
ADDRESSES = [InterfaceAddress.parse(t) for t in ("10.9.0.2/24", "172.16.0.9/32")]
ADDRESSES6 = [InterfaceAddress.parse(t) for t in ("fd00:9::2/64", "2001:db8:9::1/128")]
ENDPOINTS = [Endpoint.parse(t) for t in ("203.0.113.7", "203.0.113.8", "2001:db8:ffff::1")]


@st.composite
def specs(draw: st.DrawFn) -> Spec:
    v4 = draw(st.lists(st.sampled_from(ADDRESSES), unique=True, min_size=1))
    v6 = draw(st.lists(st.sampled_from(ADDRESSES6), unique=True))
    routes = draw(st.sets(st.sampled_from(V4 + ALL)))
    if v6:
        routes |= draw(st.sets(st.sampled_from(V6 + ALL6)))
    mtu = draw(st.sampled_from([1280, 1420] if v6 else [576, 1200, 1420]))
    return Spec(
        addresses=(*v4, *v6),
        mtu=mtu,
        routes=Networks.of(routes),
        exclude=Networks.of(draw(st.sets(st.sampled_from(V4 + V6), max_size=2))),
        block=Networks.of(draw(st.sets(st.sampled_from(V4 + V6 + ALL6), max_size=2))),
        endpoints=tuple(draw(st.lists(st.sampled_from(ENDPOINTS), unique=True, max_size=2))),
    )


@st.composite
def worlds(draw: st.DrawFn) -> dict[Any, Any]:
    """What up to three tunnels shall have."""
    slots = draw(st.sets(st.sampled_from([0, 1, 2]), max_size=3))
    withdrawn = st.frozensets(st.sampled_from([4, 6]))
    tunnels = [Wanted(TunnelId(f"t{n}"), n, draw(specs()), draw(withdrawn)) for n in sorted(slots)]  # type: ignore[arg-type]  # literals
    onlink = Networks.of(draw(st.sets(st.sampled_from(V4 + V6), max_size=2)))
    return dict(want(RANGES, onlink, tunnels))


@st.composite
def hosts(draw: st.DrawFn) -> dict[Any, Any]:
    """A host as it can be found: what tunnels had, less what others or a crash took away."""
    state = draw(worlds())
    for key in sorted(state, key=repr):
        fate = draw(st.sampled_from(["kept", "kept", "kept", "gone", "changed"]))
        if key not in state or fate == "kept":
            continue
        value = state[key]
        if fate == "gone":
            if isinstance(key, Link):
                state = applied(state, [Change(Op.DELETE, key, old=value)])
            else:
                del state[key]
        elif isinstance(value, Packed):
            entries = {
                e[:-1]: draw(st.sampled_from([UNICAST, THROW, UNREACHABLE, e[-1]]))
                for e in value.entries()
                if draw(st.booleans())
            }
            state[key] = Packed.of(value.width, entries)
            if not entries:
                del state[key]
        elif isinstance(key, Link):
            state[key] = evolve(value, mtu=draw(st.sampled_from([1000, 1279, 1280, 1500])))
    return possible(state)


def possible(state: Mapping[Any, Any]) -> dict[Any, Any]:
    """Without what a kernel in this state can't hold."""
    result = dict(state)
    for key in list(result):
        if isinstance(key, Ipv6 | Up | Address) and Link(key.tunnel) not in result:
            del result[key]
    for key in list(result):
        if isinstance(key, Ipv6) and result[Link(key.tunnel)].mtu < 1280:
            del result[key]
    for key in list(result):
        if isinstance(key, Address) and key.family == 6 and not usable(result, key.tunnel, 6):
            del result[key]
        if isinstance(key, Table) and not carries(result, key.tunnel, key.family):
            left = key.left_by_link(result[key])
            if left is None:
                del result[key]
            else:
                result[key] = left
    return result


def usable(state: Mapping[Any, Any], tunnel: str | None, family: int) -> bool:
    """Whether the device is up and has the family."""
    assert tunnel is not None
    return Up(tunnel) in state and (family == 4 or Ipv6(tunnel) in state)


def carries(state: Mapping[Any, Any], tunnel: str | None, family: int) -> bool:
    """Whether the device has routes: with its last IPv4 address all of that family go."""
    addressed = any(isinstance(k, Address) and (k.tunnel, k.family) == (tunnel, 4) for k in state)
    return usable(state, tunnel, family) and (family == 6 or addressed)


class Refused(Exception):
    """The model kernel says no, or something went that the plan did not say would go."""


def step(state: dict[Any, Any], change: Change) -> None:
    """Do one change as strictly as the kernel with NLM_F_EXCL, and reject silent losses."""
    key, before = change.key, possible(state)
    if before != state:
        raise Refused("an impossible state")
    if isinstance(key, Table):
        _table(state, change)
    elif change.op is Op.ADD:
        _check(key not in state, "exists", change)
        state[key] = change.new
    elif change.op is Op.SET:
        _check(state.get(key) == change.old, "differs", change)
        state[key] = change.new
    else:
        _check(state.get(key) == change.old, "differs", change)
        if isinstance(key, Link):
            said = dict(state)
            for gone, value in change.swept:
                _table_or_key(said, gone, value)
            state.pop(key)
            for other in [k for k in state if k.link == key.tunnel]:
                left = other.left_by_link(state[other])
                if left is None:
                    del state[other]
                else:
                    state[other] = left
            said.pop(key)
            _check(said == state, "sweeps something else", change)
        else:
            del state[key]
    _check(possible(state) == state, "loses something silently", change)


def _table_or_key(state: dict[Any, Any], key: Any, value: Any) -> None:
    if isinstance(value, Packed):
        _table(state, Change(Op.DELETE, key, old=value))
    else:
        del state[key]


def _table(state: dict[Any, Any], change: Change) -> None:
    key = change.key
    width = SIZE[key.family] + 1
    entries = {e[:-1]: e[-1] for e in state.get(key, Packed(width, b"")).entries()}
    old = {e[:-1]: e[-1] for e in change.old.entries()} if change.old else {}
    new = {e[:-1]: e[-1] for e in change.new.entries()} if change.new else {}
    _check(bool(old or new), "is empty", change)
    for name, kind in old.items():
        _check(entries.get(name) == kind, "has another entry", change)
    if change.op is Op.SET:
        _check(set(old) == set(new), "sets other entries", change)
    for name in old:
        del entries[name]
    for name in new:
        _check(name not in entries, "exists", change)
    entries.update(new)
    state.pop(key, None)
    if entries:
        state[key] = Packed.of(width, entries)


def _check(holds: bool, why: str, change: Change) -> None:
    if not holds:
        raise Refused(f"{why}: {change}")


def played(state: Mapping[Any, Any], changes: list[Change]) -> dict[Any, Any]:
    result = dict(state)
    for change in changes:
        step(result, change)
    return result


@settings(deadline=None, max_examples=100)
@given(hosts(), worlds())
def test_a_plan_makes_what_shall_be(has: dict[Any, Any], shall: dict[Any, Any]) -> None:
    changes = diff(shall, has)
    assert played(has, changes) == shall
    assert applied(has, changes) == shall
    assert diff(shall, applied(has, changes)) == []


@settings(deadline=None, max_examples=100)
@given(hosts(), worlds(), st.data())
def test_a_plan_stopped_anywhere_and_undone_leaves_the_host_as_it_was(
    has: dict[Any, Any], shall: dict[Any, Any], data: st.DataObject
) -> None:
    changes = diff(shall, has)
    done = changes[: data.draw(st.integers(0, len(changes)))]
    there = played(has, done)
    back = undo(done)
    assert played(there, back) == has
    assert applied(applied(has, done), back) == has
    assert played(played(has, back_and_forth := undo(back)), undo(back_and_forth)) == has


@settings(deadline=None, max_examples=100)
@given(hosts(), worlds())
def test_the_order_of_a_plan(has: dict[Any, Any], shall: dict[Any, Any]) -> None:
    changes = diff(shall, has)
    disrupted = {k.tunnel for k in has if k.is_link and k in shall and k.disrupts(has[k], shall[k])}
    plain = [c for c in changes if c.key.link not in disrupted]
    ops = [c.op is Op.DELETE for c in plain]
    assert ops == sorted(ops), "additions come before removals"
    up = [c.key.rank for c in plain if c.op is not Op.DELETE]
    down = [c.key.rank for c in plain if c.op is Op.DELETE]
    assert up == sorted(up)
    assert down == sorted(down, reverse=True)
    last_rule = max(
        (i for i, c in enumerate(changes) if isinstance(c.key, Rule) and c.op is Op.ADD), default=-1
    )
    tables = [i for i, c in enumerate(changes) if isinstance(c.key, Table | Floor) and c.op is Op.ADD]
    assert all(i < last_rule for i in tables) or last_rule == -1, "a rule comes last"


@settings(deadline=None, max_examples=100)
@given(hosts(), worlds())
def test_nothing_changes_of_a_tunnel_that_is_as_it_shall_be(
    has: dict[Any, Any], shall: dict[Any, Any]
) -> None:
    for tunnel in ("t0", "t1", "t2"):
        mine = {k: v for k, v in shall.items() if k.link == tunnel}
        found = {k: v for k, v in has.items() if k.link != tunnel} | mine
        assert [c for c in diff(shall, found) if c.key.link == tunnel] == []


def test_a_tunnel_that_goes_takes_only_what_stays_without_its_device() -> None:
    routes = Networks.of(V4)
    spec = Spec(addresses=(ADDRESSES[0],), routes=routes, endpoints=(ENDPOINTS[0],))
    has = want(RANGES, Networks(), [Wanted(TunnelId("t0"), 0, spec)])
    rule, table, link = diff({}, has)
    assert (rule.op, rule.key) == (Op.DELETE, Rule("t0", 4, 10100, 0x636F0001))
    assert list(table.old.entries()) == [ENDPOINTS[0].host.packed + bytes((THROW,))]
    assert link.key == Link("t0")
    assert len(link.swept) == 3


def test_a_disrupted_device_is_set_up_again_and_leaks_nothing_meanwhile() -> None:
    spec = Spec(addresses=(ADDRESSES[0],), routes=Networks.of(V4), mtu=1420)
    has = want(RANGES, Networks(), [Wanted(TunnelId("t0"), 0, spec)])
    shall = want(RANGES, Networks(), [Wanted(TunnelId("t0"), 0, evolve(spec, mtu=1200))])
    changes = diff(shall, has)
    assert [(c.op, type(c.key)) for c in changes] == [
        (Op.SET, Table),
        (Op.DELETE, Up),
        (Op.SET, Link),
        (Op.ADD, Up),
        (Op.SET, Table),
    ]
    assert {e[-1] for e in changes[0].new.entries()} == {UNREACHABLE}
    assert changes[0].old == changes[4].new


def test_the_number_of_a_table_is_its_identity() -> None:
    assert Table(None, 4, 7) == Table("t0", 4, 7)
    left = {Table(None, 4, 7): Packed.of(5, {V4[0].packed: THROW})}
    assert diff({Table("t0", 4, 7): Packed.of(5, {V4[0].packed: THROW})}, left) == []


def test_only_the_mtu_of_a_link_is_compared() -> None:
    assert LinkSettings(1420) == LinkSettings(1420, queues=4, vnet_hdr=True)
    assert LinkSettings(1420) != LinkSettings(1421)


def test_of_one_rank_the_first_wanted_comes_first_and_comes_back_first() -> None:
    addresses = tuple(map(InterfaceAddress.parse, ("10.9.0.9/24", "10.9.0.2/24", "fd00::9/64", "fd00::2/64")))
    shall = want(RANGES, Networks(), [Wanted(TunnelId("t0"), 0, Spec(addresses=addresses))])
    made = [c.key.address for c in diff(shall, {}) if isinstance(c.key, Address)]
    assert made == [a.address for a in addresses]
    has = applied({}, diff(shall, {}))
    slower = Spec(addresses=addresses[:2], mtu=1200)
    changes = diff(want(RANGES, Networks(), [Wanted(TunnelId("t0"), 0, slower)]), has)
    back = applied(applied(has, changes), undo(changes))
    assert [k for k in back if isinstance(k, Address)] == [k for k in has if isinstance(k, Address)]

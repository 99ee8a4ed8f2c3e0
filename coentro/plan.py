"""The pure difference between what shall be and what is: ordered changes with their undo.

A state maps keys to values, in an order that counts among keys of one rank. What a key stands
for (a link, an address, a table's routes, a rule) is the platform's business; this module knows
only in what order kinds are put up (`rank`), what vanishes together with a link, and what a
change of a link would sweep away.
Tables of routes are one object whose value is `Packed`, so that 100,000 routes are one change.

The idea is tailscale's router.Set: say everything that shall be and let a diff find the work.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import Enum
from typing import Any, Protocol, TypeAlias, runtime_checkable

from attrs import evolve, frozen

from coentro.packed import difference, overlay, split, without


class Op(Enum):
    ADD = "add"
    SET = "set"
    DELETE = "delete"


@frozen
class Packed:
    """A table's entries: `width` bytes of key and one byte of kind each, sorted by key."""

    width: int
    data: bytes

    @classmethod
    def of(cls, width: int, entries: Mapping[bytes, int]) -> Packed:
        return cls(width, b"".join(key + bytes((entries[key],)) for key in sorted(entries)))

    @classmethod
    def alike(cls, width: int, keys: bytes, kind: int) -> Packed:
        """Sorted keys, all of one kind: column by column, as there may be a million."""
        size = width + 1
        data = bytearray(len(keys) // width * size)
        for at in range(width):
            data[at::size] = keys[at::width]
        data[width::size] = bytes((kind,)) * (len(keys) // width)
        return cls(width, bytes(data))

    def __len__(self) -> int:
        return len(self.data) // (self.width + 1)

    def entries(self) -> Iterator[bytes]:
        """Key and kind of each."""
        return split(self.data, self.width + 1)

    def keep(self, kinds: frozenset[int]) -> Packed:
        """The entries of these kinds."""
        size = self.width + 1
        # Runs of one kind are long: of a hundred thousand routes a few are device-less.
        runs = re.finditer(b"[%b]+" % re.escape(bytes(kinds)), self.data[self.width :: size])
        return Packed(self.width, b"".join(self.data[r.start() * size : r.end() * size] for r in runs))

    def minus(self, other: Packed) -> Packed:
        """Without the entries whose key and kind the other has too."""
        return Packed(self.width, without(self.data, other.data, self.width + 1))

    def merge(self, other: Packed) -> Packed:
        """Both; where a key is in both, the other's kind."""
        return Packed(self.width, overlay(self.data, other.data, self.width + 1, self.width))


Value: TypeAlias = Any


@runtime_checkable
class Key(Protocol):
    """One object of a host that we may make. Keys are frozen and hashable."""

    @property
    def rank(self) -> int:
        """Lower ranks are put up first and taken down last."""

    @property
    def link(self) -> str | None:
        """The tunnel whose device this hangs on."""

    @property
    def is_link(self) -> bool:
        """Whether this is the device itself."""

    def left_by_link(self, value: Value) -> Value | None:
        """What of the value stays behind when the device is removed; None: nothing."""

    def disrupts(self, old: Value, new: Value) -> bool:
        """Whether this device's change sweeps away what hangs on the device."""

    def parked(self, value: Value) -> Value | None:
        """What stands in for the value while its device is disrupted; None: nothing."""


State: TypeAlias = Mapping[Any, Value]


@frozen
class Change:
    """One step. ADD has no `old`, DELETE no `new`; of tables both hold only the entries concerned.

    `swept`: what the system itself takes away when a device is deleted, lowest rank first; no
    step of its own on the way there, but one on the way back.
    """

    op: Op
    key: Any
    old: Value = None
    new: Value = None
    swept: tuple[tuple[Any, Value], ...] = ()

    def undo(self) -> Change:
        match self.op:
            case Op.ADD:
                return Change(Op.DELETE, self.key, old=self.new)
            case Op.DELETE:
                return Change(Op.ADD, self.key, new=self.old)
            case Op.SET:
                return Change(Op.SET, self.key, old=self.new, new=self.old)


def diff(shall: State, has: State) -> list[Change]:
    """The changes that turn `has` into `shall`: additions before removals.

    Additions and settings go up the ranks, so that a rule comes after the table it looks up;
    removals go down them. A device that is disrupted by its change has what hangs on it parked
    before and put back after.
    """
    changes, has = _park(shall, dict(has))
    up = sorted(dict.fromkeys([*shall, *has]), key=_rank)
    down: list[Change] = []
    for key in up:
        toward, away = _steps(key, has.get(key), shall.get(key))
        changes += toward
        down += away
    return changes + _sweep(down[::-1])


def undo(changes: Sequence[Change]) -> list[Change]:
    """The way back. What dies with a device that goes is not taken down by itself."""
    back: list[Change] = []
    for change in reversed(changes):
        back.append(change.undo())
        back += [Change(Op.ADD, key, new=value) for key, value in change.swept]
    return _sweep(back)


def _sweep(changes: Sequence[Change]) -> list[Change]:
    """Leave to a device's removal what goes with it."""
    going = {c.key.link for c in changes if c.op is Op.DELETE and c.key.is_link}
    if not going:
        return list(changes)
    kept: list[Change] = []
    swept: dict[str | None, list[tuple[Any, Value]]] = {link: [] for link in going}
    for change in changes:
        key, old = change.key, change.old
        if change.op is not Op.DELETE or key.link not in going:
            kept.append(change)
        elif key.is_link:
            kept.append(evolve(change, swept=tuple(reversed(swept[key.link]))))
        else:
            left = key.left_by_link(old)
            if left is not None:
                kept.append(Change(Op.DELETE, key, old=left))
            if left is None or isinstance(old, Packed):
                gone = old if left is None else old.minus(left)
                if not isinstance(gone, Packed) or gone:
                    swept[key.link].append((key, gone))
    return kept


def applied(state: State, changes: Iterable[Change]) -> dict[Any, Value]:
    """The state after the changes: what apply makes true, for tests and for remembering."""
    result = dict(state)
    for change in changes:
        key = change.key
        # Taken out, so that it goes back under the newer of two equal keys.
        value = result.pop(key, None)
        if change.op is Op.DELETE and key.is_link:
            _drop_link(result, key.link)
        if isinstance(change.new, Packed):
            value = change.new if value is None else value.merge(change.new)
        elif isinstance(change.old, Packed):
            value = value.minus(change.old) if value is not None else None
        else:
            value = change.new
        if value is not None and (value or not isinstance(value, Packed)):
            result[key] = value
    return result


def _drop_link(state: dict[Any, Value], link: str | None) -> None:
    for key in [k for k in state if k.link == link and not k.is_link]:
        left = key.left_by_link(state[key])
        if left is None:
            del state[key]
        else:
            state[key] = left


def _rank(key: Any) -> int:
    """Within a rank the order of the states stays: of two addresses the first becomes the source."""
    return int(key.rank)


def _park(shall: State, has: dict[Any, Value]) -> tuple[list[Change], dict[Any, Value]]:
    """Take out of the way what a device's change would sweep away, and make that change."""
    changes: list[Change] = []
    disrupted = [
        key
        for key in sorted(has, key=_rank)
        if key.is_link and key in shall and key.disrupts(has[key], shall[key])
    ]
    for device in disrupted:
        hanging = sorted((k for k in has if k.link == device.link and not k.is_link), key=_rank)
        for key in reversed(hanging):
            stand_in = key.parked(has[key])
            if stand_in == has[key]:
                continue
            if isinstance(has[key], Packed) and stand_in is not None:
                moved = stand_in.minus(has[key])
                changes.append(Change(Op.SET, key, old=has[key].minus(stand_in), new=moved))
            elif stand_in is None:
                changes.append(Change(Op.DELETE, key, old=has[key]))
            else:
                changes.append(Change(Op.SET, key, old=has[key], new=stand_in))
            if stand_in is None:
                del has[key]
            else:
                has[key] = stand_in
        changes.append(Change(Op.SET, device, old=has[device], new=shall[device]))
        has[device] = shall[device]
    return changes, has


def _steps(key: Any, has: Value | None, shall: Value | None) -> tuple[list[Change], list[Change]]:
    """What must be added or set on one key, and what must go."""
    if has == shall:
        return [], []
    if isinstance(has, Packed) or isinstance(shall, Packed):
        return _table_steps(key, has, shall)
    if has is None:
        return [Change(Op.ADD, key, new=shall)], []
    if shall is None:
        return [], [Change(Op.DELETE, key, old=has)]
    return [Change(Op.SET, key, old=has, new=shall)], []


def _table_steps(key: Any, has: Packed | None, shall: Packed | None) -> tuple[list[Change], list[Change]]:
    """As `_steps`, of a table: only the entries concerned."""
    width = (has or shall or Packed(0, b"")).width
    stale, fresh = difference(has.data if has else b"", shall.data if shall else b"", width + 1)
    # An entry that changes its kind is among both: it is set in place.
    changed = {e[:-1] for e in split(stale, width + 1)} if fresh else set()
    changed &= {e[:-1] for e in split(fresh, width + 1)} if changed else set()
    old, gone = _parted(Packed(width, stale), changed)
    set_, new = _parted(Packed(width, fresh), changed)
    toward = [Change(Op.SET, key, old=old, new=set_)] if changed else []
    toward += [Change(Op.ADD, key, new=new)] if new else []
    return toward, [Change(Op.DELETE, key, old=gone)] if gone else []


def _parted(packed: Packed, keys: set[bytes]) -> tuple[Packed, Packed]:
    """The entries with one of these keys, and the others."""
    if not keys:
        return Packed(packed.width, b""), packed
    some = Packed(packed.width, b"".join(e for e in packed.entries() if e[:-1] in keys))
    return some, packed.minus(some)

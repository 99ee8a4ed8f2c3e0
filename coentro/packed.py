"""Sets as one byte string: entries of `size` bytes each, sorted and without duplicates.

A tunnel's routes are a hundred thousand entries of which a call changes a thousand. So an entry
is looked for by bisection and what stands between two changes is copied whole; only where much
changes is every entry looked at, since bisecting for each costs ten times what a set does.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from struct import iter_unpack
from typing import Final

SPARSE: Final = 8  # one set is much smaller than another if it has fewer than an eighth of its bytes
LEAF: Final = 16  # entries that are compared one by one: below this a further bisection costs more


def split(data: bytes, size: int) -> Iterator[bytes]:
    """The entries, in order."""
    return (entry for (entry,) in iter_unpack(f"{size}s", data))


def position(data: bytes, size: int, key: bytes, start: int = 0, end: int | None = None) -> int:
    """How many entries are less than `key`, which is one or begins one; at least `start` are."""
    last = len(data) // size if end is None else end
    if start == last or data[start * size : start * size + size] >= key:
        return start
    # In ever longer steps at first, since changes often follow each other closely.
    step = 1
    while start + step < last and data[(start + step) * size : (start + step + 1) * size] < key:
        start += step
        step *= 2
    last = min(start + step, last)
    return bisect_left(range(last), key, start + 1, last, key=lambda at: data[at * size : at * size + size])


def holds(data: bytes, size: int, entry: bytes) -> bool:
    """Whether the set has this entry."""
    at = position(data, size, entry) * size
    return data[at : at + size] == entry


def overlay(under: bytes, over: bytes, size: int, key: int) -> bytes:
    """Both; of two entries that begin with the same `key` bytes only that of `over`."""
    if not under or not over:
        return under or over
    if len(over) * SPARSE < len(under):
        return _woven(under, over, size, key, replace=True)
    if len(under) * SPARSE < len(over):
        return _woven(over, under, size, key, replace=False)
    whole = {entry[:key]: entry for entry in split(under, size)}
    whole.update((entry[:key], entry) for entry in split(over, size))
    return b"".join(sorted(whole.values()))


def without(data: bytes, gone: bytes, size: int) -> bytes:
    """The entries that `gone` does not have."""
    if not data or not gone:
        return data
    if len(gone) * SPARSE < len(data):
        return _cut(data, gone, size)
    if len(data) * SPARSE < len(gone):
        return _rest(data, gone, size)
    taken = set(split(gone, size))
    return b"".join(entry for entry in split(data, size) if entry not in taken)


def difference(one: bytes, other: bytes, size: int) -> tuple[bytes, bytes]:
    """What only the one has, and what only the other has.

    By halves, as Merkle trees are compared: where both are equal, one memcmp says so for all.
    """
    ours: list[bytes] = []
    theirs: list[bytes] = []
    rest = [(0, len(one) // size, 0, len(other) // size)]
    while rest:
        first, last, start, end = rest.pop()
        here, there = one[first * size : last * size], other[start * size : end * size]
        if here == there:
            continue
        if min(last - first, end - start) > LEAF:
            middle = (first + last) // 2
            cut = position(other, size, one[middle * size : middle * size + size], start, end)
            # The lower half is looked at first, so that what is found is in order.
            rest += [(middle, last, cut, end), (first, middle, start, cut)]
            continue
        ours.append(without(here, there, size))
        theirs.append(without(there, here, size))
    return b"".join(ours), b"".join(theirs)


def _woven(many: bytes, few: bytes, size: int, key: int, *, replace: bool) -> bytes:
    """`overlay` of few entries; `replace`: whether they win."""
    pieces: list[bytes] = []
    done = at = 0
    for entry in split(few, size):
        at = position(many, size, entry[:key], at)
        here = at * size
        taken = many[here : here + key] == entry[:key]
        if taken and not replace:
            continue
        pieces += (many[done:here], entry)
        done = here + size if taken else here
    pieces.append(many[done:])
    return b"".join(pieces)


def _cut(many: bytes, few: bytes, size: int) -> bytes:
    """`without` few entries."""
    pieces: list[bytes] = []
    done = at = 0
    for entry in split(few, size):
        at = position(many, size, entry, at)
        here = at * size
        if many[here : here + size] == entry:
            pieces.append(many[done:here])
            done = here + size
    pieces.append(many[done:])
    return b"".join(pieces)


def _rest(few: bytes, many: bytes, size: int) -> bytes:
    """Of few entries those that are not among the many."""
    kept: list[bytes] = []
    at = 0
    for entry in split(few, size):
        at = position(many, size, entry, at)
        if many[at * size : at * size + size] != entry:
            kept.append(entry)
    return b"".join(kept)

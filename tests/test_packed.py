"""Sets in one byte string are what Python's own sets say, whichever way is taken for speed."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from coentro.packed import LEAF, difference, holds, overlay, split, without
from coentro.plan import Packed

SIZE = 2

kinds = st.sampled_from([b"a", b"b"])


chances = st.integers(0, 9999).map(random.Random)


@st.composite
def members(draw: st.DrawFn) -> list[int]:
    """Bytes, so that two sets often meet; as many as not, since hypothesis draws few long lists."""
    count = draw(st.sampled_from([0, 1, 3, 10, LEAF * 2, 100, 250, 256]))
    return sorted(draw(chances).sample(range(256), count))


@st.composite
def sets(draw: st.DrawFn) -> bytes:
    chance, mixed = draw(chances), draw(st.sampled_from([b"a", b"b", b"ab"]))
    return b"".join(bytes((n, chance.choice(mixed))) for n in draw(members()))


def entries(data: bytes) -> list[bytes]:
    return list(split(data, SIZE))


@given(sets(), sets())
def test_without_leaves_what_the_other_has_not(data: bytes, gone: bytes) -> None:
    assert entries(without(data, gone, SIZE)) == sorted(set(entries(data)) - set(entries(gone)))


@given(sets(), sets())
def test_an_overlay_has_both_and_of_equal_keys_the_upper(under: bytes, over: bytes) -> None:
    expected = {e[:1]: e for e in entries(under)} | {e[:1]: e for e in entries(over)}
    assert entries(overlay(under, over, SIZE, 1)) == sorted(expected.values())
    assert entries(overlay(under, over, SIZE, SIZE)) == sorted({*entries(under), *entries(over)})


@given(sets(), sets())
def test_a_difference_is_what_each_alone_has(one: bytes, other: bytes) -> None:
    ours, theirs = set(entries(one)), set(entries(other))
    found = difference(one, other, SIZE)
    assert list(map(entries, found)) == [sorted(ours - theirs), sorted(theirs - ours)]


@given(sets(), st.integers(0, 255), kinds)
def test_holds_finds_what_is_there_and_nothing_else(data: bytes, key: int, kind: bytes) -> None:
    entry = bytes((key,)) + kind
    assert holds(data, SIZE, entry) == (entry in entries(data))


@given(members(), st.integers(0, 255))
def test_keys_of_one_kind_are_a_table(keys: list[int], kind: int) -> None:
    table = {n.to_bytes(5, "big"): kind for n in keys}
    assert Packed.alike(5, b"".join(table), kind) == Packed.of(5, table)


@given(sets(), st.sets(kinds, min_size=1))
def test_keep_takes_the_kinds_that_are_named(data: bytes, wanted: set[bytes]) -> None:
    kept = Packed(1, data).keep(frozenset(ord(k) for k in wanted))
    assert list(kept.entries()) == [e for e in entries(data) if e[1:] in wanted]


def test_a_kind_that_means_something_in_a_pattern_is_a_kind_like_any_other() -> None:
    table = {n.to_bytes(1, "big"): n for n in range(256)}
    for n in range(256):
        assert Packed.of(1, table).keep(frozenset({n})) == Packed(1, bytes((n, n)))

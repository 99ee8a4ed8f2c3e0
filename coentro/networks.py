"""Sets of IP networks as packed bytes, and the one way in which an address may be written.

A tunnel may have a million routes, so a set is not a list of objects but two byte strings,
one per family, of sorted entries: address, then one byte of prefix length (5 bytes for IPv4,
17 for IPv6). Equality is a memcmp and the entries go into netlink or PF_ROUTE messages as
they are.

Text is `address/length` with inet_pton(3)'s strict address and nothing else: no netmasks, no
leading zeros, no zones, no IPv4-mapped addresses, so that two programs can't read one text
differently.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from heapq import merge
from itertools import islice, repeat
from operator import add, contains, eq
from socket import AF_INET, AF_INET6, inet_ntop, inet_pton
from typing import Final, Literal, NamedTuple

from attrs import frozen

from coentro.errors import InvalidParams
from coentro.packed import SPARSE, holds, overlay, position, split, without

Family = Literal[4, 6]
FAMILIES: Final[tuple[Family, Family]] = (4, 6)

BITS: Final[dict[Family, int]] = {4: 32, 6: 128}
SIZE: Final[dict[Family, int]] = {4: 4, 6: 16}
AF: Final[dict[Family, int]] = {4: AF_INET, 6: AF_INET6}
EVERYTHING: Final[dict[Family, bytes]] = {4: bytes(5), 6: bytes(17)}

_LENGTHS: Final = {str(n): n for n in range(129)}
_MASKS: Final[dict[Family, list[int]]] = {
    4: [(1 << 32 - n) - 1 for n in range(33)],
    6: [(1 << 128 - n) - 1 for n in range(129)],
}


class Network(NamedTuple):
    """One network: `address` packed in network order, `length` in bits."""

    address: bytes
    length: int

    @property
    def family(self) -> Family:
        return 4 if len(self.address) == 4 else 6

    @property
    def packed(self) -> bytes:
        return self.address + bytes((self.length,))

    def __str__(self) -> str:
        return f"{inet_ntop(AF[self.family], self.address)}/{self.length}"

    def covers(self, other: Network) -> bool:
        """Whether every address of `other` is one of this network's."""
        if len(self.address) != len(other.address) or self.length > other.length:
            return False
        shift = BITS[self.family] - self.length
        mine = int.from_bytes(self.address, "big") >> shift
        return mine == int.from_bytes(other.address, "big") >> shift

    def overlaps(self, other: Network) -> bool:
        return self.covers(other) or other.covers(self)


def network(text: str) -> Network:
    """A network written in this source, such as a table of constants."""
    address, _, length = text.partition("/")
    return Network(inet_pton(AF_INET6 if ":" in address else AF_INET, address), int(length))


# Never routed by a tunnel, whoever asks (RFC 1122 3.2.1.3, RFC 4291 2.5, RFC 5771).
SPECIAL: Final[tuple[tuple[str, Network], ...]] = (
    ("loopback", network("127.0.0.0/8")),
    ("multicast", network("224.0.0.0/4")),
    ("link-local", network("169.254.0.0/16")),
    ("the broadcast address", network("255.255.255.255/32")),
    ("the unspecified address", network("0.0.0.0/32")),
    ("loopback", network("::1/128")),
    ("multicast", network("ff00::/8")),
    ("link-local", network("fe80::/10")),
    ("the unspecified address", network("::/128")),
)
_MAPPED: Final = bytes(10) + b"\xff\xff"  # RFC 4291 2.5.5.2


def special(net: Network) -> str | None:
    """The name of the special range that holds all of `net`, if one does."""
    for name, range_ in SPECIAL:
        if range_.covers(net):
            return name
    return None


def parse_address(text: str) -> bytes:
    """Packed address of a plain text; InvalidParams at `$` says what was expected."""
    try:
        address = inet_pton(AF_INET6 if ":" in text else AF_INET, text)
    except (OSError, ValueError, UnicodeError):
        raise InvalidParams("$", f"expected a plain IP address, not {shown(text)}") from None
    if len(address) == 16 and ("." in text or address.startswith(_MAPPED)):
        raise InvalidParams("$", f"expected an IPv4 address in its own form, not {shown(text)}")
    return address


def parse_prefix(text: str) -> Network:
    """`address/length` with any host bits; InvalidParams at `$` says what was expected."""
    plain, slash, digits = text.partition("/")
    length = _LENGTHS.get(digits)
    if not slash or length is None:
        raise InvalidParams("$", f"expected address/length, not {shown(text)}")
    address = parse_address(plain)
    if length > len(address) * 8:
        raise InvalidParams("$", f"a prefix length is at most {len(address) * 8}: {shown(text)}")
    return Network(address, length)


def parse_network(text: str) -> Network:
    """A network that a tunnel may name; InvalidParams at `$` says what was expected."""
    net = parse_prefix(text)
    family = net.family
    number = int.from_bytes(net.address, "big")
    if number & _MASKS[family][net.length]:
        base = (number & ~_MASKS[family][net.length]).to_bytes(SIZE[family], "big")
        raise InvalidParams("$", f"{text} has host bits set; did you mean {Network(base, net.length)}?")
    # Most networks are ordinary: the ranges are only searched where one can lie.
    first = net.address[0]
    if first in _SPECIAL_FIRST[family] and (name := special(net)) is not None:
        raise InvalidParams("$", f"{text} is inside {name}, which no tunnel routes")
    return net


_SPECIAL_FIRST: Final[dict[Family, frozenset[int]]] = {
    4: frozenset({0, 127, 169, *range(224, 240), 255}),
    6: frozenset({0, 0xFE, 0xFF}),
}


# By the digits of the length: the host bits, and the last byte of an entry.
_HOST_BITS: Final[dict[Family, dict[str, bytes]]] = {
    f: {str(n): _MASKS[f][n].to_bytes(SIZE[f], "big") for n in range(BITS[f] + 1)} for f in FAMILIES
}
_TOGETHER: Final = 5_000  # texts
_LAST: Final = {str(n): bytes((n,)) for n in range(129)}


def _all_ordinary(texts: list[object]) -> Networks | None:
    """The set, if none of the texts has anything odd; None if parse_network has to judge them.

    A hundred thousand routes come in one call and nearly always all are of this kind, so each
    step is done for all of them by one function in C.
    """
    if not {str}.issuperset(map(type, texts)):
        return None
    four: list[str] = texts  # type: ignore[assignment]  # as was just seen
    six: list[str] = []
    if any(map(contains, four, repeat(":"))):
        four, six = [t for t in four if ":" not in t], [t for t in four if ":" in t]
    v4, v6 = _family_of_ordinary(4, four), _family_of_ordinary(6, six)
    return None if v4 is None or v6 is None else Networks(v4, v6)


def _family_of_ordinary(family: Family, texts: list[str]) -> bytes | None:
    entries: list[bytes] = []
    # By pieces: what is made on the way stays small, and no one call keeps other threads waiting.
    for start in range(0, len(texts), _TOGETHER):
        some = _piece_of_ordinary(family, texts[start : start + _TOGETHER])
        if some is None:
            return None
        entries += some
    entries.sort()
    if any(map(eq, entries, islice(entries, 1, None))):
        return None
    return b"".join(entries)


def _piece_of_ordinary(family: Family, texts: list[str]) -> Iterable[bytes] | None:
    if not {1}.issuperset(map(str.count, texts, repeat("/"))):
        return None
    # With one slash in each, these take turns: the address, the length.
    parts = "/".join(texts).split("/")
    addresses, lengths = parts[::2], parts[1::2]
    try:
        packed = list(map(inet_pton, repeat(AF[family]), addresses))
        host_bits = b"".join(map(_HOST_BITS[family].__getitem__, lengths))
    except (KeyError, OSError, ValueError):
        return None
    whole = b"".join(packed)
    if not _SPECIAL_FIRST[family].isdisjoint(whole[:: SIZE[family]]):
        return None
    if family == 6 and "." in "".join(addresses):
        return None
    # One AND of two long numbers: whether any address has a bit where its length has none.
    if int.from_bytes(whole, "big") & int.from_bytes(host_bits, "big"):
        return None
    return map(add, packed, map(_LAST.__getitem__, lengths))


def shown(text: str) -> str:
    """A peer's text for an error message: escaped and short."""
    return ascii(text if len(text) <= 60 else text[:57] + "...")


@frozen
class Networks:
    """A set of networks: sorted packed entries, 5 bytes each in `v4`, 17 in `v6`."""

    v4: bytes = b""
    v6: bytes = b""

    @classmethod
    def of(cls, networks: Iterable[Network]) -> Networks:
        entries = {n.packed for n in networks}
        return cls.of_entries(entries)

    @classmethod
    def of_entries(cls, entries: Iterable[bytes]) -> Networks:
        """From packed entries of either family, in any order, without duplicates."""
        ordered = sorted(entries)
        return cls(
            b"".join(e for e in ordered if len(e) == 5),
            b"".join(e for e in ordered if len(e) == 17),
        )

    @classmethod
    def parse(cls, texts: Iterable[object]) -> Networks:
        """From a list of texts; the path of a fault is `$[index]`."""
        many = list(texts)
        if (packed := _all_ordinary(many)) is not None:
            return packed
        seen: dict[bytes, int] = {}
        for index, text in enumerate(many):
            if type(text) is not str:
                raise InvalidParams(f"$[{index}]", "expected a text such as 10.0.0.0/8")
            try:
                entry = parse_network(text).packed
            except InvalidParams as fault:
                raise fault.below(f"$[{index}]") from None
            if seen.setdefault(entry, index) != index:
                raise InvalidParams(f"$[{index}]", f"{text} stands at [{seen[entry]}] already")
        return cls.of_entries(seen)

    def packed(self, family: Family) -> bytes:
        return self.v4 if family == 4 else self.v6

    def entries(self, family: Family) -> Iterator[bytes]:
        """The packed entries of a family, in order."""
        return split(self.packed(family), SIZE[family] + 1)

    def family(self, family: Family) -> Iterator[Network]:
        for entry in self.entries(family):
            yield Network(entry[:-1], entry[-1])

    def __iter__(self) -> Iterator[Network]:
        yield from self.family(4)
        yield from self.family(6)

    def __len__(self) -> int:
        return len(self.v4) // 5 + len(self.v6) // 17

    def first(self, count: int) -> list[str]:
        """Their texts, at most `count` of them."""
        return [str(net) for net, _ in zip(self, range(count), strict=False)]

    def union(self, other: Networks) -> Networks:
        return Networks(overlay(self.v4, other.v4, 5, 5), overlay(self.v6, other.v6, 17, 17))

    def minus(self, other: Networks) -> Networks:
        return Networks(without(self.v4, other.v4, 5), without(self.v6, other.v6, 17))


def covers_family(packed: bytes, family: Family) -> bool:
    """Whether these networks together hold every address of the family (RFC 4632 halves)."""
    width = SIZE[family] + 1
    bits = BITS[family]
    if packed.startswith(EVERYTHING[family]):
        return True
    lengths = packed[width - 1 :: width]
    # Upper bounds, since nested networks only count twice: as if all were as wide as the widest,
    # and by counting those of each length. Nearly all stop here.
    widest = next((n for n in range(bits + 1) if n in lengths), bits)
    if len(lengths) << bits - widest < 1 << bits:
        return False
    if sum(lengths.count(n) << bits - n for n in range(bits + 1)) < 1 << bits:
        return False
    reached = 0
    for entry in split(packed, width):
        start = int.from_bytes(entry[:-1], "big")
        if start > reached:
            return False
        reached = max(reached, start + (1 << bits - entry[-1]))
    return reached == 1 << bits


def overlaps(mine: Networks, theirs: Networks) -> Iterator[tuple[Network, Network]]:
    """Pairs (one of mine, one of theirs) that share an address; at least one pair if any do.

    Networks are nested or disjoint, so one sweep over both in order of their first address
    finds them: whatever starts before the other set's furthest end lies inside it.
    """
    for family in FAMILIES:
        few, many = sorted((mine.packed(family), theirs.packed(family)), key=len)
        # Nearly always nothing overlaps; with few on one side that is soon said.
        if not few or (len(few) * SPARSE < len(many) and not _meet(few, many, family)):
            continue
        bits, size = BITS[family], SIZE[family]
        last: list[tuple[int, Network | None]] = [(0, None), (0, None)]
        ours = ((entry, 0) for entry in mine.entries(family))
        other = ((entry, 1) for entry in theirs.entries(family))
        for entry, side in merge(ours, other):
            start = int.from_bytes(entry[:size], "big")
            end, there = last[1 - side]
            if there is not None and start < end:
                here = Network(entry[:size], entry[size])
                yield (here, there) if side == 0 else (there, here)
            stop = start + (1 << bits - entry[size])
            if stop > last[side][0]:
                last[side] = (stop, Network(entry[:size], entry[size]))


def _meet(few: bytes, many: bytes, family: Family) -> bool:
    """Whether any of the few shares an address with any of the many."""
    size, bits = SIZE[family], BITS[family]
    width = size + 1
    column = many[size::width]
    lengths = [n for n in range(bits + 1) if n in column]
    for entry in split(few, width):
        start, length = entry[:size], entry[size]
        number = int.from_bytes(start, "big")
        last = (number | _MASKS[family][length]).to_bytes(size, "big")
        at = position(many, width, start) * width
        # What begins inside of it lies inside; what it lies in may begin far before it.
        if at < len(many) and many[at : at + size] <= last:
            return True
        for wider in lengths:
            if wider >= length:
                break
            around = (number & ~_MASKS[family][wider]).to_bytes(size, "big") + bytes((wider,))
            if holds(many, width, around):
                return True
    return False

"""Sets of networks: what is done for many at once says what is said of each."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coentro.errors import InvalidParams
from coentro.networks import Network, Networks, network, overlaps, parse_network

GOOD = (
    [f"10.{n}.0.0/16" for n in range(9)] + [f"2001:db8:{n:x}::/48" for n in range(9)] + ["0.0.0.0/0", "::/0"]
)
ODD: list[object] = [
    "10.0.0.0",
    "10.0.0.0/8/10.1.0.0",
    "16",
    "/",
    "",
    "10.0.0.0/",
    "10.0.0.0/08",
    "10.0.0.0/33",
    "10.0.0.1/8",
    "10.0.0.0/255.0.0.0",
    " 10.0.0.0/8",
    "010.0.0.0/8",
    "10.0/8",
    "10.0.0.0/8\n",
    "10.0.0.0/8\0",
    "10.0.0.0/\u0661",
    "127.0.0.0/8",
    "224.0.0.0/3",
    "0.0.0.0/32",
    "2001:db8::1/32",
    "2001:DB8:1::/48",
    "2001:db8:0001::/48",
    "2001:db8::10.0.0.0/128",
    "::ffff:10.0.0.0/104",
    "fe80::/10",
    "fe80::%eth0/64",
    "2001:db8::/129",
    "2001:db8::\udc80/48",
    7,
    None,
    ["10.0.0.0/8"],
]


def one_by_one(texts: list[object]) -> Networks:
    seen: dict[Network, int] = {}
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise InvalidParams(f"$[{index}]", "expected a text such as 10.0.0.0/8")
        try:
            net = parse_network(text)
        except InvalidParams as fault:
            raise fault.below(f"$[{index}]") from None
        if net in seen:
            raise InvalidParams(f"$[{index}]", f"{text} stands at [{seen[net]}] already")
        seen[net] = index
    return Networks.of(seen)


def told(texts: list[object], parse: object) -> Networks | str:
    try:
        return parse(texts)  # type: ignore[operator, no-any-return]  # one of the two
    except InvalidParams as fault:
        return str(fault)


@given(
    st.lists(st.sampled_from(GOOD), unique=True, max_size=12),
    st.lists(st.sampled_from(ODD), max_size=2),
    st.data(),
)
def test_a_list_is_read_as_its_elements_are(
    good: list[object], odd: list[object], data: st.DataObject
) -> None:
    texts = data.draw(st.permutations([*good, *odd]))
    assert told(texts, Networks.parse) == told(texts, one_by_one)


@pytest.mark.parametrize("odd", ODD, ids=repr)
def test_one_odd_text_among_many_is_judged_as_alone(odd: object) -> None:
    for texts in ([odd], [*GOOD, odd], [odd, *GOOD]):
        assert told(texts, Networks.parse) == told(texts, one_by_one)


def test_a_network_that_stands_twice_is_named_with_both_places() -> None:
    with pytest.raises(InvalidParams, match=r"10\.1\.0\.0/16 stands at \[1\] already"):
        Networks.parse([*GOOD, "10.1.0.0/16"])


FILLING = [f"{base}.{n}.0.0/16" for base in (9, 200) for n in range(40)]
FILLING += [f"{base}:{n:x}::/32" for base in (2001, 2801) for n in range(40)]
PAIRS = [
    ("10.1.0.0/24", "10.1.0.0/24", True),
    ("10.1.0.0/24", "10.1.0.0/16", True),
    ("10.1.7.0/24", "10.1.0.0/16", True),
    ("10.1.0.128/25", "10.1.0.0/24", True),
    ("10.1.0.255/32", "10.1.0.0/24", True),
    ("10.1.1.0/24", "10.1.0.0/24", False),
    ("10.1.0.0/24", "0.0.0.0/0", True),
    ("201.1.0.0/24", "128.0.0.0/1", True),
    ("2601::/24", "2601::1/128", True),
    ("2601::/24", "2601:ff::/33", True),
    ("2601:f::/32", "2600::/12", True),
    ("2601:f::/32", "2601:e::/32", False),
]


@pytest.mark.parametrize(("one", "other", "meet"), PAIRS)
def test_an_overlap_with_one_of_many_is_found(one: str, other: str, meet: bool) -> None:
    for a, b in ((one, other), (other, one)):
        few, many = Networks.of([network(a)]), Networks.of(map(network, [*FILLING, b]))
        if few.first(1)[0].endswith(("/0", "/1")):
            continue  # it meets what is there to fill
        found = [(network(a), network(b))] if meet else []
        assert list(overlaps(few, many)) == found
        assert list(overlaps(many, few)) == [(y, x) for x, y in found]


def test_a_list_longer_than_what_is_read_together_is_read_whole() -> None:
    texts: list[object] = [f"{base}.{n >> 8}.{n & 255}.0/24" for n in range(6_000) for base in (10, 11)]
    texts += [f"2001:db8:{n:x}::/48" for n in range(6_000)]
    assert Networks.parse(texts) == one_by_one(texts)
    assert told([*texts, "10.0.9.0/24"], Networks.parse) == "$[18000]: 10.0.9.0/24 stands at [18] already"

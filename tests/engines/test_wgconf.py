"""WireGuard's files: what is taken, what is refused with its line, and that no key is ever quoted."""

from __future__ import annotations

from base64 import b64encode
from ipaddress import IPv4Network, IPv6Network, ip_network

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from coentro.ctl.wgquick import keys_text
from coentro.engines.wgconf import Config, Endpoint, Key, Malformed, Peer, Quick, parse

K1, K2, K3 = (b64encode(bytes([n]) * 32).decode() for n in (1, 2, 3))
HEAD = f"[Interface]\nPrivateKey = {K1}\n"
PEER = f"[Peer]\nPublicKey = {K2}\n"


def _parse(text: str, *, quick: bool = False) -> Config:
    return parse(text.encode(), quick=quick)


def test_a_whole_file_is_understood() -> None:
    config = _parse(
        f"# office\n[interface]\r\nprivatekey={K1}\nListenPort = 51820 # ours\nFwMark = 0xca6c\n\n"
        f"[Peer]\nPublicKey = {K2}\nPresharedKey = {K3}\nEndpoint = [2001:db8::7]:51820\n"
        "AllowedIPs = 10.1.2.3/8, fd00::/8,\nAllowedIPs = 192.0.2.1\nPersistentKeepalive = off\n"
        f"[PEER]\nPublicKey = {K3}\nEndpoint = vpn.example:1\nAllowedIPs =\n"
    )
    assert config.private_key == b"\1" * 32
    assert (config.listen_port, config.fwmark_line) == (51820, 5)
    first, second = config.peers
    assert first.preshared_key == b"\3" * 32
    assert first.endpoint == Endpoint("2001:db8::7", 51820, 10)
    assert list(map(str, first.allowed)) == ["10.0.0.0/8", "fd00::/8", "192.0.2.1/32"]
    assert first.keepalive_s == 0
    assert second.endpoint == Endpoint("vpn.example", 1, 16)
    assert second.allowed == ()


def test_what_wg_quick_adds_is_understood_there_alone() -> None:
    text = (
        f"{HEAD}Address = 10.0.0.2, fd00::2/64\nAddress = 10.0.1.2/24\nDNS = 10.0.0.1, corp.example\n"
        "MTU = 1380\nTable = off\nSaveConfig = true\nPostUp = one\nPreDown = two\nPostUp = three\n"
    )
    quick = _parse(text, quick=True).quick
    assert quick.addresses == ("10.0.0.2/32", "fd00::2/64", "10.0.1.2/24")
    assert (quick.servers, quick.search) == (("10.0.0.1",), ("corp.example",))
    assert (quick.mtu, quick.table, quick.save) == (1380, "off", 8)
    assert [(h.line, h.name, h.command) for h in quick.hooks] == [
        (9, "PostUp", "one"), (10, "PreDown", "two"), (11, "PostUp", "three")
    ]  # fmt: skip
    with pytest.raises(Malformed, match="coentroctl import") as caught:
        _parse(text)
    assert caught.value.line == 3


@pytest.mark.parametrize(
    ("text", "line", "told"),
    [
        ("", 1, "no [Interface]"),
        (f"PrivateKey = {K1}\n", 1, "before any section"),
        ("[Interface]\n", 1, "no PrivateKey"),
        (HEAD + HEAD, 3, "a second [Interface]"),
        (f"{HEAD}PrivateKey = {K1}\n", 3, "a second PrivateKey"),
        (f"{HEAD}[Peer]\n", 3, "no PublicKey"),
        (HEAD + PEER + PEER, 5, "the same PublicKey"),
        (f"{HEAD}[Other]\n", 3, "expected [Interface] or [Peer]"),
        ("[Interface]\nPrivateKey = AAAA\n", 2, "expected a key"),
        (f"[Interface]\nPrivateKey = {K1[:-2]}\n", 2, "expected a key"),
        (f"{HEAD}Colour = blue\n", 3, "`Colour` is not known"),
        (f"{HEAD}{K2}\n", 3, "this is not known"),
        (f"{HEAD}ListenPort = -1\n", 3, "from 0 to 65535"),
        (f"{HEAD}ListenPort = ٣\n", 3, "from 0 to 65535"),
        (f"{HEAD}FwMark = red\n", 3, "FwMark"),
        (f"{HEAD}{PEER}AllowedIPs = 10.0.0.0/255.0.0.0\n", 5, "expected networks"),
        (f"{HEAD}{PEER}AllowedIPs = 10.0.0.0/33\n", 5, "expected networks"),
        (f"{HEAD}{PEER}AllowedIPs = fe80::1%lo/64\n", 5, "expected networks"),
        (f"{HEAD}{PEER}Endpoint = 192.0.2.1\n", 5, "host:port"),
        (f"{HEAD}{PEER}Endpoint = 192.0.2.1:0\n", 5, "host:port"),
        (f"{HEAD}{PEER}Endpoint = 2001:db8::1:51820\n", 5, "host:port"),
        (f"{HEAD}{PEER}Endpoint = [192.0.2.1]:5\n", 5, "host:port"),
        (f"{HEAD}{PEER}PersistentKeepalive = 65536\n", 5, "from 0 to 65535"),
        (f"{HEAD}\0\n", 3, "NUL"),
    ],
)
def test_a_fault_is_told_by_its_line(text: str, line: int, told: str) -> None:
    with pytest.raises(Malformed) as caught:
        _parse(text)
    assert (caught.value.line, told in caught.value.text) == (line, True), caught.value.text


def test_a_file_that_is_no_text_or_too_long_is_refused() -> None:
    with pytest.raises(Malformed, match="UTF-8") as caught:
        parse(HEAD.encode() + b"\xff\n", quick=False)
    assert caught.value.line == 3
    with pytest.raises(Malformed, match="longer"):
        parse(HEAD.encode() + b"#" * (1 << 20), quick=False)


def _fault(data: bytes, *, quick: bool) -> Malformed | None:
    try:
        parse(data, quick=quick)
    except Malformed as fault:
        return fault
    return None


_WORDS = (
    "[Interface]",
    "[Peer]",
    "PrivateKey",
    "=",
    K1,
    "AllowedIPs",
    "10.0.0.0/8",
    ",",
    "PostUp",
    "\n",
    "#",
)


@given(st.one_of(st.binary(max_size=300), st.lists(st.sampled_from(_WORDS)).map(" ".join).map(str.encode)))
@example(b"[Interface]\nPrivateKey =")
def test_any_bytes_are_a_configuration_or_a_fault_with_a_line(data: bytes) -> None:
    for quick in (False, True):
        fault = _fault(data, quick=quick)
        assert fault is None or 1 <= fault.line <= data.count(b"\n") + 1


@given(
    st.binary(min_size=32, max_size=32),
    st.text("[]=#, \nab:/.", max_size=8),
    st.text("[]=#, \nab", max_size=8),
)
def test_no_fault_quotes_a_key(key: bytes, before: str, after: str) -> None:
    text = b64encode(key).decode()
    places = (
        f"[Interface]\n{before}{text}{after}",
        f"{HEAD}{before}{text}{after}\n",
        f"{HEAD}ListenPort = {text}",
        f"{HEAD}{PEER}Endpoint = {text}",
        f"{HEAD}{PEER}{text} = x",
    )
    for place in places:
        fault = _fault(place.encode(), quick=False)
        # Not even a part of it that would be worth having.
        assert fault is None or not any(text[i : i + 8] in fault.text for i in range(36))


def test_keys_are_not_printed_by_accident() -> None:
    config = _parse(f"{HEAD}{PEER}PresharedKey = {K3}\n")
    assert repr(config).count("Key(...)") == 3
    assert "\\x01" not in f"{config} {config.private_key} {config.private_key!s}"


_keys = st.binary(min_size=32, max_size=32).map(Key)
_networks = st.one_of(
    st.builds(lambda a, n: IPv4Network((a, n), strict=False), st.integers(0, 2**32 - 1), st.integers(0, 32)),
    st.builds(
        lambda a, n: IPv6Network((a, n), strict=False), st.integers(0, 2**128 - 1), st.integers(0, 128)
    ),
)
_hosts = st.sampled_from(["vpn.example", "192.0.2.1", "2001:db8::1", "a", "_x.y-z"])
_endpoints = st.builds(Endpoint, _hosts, st.integers(1, 65535), st.just(0))
_peers = st.builds(
    Peer, st.just(0), _keys, st.none() | _keys, st.lists(_networks, max_size=4, unique=True).map(tuple),
    st.none() | _endpoints, st.none() | st.integers(0, 65535),
)  # fmt: skip
_configs = st.builds(
    Config, _keys, st.none() | st.integers(0, 65535), st.none(),
    st.lists(_peers, max_size=3, unique_by=lambda p: p.public_key).map(tuple), st.just(Quick()),
)  # fmt: skip


@given(_configs)
def test_what_import_writes_is_read_back(config: Config) -> None:
    # Python 3.13 and later write v4-mapped addresses with dots; no one routes them.
    assume(not any(n.version == 6 and n.overlaps(ip_network("::ffff:0:0/96")) for n in config.allowed()))
    again = _parse(keys_text(config))
    bare = again._replace(
        peers=tuple(
            p._replace(line=0, endpoint=p.endpoint and p.endpoint._replace(line=0)) for p in again.peers
        )
    )
    assert bare == config

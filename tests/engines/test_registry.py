"""Which preset a command has, and what wireguard-go's makes of an order before anything runs."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from coentro.engines import wireguard
from coentro.engines.identity import Identity
from coentro.engines.preset import EngineFault, Order
from coentro.engines.registry import choose
from coentro.engines.wireguard import WireGuardGo, split_networks

KEY = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE="
PEER = "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI="
ROOTS = Identity(65534, 65534, "nobody", "/", (), change=True, said=None)
Versions = Callable[[bytes], None]


def order(
    *command: str, engine: dict[str, Any] | None = None, folder: Path | None = None, **spec: Any
) -> Order:
    path = str((folder or Path("/none")) / "p.toml")
    said: list[str] = []
    return Order(command, path, spec, engine or {}, ROOTS, {"PATH": "/usr/bin"}, said.append)


@pytest.mark.parametrize(
    ("command", "given", "profile", "name"),
    [
        ("sh", None, None, "generic"),
        ("/usr/bin/wireguard-go", None, None, "wireguard-go"),
        ("./wireguard-go", None, "generic", "generic"),
        ("sh", None, "wireguard-go", "wireguard-go"),
        ("wireguard-go", "generic", "wireguard-go", "generic"),
    ],
)
def test_the_command_line_goes_before_the_profile_and_that_before_the_commands_name(
    command: str, given: str | None, profile: str | None, name: str
) -> None:
    assert choose(order(command, engine={"name": profile} if profile else {}), given).name == name


@pytest.mark.parametrize(("given", "place"), [("wiregaurd", "--engine: "), (None, "p.toml: engine.name: ")])
def test_a_preset_that_does_not_exist_is_told_with_those_that_do(given: str | None, place: str) -> None:
    with pytest.raises(EngineFault, match=r"there are: generic, wireguard-go") as caught:
        choose(order("sh", engine={"name": "nonesuch"}), given)
    assert place in caught.value.message
    assert caught.value.usage


def test_the_generic_engine_has_no_configuration() -> None:
    with pytest.raises(EngineFault, match="has none that could be sent"):
        choose(order("sh", engine={"config": "x"}), None)


@pytest.fixture
def says(monkeypatch: pytest.MonkeyPatch) -> Versions:
    """What the command's --version prints."""

    def say(text: bytes) -> None:
        monkeypatch.setattr(wireguard, "output", lambda *_: text)

    return say


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        (b"wireguard-go v0.0.20220316\n\nUserspace", True),
        (b"wireguard-go v0.0.20230223\n", False),
        (b"wireguard-go v0.0.20250522\n", False),
        (b"wireguard-go 0.0.20200320\n", True),
    ],
)
def test_packet_information_is_a_matter_of_the_version(says: Versions, said: bytes, wanted: bool) -> None:
    says(said)
    assert choose(order("wireguard-go"), None).spec()["tun"] == {"packet_info": wanted}
    assert choose(order("wireguard-go", tun={"vnet_hdr": True}), None).spec()["tun"] == {
        "vnet_hdr": True,
        "packet_info": wanted,
    }
    # What the profile says holds; whether it is right is found out when the engine runs.
    given = {"packet_info": not wanted}
    assert choose(order("wireguard-go", tun=given), None).spec()["tun"] == given


def test_a_version_that_is_not_told_must_be_made_up_for_by_the_profile(says: Versions) -> None:
    says(b"busybox\n")
    with pytest.raises(EngineFault, match="does not tell its version") as caught:
        choose(order("wireguard-go"), None).spec()
    assert "[tun] packet_info" in (caught.value.hint or "")
    assert choose(order("wireguard-go", tun={"packet_info": True}), None).spec()["tun"] == {
        "packet_info": True
    }


def test_several_queues_are_refused(says: Versions) -> None:
    says(b"wireguard-go v0.0.20220316")
    with pytest.raises(EngineFault, match=r"p.toml: tun.queues: wireguard-go reads one"):
        choose(order("wireguard-go", tun={"queues": 2}), None).spec()


def preset(folder: Path, text: str, **spec: Any) -> WireGuardGo:
    config = folder / "wg.conf"
    config.write_text(f"[Interface]\nPrivateKey = {KEY}\n[Peer]\nPublicKey = {PEER}\n{text}")
    config.chmod(0o600)
    made = choose(order("wireguard-go", engine={"config": "wg.conf"}, folder=folder, **spec), None)
    assert isinstance(made, WireGuardGo)
    return made


def test_endpoints_go_into_the_spec_and_networks_become_routes(says: Versions, tmp_path: Path) -> None:
    says(b"wireguard-go v0.0.20220316")
    text = "Endpoint = 203.0.113.7:51820\nAllowedIPs = 10.0.0.1/8, ::/0, 224.0.0.0/4"
    spec = preset(tmp_path, text, addresses=["10.0.0.2/32"], endpoints=["198.51.100.1"]).spec()
    ours = {"address": "203.0.113.7", "port": 51820, "protocol": "udp"}
    assert spec["endpoints"] == ["198.51.100.1", ours]
    assert (spec["routes"], spec["block"]) == (["10.0.0.0/8"], ["::/0"])
    # What the profile itself says of routes and blocks stays as it is.
    spec = preset(tmp_path, text, addresses=["10.0.0.2/32"], routes=["192.0.2.0/24"], endpoints=[ours]).spec()
    assert (spec["routes"], "block" in spec, spec["endpoints"]) == (["192.0.2.0/24"], False, [ours])
    spec = preset(tmp_path, text, addresses=["10.0.0.2/32"], block=[]).spec()
    assert (spec["routes"], spec["block"]) == (["10.0.0.0/8"], [])


def test_an_endpoint_on_this_host_is_no_endpoint_for_the_helper(says: Versions, tmp_path: Path) -> None:
    says(b"wireguard-go v0.0.20220316")
    assert preset(tmp_path, "Endpoint = 127.0.0.1:9").spec()["endpoints"] == []


def test_what_is_no_spec_is_left_for_the_helper_to_refuse(says: Versions, tmp_path: Path) -> None:
    says(b"wireguard-go v0.0.20220316")
    text = "Endpoint = 203.0.113.7:51820\nAllowedIPs = 10.0.0.0/8"
    spec = preset(tmp_path, text, addresses=5, endpoints="x", tun=7).spec()
    assert (spec["addresses"], spec["endpoints"], spec["tun"]) == (5, "x", 7)


def test_a_configuration_that_is_not_there_is_told_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(EngineFault, match=r"engine.config: .*none.conf: No such file") as caught:
        choose(order("wireguard-go", engine={"config": "none.conf"}, folder=tmp_path), None)
    assert caught.value.usage


def test_networks_of_a_family_without_an_address_are_blocked_and_some_are_never_routed() -> None:
    networks = tuple(map(ip_network, ("0.0.0.0/0", "::/0", "fe80::/10", "127.0.0.1/32", "fd00::/8")))
    assert split_networks(networks, ["10.0.0.2/32"]) == (
        ["0.0.0.0/0"], ["::/0", "fd00::/8"], ["fe80::/10", "127.0.0.1/32"]
    )  # fmt: skip
    assert split_networks(networks, ["10.0.0.2/32", "fd00::2/128"])[1] == []

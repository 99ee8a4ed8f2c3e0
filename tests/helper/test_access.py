"""Who may connect and what they may then do, from the kernel's word and the configuration."""

from __future__ import annotations

import grp
import os
import pwd
import socket
from typing import Any

import pytest

from coentro.errors import NotAuthorized
from coentro.helper.access import Access
from coentro.helper.config import Config, Policy, Scopes, Who
from coentro.helper.credentials import Credentials, of_peer
from coentro.model import Spec, Uid
from coentro.networks import Networks
from coentro.wire.params import decode

SOMEBODY = Credentials(Uid(54321), 54321, frozenset(), 1)
MEMBER = Credentials(Uid(54321), 54321, frozenset({4000, 4001}), 1)


def access(**config: Any) -> Access:
    return Access.of(Config(**config))


def test_the_kernel_says_who_is_there() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    with ours, theirs:
        peer = of_peer(ours)
    assert (peer.uid, peer.gid, peer.pid) == (os.geteuid(), os.getegid(), os.getpid())
    assert peer.groups == frozenset(os.getgroups())


def test_root_and_the_helpers_own_uid_always_have_all() -> None:
    nobody = access(access=Who())
    for uid in (0, os.geteuid()):
        peer = Credentials(Uid(uid), 9, frozenset(), 1)
        assert nobody.admits(peer)
        assert nobody.scopes_of(peer) == {"observe", "tunnel", "admin"}


def test_nobody_else_is_admitted_unless_named() -> None:
    assert not access(access=Who()).admits(MEMBER)
    assert not access(access=Who(uids=(54322,), gids=(4002,))).admits(MEMBER)


@pytest.mark.parametrize("who", [Who(uids=(54321,)), Who(gids=(54321,)), Who(gids=(4001,))])
def test_uid_gid_and_supplementary_groups_admit(who: Who) -> None:
    assert access(access=who).admits(MEMBER)
    assert access(access=who).scopes_of(MEMBER) == {"observe", "tunnel"}


def test_names_are_looked_up_and_missing_ones_told() -> None:
    user, group = pwd.getpwuid(0), grp.getgrgid(0)
    who = Who(users=(user.pw_name, "no-such-user"), groups=(group.gr_name, "no-such-group"))
    found = access(access=who)
    assert found.admitted.uids == {user.pw_uid}
    assert found.admitted.gids == {group.gr_gid}
    assert found.missing == ("user no-such-user", "group no-such-group")


def test_a_scope_that_is_given_to_some_is_not_the_others() -> None:
    scopes = Scopes(tunnel=Who(gids=(4001,)), admin=Who(uids=(54321,)))
    told = access(access=Who(uids=(54321,)), scopes=scopes)
    assert told.scopes_of(MEMBER) == {"observe", "tunnel", "admin"}
    assert told.scopes_of(SOMEBODY) == {"observe", "admin"}


def test_the_refusal_has_the_command_that_helps() -> None:
    refusal = access(access=Who(groups=("coentrovpn",))).refusal("alice", 1000)
    assert refusal.code == -32001
    assert "coentrovpn" in refusal.data["hint"]
    assert "alice" in refusal.data["hint"]
    assert "uid 1000" in access(access=Who()).refusal(None, 1000).data["hint"]


def spec(**fields: Any) -> Spec:
    return decode({"addresses": ["10.0.0.2/32"], **fields}, Spec)


def test_policy_binds_members_and_not_admins() -> None:
    told = access(policy=Policy(everything="admin", networks=Networks.parse(["10.0.0.0/8"])))
    member, admin = frozenset({"observe", "tunnel"}), frozenset({"admin", "tunnel"})
    told.allow(spec(routes=["10.1.0.0/16"]), member)  # type: ignore[arg-type]  # literals in a set
    for refused in (
        spec(routes=["192.168.0.0/16"]),
        spec(block=["192.168.0.0/16"]),
        spec(addresses=["192.168.1.2/24"]),
        spec(routes=["0.0.0.0/0"]),
        spec(routes=["0.0.0.0/1", "128.0.0.0/1"]),
        spec(block=["::/0"]),
    ):
        with pytest.raises(NotAuthorized):
            told.allow(refused, member)  # type: ignore[arg-type]  # as above
        told.allow(refused, admin)  # type: ignore[arg-type]  # as above

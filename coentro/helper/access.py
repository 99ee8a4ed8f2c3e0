"""Who may connect, and what they may then do: configuration against kernel credentials.

Names of the configuration are resolved to numbers when it is read, in a worker thread, since
a name service may take its time; a decision is then set membership alone.
"""

from __future__ import annotations

import grp
import os
import pwd
import sys
from typing import TYPE_CHECKING, Final

from attrs import frozen

from coentro.errors import NotAuthorized
from coentro.helper.config import Config, Scope, Who
from coentro.helper.credentials import Credentials
from coentro.model import Spec
from coentro.networks import FAMILIES, Networks

if TYPE_CHECKING:
    from coentro.helper import results

SCOPES: Final[tuple[Scope, ...]] = ("observe", "tunnel", "admin")


@frozen
class Ids:
    """Numbers of those who are meant."""

    uids: frozenset[int]
    gids: frozenset[int]

    def has(self, peer: Credentials) -> bool:
        return peer.uid in self.uids or not self.gids.isdisjoint(peer.gids)


@frozen
class Access:
    """The configuration's answer to who may do what. `missing`: names that nobody has."""

    admitted: Ids
    scopes: dict[Scope, Ids | None]
    """None: whoever may connect."""
    policy_everything: Scope
    networks: Networks | None
    own_uid: int
    hint_group: str | None
    missing: tuple[str, ...]

    @classmethod
    def of(cls, config: Config) -> Access:
        """Resolve all names. May block on the name service."""
        missing: list[str] = []
        scopes: dict[Scope, Ids | None] = {
            "observe": _resolve(config.scopes.observe, missing) if config.scopes.observe else None,
            "tunnel": _resolve(config.scopes.tunnel, missing) if config.scopes.tunnel else None,
            "admin": _resolve(config.scopes.admin, missing) if config.scopes.admin else Ids(_NOBODY, _NOBODY),
        }
        return cls(
            admitted=_resolve(config.access, missing),
            scopes=scopes,
            policy_everything=config.policy.everything,
            networks=config.policy.networks,
            own_uid=os.geteuid(),
            hint_group=config.access.groups[0] if config.access.groups else None,
            missing=tuple(missing),
        )

    def admits(self, peer: Credentials) -> bool:
        """Whether this peer may connect at all: root and the helper's own uid always."""
        return peer.uid in (0, self.own_uid) or self.admitted.has(peer)

    def scopes_of(self, peer: Credentials) -> frozenset[Scope]:
        """The scopes of a peer who is admitted."""
        if peer.uid in (0, self.own_uid):
            return frozenset(SCOPES)
        return frozenset(s for s in SCOPES if (ids := self.scopes[s]) is None or ids.has(peer))

    def refusal(self, user: str | None, uid: int) -> NotAuthorized:
        """The sentence for one who is not admitted, with the command that would change it."""
        who = user if user is not None else f"uid {uid}"
        if self.hint_group is None:
            hint = f"add {who} to `users` of [access] in the helper's configuration, then reload it"
        elif sys.platform == "darwin":
            hint = f"sudo dseditgroup -o edit -a {who} -t user {self.hint_group}"
        else:
            hint = f"sudo usermod -aG {self.hint_group} {who}"
        again = "" if self.hint_group is None else ", and log in again"
        text = f"{who} may not use this helper; an administrator can run: {hint}{again}"
        return NotAuthorized(text, hint=hint)

    def allow(self, spec: Spec, scopes: frozenset[Scope]) -> None:
        """Whether this policy lets a peer with these scopes have the spec. Errors: NotAuthorized."""
        if "admin" in scopes:
            return
        if self.policy_everything not in scopes and any(spec.everything(f) for f in FAMILIES):
            raise NotAuthorized(
                f"everything-routes need the scope {self.policy_everything} here",
                scope=self.policy_everything,
            )
        if self.networks is None:
            return
        for field, networks in (
            ("routes", spec.routes),
            ("block", spec.block),
            ("addresses", spec.prefixes()),
        ):
            for net in networks:
                if not any(allowed.covers(net) for allowed in self.networks):
                    raise NotAuthorized(
                        f"{net} of `{field}` is outside of the networks that the administrator allows",
                        networks=self.networks.first(20),
                    )


_NOBODY: Final[frozenset[int]] = frozenset()


def _resolve(who: Who, missing: list[str]) -> Ids:
    uids, gids = set(who.uids), set(who.gids)
    for name in who.users:
        try:
            uids.add(pwd.getpwnam(name).pw_uid)
        except KeyError:
            missing.append(f"user {name}")
    for name in who.groups:
        try:
            gids.add(grp.getgrnam(name).gr_gid)
        except KeyError:
            missing.append(f"group {name}")
    return Ids(frozenset(uids), frozenset(gids))


def user_name(uid: int) -> str | None:
    """The login name of a uid, if it has one. May block on the name service."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return None


def describe(peer: Credentials, user: str | None) -> results.Credentials:
    """A peer as `session.hello` and events tell it."""
    return {"uid": peer.uid, "gid": peer.gid, "groups": sorted(peer.groups), "pid": peer.pid, "user": user}

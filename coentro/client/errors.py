"""What a client can meet: a refusal, no helper, not being admitted, a helper that goes away."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

NOT_AUTHORIZED: Final = -32001


class HelperError(Exception):
    """The helper refused. `reason` names the kind (docs/protocol.md, "Errors"), `data` has the rest."""

    def __init__(self, code: int, message: str, data: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.data: dict[str, Any] = dict(data or {})
        self.reason: str = str(self.data.get("reason", ""))


class NotAdmitted(HelperError):
    """Whoever runs this program may not talk to the helper; the message has what would help."""


class NoHelper(Exception):
    """Nothing listens at the socket; the message has what to do."""


class HelperGone(Exception):
    """The connection ended: the helper stopped, or sent what is not its protocol."""

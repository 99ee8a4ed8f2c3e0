"""The one exception tree: every refusal knows its JSON-RPC code and its reason.

An error is raised where it is understood and travels to the peer as it is; anything that is
not one of these is a fault of ours and is told to the peer as `Internal`, without its text.
The codes are those of docs/protocol.md, "Errors".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar


class CoentroError(Exception):
    """A refusal with a sentence for people and `data` for programs."""

    code: ClassVar[int]
    reason: ClassVar[str]

    def __init__(self, message: str, **data: Any) -> None:
        super().__init__(message)
        self.message = message
        self.data: dict[str, Any] = {"reason": self.reason, **data}

    def to_json(self) -> dict[str, Any]:
        """The `error` member of a JSON-RPC 2.0 response."""
        return {"code": self.code, "message": self.message, "data": self.data}


class ParseError(CoentroError):
    """The line is not JSON as RFC 8259 has it. `fatal`: the stream can't be trusted again."""

    code, reason = -32700, "parse_error"

    def __init__(self, message: str, *, fatal: bool = False) -> None:
        super().__init__(message)
        self.fatal = fatal


class InvalidRequest(CoentroError):
    """JSON, but not JSON-RPC 2.0."""

    code, reason = -32600, "invalid_request"


class MethodNotFound(CoentroError):
    """No such method; `data.hint` is the nearest name, when one is near."""

    code, reason = -32601, "method_not_found"


class InvalidParams(CoentroError):
    """A parameter is wrong. `path` is a JSON path from `$`, the params."""

    code, reason = -32602, "invalid_params"

    def __init__(self, path: str, detail: str) -> None:
        super().__init__(f"{path}: {detail}", path=path, detail=detail)
        self.path = path
        self.detail = detail

    def below(self, prefix: str) -> InvalidParams:
        """The same fault, seen from a value that stands at `prefix` (such as `$.routes`)."""
        return InvalidParams(prefix + self.path.removeprefix("$"), self.detail)


class Internal(CoentroError):
    """A fault of ours. `report` is in the log beside the traceback; nothing else is told."""

    code, reason = -32603, "internal_error"

    def __init__(self, report: str) -> None:
        super().__init__(
            f"the helper failed at this request; its log has the details under {report}",
            report=report,
        )


class NotAuthorized(CoentroError):
    """The peer, or its scopes, do not allow it. `hint` is what would admit it."""

    code, reason = -32001, "not_authorized"


class NotFound(CoentroError):
    """No such tunnel or token, or another's: the same answer for both."""

    code, reason = -32002, "not_found"


class Conflict(CoentroError):
    """Something is in use or someone else's. Each conflict is `{resource, held, ...}`."""

    code, reason = -32003, "conflict"

    def __init__(self, message: str, conflicts: Sequence[Mapping[str, Any]]) -> None:
        super().__init__(message, conflicts=[dict(c) for c in conflicts])
        self.conflicts: list[dict[str, Any]] = self.data["conflicts"]


class Limit(CoentroError):
    """Too many or too fast. `retry_after_s`: seconds, or None where waiting alone won't help."""

    code, reason = -32004, "limit"

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message, retry_after_s=retry_after_s)


class Kernel(CoentroError):
    """The system refused one change; what had been applied before it was undone.

    `errno` is the errno's name (`EPERM`), `op` names the change that failed.
    """

    code, reason = -32005, "kernel"

    def __init__(self, message: str, *, errno: str, op: str) -> None:
        super().__init__(message, errno=errno, op=op)


class Busy(CoentroError):
    """The helper is shutting down."""

    code, reason = -32006, "busy"


class Unsupported(CoentroError):
    """Not on this platform or in this version; `capability` is its name in `session.hello`."""

    code, reason = -32007, "unsupported"

    def __init__(self, capability: str, message: str | None = None) -> None:
        super().__init__(
            message or f"this helper can't do {capability}; see `capabilities` in session.hello",
            capability=capability,
        )
        self.capability = capability

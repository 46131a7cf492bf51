"""What hyperplug adds to an answer, and what it answers when something is wrong. No I/O."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

from hyperplug.entities import Resolution
from hyperplug.errors import (
    BaseMismatchError,
    ConfigError,
    DuplicateTaskError,
    HyperplugError,
    InvalidDescriptionError,
    InvalidNameError,
    NotFoundError,
    NovelTaskError,
    RegistryError,
    ServerError,
)

_CLIENT_ERRORS = (InvalidDescriptionError, InvalidNameError, BaseMismatchError, ConfigError)
_TYPES = {
    400: "BadRequestError",
    404: "NotFoundError",
    409: "ConflictError",
    413: "BadRequestError",
    429: "RateLimitError",
    500: "InternalServerError",
    503: "ServiceUnavailableError",
}


class QuotaError(ServerError):
    """A tenant has taken all that it may for now.

    Attributes:
        retry_seconds: when there will be more.
    """

    def __init__(self, message: str, *, hint: str = "", retry_seconds: float) -> None:
        super().__init__(message, hint=hint)
        self.retry_seconds = retry_seconds


class BusyError(ServerError):
    """More lookups are waiting than this server takes."""


class LoadError(ServerError):
    """vLLM could not load an adapter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """An error as a client sees it."""

    status: int
    message: str
    retry_seconds: float = 5.0

    def body(self, path: str) -> bytes:
        """Returns the JSON that clients of that path expect of an error."""
        kind = _TYPES[self.status]
        if path.startswith("/v1/messages"):  # Anthropic's form
            return _json({"type": "error", "error": {"type": kind, "message": self.message}})
        error = {"message": self.message, "type": kind, "param": "model", "code": self.status}
        return _json({"error": error})

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """Headers that go with it."""
        if self.status not in (429, 503):
            return []
        return [(b"retry-after", str(max(1, math.ceil(self.retry_seconds))).encode())]


def failure(error: HyperplugError) -> Failure:
    """Returns how to tell a client about an error.

    What concerns the request is told in full; what concerns the server (paths, hosts) is
    for its log.
    """
    if isinstance(error, _CLIENT_ERRORS):
        return Failure(status=400, message=str(error))
    if isinstance(error, (NotFoundError, NovelTaskError)):
        return Failure(status=404, message=str(error))
    if isinstance(error, DuplicateTaskError):
        return Failure(status=409, message=str(error))
    if isinstance(error, RegistryError):
        message = "the task registry cannot be used just now; try again, or ask the base model"
        return Failure(status=503, message=message)
    if isinstance(error, QuotaError):
        return Failure(status=429, message=str(error), retry_seconds=error.retry_seconds)
    if isinstance(error, BusyError):
        return Failure(status=429, message=str(error))
    if isinstance(error, LoadError):
        return Failure(status=500, message=str(error))
    message = f"the task could not be served ({type(error).__name__}; see the server's log)"
    return Failure(status=500, message=message)


def response_headers(
    resolution: Resolution, *, load_ms: float, stale: bool
) -> list[tuple[bytes, bytes]]:
    """Returns the headers that tell a client what served it.

    Args:
        stale: whether the registry was out of reach and this is its last known word.
    """
    timings = resolution.timings
    steps = {
        "embed": timings.embed_ms,
        "lookup": timings.lookup_ms,
        "generate": timings.generate_ms,
        "publish": timings.publish_ms,
        "load": load_ms,
    }
    headers = {
        "x-hyperplug-decision": resolution.decision.value,
        "x-hyperplug-score": f"{resolution.score:.4f}",
        "x-hyperplug-timing": ", ".join(f"{step};dur={ms:.1f}" for step, ms in steps.items()),
    }
    if resolution.task is not None:
        headers["x-hyperplug-task"] = resolution.task.name
    if resolution.adapter is not None:
        headers["x-hyperplug-adapter"] = resolution.adapter.name
    if stale:
        headers["x-hyperplug-stale"] = "1"
    return [(name.encode(), value.encode("ascii")) for name, value in headers.items()]


def _json(content: object) -> bytes:
    return json.dumps(content).encode("ascii")

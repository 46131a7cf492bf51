"""vLLM's API keys, checked by us where our middleware runs before vLLM's own check."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable

from hyperplug_vllm.asgi import Scope, header_values, path_of

# All that hyperplug handles is under it, and vLLM guards all of it.
GUARDED = "/v1"


class ApiKeys:
    """The keys that a server takes. Without any, it takes every request, as vLLM does."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._digests = [_digest(key) for key in keys]

    def admit(self, scope: Scope) -> bool:
        """Returns whether an HTTP request may pass: it has a key, or it needs none.

        Takes as long for a wrong key as for a right one. The rules are vLLM's: the first
        `Authorization` header counts, "Bearer" in any case, and OPTIONS needs no key.
        """
        if not self._digests or scope["method"] == "OPTIONS":
            return True
        if not path_of(scope).startswith(GUARDED):
            return True
        given = next(iter(header_values(scope, b"authorization")), b"").decode("latin-1")
        scheme, _, key = given.partition(" ")
        digest = _digest(key)
        matches = [secrets.compare_digest(digest, known) for known in self._digests]
        return any(matches) and scheme.lower() == "bearer"


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8")).digest()

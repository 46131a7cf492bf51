"""Whose request it is: API keys and the namespaces that they open."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path

from hyperplug.errors import ConfigError
from hyperplug.naming import check_name
from hyperplug_vllm.asgi import App, Receive, Scope, Send, header_values, path_of, respond

NAMESPACE = "hyperplug_namespace"
"""Where a request's scope holds the namespace that its key opens."""
_HASHED = "sha256:"
_SHORTEST_KEY = 16
# What load balancers and Prometheus ask without a key, as with vLLM's own.
OPEN_PATHS = frozenset({"/health", "/ping", "/metrics", "/version", "/load"})
_POLICY_VIOLATION = 1008  # of WebSocket's close codes
_REFUSED = json.dumps(
    {"error": {"message": "Unauthorized", "type": "AuthenticationError", "code": 401}}
).encode()
_HINT = 'write {"namespace": ["key", "sha256:<hex of another>"]}'


class Keys:
    """API keys, kept as digests, and their namespaces."""

    def __init__(self, digests: Mapping[bytes, str]) -> None:
        self._digests = dict(digests)

    @property
    def namespaces(self) -> frozenset[str]:
        """All namespaces that some key opens."""
        return frozenset(self._digests.values())

    def namespace(self, key: bytes) -> str | None:
        """Returns the namespace that a key opens; None for a stranger's.

        It takes the same time for every key.
        """
        given = hashlib.sha256(key).digest()
        found = None
        for digest, namespace in self._digests.items():
            if hmac.compare_digest(digest, given):
                found = namespace
        return found


def read_keys(file: Path) -> Keys:
    """Returns the keys in a JSON file of namespaces and their keys, plain or as SHA-256.

    Raises:
        ConfigError: if it cannot be read, others may read it, or it holds something else.
    """
    try:
        others = stat.S_IMODE(file.stat().st_mode) & 0o077
        content = json.loads(file.read_bytes())
    except OSError as exc:
        raise ConfigError(f"key file {file}: {exc.strerror}", hint="check the path") from exc
    except ValueError as exc:
        raise ConfigError(f"key file {file} is not valid JSON", hint=_HINT) from exc
    if others and os.name == "posix":
        raise ConfigError(f"key file {file} can be read by others", hint=f"run: chmod 600 {file}")
    if not isinstance(content, dict) or not content:
        raise ConfigError(f"key file {file} names no namespace", hint=_HINT)
    digests: dict[bytes, str] = {}
    for namespace, keys in content.items():
        check_name(namespace, kind="namespace")
        if not isinstance(keys, list) or not keys:
            raise ConfigError(f"key file {file}: {namespace!r} has no list of keys", hint=_HINT)
        for key in keys:
            digest = _digest(key, file, namespace)
            if digests.setdefault(digest, namespace) != namespace:
                raise ConfigError(
                    f"key file {file}: one key opens two namespaces",
                    hint=f"give {namespace!r} keys of its own",
                )
    return Keys(digests)


def _digest(key: object, file: Path, namespace: str) -> bytes:
    if isinstance(key, str) and key.startswith(_HASHED):
        try:
            digest = bytes.fromhex(key.removeprefix(_HASHED))
        except ValueError:
            digest = b""
        if len(digest) == hashlib.sha256().digest_size:
            return digest
    elif isinstance(key, str) and len(key) >= _SHORTEST_KEY:
        return hashlib.sha256(key.encode()).digest()
    raise ConfigError(
        f"key file {file}: a key of {namespace!r} is too short or no key",
        hint=f"use {_SHORTEST_KEY} characters or more, or sha256:<64 hex digits>",
    )


class TenantMiddleware:
    """Lets in whoever has a key, and notes the namespace that it opens.

    It guards every path but those that tell nothing, so more than vLLM's own API key, and
    has to be outside of whatever looks anything up.
    """

    def __init__(self, app: App, *, keys: Keys) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        if scope["type"] not in ("http", "websocket") or _is_open(scope):
            await self._app(scope, receive, send)
            return
        namespace = self._keys.namespace(_bearer(scope))
        if namespace is not None:
            await self._app({**scope, NAMESPACE: namespace}, receive, send)
        elif scope["type"] == "http":
            await respond(send, 401, _REFUSED, [(b"www-authenticate", b"Bearer")])
        else:
            await receive()
            await send({"type": "websocket.close", "code": _POLICY_VIOLATION})


def _is_open(scope: Scope) -> bool:
    return scope["type"] == "http" and (
        path_of(scope) in OPEN_PATHS or scope["method"] == "OPTIONS"
    )


def _bearer(scope: Scope) -> bytes:
    """Returns the key of a request: OpenAI's header, or Anthropic's; b"" without one."""
    for name, prefix in ((b"authorization", b"bearer "), (b"x-api-key", b"")):
        values = header_values(scope, name)
        if len(values) == 1 and values[0].lower().startswith(prefix):
            return bytes(values[0][len(prefix) :].strip())
    return b""


def namespace_of(scope: Scope, default: str) -> str:
    """Returns the namespace of a request that was let in."""
    return str(scope.get(NAMESPACE, default))

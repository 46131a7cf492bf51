"""The ASGI middleware that turns a task into the adapter that serves it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import traceback
from collections.abc import Callable
from typing import Any, TypeVar, TypeVarTuple

from hyperplug.errors import (
    ConfigError,
    HyperplugError,
    InvalidDescriptionError,
    NotFoundError,
    ServerError,
)
from hyperplug_vllm.answers import failure
from hyperplug_vllm.asgi import (
    App,
    Receive,
    Scope,
    Send,
    adding_headers,
    header_values,
    path_of,
    read_body,
    replaying,
    respond,
    with_body,
)
from hyperplug_vllm.compat import LOGGER_NAME
from hyperplug_vllm.gateway import Gateway, Served, unknown_model
from hyperplug_vllm.listing import PATH as MODELS
from hyperplug_vllm.metrics import metrics
from hyperplug_vllm.observation import Observation
from hyperplug_vllm.request_options import FIELD, read_options, system_prompt
from hyperplug_vllm.targets import HEADER, body_for_vllm, parse_body
from hyperplug_vllm.tenants import NAMESPACE

_log = logging.getLogger(LOGGER_NAME)

Result = TypeVar("Result")
Arguments = TypeVarTuple("Arguments")

PATHS = frozenset(
    {
        "/v1/chat/completions",
        "/v1/chat/completions/batch",
        "/v1/completions",
        "/v1/messages",
        "/v1/messages/count_tokens",
        "/v1/responses",
    }
)
# vLLM's own: they load what any path or the hub holds, and unload what others use.
_FOR_ALL = frozenset({"/v1/load_lora_adapter", "/v1/unload_lora_adapter"})
_CLOSED = NotFoundError(
    "this route is closed on a server with several tenants", hint="see /v1/hyperplug/tasks"
)
# Bodies above this are parsed in a thread: a megabyte of JSON takes about 10 ms.
_INLINE_BYTES = 262_144
_NOT_HERE = ConfigError(
    "X-Hyperplug-Task means nothing on this path", hint=f"it does on {', '.join(sorted(PATHS))}"
)


class TaskMiddleware:
    """Rewrites `model` to the adapter of the task that a request names.

    It has to run inside vLLM's authentication: nothing is looked up for strangers.
    Requests for the base model, and whatever it does not understand, pass untouched.
    """

    def __init__(self, app: App, *, gateway: Gateway) -> None:
        self._app = app
        self._gateway = gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        if scope["type"] != "http" or scope["method"] != "POST":
            if self._gateway.keys is not None and path_of(scope).startswith(MODELS):
                send = self._gateway.listing_only(scope.get(NAMESPACE), send)
            await self._app(scope, receive, send)
            return
        if path_of(scope) not in PATHS:
            if header_values(scope, HEADER):  # rather an error than an answer of the bare base
                await _refuse(scope, send, _NOT_HERE)
            elif self._gateway.keys is not None and path_of(scope) in _FOR_ALL:
                await _refuse(scope, send, _CLOSED)
            elif self._gateway.keys is not None:
                await self._pass_on(scope, receive, send)
            else:
                await self._app(scope, receive, send)
            return
        body = await read_body(receive)
        if body is None:  # the client has left
            return
        content = await _off_loop_if_large(len(body), parse_body, body)
        observation = Observation(scope)
        async with contextlib.AsyncExitStack() as stack:
            try:
                with observation:
                    served = await self._served(stack, scope, content, observation=observation)
            except HyperplugError as exc:
                await _refuse(scope, send, exc)
                return
            except Exception as exc:
                metrics().failed(exc)
                await _tell(scope, send, _unexpected(exc))
                return
            if content is None or (served is None and FIELD not in content):
                await self._app(scope, replaying(body, receive), send)
                return
            if served is not None:
                scope = observation.linked(scope)
            await self._forward(scope, receive, send, content, served, size_bytes=len(body))

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request of one of several tenants on, unless it names another's adapter."""
        body = await read_body(receive)
        if body is None:
            return
        content = await _off_loop_if_large(len(body), parse_body, body)
        model = (content or {}).get("model")
        if model is not None and not self._gateway.engine.serves(str(model)):
            await _refuse(scope, send, unknown_model(model))
            return
        await self._app(scope, replaying(body, receive), send)

    async def _forward(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        content: dict[str, Any],
        served: Served | None,
        *,
        size_bytes: int,
    ) -> None:
        """Passes the request on with the body that vLLM is to read."""
        headers = list(served.headers) if served is not None else []
        # The base model, which has no adapter to replace it, keeps its system prompt.
        strips = served is not None and served.has_adapter and read_options(content).strip_system
        if strips:
            headers += await self._saved(content)

        def rewrite() -> bytes:
            model = served.model if served is not None else None
            return body_for_vllm(content, model=model, strip_system=strips)

        rewritten = await _off_loop_if_large(size_bytes, rewrite)
        await self._app(
            with_body(scope, rewritten),
            replaying(rewritten, receive),
            adding_headers(send, headers),
        )

    async def _saved(self, content: dict[str, Any]) -> list[tuple[bytes, bytes]]:
        """Returns the header that tells how many tokens of system prompt were left out."""
        count = self._gateway.count_tokens
        if count is None:
            return []
        saved = await asyncio.to_thread(count, system_prompt(content))
        return [(b"x-hyperplug-prompt-tokens-saved", str(saved).encode())]

    async def _served(
        self,
        stack: contextlib.AsyncExitStack,
        scope: Scope,
        content: dict[str, Any] | None,
        *,
        observation: Observation,
    ) -> Served | None:
        """Returns what serves the request, held until `stack` closes; None for vLLM alone."""
        target = None
        if content is not None:
            target = self._gateway.target(_task_header(scope), content)
        if target is None:
            observation.outcome = None
            return None
        return await stack.enter_async_context(
            self._gateway.serving_target(
                target, namespace=scope.get(NAMESPACE), observation=observation
            )
        )


def _task_header(scope: Scope) -> bytes | None:
    headers = header_values(scope, HEADER)
    if len(headers) > 1:
        raise InvalidDescriptionError(
            "the request has several X-Hyperplug-Task headers", hint="send one"
        )
    return headers[0] if headers else None


async def _off_loop_if_large(
    size_bytes: int, function: Callable[[*Arguments], Result], *arguments: *Arguments
) -> Result:
    if size_bytes <= _INLINE_BYTES:
        return function(*arguments)
    return await asyncio.to_thread(function, *arguments)


def _unexpected(error: Exception) -> ServerError:
    """Returns what a client is told of a fault of ours. What it says may quote a request."""
    where = "".join(traceback.format_tb(error.__traceback__))
    _log.error("unexpected %s while looking a task up:\n%s", type(error).__name__, where)
    return ServerError(type(error).__name__)


async def _refuse(scope: Scope, send: Send, error: HyperplugError) -> None:
    metrics().failed(error)
    await _tell(scope, send, error)


async def _tell(scope: Scope, send: Send, error: HyperplugError) -> None:
    told = failure(error)
    if told.status >= 500:
        _log.error("%s: %s", type(error).__name__, error)
    await respond(send, told.status, told.body(path_of(scope)), told.headers)

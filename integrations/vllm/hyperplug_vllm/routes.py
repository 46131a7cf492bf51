"""The routes under /v1/hyperplug/: vLLM's API key guards them, as all of /v1."""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from hyperplug.entities import Task
from hyperplug.errors import ConfigError, HyperplugError, RegistryError
from hyperplug.registry import Registry
from hyperplug_vllm.answers import failure
from hyperplug_vllm.gateway import Gateway
from hyperplug_vllm.targets import Target, TargetKind, parse_body

_PREFIX = "/v1/hyperplug"
_PAGE = 1000
_Handler = Callable[[Request], Awaitable[Response]]


def add_routes(app: Any, gateway: Gateway) -> None:
    """Adds the routes to a FastAPI application."""
    routes = Routes(gateway)
    for name, method, handler in (
        ("health", "GET", routes.health),
        ("tasks", "GET", routes.tasks),
        ("resolve", "POST", routes.resolve),
    ):
        app.add_api_route(f"{_PREFIX}/{name}", _telling(handler), methods=[method])


class Routes:
    """Handlers; what they raise on purpose is told to the client."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def health(self, request: Request) -> Response:
        """Answers 200 if the registry is in reach, 503 if not. Never tells where it is."""
        gateway = self._gateway
        facts: dict[str, object] = {
            "status": "ok",
            "base": gateway.engine.base_name,
            "base_fingerprint": gateway.base.fingerprint,
            "namespace": gateway.serving.settings.namespace,
            "on_novel": gateway.serving.on_novel.value,
            "live_adapters": len(gateway.live),
            "max_live_adapters": gateway.live.limit,
        }
        try:
            facts["tasks"] = await gateway.lookups.call(_count)
        except RegistryError:
            return JSONResponse({**facts, "status": "registry unreachable"}, status_code=503)
        return JSONResponse(facts)

    async def tasks(self, request: Request) -> Response:
        """Answers the registered tasks by name, a page at a time."""
        limit = _number(request, "limit", default=_PAGE, low=1, high=_PAGE)
        offset = _number(request, "offset", default=0, low=0, high=2**31)
        tasks = await self._gateway.lookups.call(
            lambda registry: registry.list_tasks(limit=limit, offset=offset)
        )
        return JSONResponse({"object": "list", "data": [_shown(task) for task in tasks]})

    async def resolve(self, request: Request) -> Response:
        """Answers what would serve `{"text": "a name or a description"}`, generating it."""
        content = parse_body(await request.body()) or {}
        text = content.get("text")
        if not isinstance(text, str):
            raise ConfigError("'text' is missing", hint='send {"text": "…"} as JSON')
        found = await self._gateway.lookups.resolve(Target(kind=TargetKind.TEXT, text=text))
        resolution = found.resolution
        return JSONResponse(
            {
                "decision": resolution.decision.value,
                "score": resolution.score,
                "support": resolution.support,
                "task": resolution.task.name if resolution.task else None,
                "adapter": resolution.adapter.name if resolution.adapter else None,
                "reason": resolution.reason,
                "timings": dataclasses.asdict(resolution.timings),
                "stale": found.stale,
            }
        )


def _telling(handler: _Handler) -> _Handler:
    async def told(request: Request) -> Response:
        try:
            return await handler(request)
        except HyperplugError as exc:
            told = failure(exc)
            return Response(
                told.body(request.url.path),
                status_code=told.status,
                media_type="application/json",
                headers={name.decode(): value.decode() for name, value in told.headers},
            )

    told.__doc__ = handler.__doc__
    told.__name__ = handler.__name__
    # FastAPI reads annotations to find parameters; under postponed evaluation these are text.
    told.__annotations__ = {"request": Request, "return": Response}
    return told


def _count(registry: Registry) -> int:
    return registry.store.count_tasks(namespace=registry.settings.namespace)


def _number(request: Request, name: str, *, default: int, low: int, high: int) -> int:
    text = request.query_params.get(name, str(default))
    if not text.isdecimal() or not low <= int(text) <= high:
        raise ConfigError(f"{name} is {text[:40]!r}", hint=f"use a number from {low} to {high}")
    return int(text)


def _shown(task: Task) -> dict[str, object]:
    return {
        "id": task.name,
        "object": "hyperplug.task",
        "description": task.description,
        "tags": list(task.tags),
        "created": int(task.created_at.timestamp()),
    }

"""The routes under /v1/hyperplug/: vLLM's API key guards them, as all of /v1."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Container
from dataclasses import replace
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from hyperplug.entities import Adapter, OnNovel, Task
from hyperplug.errors import ConfigError, HyperplugError, RegistryError
from hyperplug.registry import Registry
from hyperplug_vllm.answers import failure
from hyperplug_vllm.gateway import Gateway
from hyperplug_vllm.lookups import Lookups
from hyperplug_vllm.metrics import Outcome, metrics
from hyperplug_vllm.observation import Observation
from hyperplug_vllm.request_options import FIELD, read_options
from hyperplug_vllm.targets import Target, TargetKind, named_target, parse_body
from hyperplug_vllm.tenants import NAMESPACE, namespace_of

_PREFIX = "/v1/hyperplug"
_PAGE = 1000
_HEALTH_SECONDS = 5.0
_MOST_FOUND = 100
_Handler = Callable[[Request], Awaitable[Response]]


def add_routes(app: Any, gateway: Gateway, *, without: Container[str] = ()) -> None:
    """Adds the routes to a FastAPI application, but for those named in `without`."""
    routes = Routes(gateway)
    for name, method, handler in (
        ("health", "GET", routes.health),
        ("tasks", "GET", routes.tasks),
        ("tasks", "POST", routes.register),
        ("adapters", "GET", routes.adapters),
        ("find", "POST", routes.find),
        ("resolve", "POST", routes.resolve),
        ("generate", "POST", routes.generate),
        ("warm-up", "POST", routes.warm_up),
    ):
        if name in without:
            continue
        body = _BODIES.get((name, method))
        app.add_api_route(
            f"{_PREFIX}/{name}",
            _telling(handler),
            methods=[method],
            name=f"hyperplug_{handler.__name__}",
            tags=["hyperplug"],
            openapi_extra=None if body is None else {"requestBody": body},
        )


class Routes:
    """Handlers; what they raise on purpose is told to the client."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def health(self, request: Request) -> Response:
        """Answers 200 if the registry answers in time, 503 if not. Never tells where it is."""
        gateway = self._gateway
        facts: dict[str, object] = {
            "status": "ok",
            "base": gateway.engine.base_name,
            "base_fingerprint": gateway.base.fingerprint,
            "namespace": namespace_of(request.scope, gateway.serving.settings.namespace),
            "on_novel": gateway.serving.on_novel.value,
            "live_adapters": len(gateway.live),
            "max_live_adapters": gateway.live.limit,
        }
        try:
            async with asyncio.timeout(_HEALTH_SECONDS):
                facts["tasks"] = await self._lookups(request).call(_count)
        except (RegistryError, TimeoutError):
            return JSONResponse({**facts, "status": "registry unreachable"}, status_code=503)
        return JSONResponse(facts)

    async def tasks(self, request: Request) -> Response:
        """Answers the registered tasks, the oldest first, a page at a time.

        `after` takes the name of the last task of the page before.
        """
        limit = _number(request, "limit", default=_PAGE, low=1, high=_PAGE)
        offset = _number(request, "offset", default=0, low=0, high=2**31)
        after, tag = request.query_params.get("after"), request.query_params.get("tag")
        tasks = await self._lookups(request).call(
            lambda registry: registry.list_tasks(limit=limit, offset=offset, after=after, tag=tag)
        )
        return JSONResponse({"object": "list", "data": [_shown(task) for task in tasks]})

    async def register(self, request: Request) -> Response:
        """Registers `{"name", "description", "examples", "tags", "generate"}`.

        The same task again changes nothing; another description under its name is refused.
        """
        content = await _object(request)
        examples = read_options({FIELD: {"examples": content.get("examples")}}).examples
        name, description = _string(content, "name"), _string(content, "description")
        tags = content.get("tags") or []
        if not isinstance(tags, list):
            raise ConfigError("'tags' is not a list", hint='send ["tag", …]')
        generates = content.get("generate", self._generates)
        if generates is True and not self._generates:
            raise ConfigError("this server does not generate adapters", hint="leave 'generate' out")
        if generates is True:
            self._lookups(request).allowance.take()
        task, adapter = await self._lookups(request).work(
            lambda registry: registry.register_task(
                name,
                description,
                examples=examples,
                tags=tags,
                generate=generates is True,
                check=False,
            ),
            writes=True,
        )
        shown = None if adapter is None else _shown_adapter(adapter)
        return JSONResponse({**_shown(task), "adapter": shown})

    async def adapters(self, request: Request) -> Response:
        """Answers the stored adapters, the oldest first, a page at a time.

        `task` chooses those of one task, `after` takes the last name of the page before.
        """
        limit = _number(request, "limit", default=_PAGE, low=1, high=_PAGE)
        task, after = request.query_params.get("task"), request.query_params.get("after")

        def read(registry: Registry) -> list[Adapter]:
            if task is not None:
                registry.get_task(task)  # an unknown task is not one without adapters
            return list(registry.iterate_adapters(task_name=task, after=after, limit=limit))

        found = await self._lookups(request).call(read)
        return JSONResponse({"object": "list", "data": [_shown_adapter(one) for one in found]})

    async def find(self, request: Request) -> Response:
        """Answers the tasks nearest to `{"text": "a description", "limit": 5}`."""
        content = await _object(request)
        text, limit = _string(content, "text"), content.get("limit", 5)
        if type(limit) is not int or not 1 <= limit <= _MOST_FOUND:
            raise ConfigError("'limit' is wrong", hint=f"use a number from 1 to {_MOST_FOUND}")
        matches = await self._lookups(request).work(
            lambda registry: registry.find(text, limit=limit)
        )
        data = [{"score": match.score, "task": _shown(match.task)} for match in matches]
        return JSONResponse({"object": "list", "data": data})

    async def generate(self, request: Request) -> Response:
        """Answers the adapter for `{"description", "examples"}`, stored for later requests."""
        content = await _object(request)
        if not self._generates:
            raise ConfigError("this server does not generate adapters", hint="ask its operator")
        description = _string(content, "description")
        examples = read_options({FIELD: {"examples": content.get("examples")}}).examples
        self._lookups(request).allowance.take()
        adapter = await self._lookups(request).work(
            lambda registry: registry.generate_for(description, examples=examples, check=False),
            writes=True,
        )
        return JSONResponse(_shown_adapter(adapter))

    async def warm_up(self, request: Request) -> Response:
        """Loads the adapters of `{"tasks": ["name", …]}`, so that no request waits for them."""
        content = await _object(request)
        names = content.get("tasks")
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ConfigError("'tasks' is not a list of names", hint='send {"tasks": ["…"]}')
        if len(names) > self._gateway.live.limit:
            raise ConfigError(
                f"{len(names)} tasks, but this server holds {self._gateway.live.limit} adapters",
                hint="name fewer, or start it with a larger --max-cpu-loras",
            )
        loaded = []
        for name in names:
            target = replace(named_target(name), kind=TargetKind.TASK)
            namespace = request.scope.get(NAMESPACE)
            with Observation(request.scope, outcome=Outcome.TOLD) as observation:
                serving = self._gateway.serving_target(
                    target, namespace=namespace, observation=observation
                )
                async with serving as served:
                    if served is not None:
                        loaded.append({"task": name, "model": served.model})
        return JSONResponse({"object": "list", "data": loaded})

    def _lookups(self, request: Request) -> Lookups:
        return self._gateway.lookups_of(request.scope.get(NAMESPACE))

    @property
    def _generates(self) -> bool:
        return self._gateway.serving.on_novel is OnNovel.GENERATE

    async def resolve(self, request: Request) -> Response:
        """Answers what would serve `{"text": "a name or a description"}`, generating it."""
        text = _string(await _object(request), "text")
        with Observation(request.scope, outcome=Outcome.TOLD) as observation:
            found = await self._lookups(request).resolve(Target(kind=TargetKind.TEXT, text=text))
            observation.found(found)
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


_TEXT, _TEXTS = {"type": "string"}, {"type": "array", "items": {"type": "string"}}
_PAIR = {"type": "object", "properties": {"input": _TEXT, "output": _TEXT}}
_PAIRS = {"type": "array", "items": _PAIR}


def _body(required: str, **properties: object) -> dict[str, object]:
    """Returns how OpenAPI describes a JSON body."""
    schema = {"type": "object", "properties": properties, "required": required.split()}
    return {"required": True, "content": {"application/json": {"schema": schema}}}


_BODIES = {
    ("tasks", "POST"): _body(
        "name description",
        name=_TEXT,
        description=_TEXT,
        examples=_PAIRS,
        tags=_TEXTS,
        generate={"type": "boolean"},
    ),
    ("find", "POST"): _body("text", text=_TEXT, limit={"type": "integer"}),
    ("resolve", "POST"): _body("text", text=_TEXT),
    ("generate", "POST"): _body("description", description=_TEXT, examples=_PAIRS),
    ("warm-up", "POST"): _body("tasks", tasks=_TEXTS),
}


async def _object(request: Request) -> dict[str, Any]:
    content = parse_body(await request.body())
    if content is None:
        raise ConfigError("the body is not a JSON object", hint="send one")
    return content


def _string(content: dict[str, Any], key: str) -> str:
    value = content.get(key)
    if not isinstance(value, str):
        raise ConfigError(f"{key!r} is missing", hint=f'send {{"{key}": "…"}} as JSON')
    return value


def _telling(handler: _Handler) -> _Handler:
    async def told(request: Request) -> Response:
        try:
            return await handler(request)
        except HyperplugError as exc:
            metrics().failed(exc)
            told = failure(exc)
            return Response(
                told.body(request.url.path),
                status_code=told.status,
                media_type="application/json",
                headers={name.decode(): value.decode() for name, value in told.headers},
            )
        except Exception as exc:
            metrics().failed(exc)
            raise

    told.__doc__ = handler.__doc__
    told.__name__ = handler.__name__
    # FastAPI reads annotations to find parameters; under postponed evaluation these are text.
    told.__annotations__ = {"request": Request, "return": Response}
    return told


def _count(registry: Registry) -> int:
    return registry.store.count_tasks(namespace=registry.settings.namespace)


def _number(request: Request, name: str, *, default: int, low: int, high: int) -> int:
    text = request.query_params.get(name, str(default))
    if len(text) > 12 or not text.isdecimal() or not low <= int(text) <= high:
        raise ConfigError(f"{name} is {text[:40]!r}", hint=f"use a number from {low} to {high}")
    return int(text)


def _shown_adapter(adapter: Adapter) -> dict[str, object]:
    return {
        "id": adapter.name,
        "object": "hyperplug.adapter",
        "task": adapter.task_name,
        "version": adapter.version,
        "origin": adapter.origin.value,
        "state": adapter.state.value,
        "rank": adapter.rank,
        "created": int(adapter.created_at.timestamp()),
    }


def _shown(task: Task) -> dict[str, object]:
    return {
        "id": task.name,
        "object": "hyperplug.task",
        "description": task.description,
        "tags": list(task.tags),
        "created": int(task.created_at.timestamp()),
    }

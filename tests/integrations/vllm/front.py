"""A front end like vLLM's: a real ASGI application and registry; only the engine is ours."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import httpx
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from hyperplug_vllm.compat import ServerFlags
from hyperplug_vllm.gateway import Gateway
from hyperplug_vllm.lookups import Lookups
from hyperplug_vllm.middleware import PATHS, TaskMiddleware
from hyperplug_vllm.routes import add_routes
from hyperplug_vllm.settings import ServingSettings
from hyperplug_vllm.tenants import Keys, TenantMiddleware

from hyperplug.entities import OnNovel
from hyperplug.registry import Registry
from tests.integrations.vllm.engine import BASE, Client, make_engine

CHAT = "/v1/chat/completions"
# Of vLLM's other routes: some take a `model` too, and not all are guarded by its key.
OTHER_PATHS = (
    "/v1/embeddings",
    "/tokenize",
    "/invocations",
    "/v1/load_lora_adapter",
    "/v1/unload_lora_adapter",
)
FLAGS = ServerFlags(
    model="unused",
    revision=None,
    enable_lora=True,
    max_loras=2,
    max_cpu_loras=4,
    max_lora_rank=16,
    runtime_updating=False,
    additional={},
)


@dataclass
class Server:
    """A front end like vLLM's: 404 for what is not listed, the body's own model in the answer."""

    http: httpx.AsyncClient
    client: Client
    gateway: Gateway
    app: FastAPI

    async def ask(self, model: object, *, path: str = CHAT, **options: Any) -> httpx.Response:
        body = {"messages": [], "model": model}
        return await self.http.post(path, json=body, **options)


@asynccontextmanager
async def front_end(
    registry: Registry,
    *,
    keys: Keys | None = None,
    novel_per_minute: int = 60_000,
    texts_per_minute: int = 600_000,
    on_novel: OnNovel = OnNovel.GENERATE,
    client: Client | None = None,
    **flags: Any,
) -> AsyncIterator[Server]:
    """Yields a server on the registry, with as many tenants as there are in `keys`."""
    serving = ServingSettings(settings=registry.settings, on_novel=on_novel)
    opened: list[Lookups] = []

    def lookups_of(namespace: str) -> Lookups:
        lookups = Lookups(
            registry.for_namespace(namespace),
            on_novel=on_novel,
            min_score=None,
            novel_per_minute=novel_per_minute,
            texts_per_minute=texts_per_minute,
        )
        opened.append(lookups)
        return lookups

    namespaces = keys.namespaces if keys is not None else frozenset()
    gateway = Gateway(
        lookups_of(registry.namespace),
        flags=replace(FLAGS, **flags),
        serving=serving,
        base=registry.base.spec,
        count_tokens=lambda text: len(text.split()),
        keys=keys,
        others={name: lookups_of(name) for name in namespaces - {registry.namespace}},
    )
    engine, client, models = make_engine(client)
    gateway.connect(engine)
    app = FastAPI()

    async def answer(request: Request) -> Response:
        content = await request.json()
        model = content.get("model", BASE)
        if model not in models.lora_requests and model != BASE:
            return JSONResponse({"error": {"message": "vLLM knows no such model"}}, 404)
        assert int(request.headers["content-length"]) == len(await request.body())
        request_of_lora = models.lora_requests.get(model)

        async def chunks() -> AsyncIterator[str]:
            yield "data: 0\n\n"
            await client.run(request_of_lora)
            for number in (1, 2):
                yield f"data: {number}\n\n"

        if content.get("stream"):
            return StreamingResponse(chunks(), headers={"x-own": "1"})
        weights = await client.run(request_of_lora)
        headers = dict(request.headers)
        return JSONResponse(
            {"model": model, "content": content, "headers": headers, "weights": weights}
        )

    async def listed() -> Any:
        return {"object": "list", "data": [{"id": name} for name in (BASE, *models.lora_requests)]}

    async def one(name: str) -> Any:
        return {"id": name}

    app.add_api_route("/v1/models", listed)
    app.add_api_route("/v1/models/{name:path}", one)
    for path in (*sorted(PATHS), *OTHER_PATHS):
        app.add_api_route(path, answer, methods=["POST"], response_model=None)
    app.add_middleware(TaskMiddleware, gateway=gateway)
    if keys is not None:
        app.add_middleware(TenantMiddleware, keys=keys)
    add_routes(app, gateway)
    transport = httpx.ASGITransport(app=app)
    try:
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
            yield Server(http=http, client=client, gateway=gateway, app=app)
    finally:
        for lookups in opened:
            lookups.close()
    assert all(not entry.users for entry in gateway.live._entries.values())


def error_of(response: httpx.Response) -> dict[str, Any]:
    error: dict[str, Any] = response.json()["error"]
    return error

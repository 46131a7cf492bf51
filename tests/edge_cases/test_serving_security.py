"""Edge cases of keys, open routes and vLLM's own ways to load adapters."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from hyperplug_vllm.flags import vllm_environment
from hyperplug_vllm.lookups import Lookups
from hyperplug_vllm.routes import add_routes
from hyperplug_vllm.tenants import Keys

from hyperplug.registry import Registry
from tests.edge_cases.conftest import Serve
from tests.edge_cases.engine import VllmRules
from tests.integrations.vllm.engine import BASE
from tests.integrations.vllm.front import CHAT, Server, error_of, front_end

pytest.importorskip("vllm")

SUMS, MOTTO = "Add two numbers", "Why just fly by my gym?"
KEY = "key-of-our-tenant-01234"
KEYS = Keys({hashlib.sha256(KEY.encode()).digest(): "default"})


@pytest.fixture
def looked_up(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the registry was asked for, by any way into it."""
    asked: list[str] = []
    for name in ("resolve", "call", "work"):
        own = getattr(Lookups, name)

        async def noting(self: Lookups, *args: Any, own: Any = own, **named: Any) -> Any:
            asked.append(own.__name__)
            return await own(self, *args, **named)

        monkeypatch.setattr(Lookups, name, noting)
    return asked


@pytest.mark.parametrize("guard", ["vllm", "tenants"])
def test_edge_51_nothing_is_looked_up_for_requests_without_a_key(
    registry: Registry, looked_up: list[str], guard: str
) -> None:
    """Behind vLLM's own check of the key, as its endpoint plugins are, and behind ours."""
    from vllm.entrypoints.serve.middleware.authenticate import AuthenticationMiddleware

    registry.register_task("sums", SUMS)
    client = VllmRules()

    async def run() -> None:
        keys = KEYS if guard == "tenants" else None
        async with front_end(registry, keys=keys, client=client) as server:
            http = server.http
            if guard == "vllm":
                app = AuthenticationMiddleware(server.app, tokens=[KEY])
                http = httpx.AsyncClient(
                    transport=httpx.ASGITransport(app=app), base_url="http://test"
                )
            bodies = ({"model": "sums"}, {"model": f"hyperplug:{MOTTO}"}, {"model": "nobody"})
            for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": KEY}):
                for body in (*bodies, {"text": SUMS}, {"tasks": ["sums"]}):
                    for path in (CHAT, "/v1/messages", *_own_paths(server.app)):
                        asked = await http.post(path, json=body, headers=headers)
                        assert asked.status_code == 401, path
                        asked = await http.get(path, headers=headers)
                        assert asked.status_code == 401, path
                named = {**headers, "x-hyperplug-task": MOTTO}
                assert (await http.post(CHAT, json={}, headers=named)).status_code == 401
            assert looked_up == [] and client.calls == [] and client.answered == 0
            right = {"authorization": f"Bearer {KEY}"}
            asked = await http.post(CHAT, json={"model": "sums"}, headers=right)
            assert asked.status_code == 200 and looked_up

    asyncio.run(run())


def _own_paths(app: FastAPI) -> list[str]:
    """Returns the paths that hyperplug adds to a server."""
    return sorted({path for path in app.openapi()["paths"] if "hyperplug" in path})


def test_edge_52_all_our_routes_are_where_vllms_key_guards(registry: Registry) -> None:
    from vllm.entrypoints.serve.middleware.authenticate import GUARDED_PREFIX

    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    add_routes(app, None)  # type: ignore[arg-type]
    paths = [route.path for route in app.routes]  # type: ignore[attr-defined]
    assert len(paths) == 8
    assert all(path.startswith("/v1/hyperplug/") for path in paths)
    assert "/v1" in GUARDED_PREFIX


@pytest.mark.parametrize("path", ["/invocations", "/tokenize"])
def test_edge_52_a_route_that_asks_for_no_key_resolves_no_task(
    registry: Registry, serve: Serve, looked_up: list[str], path: str
) -> None:
    registry.register_task("sums", SUMS)
    client = VllmRules()

    async def check(server: Server) -> None:
        for model in ("sums", f"hyperplug:{MOTTO}", registry.get_adapter("sums").name):
            assert (await server.ask(model, path=path)).status_code == 404
        refused = await server.ask(BASE, path=path, headers={"x-hyperplug-task": "sums"})
        assert refused.status_code == 400
        assert looked_up == [] and client.calls == []

    serve(check, client=client)


@pytest.mark.parametrize("path", ["/v1/load_lora_adapter", "/v1/unload_lora_adapter"])
def test_edge_54_no_tenant_loads_or_unloads_by_vllms_own_routes(
    registry: Registry, path: str
) -> None:
    """Not even where they are open: what is loaded there is there for all tenants."""
    registry.register_task("sums", SUMS)
    name = registry.get_adapter("sums").name

    async def run() -> None:
        async with front_end(registry, keys=KEYS, client=VllmRules()) as server:
            for body in (
                {"lora_name": "mine", "lora_path": "/etc"},
                {"lora_name": name, "lora_path": "someone/on-the-hub", "load_inplace": True},
                {"lora_name": name},
            ):
                headers = {"authorization": f"Bearer {KEY}"}
                told = await server.http.post(path, json=body, headers=headers)
                assert told.status_code == 404
                assert "closed" in error_of(told)["message"]

    asyncio.run(run())


def test_edge_54_the_server_starts_with_those_routes_closed() -> None:
    told = {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1", "VLLM_PLUGINS": "other"}
    for accelerated in (True, False):
        environment = vllm_environment(told, accelerated=accelerated)
        assert "VLLM_ALLOW_RUNTIME_LORA_UPDATING" not in environment
        # An allow list: no resolver that reads paths from names comes in beside ours.
        assert environment["VLLM_PLUGINS"] == "other,hyperplug"
        assert vllm_environment({}, accelerated=accelerated)["VLLM_PLUGINS"] == "hyperplug"

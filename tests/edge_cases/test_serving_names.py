"""Edge cases of names under a server: ids, strangers' names, lists and answers."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any
from urllib.parse import quote

import pytest
from hyperplug_vllm.tenants import Keys

from hyperplug.registry import Registry
from tests.edge_cases.conftest import OpenRegistry, Serve
from tests.edge_cases.engine import VllmRules
from tests.integrations.vllm.engine import BASE
from tests.integrations.vllm.front import Server, front_end

pytest.importorskip("vllm")

SUMS, OTHER = "Add two numbers", "Why just fly by my gym?"
OURS, THEIRS = "key-of-our-tenant-01234", "key-of-their-tenant-0123"


def test_edge_02_every_server_gives_vllm_the_registrys_ids(open_tiny: OpenRegistry) -> None:
    ours, theirs = open_tiny(), open_tiny()
    ours.register_task("sums", SUMS)
    ours.register_task("gyms", OTHER)
    ids = {name: ours.get_adapter(name).id for name in ("sums", "gyms")}

    async def given(registry: Registry, names: list[str]) -> list[tuple[str, int]]:
        async with front_end(registry, client=VllmRules()) as server:
            for name in names:
                assert (await server.ask(name)).status_code == 200
            return server.client.calls

    for registry, names in ((ours, ["sums", "gyms"]), (theirs, ["gyms", "sums"])):
        calls = asyncio.run(given(registry, names))
        assert calls == [("add", ids[name]) for name in names]


def test_edge_11_the_list_of_models_has_the_tenants_own_only(registry: Registry) -> None:
    their_registry = registry.for_namespace("theirs")
    registry.register_task("sums", SUMS)
    their_registry.register_task("gyms", OTHER)
    ours, theirs = registry.get_adapter("sums").name, their_registry.get_adapter("gyms").name
    digests = {OURS: "default", THEIRS: "theirs"}
    keys = Keys({hashlib.sha256(key.encode()).digest(): name for key, name in digests.items()})

    async def run() -> None:
        async with front_end(registry, keys=keys, client=VllmRules()) as server:
            for key, task in ((OURS, "sums"), (THEIRS, "gyms")):
                headers = {"authorization": f"Bearer {key}"}
                assert (await server.ask(task, headers=headers)).status_code == 200
            seen = {}
            for key in (OURS, THEIRS):
                headers = {"authorization": f"Bearer {key}"}
                listed = (await server.http.get("/v1/models", headers=headers)).json()["data"]
                seen[key] = {model["id"] for model in listed} - {"static-one"}
                hidden = f"theirs/{theirs}" if key == OURS else ours
                one = await server.http.get(f"/v1/models/{hidden}", headers=headers)
                assert one.status_code == 404
            assert seen == {OURS: {BASE, ours}, THEIRS: {BASE, f"theirs/{theirs}"}}

    asyncio.run(run())


@pytest.mark.parametrize(
    "name",
    [
        "../../etc/passwd",
        "/etc/passwd",
        "default/sums",
        "sums@../../../etc",
        "..",
        "sums@00000000/../../x",
        "C:\\windows",
        "sums\x00",
    ],
)
def test_edge_53_no_name_leads_out_of_the_library(
    registry: Registry, serve: Serve, name: str
) -> None:
    registry.register_task("sums", SUMS)
    library, client = registry.library.root, VllmRules()

    async def check(server: Server) -> None:
        assert (await server.ask(name)).status_code == 404
        assert client.calls == []
        # Given on purpose it may be read as words that describe a task, never as a path.
        answer = await server.ask(BASE, headers={"x-hyperplug-task": quote(name)})
        assert answer.status_code in (200, 400, 404)
        adapters = {str(library / "default" / each.name) for each in registry.list_adapters()}
        assert {request.lora_path for request in client.requests} <= adapters

    serve(check, client=client)
    assert {path.parent for path in library.glob("**/*@*")} <= {library / "default"}


def test_edge_62_the_answer_names_a_model_that_can_be_asked_again(
    registry: Registry, serve: Serve
) -> None:
    registry.register_task("sums", SUMS)
    first = registry.get_adapter("sums")

    async def check(server: Server) -> None:
        async def served(model: str, **options: Any) -> tuple[str, str]:
            answer = await server.ask(model, **options)
            named = answer.json()["model"]
            assert named == answer.headers["x-hyperplug-adapter"]
            return named, answer.json()["weights"]

        asked = await served("sums")
        assert asked == (first.name, first.digest)
        assert await served(BASE, headers={"x-hyperplug-task": "sums"}) == asked
        await asyncio.to_thread(registry.update_task, "sums", description="Add three numbers")
        second = registry.get_adapter("sums")
        for _ in range(100):
            if (await served("sums"))[0] != first.name:
                break
            await asyncio.sleep(0.02)
        assert await served("sums") == (second.name, second.digest)
        assert await served(first.name) == asked  # what it named still means the same

    serve(check)

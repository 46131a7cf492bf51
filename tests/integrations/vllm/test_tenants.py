"""Several tenants on one server: keys, namespaces, and nothing of one for another."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hyperplug_vllm.answers import QuotaError
from hyperplug_vllm.limits import Allowance
from hyperplug_vllm.tenants import Keys, read_keys

from hyperplug.errors import HyperplugError
from hyperplug.registry import Registry
from tests.integrations.vllm.conftest import NOVEL, SENTIMENT
from tests.integrations.vllm.engine import BASE
from tests.integrations.vllm.front import CHAT, Server, front_end

pytest.importorskip("vllm")

A, B = "key-of-tenant-a-0123456789", "key-of-tenant-b-0123456789"
SECRET = "Translate the recipe of the secret sauce into French."


def write(folder: Path, content: object) -> Path:
    """Returns a key file that nobody else may read."""
    file = folder / "keys.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    file.chmod(0o600)
    return file


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    """Keys of two tenants, one of them given as a digest."""
    hashed = "sha256:" + hashlib.sha256(B.encode()).hexdigest()
    return read_keys(write(tmp_path, {"default": [A], "tenant-b": [hashed]}))


@pytest.fixture
def tenant_b(warm_registry: Registry) -> Iterator[Registry]:
    """The second tenant's registry, with one task."""
    registry = warm_registry.for_namespace("tenant-b")
    registry.register_task("secret", SECRET)
    yield registry


async def _serve(registry: Registry, keys: Keys, check: Any, **options: Any) -> None:
    async with front_end(registry, keys=keys, **options) as server:
        await check(server)


def as_(key: str, **headers: str) -> dict[str, str]:
    """Returns the headers of a client with that key."""
    return {"Authorization": f"Bearer {key}", **headers}


def test_nothing_is_done_for_strangers(
    warm_registry: Registry, keys: Keys, tenant_b: Registry
) -> None:
    async def check(server: Server) -> None:
        tasks = len(warm_registry.list_tasks())
        attempts: list[dict[str, str]] = [
            {},
            as_(A + "x"),
            as_(A[:-1]),
            {"Authorization": A},
            {"Authorization": f"Basic {A}"},
            {"x-api-key": "x"},
        ]
        for headers in attempts:
            for path in (CHAT, "/v1/hyperplug/tasks", "/v1/models", "/tokenize", "/openapi.json"):
                body = {"model": f"hyperplug:{NOVEL}", "messages": []}
                answer = await server.http.post(path, json=body, headers=headers)
                assert answer.status_code == 401, (headers, path)
                assert (await server.http.get(path, headers=headers)).status_code == 401
        assert len(warm_registry.list_tasks()) == tasks
        assert server.client.calls == []
        body = {"model": SENTIMENT, "messages": []}
        for headers in (as_(A), {"authorization": f"bearer {A}"}, {"X-Api-Key": A}):
            assert (await server.http.post(CHAT, json=body, headers=headers)).status_code == 200

    asyncio.run(_serve(warm_registry, keys, check))


def test_tenants_neither_use_nor_see_each_others_tasks(
    warm_registry: Registry, keys: Keys, tenant_b: Registry
) -> None:
    adapter = tenant_b.get_adapter("secret")

    async def check(server: Server) -> None:
        async def ask(key: str, model: str, path: str = CHAT) -> httpx.Response:
            body = {"model": model, "messages": []}
            return await server.http.post(path, json=body, headers=as_(key))

        own = await ask(B, "secret")
        assert own.status_code == 200
        assert own.json()["model"] == f"tenant-b/{adapter.name}"
        # It is loaded now: no name leads another tenant to it.
        for name in ("secret", adapter.name, f"tenant-b/{adapter.name}", "secret@current"):
            for path in (CHAT, "/v1/messages", "/v1/embeddings"):
                assert (await ask(A, name, path)).status_code == 404, (name, path)
        assert (await ask(B, SENTIMENT)).status_code == 404
        assert (await ask(B, BASE)).status_code == 200
        near = await ask(A, f"hyperplug:{SECRET}")
        assert near.headers.get("x-hyperplug-task") != "secret"
        for key, seen in ((A, False), (B, True)):
            text = (await server.http.get("/v1/hyperplug/tasks", headers=as_(key))).text
            assert ('"id":"secret"' in text) is seen
            text = (await server.http.get("/v1/hyperplug/adapters", headers=as_(key))).text
            assert (adapter.name in text) is seen
            models = (await server.http.get("/v1/models", headers=as_(key))).json()["data"]
            names = [model["id"] for model in models]
            assert BASE in names
            assert (f"tenant-b/{adapter.name}" in names) is seen
            one = f"/v1/models/tenant-b/{adapter.name}"
            status = (await server.http.get(one, headers=as_(key))).status_code
            assert status == (200 if seen else 404)
            body = {"text": SECRET}
            found = await server.http.post("/v1/hyperplug/find", json=body, headers=as_(key))
            ids = [match["task"]["id"] for match in found.json()["data"]]
            assert ("secret" in ids) is seen

    asyncio.run(_serve(warm_registry, keys, check))


def test_new_tasks_are_limited_for_each_tenant(
    warm_registry: Registry, keys: Keys, tenant_b: Registry
) -> None:
    async def check(server: Server) -> None:
        async def novel(key: str, number: int) -> httpx.Response:
            text = f"Given a tweet of user {number}, decide whether it is ironic. Answer yes or no."
            options = {"task": text, "min_score": 1.0}
            body = {"model": BASE, "messages": [], "hyperplug": options}
            return await server.http.post(CHAT, json=body, headers=as_(key))

        taken = [(await novel(A, number)).status_code for number in range(4)]
        assert taken == [200, 200, 429, 429]
        refused = await novel(A, 9)
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert refused.json()["error"]["type"] == "RateLimitError"
        assert (await novel(B, 0)).status_code == 200
        known = {"model": SENTIMENT, "messages": []}
        assert (await server.http.post(CHAT, json=known, headers=as_(A))).status_code == 200

    asyncio.run(_serve(warm_registry, keys, check, novel_per_minute=2))


def test_new_descriptions_are_limited_for_each_tenant(
    warm_registry: Registry, keys: Keys, tenant_b: Registry
) -> None:
    async def check(server: Server) -> None:
        async def near(key: str, number: int) -> httpx.Response:
            text = f"hyperplug:Say whether review {number} is positive or negative."
            options = {"on_novel": "base"}
            body = {"model": text, "messages": [], "hyperplug": options}
            return await server.http.post(CHAT, json=body, headers=as_(key))

        taken = [(await near(A, number)).status_code for number in range(4)]
        assert taken == [200, 200, 429, 429]
        refused = await near(A, 9)
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert "over 2 new descriptions a minute" in refused.json()["error"]["message"]
        # What was read lately and what has a name go on ...
        assert (await near(A, 0)).status_code == 200
        known = {"model": SENTIMENT, "messages": []}
        assert (await server.http.post(CHAT, json=known, headers=as_(A))).status_code == 200
        # ... and another tenant, who cannot tell from it what this one asked.
        others = [(await near(B, number)).status_code for number in range(3)]
        assert others == [200, 200, 429]
        url, body = "/v1/hyperplug/find", {"text": "Say whether review 30 is good."}
        found = await server.http.post(url, json=body, headers=as_(A))
        assert found.status_code == 429

    asyncio.run(_serve(warm_registry, keys, check, texts_per_minute=2))


def test_much_of_an_allowance_comes_bit_by_bit() -> None:
    now = 0.0
    allowance = Allowance(600, of="new descriptions", clock=lambda: now)
    for _ in range(100):
        allowance.take()
    with pytest.raises(QuotaError, match="over 600 new descriptions a minute"):
        allowance.take()
    now = 1.0
    for _ in range(10):
        allowance.take()
    with pytest.raises(QuotaError):
        allowance.take()


def test_an_allowance_fills_up_again() -> None:
    now = 0.0
    allowance = Allowance(3, clock=lambda: now)
    for _ in range(3):
        allowance.take()
    with pytest.raises(QuotaError) as caught:
        allowance.take()
    assert caught.value.retry_seconds == pytest.approx(20)
    now = 20.0
    allowance.take()
    with pytest.raises(QuotaError):
        allowance.take()
    now = 10_000.0
    for _ in range(3):
        allowance.take()
    with pytest.raises(QuotaError):
        allowance.take()


@pytest.mark.parametrize(
    "content",
    [
        "{",
        [],
        {},
        {"a": []},
        {"a": "key"},
        {"a": ["short"]},
        {"a": [7]},
        {"a": ["sha256:zz"]},
        {"a": ["sha256:00"]},
        {"Not A Name": [A]},
        {"a": [A], "b": [A]},
    ],
)
def test_a_key_file_that_makes_no_sense_is_refused(tmp_path: Path, content: object) -> None:
    with pytest.raises(HyperplugError) as caught:
        read_keys(write(tmp_path, content))
    assert A not in str(caught.value)


def test_a_key_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path, {"a": [A]})
    file.chmod(0o644)
    with pytest.raises(HyperplugError, match="chmod 600"):
        read_keys(file)
    with pytest.raises(HyperplugError, match="check the path"):
        read_keys(tmp_path / "none.json")

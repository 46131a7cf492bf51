"""Edge cases of the routes that take a task, and of vLLM as it changes."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
from hyperplug_vllm import compat
from hyperplug_vllm.contract import NEWEST, OLDEST, supported_range
from hyperplug_vllm.middleware import PATHS
from hyperplug_vllm.sources import findings

from hyperplug.errors import ConfigError
from hyperplug.registry import Registry
from tests.edge_cases.conftest import Serve
from tests.edge_cases.engine import VllmRules
from tests.integrations.vllm.front import CHAT, Server

vllm = pytest.importorskip("vllm")

SUMS = "Add two numbers"
# What a body may hold besides: it has to reach vLLM as it came.
BODIES: dict[str, Any] = {
    "/v1/chat/completions": {
        "messages": [{"role": "user", "content": "1 + 1"}],
        "n": 3,
        "logprobs": True,
        "tools": [{"type": "function", "function": {"name": "add", "parameters": {}}}],
        "stream_options": {"include_usage": True},
    },
    "/v1/chat/completions/batch": {"messages": [[{"role": "user", "content": "1"}]] * 2},
    "/v1/completions": {"prompt": ["1 + 1", "é\U0001f600"], "echo": True, "best_of": 2},
    "/v1/messages": {"messages": [], "max_tokens": 4, "system": "Be short"},
    "/v1/messages/count_tokens": {"messages": []},
    "/v1/responses": {"input": "1 + 1", "previous_response_id": None},
}


@pytest.mark.parametrize("path", sorted(PATHS))
def test_edge_63_every_route_that_takes_a_task_gets_its_adapter_and_its_body(
    registry: Registry, serve: Serve, path: str
) -> None:
    registry.register_task("sums", SUMS)
    adapter = registry.get_adapter("sums")

    async def check(server: Server) -> None:
        answer = await server.http.post(path, json={"model": "sums", **BODIES[path]})
        assert answer.status_code == 200
        assert answer.json()["weights"] == adapter.digest
        assert answer.json()["content"] == {"model": adapter.name, **BODIES[path]}
        assert answer.headers["x-hyperplug-adapter"] == adapter.name
        assert answer.headers["x-hyperplug-decision"] == "exact"

    serve(check)


def test_edge_63_a_stream_has_the_headers_before_its_first_part_and_its_adapter_to_the_last(
    registry: Registry, serve: Serve
) -> None:
    registry.register_task("sums", SUMS)
    adapter, client = registry.get_adapter("sums"), VllmRules()

    async def check(server: Server) -> None:
        users: list[int] = []
        run = client.run

        async def watched(request: Any) -> str | None:
            users.append(server.gateway.live._entries[adapter.id].users)
            return await run(request)

        client.run = watched  # type: ignore[method-assign]
        body = {"model": "sums", "stream": True}
        async with server.http.stream("POST", CHAT, json=body) as answer:
            assert answer.headers["x-hyperplug-adapter"] == adapter.name
            assert [line async for line in answer.aiter_lines() if line] == [
                "data: 0",
                "data: 1",
                "data: 2",
            ]
        assert users == [1]
        assert server.gateway.live._entries[adapter.id].users == 0

    serve(check, client=client)


def test_edge_63_no_other_route_takes_a_task(registry: Registry, serve: Serve) -> None:
    registry.register_task("sums", SUMS)

    async def check(server: Server) -> None:
        for path in ("/v1/embeddings", "/tokenize", "/invocations"):
            answer = await server.ask("sums", path=path)
            assert answer.status_code == 404
            assert "x-hyperplug-decision" not in answer.headers
        assert server.client.calls == []

    serve(check)


def test_edge_63_every_route_is_one_that_vllm_has() -> None:
    sources = Path(vllm.__file__).parent / "entrypoints"
    text = "\n".join(file.read_text("utf-8") for file in sources.rglob("*.py"))
    for path in PATHS:
        assert f'"{path}"' in text, path


@pytest.mark.parametrize(
    "release",
    [None, (0, OLDEST[1] - 1), (0, NEWEST[1] + 1), (1, 0)],
)
def test_edge_65_a_vllm_outside_of_the_range_is_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch, release: tuple[int, int] | None
) -> None:
    monkeypatch.setattr(compat, "installed_release", lambda: release)
    with pytest.raises(ConfigError) as caught:
        compat.require_supported()
    assert supported_range() in str(caught.value) and "pip install" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_edge_65_the_installed_vllm_has_all_that_we_touch() -> None:
    assert compat.require_supported()
    assert findings(Path(vllm.__file__).parents[1]) == []


def test_edge_65_only_one_module_takes_vllms_objects_apart() -> None:
    """What moves has to be followed in one place."""
    package = Path(importlib.import_module("hyperplug_vllm").__file__ or "").parent
    private = ("lora_requests", "base_model_paths", "is_base_model", "add_lora", "remove_lora")
    for file in package.glob("*.py"):
        if file.name not in ("compat.py", "contract.py"):
            text = file.read_text("utf-8")
            assert not [name for name in private if f".{name}" in text], file.name

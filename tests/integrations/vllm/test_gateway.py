"""The middleware on a real ASGI application and a real registry; only the engine is ours."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from hyperplug.errors import RegistryError
from hyperplug.naming import split_adapter_name
from hyperplug.registry import Registry
from tests.integrations.vllm.conftest import FOREIGN, NOVEL, PARAPHRASE, SENTIMENT
from tests.integrations.vllm.engine import BASE
from tests.integrations.vllm.front import CHAT, Server, error_of

pytest.importorskip("vllm")


def test_a_task_by_name(serve: Any) -> None:
    async def check(server: Server) -> None:
        response = await server.ask(SENTIMENT)
        adapter = response.headers["x-hyperplug-adapter"]
        assert split_adapter_name(adapter)
        assert response.json()["model"] == adapter
        assert response.headers["x-hyperplug-decision"] == "exact"
        assert response.headers["x-hyperplug-score"] == "1.0000"
        steps = [step.partition(";dur=") for step in _timing(response)]
        assert [step[0] for step in steps] == ["embed", "lookup", "generate", "publish", "load"]
        assert float(steps[-1][2]) > 0
        again = await server.ask(adapter)
        assert again.headers["x-hyperplug-adapter"] == adapter
        assert _timing(again)[-1] == "load;dur=0.0"
        assert len(server.client.calls) == 1

    serve(check)


def test_an_alias_of_a_task(serve: Any, warm_registry: Registry) -> None:
    adapter = warm_registry.promote(warm_registry.get_adapter(SENTIMENT).name, alias="stable")

    async def check(server: Server) -> None:
        response = await server.ask(f"{SENTIMENT}@stable")
        assert response.headers["x-hyperplug-adapter"] == adapter.name
        assert (await server.ask(f"{SENTIMENT}@nope")).status_code == 404
        assert (await server.ask("nobody@stable")).status_code == 404
        assert len(server.client.calls) == 1

    serve(check)


def _timing(response: httpx.Response) -> list[str]:
    return response.headers["x-hyperplug-timing"].split(", ")


def test_free_text(serve: Any) -> None:
    async def check(server: Server) -> None:
        near = await server.ask(f"hyperplug:{PARAPHRASE}")
        assert near.headers["x-hyperplug-decision"] == "nearest"
        assert near.headers["x-hyperplug-task"] == SENTIMENT
        assert 0.9 < float(near.headers["x-hyperplug-score"]) < 1
        far = await server.ask(f"hyperplug:{FOREIGN}")
        assert far.headers["x-hyperplug-decision"] == "base"
        assert far.json()["model"] == BASE
        assert "x-hyperplug-adapter" not in far.headers

    serve(check)


def test_the_base_and_strangers_pass_untouched(serve: Any) -> None:
    async def check(server: Server) -> None:
        body = b'{ "model":"org/base",  "messages":[], "x": 1e2 }'
        response = await server.http.post(CHAT, content=body)
        assert response.json()["content"]["x"] == 100.0
        assert not [name for name in response.headers if name.startswith("x-hyperplug")]
        assert (await server.ask("static-one")).status_code == 200
        for model in ("nosuch-task", "org/other", "GPT-4"):
            unknown = await server.ask(model)
            assert unknown.status_code == 404
            assert error_of(unknown)["message"] == "vLLM knows no such model"
        assert (await server.ask(SENTIMENT, path="/v1/embeddings")).status_code == 404
        assert server.client.calls == []

    serve(check)


@pytest.mark.parametrize(
    "value", [SENTIMENT, PARAPHRASE, quote(PARAPHRASE), f"hyperplug:{SENTIMENT}"]
)
def test_the_header_wins(serve: Any, value: str) -> None:
    async def check(server: Server) -> None:
        for model in (BASE, "anything"):
            response = await server.ask(model, headers={"X-Hyperplug-Task": value})
            assert response.headers["x-hyperplug-task"] == SENTIMENT
            assert response.json()["model"] == response.headers["x-hyperplug-adapter"]
        bare = await server.http.post(CHAT, json={}, headers={"x-hyperplug-task": value})
        assert bare.headers["x-hyperplug-task"] == SENTIMENT

    serve(check)


def test_streaming_answers_get_the_headers(serve: Any) -> None:
    async def check(server: Server) -> None:
        body = {"model": SENTIMENT, "stream": True}
        async with server.http.stream("POST", CHAT, json=body) as response:
            assert response.headers["x-hyperplug-decision"] == "exact"
            assert response.headers["x-own"] == "1"
            lines = [line async for line in response.aiter_lines()]
        assert lines[0] == "data: 0"

    serve(check)


@pytest.mark.parametrize(
    ("model", "header", "status", "message"),
    [
        ("hyperplug:", None, 400, "the description is empty"),
        ("hyperplug:  \n", None, 400, "the description is empty"),
        ("hyperplug:" + "x y " * 250_000, None, 400, "over the limit of"),
        ("hyperplug:\ud83d alone", None, 400, "not valid UTF-8"),
        ("hyperplug:nul \x00 byte", None, 400, "control characters"),
        (f"{SENTIMENT}@00000000", None, 404, "no adapter 'sentiment@00000000'"),
        (BASE, b"no-such-task", 404, "no task 'no-such-task'"),
        (BASE, b"", 400, "the description is empty"),
        (BASE, b"caf\xe9 in latin", 400, "not valid UTF-8"),
    ],
)
def test_clear_errors(
    serve: Any, model: str, header: bytes | None, status: int, message: str
) -> None:
    async def check(server: Server) -> None:
        headers = [] if header is None else [(b"x-hyperplug-task", header)]
        body = json.dumps({"model": model})
        response = await server.http.post(CHAT, content=body, headers=headers)
        assert response.status_code == status
        error = error_of(response)
        assert message in error["message"]
        assert error["code"] == status
        assert server.client.calls == []

    serve(check)


def test_errors_in_anthropics_form(serve: Any) -> None:
    async def check(server: Server) -> None:
        response = await server.ask("hyperplug:", path="/v1/messages")
        assert response.status_code == 400
        assert response.json()["type"] == "error"

    serve(check)


def test_the_header_on_a_path_without_tasks_is_no_silent_base_answer(serve: Any) -> None:
    async def check(server: Server) -> None:
        headers = {"X-Hyperplug-Task": SENTIMENT}
        response = await server.ask(BASE, path="/v1/embeddings", headers=headers)
        assert response.status_code == 400
        assert "means nothing on this path" in error_of(response)["message"]
        assert (await server.ask(BASE, path="/v1/embeddings")).status_code == 200

    serve(check)


def test_two_headers_are_refused(serve: Any) -> None:
    async def check(server: Server) -> None:
        headers = [("x-hyperplug-task", SENTIMENT), ("x-hyperplug-task", "capital")]
        assert (await server.ask(BASE, headers=headers)).status_code == 400

    serve(check)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"model": 7}', b"\xff\xfe"])
def test_a_malformed_body_is_vllms_to_refuse(serve: Any, body: bytes) -> None:
    async def check(server: Server) -> None:
        request = server.http.post(CHAT, content=body, headers={"x-hyperplug-other": "1"})
        with pytest.raises(Exception, match=r"."):  # the application's own parser raises
            (await request).raise_for_status()
        assert server.client.calls == []

    serve(check)


def test_a_load_that_fails_is_told_and_cleaned_up(serve: Any, warm_registry: Registry) -> None:
    adapter = warm_registry.get_adapter(SENTIMENT)

    async def check(server: Server) -> None:
        server.client.fail.add(adapter.id)
        response = await server.ask(SENTIMENT)
        assert response.status_code == 500
        assert "could not be loaded" in error_of(response)["message"]
        assert server.client.loaded == []
        server.client.fail.clear()
        assert (await server.ask(SENTIMENT)).status_code == 200

    serve(check)


def test_a_rank_over_the_servers_maximum(serve: Any) -> None:
    async def check(server: Server) -> None:
        response = await server.ask(SENTIMENT)
        assert response.status_code == 500
        assert "--max-lora-rank" in error_of(response)["message"]
        assert server.client.calls == []

    serve(check, max_lora_rank=8)


def test_one_generation_for_simultaneous_requests(serve: Any, warm_registry: Registry) -> None:
    text = "Given a question about astronomy, answer with the single letter of the choice."
    tasks, adapters = len(warm_registry.list_tasks()), len(warm_registry.list_adapters())

    async def check(server: Server) -> None:
        answers = await asyncio.gather(*(server.ask(f"hyperplug:{text}") for _ in range(8)))
        assert {answer.headers["x-hyperplug-decision"] for answer in answers} == {"novel"}
        assert len({answer.headers["x-hyperplug-adapter"] for answer in answers}) == 1
        assert len(server.client.calls) == 1

    serve(check)
    assert len(warm_registry.list_tasks()) == tasks + 1
    assert len(warm_registry.list_adapters()) == adapters + 1


def test_the_event_loop_stays_free(serve: Any, warm_registry: Registry) -> None:
    """A generation that hangs holds up neither the loop, nor the base, nor names."""
    texts = [  # unlike, so that neither is near to the other if that one is generated first
        "Given a product review, answer with the number of stars from 1 to 5.",
        "Given a news headline, name the country that it is about.",
    ]

    async def check(server: Server) -> None:
        with warm_registry.generator._lock:  # every generation waits here
            waiting = [
                asyncio.create_task(server.ask(f"hyperplug:{text}"))
                for text in texts
                for _ in range(10)
            ]
            await asyncio.sleep(0.5)
            assert (await asyncio.wait_for(server.ask(BASE), 5)).status_code == 200
            assert (await asyncio.wait_for(server.ask(SENTIMENT), 5)).status_code == 200
            assert not any(task.done() for task in waiting)
            waiting[0].cancel()  # the first to ask: the others are still served
            await asyncio.sleep(0.05)
        answers = await asyncio.gather(*waiting, return_exceptions=True)
        assert isinstance(answers[0], asyncio.CancelledError)
        served = [each for each in answers[1:] if isinstance(each, httpx.Response)]
        assert len(served) == 19
        assert all(each.headers["x-hyperplug-decision"] == "novel" for each in served)

    serve(check)


def test_a_registry_that_is_down(serve: Any, warm_registry: Registry) -> None:
    """What was served goes on, the base goes on, the rest is told to try again."""
    store = warm_registry.store

    async def check(server: Server) -> None:
        first = await server.ask(SENTIMENT)
        adapter = first.headers["x-hyperplug-adapter"]
        text = await server.ask(f"hyperplug:{PARAPHRASE}")
        warm_registry.store.close()
        with _lost(warm_registry):
            for model in (SENTIMENT, adapter, f"hyperplug:{PARAPHRASE}"):
                again = await server.ask(model)
                assert again.status_code == 200
                assert again.headers["x-hyperplug-adapter"] == adapter
                assert await _stale(server, model, "1")
            assert (await server.ask(BASE)).status_code == 200
            unknown = await server.ask(f"hyperplug:{NOVEL}")
            assert unknown.status_code == 503
            assert unknown.headers["retry-after"]
            assert str(store.url) not in error_of(unknown)["message"]
            wish = {"model": f"hyperplug:{NOVEL}", "hyperplug": {"on_novel": "base"}}
            base = await server.http.post(CHAT, json={"messages": [], **wish})
            assert base.json()["model"] == BASE
            assert base.headers["x-hyperplug-decision"] == "base"
            assert base.headers["x-hyperplug-stale"] == "1"
            health = await server.http.get("/v1/hyperplug/health")
            assert health.status_code == 503
        assert await _stale(server, SENTIMENT, None)
        assert text.headers["x-hyperplug-adapter"] == adapter

    serve(check)


def test_a_registry_that_hangs(
    serve: Any, warm_registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was served goes on after a moment, and health says that something is wrong."""
    monkeypatch.setattr("hyperplug_vllm.lookups._SLOW_SECONDS", 0.3)
    monkeypatch.setattr("hyperplug_vllm.routes._HEALTH_SECONDS", 0.3)
    go_on = threading.Event()

    async def check(server: Server) -> None:
        known = await server.ask(SENTIMENT)
        assert (await server.ask(f"hyperplug:{PARAPHRASE}")).status_code == 200
        with monkeypatch.context() as patch:
            for name in ("get_task", "count_tasks", "find_task_by_text"):
                patch.setattr(warm_registry.store, name, lambda *_, **__: go_on.wait(30))
            server.gateway.lookups._recent.forget()
            for model in (SENTIMENT, f"hyperplug:{PARAPHRASE}"):
                again = await asyncio.wait_for(server.ask(model), 10)
                assert again.headers["x-hyperplug-adapter"] == known.headers["x-hyperplug-adapter"]
                assert again.headers["x-hyperplug-stale"] == "1"
            health = await asyncio.wait_for(server.http.get("/v1/hyperplug/health"), 10)
            assert health.status_code == 503
            assert (await server.ask(BASE)).status_code == 200
            go_on.set()
        assert await _stale(server, SENTIMENT, None)

    try:
        serve(check)
    finally:
        go_on.set()


async def _stale(server: Server, model: str, expected: str | None) -> bool:
    """Returns whether answers come to say so within two seconds."""
    for _ in range(40):
        if (await server.ask(model)).headers.get("x-hyperplug-stale") == expected:
            return True
        await asyncio.sleep(0.05)
    return False


@contextmanager
def _lost(registry: Registry) -> Iterator[None]:
    """Takes a SQLite registry's folder away, as a lost disk or network share would."""
    home = registry.settings.home
    aside = home.with_name(f"{home.name}-gone")
    home.rename(aside)
    try:
        yield
    finally:
        aside.rename(home)


def test_our_routes(serve: Any, warm_registry: Registry) -> None:
    async def check(server: Server) -> None:
        health = (await server.http.get("/v1/hyperplug/health")).json()
        assert health["status"] == "ok" and health["base"] == BASE
        assert str(warm_registry.settings.home) not in json.dumps(health)
        tasks = (await server.http.get("/v1/hyperplug/tasks")).json()["data"]
        assert SENTIMENT in {task["id"] for task in tasks}
        page = await server.http.get("/v1/hyperplug/tasks", params={"limit": 1, "offset": 1})
        assert len(page.json()["data"]) == 1
        wrong = await server.http.get("/v1/hyperplug/tasks", params={"limit": "all"})
        assert wrong.status_code == 400 and "limit is 'all'" in error_of(wrong)["message"]
        found = await server.http.post("/v1/hyperplug/resolve", json={"text": PARAPHRASE})
        assert found.json()["decision"] == "nearest" and found.json()["task"] == SENTIMENT
        missing = await server.http.post("/v1/hyperplug/resolve", json={})
        assert missing.status_code == 400

    serve(check)


def test_a_registry_error_is_no_secret_for_the_log() -> None:
    from hyperplug_vllm.answers import failure

    told = failure(RegistryError("cannot reach postgresql://user:***@db.internal/x"))
    assert told.status == 503
    assert "db.internal" not in told.message

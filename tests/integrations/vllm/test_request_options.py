"""What a request says besides `model`, and the routes under /v1/hyperplug/."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from hyperplug.entities import OnNovel
from hyperplug.naming import split_adapter_name
from hyperplug.registry import Registry
from tests.integrations.vllm.conftest import FOREIGN, NOVEL, PARAPHRASE, SENTIMENT
from tests.integrations.vllm.engine import BASE
from tests.integrations.vllm.front import CHAT, Server, error_of

pytest.importorskip("vllm")


def _wish(**wish: Any) -> dict[str, Any]:
    return {"model": BASE, "messages": [{"role": "user", "content": "x"}], "hyperplug": wish}


def test_the_body_names_a_task_and_vllm_never_sees_that(serve: Any) -> None:
    async def check(server: Server) -> None:
        by_name = await server.http.post(CHAT, json=_wish(task=SENTIMENT))
        assert by_name.headers["x-hyperplug-decision"] == "exact"
        content = by_name.json()["content"]
        assert "hyperplug" not in content
        assert content["messages"] == [{"role": "user", "content": "x"}]
        assert content["model"] == by_name.headers["x-hyperplug-adapter"]
        by_text = await server.http.post(CHAT, json=_wish(task=PARAPHRASE))
        assert by_text.headers["x-hyperplug-decision"] == "nearest"
        wish = _wish(task=PARAPHRASE, min_score=1.0, on_novel="base")
        strict = await server.http.post(CHAT, json=wish)
        assert strict.headers["x-hyperplug-decision"] == "base"
        assert (await server.http.post(CHAT, json=_wish(task="no-such-task"))).status_code == 404
        headers = {"X-Hyperplug-Task": SENTIMENT}
        beaten = await server.http.post(CHAT, json=_wish(task="no-such-task"), headers=headers)
        assert beaten.headers["x-hyperplug-task"] == SENTIMENT
        for path in ("/v1/messages", CHAT):
            plain = await server.http.post(path, json=_wish())
            assert plain.json()["content"] == {"model": BASE, "messages": _wish()["messages"]}
            assert "x-hyperplug-decision" not in plain.headers

    serve(check)


def test_examples_in_the_request_condition_the_adapter(serve: Any) -> None:
    text = "Name the colour of the thing, in one word of lower case."
    pairs = [{"input": "grass", "output": "green"}, {"input": "snow", "output": "white"}]

    async def check(server: Server) -> None:
        answer = await server.http.post(CHAT, json=_wish(task=text, examples=pairs, min_score=1.0))
        assert answer.headers["x-hyperplug-decision"] == "novel"
        name = answer.headers["x-hyperplug-task"]
        tasks = await server.http.get("/v1/hyperplug/tasks")
        assert name in [task["id"] for task in tasks.json()["data"]]

    serve(check)


@pytest.mark.parametrize(
    "wish",
    [
        "text",
        {"tsak": "x"},
        {"task": 7},
        {"examples": "x"},
        {"examples": [{"input": "x"}]},
        {"examples": [{"input": "x", "output": "y"}] * 65},
        {"on_novel": "invent"},
        {"min_score": "high"},
        {"min_score": 2},
        {"strip_system": "yes"},
    ],
)
def test_a_wish_that_makes_no_sense_is_refused(serve: Any, wish: object) -> None:
    async def check(server: Server) -> None:
        body = {"model": BASE, "messages": [], "hyperplug": wish}
        response = await server.http.post(CHAT, json=body)
        assert response.status_code == 400
        assert "\n" not in error_of(response)["message"]

    serve(check)


def test_the_system_prompt_is_the_task(serve: Any) -> None:
    system = {"role": "system", "content": PARAPHRASE}
    user = {"role": "user", "content": "Broke after a day."}

    async def check(server: Server) -> None:
        body: dict[str, Any] = {"model": "hyperplug", "messages": [system, user]}
        kept = await server.http.post(CHAT, json=body)
        assert kept.headers["x-hyperplug-decision"] == "nearest"
        assert kept.json()["content"]["messages"] == [system, user]
        assert "x-hyperplug-prompt-tokens-saved" not in kept.headers
        body["hyperplug"] = {"strip_system": True}
        stripped = await server.http.post(CHAT, json=body)
        assert stripped.json()["content"]["messages"] == [user]
        saved = int(stripped.headers["x-hyperplug-prompt-tokens-saved"])
        assert saved == len(PARAPHRASE.split())
        foreign = {"role": "system", "content": FOREIGN}
        base = await server.http.post(CHAT, json={**body, "messages": [foreign, user]})
        assert base.headers["x-hyperplug-decision"] == "base"
        assert base.json()["content"]["messages"] == [foreign, user]  # nothing replaces it
        parts = [{"type": "text", "text": PARAPHRASE}]
        anthropic = {"model": "hyperplug", "system": parts, "messages": [user]}
        answer = await server.http.post("/v1/messages", json=anthropic)
        assert answer.headers["x-hyperplug-decision"] == "nearest"
        nothing = await server.http.post(CHAT, json={**body, "messages": [user]})
        assert nothing.status_code == 400
        assert "system prompt" in error_of(nothing)["message"]

    serve(check)


def test_a_request_cannot_ask_for_more_than_the_server_allows(
    serve: Any, warm_registry: Registry
) -> None:
    async def check(server: Server) -> None:
        server.gateway.serving = replace(server.gateway.serving, on_novel=OnNovel.BASE)
        refused = await server.http.post(CHAT, json=_wish(task=NOVEL, on_novel="generate"))
        assert refused.status_code == 400
        assert "does not take" in error_of(refused)["message"]
        refused = await server.http.post("/v1/hyperplug/generate", json={"description": NOVEL})
        assert refused.status_code == 400

    serve(check)


def test_routes_register_find_generate_list_and_warm_up(serve: Any) -> None:
    async def check(server: Server) -> None:
        root = "/v1/hyperplug"
        task = {
            "name": "colour",
            "description": "Say which colour the thing has.",
            "examples": [{"input": "grass", "output": "green"}],
            "tags": ["things"],
        }
        made = (await server.http.post(f"{root}/tasks", json=task)).json()
        assert (made["id"], made["tags"]) == ("colour", ["things"])
        again = (await server.http.post(f"{root}/tasks", json=task)).json()
        assert again["adapter"] == made["adapter"]
        other = await server.http.post(f"{root}/tasks", json={**task, "description": "Else."})
        assert other.status_code == 409
        for bad in ({}, {"name": "x"}, {**task, "name": "A B"}, {**task, "tags": "x"}):
            assert (await server.http.post(f"{root}/tasks", json=bad)).status_code == 400
        found = await server.http.post(f"{root}/find", json={"text": "What colour is it?"})
        assert found.json()["data"][0]["task"]["id"] == "colour"
        none = await server.http.post(f"{root}/find", json={"text": "x", "limit": 0})
        assert none.status_code == 400
        generated = await server.http.post(f"{root}/generate", json={"description": NOVEL})
        assert split_adapter_name(generated.json()["id"])
        listed = await server.http.get(f"{root}/adapters", params={"task": "colour"})
        assert [adapter["id"] for adapter in listed.json()["data"]] == [made["adapter"]["id"]]
        assert (await server.http.get(f"{root}/adapters", params={"task": "no"})).status_code == 404
        warm = await server.http.post(f"{root}/warm-up", json={"tasks": ["colour"]})
        assert warm.json()["data"] == [{"task": "colour", "model": made["adapter"]["id"]}]
        assert len(server.client.calls) == 1
        for names, status in (("x", 400), (["x"] * 99, 400), (["no"], 404)):
            refused = await server.http.post(f"{root}/warm-up", json={"tasks": names})
            assert refused.status_code == status
        assert (await server.http.post(f"{root}/warm-up", json=[])).status_code == 400
        limit = await server.http.get(f"{root}/tasks", params={"limit": "9" * 5000})
        assert limit.status_code == 400
        described = (await server.http.get("/openapi.json")).json()["paths"]
        assert "requestBody" in described[f"{root}/tasks"]["post"]

    serve(check)

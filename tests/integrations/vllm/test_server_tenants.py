"""A real vLLM server with two tenants, asked by the official openai client."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from hyperplug_vllm.process import ServerProcess, launch

from hyperplug.config import Settings
from hyperplug.registry import Registry
from tests.integrations.vllm.conftest import FOREIGN, NOVEL, PARAPHRASE, SENTIMENT

pytest.importorskip("vllm")
pytestmark = [pytest.mark.vllm, pytest.mark.slow]

A, B = "key-of-tenant-a-0123456789", "key-of-tenant-b-0123456789"
REVIEW = "A warm, funny film; I have seen it twice already."
USER = {"role": "user", "content": REVIEW}


@pytest.fixture(scope="module")
def server(warm_registry: Registry, serving_home: Settings) -> Iterator[ServerProcess]:
    """A server whose only keys are those of its tenants."""
    home = warm_registry.settings.home
    keys = home / "keys.json"
    keys.write_text(json.dumps({"default": [A], "tenant-b": [B]}))
    keys.chmod(0o600)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "2")
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("HYPERPLUG_KEYS", str(keys))
        arguments = ["--max-model-len", "1024", "--dtype", "float32"]
        log = home / "tenants.log"
        with launch(None, arguments, settings=warm_registry.settings, log=log) as started:
            yield started


def client(server: ServerProcess, key: str = A) -> Any:
    """Returns the official client with a tenant's key."""
    return openai.OpenAI(base_url=f"{server.base_url}/v1", api_key=key, max_retries=0)


def test_the_client_names_tasks_in_every_way(
    server: ServerProcess, warm_registry: Registry
) -> None:
    ask = client(server).chat.completions.with_raw_response.create
    fixed = {"max_tokens": 4, "temperature": 0}
    own = warm_registry.get_adapter(SENTIMENT).name
    answers = set()
    for model, body in (
        (SENTIMENT, None),
        (own, None),
        (f"hyperplug:{PARAPHRASE}", None),
        (server.base_name, {"hyperplug": {"task": SENTIMENT}}),
        (server.base_name, {"hyperplug": {"task": PARAPHRASE, "on_novel": "nearest"}}),
    ):
        raw = ask(model=model, messages=[USER], extra_body=body, **fixed)
        assert raw.headers["x-hyperplug-adapter"] == own
        answers.add(raw.parse().choices[0].message.content)
    assert len(answers) == 1


def test_the_system_prompt_is_replaced_by_its_adapter(server: ServerProcess) -> None:
    ask = client(server).chat.completions.with_raw_response.create
    messages = [{"role": "system", "content": PARAPHRASE}, USER]
    fixed = {"model": "hyperplug", "messages": messages, "max_tokens": 4, "temperature": 0}
    kept = ask(**fixed)
    stripped = ask(**fixed, extra_body={"hyperplug": {"strip_system": True}})
    saved = int(stripped.headers["x-hyperplug-prompt-tokens-saved"])
    assert saved > 10
    before, after = (raw.parse().usage.prompt_tokens for raw in (kept, stripped))
    assert before > after  # the chat template may put a system prompt of its own in its place
    messages[0]["content"] = FOREIGN
    base = ask(**fixed, extra_body={"hyperplug": {"strip_system": True}})
    assert base.headers["x-hyperplug-decision"] == "base"
    assert "x-hyperplug-prompt-tokens-saved" not in base.headers


def test_streams_completions_and_responses(server: ServerProcess) -> None:
    ours = client(server)
    stream = ours.chat.completions.create(
        model=SENTIMENT, messages=[USER], max_tokens=4, temperature=0, stream=True
    )
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
    whole = ours.chat.completions.create(
        model=SENTIMENT, messages=[USER], max_tokens=4, temperature=0
    )
    assert streamed == whole.choices[0].message.content
    examples = [{"input": "Grand!", "output": "positive"}, {"input": "Dull.", "output": "negative"}]
    completion = ours.completions.create(
        model=server.base_name,
        prompt=REVIEW,
        max_tokens=4,
        extra_body={"hyperplug": {"task": NOVEL, "examples": examples}},
    )
    assert "@" in completion.model
    response = ours.responses.create(
        model="hyperplug", instructions=PARAPHRASE, input=REVIEW, max_output_tokens=16
    )
    assert response.model.startswith("sentiment@")
    with pytest.raises(openai.BadRequestError, match="unknown key"):
        ours.completions.create(
            model=SENTIMENT, prompt="x", extra_body={"hyperplug": {"tsak": "x"}}
        )


def test_tenants_are_apart(server: ServerProcess) -> None:
    assert client(server).chat.completions.create(model=SENTIMENT, messages=[USER], max_tokens=2)
    theirs = client(server, B)
    with pytest.raises(openai.NotFoundError):
        theirs.chat.completions.create(model=SENTIMENT, messages=[USER])
    loaded = [model.id for model in client(server).models.list()]
    assert any(name.startswith("sentiment@") for name in loaded)
    for name in loaded:
        if name != server.base_name:
            with pytest.raises(openai.NotFoundError):
                theirs.chat.completions.create(model=name, messages=[USER])
    assert [model.id for model in theirs.models.list()] == [server.base_name]
    with pytest.raises(openai.AuthenticationError):
        client(server, "no-key-of-anybody").models.list()
    for path in ("/tokenize", "/v1/hyperplug/tasks", "/invocations"):
        assert httpx.post(f"{server.base_url}{path}", json={}).status_code == 401
    assert httpx.get(f"{server.base_url}/health").status_code == 200

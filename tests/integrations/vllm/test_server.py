"""The whole of it: a real vLLM server with a real registry, hypernetwork and base model."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import httpx
import openai
import pytest
from hyperplug_vllm import lora_request
from hyperplug_vllm.process import ServerProcess, launch
from hyperplug_vllm.serve import plan

from hyperplug.config import Settings, load_settings
from hyperplug.errors import ConfigError
from hyperplug.naming import split_adapter_name
from hyperplug.registry import Registry, open_registry
from hyperplug.runtimes.local import LocalRuntime
from tests.integrations.vllm.conftest import (
    FOREIGN,
    NOVEL,
    PARAPHRASE,
    SENTIMENT,
    SENTIMENT_TEXT,
)
from tests.integrations.vllm.replica import group_of
from tests.integrations.vllm.traces import Collector, collector

pytest.importorskip("vllm")
pytestmark = [pytest.mark.vllm, pytest.mark.slow]

KEY = "a-key-of-this-test"
PROMPT = "A wonderful, warm and funny film that I could watch again and again."
TWICE = "Given a question about chemistry, answer with the single letter of the right choice."


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """The registry that the server uses, open in this process as well."""
    settings: Settings = load_settings(home=tmp_path_factory.mktemp("server"))
    with open_registry(settings=settings) as opened:
        opened.register_task(SENTIMENT, SENTIMENT_TEXT)
        yield opened


@pytest.fixture(scope="module")
def traces() -> Iterator[Collector]:
    """Takes the spans that the server exports."""
    with collector() as running:
        yield running


@pytest.fixture(scope="module")
def server(registry: Registry, traces: Collector) -> Iterator[ServerProcess]:
    """The server, started as `hyperplug serve` starts it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "2")
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/protobuf")
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
        arguments = ["--api-key", KEY, "--max-model-len", "1024", "--dtype", "float32"]
        arguments += ["--otlp-traces-endpoint", traces.endpoint]
        log = registry.settings.home / "server.log"
        with launch(None, arguments, settings=registry.settings, log=log) as started:
            yield started


@pytest.fixture(scope="module")
def http(server: ServerProcess) -> Iterator[httpx.Client]:
    """A client with the right key."""
    headers = {"Authorization": f"Bearer {KEY}"}
    with httpx.Client(base_url=server.base_url, headers=headers, timeout=120) as client:
        yield client


def _chat(
    http: httpx.Client, model: str, *, headers: Mapping[str, str] | None = None, **body: Any
) -> httpx.Response:
    content = {
        "model": model,
        "messages": [{"role": "user", "content": PROMPT}],
        "max_tokens": 8,
        "temperature": 0,
        **body,
    }
    return http.post("/v1/chat/completions", json=content, headers=headers or {})


def _answer(response: httpx.Response) -> str:
    assert response.status_code == 200, response.text
    text: str = response.json()["choices"][0]["message"]["content"]
    return text


def _facts(response: httpx.Response) -> tuple[str, str | None]:
    """Returns decision and adapter, after checking that the body names the same adapter."""
    adapter = response.headers.get("x-hyperplug-adapter")
    if adapter is not None:
        assert response.json()["model"] == adapter
        assert split_adapter_name(adapter)
    return response.headers["x-hyperplug-decision"], adapter


def test_requests_reach_their_adapters_and_the_base_stays_as_it_was(
    http: httpx.Client, server: ServerProcess, registry: Registry
) -> None:
    before = _answer(_chat(http, server.base_name))

    named = _chat(http, SENTIMENT)
    own = registry.get_adapter(SENTIMENT)
    assert _facts(named) == ("exact", own.name)

    immutable = _chat(http, own.name)
    assert _facts(immutable) == ("exact", own.name)
    assert _answer(immutable) == _answer(named)

    nearest = _chat(http, f"hyperplug:{PARAPHRASE}")
    assert _facts(nearest) == ("nearest", own.name)

    tasks = len(registry.list_tasks())
    novel = _chat(http, f"hyperplug:{NOVEL}")
    decision, generated = _facts(novel)
    assert decision == "novel"
    assert generated is not None and generated != own.name
    assert len(registry.list_tasks()) == tasks + 1
    assert registry.get_adapter(generated).base_fingerprint == registry.base.spec.fingerprint

    foreign = _chat(http, f"hyperplug:{FOREIGN}")
    assert _facts(foreign) == ("base", None)
    assert foreign.json()["model"] == server.base_name
    assert _answer(foreign) == before

    header = _chat(http, server.base_name, headers={"X-Hyperplug-Task": SENTIMENT})
    assert _facts(header) == ("exact", own.name)

    after = _chat(http, server.base_name)
    assert _answer(after) == before
    assert not [name for name in after.headers if name.startswith("x-hyperplug")]


def test_the_adapter_answers_as_peft_does(
    http: httpx.Client, server: ServerProcess, registry: Registry
) -> None:
    with closing(LocalRuntime(registry.base)) as local:
        bare = local.answer(PROMPT, max_tokens=8)
        adapted = local.answer(
            PROMPT, adapter=registry.published(registry.get_adapter(SENTIMENT)), max_tokens=8
        )
    assert bare != adapted
    assert _answer(_chat(http, server.base_name)).strip() == bare.strip()
    assert _answer(_chat(http, SENTIMENT)).strip() == adapted.strip()


def test_strangers_cause_nothing(server: ServerProcess, registry: Registry) -> None:
    tasks, adapters = registry.list_tasks(), registry.list_adapters()
    with httpx.Client(base_url=server.base_url, timeout=60) as stranger:
        for headers in ({}, {"Authorization": "Bearer wrong"}):
            text = "hyperplug:Given a poem, name the season it is about in one word."
            assert _chat(stranger, text, headers=headers).status_code == 401
            named = {**headers, "X-Hyperplug-Task": text}
            assert _chat(stranger, server.base_name, headers=named).status_code == 401
            for path in ("/v1/hyperplug/tasks", "/v1/hyperplug/health"):
                assert stranger.get(path, headers=headers).status_code == 401
    assert registry.list_tasks() == tasks
    assert registry.list_adapters() == adapters


def test_vllms_own_adapter_endpoints_are_closed(http: httpx.Client) -> None:
    body = {"lora_name": "x", "lora_path": "/tmp"}
    assert http.post("/v1/load_lora_adapter", json=body).status_code == 404
    assert http.post("/v1/unload_lora_adapter", json=body).status_code == 404


def test_two_requests_for_one_novel_text_generate_once(
    http: httpx.Client, registry: Registry
) -> None:
    tasks, adapters = len(registry.list_tasks()), len(registry.list_adapters())
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda _: _chat(http, f"hyperplug:{TWICE}"), range(2)))
    assert len({_facts(each) for each in both}) == 1
    assert _facts(both[0])[0] == "novel"
    assert len(registry.list_tasks()) == tasks + 1
    assert len(registry.list_adapters()) == adapters + 1


def test_more_tasks_than_slots(http: httpx.Client, registry: Registry) -> None:
    """Six adapters over the launcher's four slots, all asked for at once, then again."""
    names = [f"many-{number}" for number in range(6)]
    for number, name in enumerate(names):
        registry.register_task(name, f"Answer any question about grade {number} arithmetic.")
    with ThreadPoolExecutor(6) as pool:
        first = list(pool.map(lambda name: _answer(_chat(http, name)), names))
        second = list(pool.map(lambda name: _answer(_chat(http, name)), names))
    assert first == second
    assert [_answer(_chat(http, name)) for name in names] == first


def test_streaming_through_the_openai_client(server: ServerProcess, registry: Registry) -> None:
    client = openai.OpenAI(base_url=f"{server.base_url}/v1", api_key=KEY, timeout=120)
    own = registry.get_adapter(SENTIMENT).name
    raw = client.chat.completions.with_raw_response.create(
        model=SENTIMENT,
        messages=[{"role": "user", "content": PROMPT}],
        max_tokens=8,
        temperature=0,
        stream=True,
    )
    assert raw.headers["x-hyperplug-adapter"] == own
    chunks = list(raw.parse())
    assert {chunk.model for chunk in chunks} == {own}
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    whole = client.chat.completions.create(
        model=own, messages=[{"role": "user", "content": PROMPT}], max_tokens=8, temperature=0
    )
    assert streamed == whole.choices[0].message.content


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"prompt": "The film", "max_tokens": 4}),
        ("/v1/responses", {"input": "The film", "max_output_tokens": 4}),
        (
            "/v1/messages",
            {"messages": [{"role": "user", "content": "The film"}], "max_tokens": 4},
        ),
    ],
)
def test_the_other_endpoints(http: httpx.Client, path: str, body: dict[str, Any]) -> None:
    response = http.post(path, json={"model": SENTIMENT, **body})
    assert response.status_code == 200, response.text
    assert _facts(response)[0] == "exact"


def test_a_batch_and_a_count_of_tokens(http: httpx.Client) -> None:
    message = {"role": "user", "content": "The film"}
    batch = {"model": SENTIMENT, "messages": [[message], [message]], "max_tokens": 4}
    answered = http.post("/v1/chat/completions/batch", json=batch)
    assert answered.status_code == 200, answered.text
    assert _facts(answered)[0] == "exact"
    counted = http.post(
        "/v1/messages/count_tokens", json={"model": SENTIMENT, "messages": [message]}
    )
    assert counted.status_code == 200, counted.text
    assert counted.headers["x-hyperplug-decision"] == "exact"


def test_errors_are_clear_and_the_server_goes_on(http: httpx.Client, server: ServerProcess) -> None:
    empty = _chat(http, "hyperplug: ")
    assert (empty.status_code, empty.json()["error"]["code"]) == (400, 400)
    assert _chat(http, f"{SENTIMENT}@00000000").status_code == 404
    unknown = _chat(http, "no-such-task")
    assert unknown.status_code == 404
    assert "does not exist" in unknown.json()["error"]["message"]
    assert http.get("/v1/hyperplug/health").json()["status"] == "ok"
    assert _answer(_chat(http, server.base_name))


def _metric(server: ServerProcess, name: str, **labels: str) -> float:
    from prometheus_client.parser import text_string_to_metric_families

    text = httpx.get(f"{server.base_url}/metrics", timeout=60).text
    (value,) = (
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name and sample.labels == labels
    )
    return float(value)


def test_vllms_metrics_have_ours(http: httpx.Client, server: ServerProcess) -> None:
    series: tuple[tuple[str, dict[str, str], int], ...] = (
        ("hyperplug_resolutions_total", {"decision": "exact", "outcome": "served"}, 2),
        ("hyperplug_resolutions_total", {"decision": "none", "outcome": "refused"}, 1),
        ("hyperplug_resolution_score_count", {"decision": "exact"}, 2),
        ("hyperplug_errors_total", {"kind": "InvalidDescriptionError"}, 1),
        ("hyperplug_lookups_in_flight", {}, 0),
    )
    before = [_metric(server, name, **labels) for name, labels, _ in series]
    for model in (SENTIMENT, SENTIMENT, "hyperplug: "):
        _chat(http, model)
    for (name, labels, wanted), old in zip(series, before, strict=True):
        assert _metric(server, name, **labels) == old + wanted, name
    health = http.get("/v1/hyperplug/health").json()
    assert _metric(server, "hyperplug_live_adapters") == health["live_adapters"] > 0
    assert _metric(server, "hyperplug_stage_seconds_count", stage="load") > 0


@pytest.mark.parametrize("brought", [None, "4bf92f3577b34da6a3ce929d0e0e4736"])
def test_our_spans_and_vllms_stand_in_one_trace(
    http: httpx.Client, server: ServerProcess, traces: Collector, brought: str | None
) -> None:
    request = f"trace-test-{brought}"
    headers = {"X-Request-Id": request}
    if brought is not None:
        headers["traceparent"] = f"00-{brought}-00f067aa0ba902b7-01"
    answered = _chat(http, f"hyperplug:{PARAPHRASE}", headers=headers)
    assert request in answered.json()["id"]
    assert server.log is not None
    (line,) = re.findall(f"resolution .* request={request} .*", server.log.read_text("utf-8"))
    trace_id = line.rpartition(" trace=")[2]
    assert brought in (None, trace_id)
    spans = traces.of_trace(trace_id, names={"hyperplug.resolve", "llm_request"})
    ours, theirs = spans["hyperplug.resolve"], spans["llm_request"]
    if brought is None:
        assert theirs.parent_span_id == ours.span_id
    else:
        assert theirs.parent_span_id.hex() == ours.parent_span_id.hex() == "00f067aa0ba902b7"
    ids = [a.value.string_value for a in theirs.attributes if a.key == "gen_ai.request.id"]
    assert len(ids) == 1 and request in ids[0]


def test_no_request_text_in_the_log(server: ServerProcess) -> None:
    assert server.log is not None
    log = server.log.read_text("utf-8", errors="replace")
    assert "loaded adapter id" in log
    assert "resolution outcome=served decision=exact" in log
    for text in (PARAPHRASE, NOVEL, FOREIGN, TWICE, PROMPT, KEY):
        assert text not in log


def test_what_the_offline_engine_gets(registry: Registry) -> None:
    request = lora_request(registry.resolve(SENTIMENT))
    own = registry.get_adapter(SENTIMENT)
    assert request is not None
    assert (request.lora_name, request.lora_int_id) == (own.name, own.id)
    assert request.lora_path.startswith("/")
    assert lora_request(registry.resolve(FOREIGN)) is None


def test_a_plan_refuses_what_cannot_work(registry: Registry) -> None:
    with pytest.raises(ConfigError, match="cannot be given here"):
        plan(None, ["--model", "other"], settings=registry.settings)
    with pytest.raises(ConfigError, match="unknown flag"):
        plan(None, ["--additional-config.hyperplug.registri", "x"], settings=registry.settings)


def test_nothing_outlives_a_killed_server(server: ServerProcess) -> None:
    """The last test of this server: vLLM's engine would stay behind for good."""
    everyone = group_of(server.pid)
    assert len(everyone) >= 2  # the API server and its engine
    os.kill(server.pid, signal.SIGKILL)
    deadline = time.monotonic() + 20
    while group_of(server.pid) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not group_of(server.pid)

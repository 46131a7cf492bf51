"""A real Ray cluster on the loopback address, of two nodes.

Each has an ingress, a replica with a real vLLM engine, and a library of its own; they share a
registry in PostgreSQL.
"""

from __future__ import annotations

import logging
import os
import signal
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

pytest.importorskip("ray", reason="Ray is not installed: run make ray")
pytest.importorskip("vllm")

import psutil
import ray
from hyperplug_ray import build_app
from hyperplug_vllm.process import free_port
from ray import serve
from ray.cluster_utils import Cluster as Nodes

from hyperplug.config import load_settings
from hyperplug.registry import Registry, open_registry
from tests.conftest import postgres_database
from tests.integrations.ray.recording import FOLDER, Record, RecordingServer, records
from tests.integrations.vllm.conftest import (
    FOREIGN,
    NOVEL,
    PARAPHRASE,
    SENTIMENT,
    SENTIMENT_TEXT,
)

pytestmark = [pytest.mark.ray, pytest.mark.vllm, pytest.mark.postgres, pytest.mark.slow]

ROOT = Path(__file__).parents[3]
BASE = "smollm2"
# Ray takes 127.0.0.1 for whatever address this machine has.
NODES = ("127.0.0.2", "127.0.0.3")
KEY = "a-key-of-this-test"
PROMPT = "A wonderful, warm and funny film that I could watch again and again."
OTHERS = {
    "capital": "Name the capital city of the country.",
    "topic": "Classify the news headline as Sports, Business, World or Technology.",
    "spam": "Decide whether the message is spam. Answer spam or ham.",
    "language": "Name the language in which the sentence is written.",
}
TWICE = "Given a question about chemistry, answer with the single letter of the right choice."
MIXED = "Is the film review positive, negative or mixed? Answer with one word."
PATIENCE_SECONDS = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """A running application, the registry that it uses, and what its replicas wrote down."""

    registry: Registry
    http: httpx.Client
    folder: Path
    replicas: Any

    def ask(self, model: str, *, status: int = 200, **body: Any) -> httpx.Response:
        response = self.http.post("/v1/chat/completions", json={**_chat(model), **body})
        assert response.status_code == status, response.text
        return response

    def text(self, model: str) -> str:
        text: str = self.ask(model).json()["choices"][0]["message"]["content"]
        return text

    def records(self, model: str) -> list[Record]:
        return [record for record in records(self.folder) if record.model == model]

    def on_both(self, adapter: str) -> set[str]:
        """Returns what all replicas answer with an adapter, asked past the ingress."""
        from ray.serve.llm.openai_api_models import ChatCompletionRequest

        end = time.monotonic() + PATIENCE_SECONDS
        while len({record.replica for record in self.records(adapter)}) < 2:
            assert time.monotonic() < end, "one replica was never asked"
            request = ChatCompletionRequest(**_chat(f"{BASE}:{adapter}"))
            (answer,) = self.replicas.chat.remote(request, None)
            assert answer.model == adapter
        return {record.text for record in self.records(adapter)}


def _chat(model: str) -> dict[str, Any]:
    messages = [{"role": "user", "content": PROMPT}]
    return {"model": model, "messages": messages, "max_tokens": 8, "temperature": 0}


@pytest.fixture(scope="module")
def registry(postgres_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """The registry that the cluster shares, open in this process as well."""
    home = tmp_path_factory.mktemp("home")
    with postgres_database(postgres_server) as url:
        settings = load_settings(home=home, registry_url=url)
        with open_registry(settings=settings) as opened:
            opened.register_task(SENTIMENT, SENTIMENT_TEXT)
            for name, description in OTHERS.items():
                opened.register_task(name, description)
            yield opened


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The folders that stand for the disks of two machines."""
    return [tmp_path_factory.mktemp(f"node-{number}") for number in (1, 2)]


@pytest.fixture(scope="module")
def cluster(
    registry: Registry, homes: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    """The application, with an API key, on nodes that hold one ingress and one replica each."""
    folder = tmp_path_factory.mktemp("records")
    handlers = logging.getLogger().handlers.copy()
    with pytest.MonkeyPatch.context() as patch, _short_folder() as session:
        for name, value in {
            FOLDER: str(folder),
            "HYPERPLUG_REGISTRY": registry.settings.registry_url,
            "VLLM_API_KEY": KEY,
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # or both engines take the same core
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_PLUGINS": "another",  # replicas add hyperplug, which mends vLLM
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "RAY_TMPDIR": session,  # where Ray notes the address of the user's cluster
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_AUTH_MODE": "disabled",  # it would leave a token in the user's home
        }.items():
            patch.setenv(name, value)
        patch.setenv("PYTHONPATH", str(ROOT), prepend=":")
        root = Path(session) / "ray"
        root.mkdir()
        nodes = Nodes()
        try:
            for address, home in zip(NODES, homes, strict=True):
                nodes.add_node(
                    num_cpus=3,  # two for a replica, one for an ingress
                    object_store_memory=100 * 2**20,
                    include_dashboard=False,
                    node_ip_address=address,
                    temp_dir=str(root),
                    env_vars={"HYPERPLUG_HOME": str(home)},
                )
            ray.init(address=nodes.address, _node_ip_address=NODES[0], log_to_driver=False)
            yield _run(registry, folder)
        finally:
            serve.shutdown()
            ray.shutdown()
            nodes.shutdown()
            logging.getLogger().handlers = handlers  # Ray takes those of the whole process


def _short_folder() -> tempfile.TemporaryDirectory[str]:
    """Returns a folder for Ray's sockets, whose paths must not be long."""
    return tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True)


def _run(registry: Registry, folder: Path) -> Cluster:
    port = free_port()
    serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": port})
    source = str(registry.base.folder)
    config = {
        "model_loading_config": {"model_id": BASE, "model_source": source},
        "accelerator_config": {"kind": "cpu"},
        "engine_kwargs": {
            "dtype": "float32",
            "enforce_eager": True,
            "max_model_len": 512,
            "max_loras": 2,
            "max_cpu_loras": 16,
        },
        "deployment_config": {"num_replicas": 2},
        "log_engine_metrics": False,
        "server_cls": RecordingServer,
    }
    serve.run(
        build_app({"llm_configs": [config], "ingress_deployment_config": {"num_replicas": 2}})
    )
    handle = serve.get_deployment_handle(f"RecordingServer:{BASE}", "default")
    headers = {"Authorization": f"Bearer {KEY}"}
    return Cluster(
        registry=registry,
        http=httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=120),
        folder=folder,
        replicas=handle.options(stream=True),
    )


def test_tasks_are_answered_as_by_one_server(cluster: Cluster) -> None:
    before = cluster.text(BASE)
    own = cluster.registry.get_adapter(SENTIMENT)

    named = cluster.ask(SENTIMENT)
    assert named.headers["x-hyperplug-decision"] == "exact"
    assert named.json()["model"] == named.headers["x-hyperplug-adapter"] == own.name
    assert named.json()["choices"][0]["message"]["content"] != before

    nearest = cluster.ask(f"hyperplug:{PARAPHRASE}")
    assert nearest.headers["x-hyperplug-decision"] == "nearest"
    assert nearest.json()["model"] == own.name

    foreign = cluster.ask(f"hyperplug:{FOREIGN}")
    assert foreign.headers["x-hyperplug-decision"] == "base"
    assert foreign.json()["model"] == BASE
    assert cluster.text(BASE) == before

    assert cluster.ask(f"{BASE}:{SENTIMENT}").json()["model"] == own.name
    completion = {"model": SENTIMENT, "prompt": PROMPT, "max_tokens": 4}
    completed = cluster.http.post("/v1/completions", json=completion)
    assert completed.json()["model"] == own.name
    assert completed.headers["x-hyperplug-adapter"] == own.name
    streamed = cluster.ask(own.name, stream=True)
    assert own.name in streamed.text and streamed.text.rstrip().endswith("data: [DONE]")


def test_what_is_unknown_is_refused_and_generates_nothing(cluster: Cluster) -> None:
    tasks = len(cluster.registry.list_tasks())
    cluster.ask("unheard-of", status=404)
    cluster.ask(f"{BASE}:unheard-of", status=404)
    cluster.ask(f"{BASE}:Say whether the text is long or short.", status=404)
    assert len(cluster.registry.list_tasks()) == tasks


def test_nothing_is_done_for_strangers(cluster: Cluster) -> None:
    tasks = len(cluster.registry.list_tasks())
    body = {"model": f"hyperplug:{TWICE}", "messages": [{"role": "user", "content": PROMPT}]}
    for headers in ({"Authorization": ""}, {"Authorization": "Bearer another"}):
        refused = cluster.http.post("/v1/chat/completions", json=body, headers=headers)
        assert refused.status_code == 401
        assert cluster.http.get("/v1/hyperplug/tasks", headers=headers).status_code == 401
    assert len(cluster.registry.list_tasks()) == tasks


def test_requests_for_one_adapter_go_to_one_replica_and_others_spread(cluster: Cluster) -> None:
    adapters = {name: cluster.registry.get_adapter(name) for name in OTHERS}
    for _ in range(4):
        for name in OTHERS:
            cluster.ask(name)
            time.sleep(0.3)  # routers learn ten times a second who holds what
    places: dict[str, set[str]] = defaultdict(set)
    for name, adapter in adapters.items():
        asked = cluster.records(adapter.name)
        assert len(asked) == 4
        assert {record.lora_id for record in asked} == {adapter.id}
        places[name] = {record.replica for record in asked}
    assert {name: len(place) for name, place in places.items()} == dict.fromkeys(OTHERS, 1)
    assert len(set.union(*places.values())) == 2


def test_a_novel_task_that_many_ask_for_at_once_makes_one_row(cluster: Cluster) -> None:
    tasks = len(cluster.registry.list_tasks())
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(cluster.ask, [f"hyperplug:{NOVEL}"] * 8))
    assert len(cluster.registry.list_tasks()) == tasks + 1
    (adapter,) = {answer.json()["model"] for answer in answers}
    assert adapter == cluster.registry.get_adapter(adapter).name
    assert "novel" in {answer.headers["x-hyperplug-decision"] for answer in answers}
    again = cluster.ask(f"hyperplug:{NOVEL}")
    assert (again.headers["x-hyperplug-decision"], again.json()["model"]) == ("exact", adapter)


def test_replicas_answer_alike_with_known_and_novel_adapters(
    cluster: Cluster, homes: list[Path]
) -> None:
    novel = cluster.ask(f"hyperplug:{NOVEL}").json()["model"]
    known = cluster.registry.get_adapter(SENTIMENT).name
    answers = {adapter: cluster.on_both(adapter) for adapter in (known, novel)}
    assert all(len(texts) == 1 for texts in answers.values()), answers
    assert cluster.text(BASE) not in answers[known] | answers[novel]
    ids = {record.lora_id for record in cluster.records(novel)}
    assert ids == {cluster.registry.get_adapter(novel).id}
    for home in homes:  # each out of its own library
        folders = {file.parent.name for file in (home / "library").rglob("adapter_config.json")}
        assert {known, novel} <= folders


def test_the_base_model_answers_beside_adapters_as_if_it_were_alone(cluster: Cluster) -> None:
    alone = {model: cluster.text(model) for model in (BASE, SENTIMENT, "capital")}
    assert len(set(alone.values())) == 3
    asked = list(alone) * 6
    with ThreadPoolExecutor(len(asked)) as threads:
        together = list(threads.map(cluster.text, asked))
    assert together == [alone[model] for model in asked]


def test_a_promoted_version_reaches_all_replicas(cluster: Cluster) -> None:
    old = cluster.ask(SENTIMENT).json()["model"]
    cluster.registry.update_task(SENTIMENT, description=MIXED)
    new = cluster.registry.get_adapter(SENTIMENT).name
    assert new != old
    _until_served(cluster, new)
    assert len(cluster.on_both(new)) == 1
    cluster.registry.promote(old)
    _until_served(cluster, old)
    assert cluster.ask(new).json()["model"] == new  # a name with a digest keeps its meaning


def _until_served(cluster: Cluster, adapter: str) -> None:
    """Waits until both ingresses have heard of a promotion."""
    end = time.monotonic() + PATIENCE_SECONDS
    served = 0
    while served < 6:
        assert time.monotonic() < end, f"{adapter} is not served"
        served = served + 1 if cluster.ask(SENTIMENT).json()["model"] == adapter else 0


def test_a_replica_that_dies_leaves_its_adapters_to_the_other(cluster: Cluster) -> None:
    adapter = cluster.registry.get_adapter("capital").name
    last = cluster.records(adapter)[-1]

    def by_others() -> list[Record]:
        return [record for record in cluster.records(adapter) if record.replica != last.replica]

    known = len(by_others())
    engine = psutil.Process(last.pid).children(recursive=True)
    assert engine
    os.kill(last.pid, signal.SIGKILL)
    end = time.monotonic() + PATIENCE_SECONDS
    while len(by_others()) == known:
        assert time.monotonic() < end, "nobody answers"
        cluster.http.post("/v1/chat/completions", json=_chat("capital"))
    assert by_others()[-1].text == last.text
    _, left = psutil.wait_procs(engine, timeout=PATIENCE_SECONDS)
    assert not left, "an engine without a replica keeps its memory"

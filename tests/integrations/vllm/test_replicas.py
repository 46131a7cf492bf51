"""Two real vLLM servers with a home each, on one PostgreSQL, behind a proxy."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from hyperplug.config import load_settings
from hyperplug.registry import Registry, open_registry
from tests.conftest import running_postgres, url_of
from tests.integrations.vllm.balancer import SERVED_BY, balanced
from tests.integrations.vllm.conftest import NOVEL, SENTIMENT, SENTIMENT_TEXT
from tests.integrations.vllm.replica import Replica, answer, facts

pytest.importorskip("vllm")
pytestmark = [pytest.mark.vllm, pytest.mark.slow, pytest.mark.postgres]

PROMISED_SECONDS = 2.0
NOVELS = (
    NOVEL,
    "Given a question about chemistry, answer with the single letter of the right choice.",
    "Given a news headline, name the country that it is about.",
)
# Fewer places than adapters: some are unloaded and read again from the library.
ROOM = ("--max-loras", "2", "--max-cpu-loras", "2")


@pytest.fixture(scope="module")
def postgres() -> Iterator[Any]:
    """The database server, which the last tests stop and start."""
    with running_postgres() as server:
        yield server


@pytest.fixture(scope="module")
def registry(postgres: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """The registry as an operator on a third machine opens it."""
    home = tmp_path_factory.mktemp("operator")
    with open_registry(settings=load_settings(home=home, registry_url=url_of(postgres))) as opened:
        opened.warm_up()
        yield opened


@pytest.fixture(scope="module")
def replicas(
    postgres: Any, registry: Registry, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Replica, Replica]]:
    """Two servers as `hyperplug serve` starts them, each with a library of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("VLLM_ALLOW_RUNTIME_LORA_UPDATING", "1")  # which does not get through
        homes = [tmp_path_factory.mktemp(f"replica-{number}") for number in range(2)]
        url = url_of(postgres)
        both = tuple(Replica(home, registry_url=url, arguments=ROOM) for home in homes)
        try:
            for each in both:
                each.start()
            yield both[0], both[1]
        finally:
            for each in both:
                each.stop()


@pytest.fixture(scope="module")
def proxy(replicas: tuple[Replica, Replica]) -> Iterator[httpx.Client]:
    """A client of the proxy in front of both."""
    with (
        balanced([each.url for each in replicas]) as url,
        httpx.Client(base_url=url, timeout=300) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def task(proxy: httpx.Client) -> str:
    """A task that is registered through one of the two, whichever had its turn."""
    body = {"name": SENTIMENT, "description": SENTIMENT_TEXT}
    registered = proxy.post("/v1/hyperplug/tasks", json=body)
    assert registered.status_code == 200, registered.text
    return SENTIMENT


def _together(replicas: tuple[Replica, Replica], model: str) -> list[httpx.Response]:
    """Asks both at the same moment."""
    ready = threading.Barrier(2)

    def ask(replica: Replica) -> httpx.Response:
        ready.wait(timeout=30)
        return replica.ask(model)

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(ask, replicas))


def test_a_task_registered_through_one_is_served_by_both_alike(
    replicas: tuple[Replica, Replica], proxy: httpx.Client, registry: Registry, task: str
) -> None:
    own = registry.get_adapter(task).name
    one, two = (facts(each.ask(task)) for each in replicas)
    assert one == two
    assert one[0] == own
    base = answer(replicas[0].ask(replicas[0].process.base_name))
    assert one[1] != base
    through = [replicas[0].ask(task, http=proxy) for _ in range(4)]
    assert {each.headers[SERVED_BY] for each in through} == {"0", "1"}
    assert {facts(each) for each in through} == {one}


def test_a_novel_text_sent_to_both_at_once_makes_one_adapter(
    replicas: tuple[Replica, Replica], registry: Registry, task: str
) -> None:
    for text in NOVELS:
        tasks, adapters = len(registry.list_tasks()), len(registry.list_adapters())
        one, two = _together(replicas, f"hyperplug:{text}")
        decisions = {each.headers["x-hyperplug-decision"] for each in (one, two)}
        assert "novel" in decisions and "base" not in decisions
        assert facts(one) == facts(two)
        assert len(registry.list_tasks()) == tasks + 1
        assert len(registry.list_adapters()) == adapters + 1


def test_both_give_vllm_the_ids_of_the_registry(
    replicas: tuple[Replica, Replica], registry: Registry, task: str
) -> None:
    for model in (task, *(f"hyperplug:{text}" for text in NOVELS)):
        name, _ = facts(replicas[0].ask(model))
        assert name is not None and facts(replicas[1].ask(model))[0] == name
        adapter = registry.get_adapter(name)
        assert 2**20 <= adapter.id < 2**31
        assert [each.ids_of(name) for each in replicas] == [{adapter.id}, {adapter.id}]


def test_vllms_own_adapter_routes_stay_closed_on_both(replicas: tuple[Replica, Replica]) -> None:
    body = {"lora_name": "x", "lora_path": str(replicas[0].library)}
    for each in replicas:
        environment = Path(f"/proc/{each.process.pid}/environ").read_bytes()
        assert b"VLLM_PLUGINS=hyperplug" in environment
        assert b"VLLM_ALLOW_RUNTIME_LORA_UPDATING" not in environment
        for route in ("/v1/load_lora_adapter", "/v1/unload_lora_adapter"):
            assert each.http.post(route, json=body).status_code == 404


def test_a_promoted_version_reaches_both_within_two_seconds(
    replicas: tuple[Replica, Replica],
    registry: Registry,
    task: str,
    record_property: pytest.RecordProperty,
) -> None:
    pids = [each.process.pid for each in replicas]
    old = registry.get_adapter(task).name
    _, made = registry.update_task(task, description=f"{SENTIMENT_TEXT} Nothing else.")
    assert made is not None and made.name != old
    took = [max(_reached(replicas, task, made.name, since=time.monotonic()))]
    for wanted in (old, made.name, old):
        started = time.monotonic()
        registry.promote(wanted)
        took.append(max(_reached(replicas, task, wanted, since=started)))
    record_property("promotion_seconds", [round(seconds, 3) for seconds in took])
    assert max(took) < PROMISED_SECONDS
    assert [each.process.pid for each in replicas] == pids


def test_a_version_promoted_by_the_command_reaches_both_within_two_seconds(
    replicas: tuple[Replica, Replica],
    registry: Registry,
    task: str,
    record_property: pytest.RecordProperty,
) -> None:
    current = registry.get_adapter(task).name
    wanted = next(
        each.name for each in registry.list_adapters(task_name=task) if each.name != current
    )
    environment = {**os.environ, "HYPERPLUG_REGISTRY": str(registry.settings.registry_url)}
    environment["HYPERPLUG_HOME"] = str(registry.settings.home)
    command = [sys.executable, "-m", "hyperplug", "promote-adapter", wanted]
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=300)
    took = _reached(replicas, task, wanted, since=time.monotonic())
    record_property("promotion_seconds", [round(seconds, 3) for seconds in took])
    assert max(took) < PROMISED_SECONDS


def _reached(
    replicas: tuple[Replica, Replica], task: str, adapter: str, *, since: float
) -> list[float]:
    """Returns the seconds until each was asked for the first time by whom it answered anew."""

    def reached(replica: Replica) -> float:
        while True:
            began = time.monotonic()
            served = replica.ask(task, max_tokens=1)
            if facts(served)[0] == adapter:
                return began - since
            assert began - since < 30

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(reached, replicas))

"""Two real vLLM servers with a home each, on one PostgreSQL, behind a proxy."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from hyperplug.config import load_settings
from hyperplug.registry import Registry, open_registry
from tests.conftest import running_postgres, url_of
from tests.integrations.vllm.balancer import SERVED_BY, balanced
from tests.integrations.vllm.conftest import NOVEL, SENTIMENT, SENTIMENT_TEXT
from tests.integrations.vllm.replica import Replica, answer, facts, group_of, metric, until

pytest.importorskip("vllm")
pytestmark = [pytest.mark.vllm, pytest.mark.slow, pytest.mark.postgres]

PROMISED_SECONDS = 2.0
NOVELS = (
    NOVEL,
    "Given a question about chemistry, answer with the single letter of the right choice.",
    "Given a news headline, name the country that it is about.",
)
UNSEEN = "Given a product review, answer with the number of stars from 1 to 5."
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
    record_testsuite_property: Callable[[str, object], None],
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
    record_testsuite_property("promotion_seconds", [round(seconds, 3) for seconds in took])
    assert max(took) < PROMISED_SECONDS
    assert [each.process.pid for each in replicas] == pids


def test_a_version_promoted_by_the_command_reaches_both_within_two_seconds(
    replicas: tuple[Replica, Replica],
    registry: Registry,
    task: str,
    record_testsuite_property: Callable[[str, object], None],
) -> None:
    current, wanted = registry.get_adapter(task).name, _another_version(registry, task)
    assert [each.serving(task) for each in replicas] == [current, current]
    environment = {**os.environ, "HYPERPLUG_REGISTRY": str(registry.settings.registry_url)}
    environment["HYPERPLUG_HOME"] = str(registry.settings.home)
    command = [sys.executable, "-m", "hyperplug", "promote-adapter", wanted]
    started, clock = time.monotonic(), time.time()
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as running:
        reached = _reached(replicas, task, wanted, since=started, seconds=300)
    assert running.returncode == 0
    written = registry.alias_history(task)[-1].created_at.timestamp() - clock
    took = [seconds - written for seconds in reached]
    record_testsuite_property("command_seconds", [round(seconds, 3) for seconds in took])
    assert max(took) < PROMISED_SECONDS


def _reached(
    replicas: tuple[Replica, Replica],
    task: str,
    adapter: str,
    *,
    since: float,
    seconds: float = 30,
) -> list[float]:
    """Returns the seconds after which each serves a task by that adapter, loaded."""

    def reached(replica: Replica) -> float:
        while replica.serving(task) != adapter:
            assert time.monotonic() - since < seconds
        took = time.monotonic() - since
        assert facts(replica.ask(task, max_tokens=1))[0] == adapter
        return took

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(reached, replicas))


def test_without_postgres_known_tasks_are_served_and_it_comes_back_by_itself(
    replicas: tuple[Replica, Replica], registry: Registry, postgres: Any, task: str
) -> None:
    pids = [each.process.pid for each in replicas]
    known = _known(task)
    before = {model: facts(each.ask(model)) for model in known for each in replicas}
    postgres.stop()
    try:
        for each in replicas:
            _serves_what_it_knows(each, before)
            _tells_what_it_lacks(each)
    finally:
        postgres.ensure_postgres_running()
    for each in replicas:
        _is_well_again(each, task)
    one, two = _together(replicas, f"hyperplug:{UNSEEN}")
    assert facts(one) == facts(two) and facts(one)[0] is not None
    current = registry.get_adapter(task).name
    wanted = _another_version(registry, task)
    started = time.monotonic()
    registry.promote(wanted)
    assert max(_reached(replicas, task, wanted, since=started)) < PROMISED_SECONDS
    registry.promote(current)
    assert [each.process.pid for each in replicas] == pids


def test_a_postgres_that_hangs_holds_up_no_known_task(
    replicas: tuple[Replica, Replica], registry: Registry, postgres: Any, task: str
) -> None:
    """It takes what is sent and does not answer, as a machine does that swaps or is frozen."""
    one, two = replicas  # each goes on with what it said last itself
    serving = registry.get_adapter(task).name
    until(lambda: facts(one.ask(task))[0] == facts(two.ask(task))[0] == serving)
    before = {model: facts(each.ask(model)) for model in _known(task) for each in replicas}

    def check(replica: Replica) -> None:
        for model, served in before.items():
            began = time.monotonic()
            assert facts(replica.ask(model)) == served
            assert time.monotonic() - began < 30
        assert replica.health().status_code == 503

    with _frozen(postgres.get_pid()), ThreadPoolExecutor(2) as pool:
        list(pool.map(check, replicas))
    for each in replicas:
        _is_well_again(each, task)
    current, wanted = registry.get_adapter(task).name, _another_version(registry, task)
    for adapter in (wanted, current):
        started = time.monotonic()
        registry.promote(adapter)
        assert max(_reached(replicas, task, adapter, since=started)) < PROMISED_SECONDS


@contextmanager
def _frozen(server: int) -> Iterator[None]:
    """Stops a process and its children for a while."""
    stopped = [server]
    os.kill(server, signal.SIGSTOP)  # it starts no more of them
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            if int(stat.read_text().rpartition(")")[2].split()[1]) == server:
                stopped.append(int(stat.parent.name))
                os.kill(stopped[-1], signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)


def _serves_what_it_knows(replica: Replica, before: dict[str, tuple[str | None, str]]) -> None:
    """Also what is not loaded any more: there are fewer places than adapters."""
    until(lambda: replica.health().status_code == 503)
    assert replica.health().json()["status"] == "registry unreachable"
    until(lambda: all(_is_stale(replica.ask(model, max_tokens=1)) for model in before))
    degraded = metric(replica.http, "hyperplug_degraded_answers_total", cause="stale")
    for model, served in before.items():
        again = replica.ask(model)
        assert facts(again) == served
        assert _is_stale(again)
    told = metric(replica.http, "hyperplug_degraded_answers_total", cause="stale")
    assert told == degraded + len(before)


def _tells_what_it_lacks(replica: Replica) -> None:
    """A text that was never asked for: an error, or the base model for those who want that."""
    refused = replica.ask(f"hyperplug:{UNSEEN}")
    assert refused.status_code == 503
    assert int(refused.headers["retry-after"]) > 0
    base = replica.ask(f"hyperplug:{UNSEEN}", hyperplug={"on_novel": "base"})
    assert base.json()["model"] == replica.process.base_name
    assert base.headers["x-hyperplug-decision"] == "base"
    assert _is_stale(base)
    assert answer(replica.ask(replica.process.base_name)) == answer(base)


def _is_well_again(replica: Replica, task: str) -> None:
    until(lambda: replica.health().status_code == 200)
    until(lambda: not _is_stale(replica.ask(task, max_tokens=1)))


def _is_stale(response: httpx.Response) -> bool:
    assert response.status_code == 200, response.text
    return bool(response.headers.get("x-hyperplug-stale") == "1")


@pytest.mark.parametrize("victim", ["EngineCore", "api_server"])
def test_a_killed_process_ends_its_server_whose_next_start_serves_the_same(
    victim: str,
    replicas: tuple[Replica, Replica],
    proxy: httpx.Client,
    registry: Registry,
    task: str,
) -> None:
    other, killed = replicas
    before = {model: facts(killed.ask(model)) for model in _known(task)}
    published, adapters = killed.published(), registry.list_adapters()
    (pid,) = (pid for pid, name in group_of(killed.process.pid).items() if victim in name)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(killed.ask, task, max_tokens=400, ignore_eos=True)
        time.sleep(1.0)
        assert not waiting.done()
        killed.kill(pid)
        error = waiting.exception(timeout=60)  # whoever waits is told, in one way or the other
        assert error is not None or waiting.result().status_code >= 500
    assert error is None or isinstance(error, httpx.TransportError)
    through = [other.ask(task, http=proxy) for _ in range(2)]
    assert [each.headers[SERVED_BY] for each in through] == ["0", "0"]
    assert {facts(each) for each in through} == {before[task]}

    killed.start()
    assert {model: facts(killed.ask(model)) for model in _known(task)} == before
    assert killed.published() == published
    assert registry.list_adapters() == adapters
    served = {other.ask(task, http=proxy).headers[SERVED_BY] for _ in range(2)}
    assert served == {"0", "1"}


def _known(task: str) -> tuple[str, ...]:
    return (task, *(f"hyperplug:{text}" for text in NOVELS))


def _another_version(registry: Registry, task: str) -> str:
    current = registry.get_adapter(task).name
    versions = [each.name for each in registry.list_adapters(task_name=task)]
    return next(name for name in versions if name != current)

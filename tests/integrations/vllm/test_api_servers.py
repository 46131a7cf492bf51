"""Real vLLM servers with two API servers each, before one engine and before two."""

from __future__ import annotations

import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from hyperplug.config import load_settings
from hyperplug.registry import Registry, open_registry
from tests.integrations.vllm.conftest import NOVEL, SENTIMENT, SENTIMENT_TEXT
from tests.integrations.vllm.replica import Replica, answer, facts, group_of, metric

pytest.importorskip("vllm")
pytestmark = [pytest.mark.vllm, pytest.mark.slow]

PROMISED_SECONDS = 2.0
# Fewer places than tasks: what one API server unloads is in use at the other.
ROOM = ("--max-loras", "2", "--max-cpu-loras", "2")
ENGINES = {"--api-server-count": 1, "--data-parallel-size": 2}
Clients = Mapping[str, httpx.Client]


@pytest.fixture(scope="module", params=ENGINES)
def flag(request: pytest.FixtureRequest) -> str:
    """The flag that gets the number two: of API servers, or of engines with as many."""
    return str(request.param)


@pytest.fixture(scope="module")
def registry(flag: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """The registry that both use, in a file, open in this process as well."""
    settings = load_settings(home=tmp_path_factory.mktemp("api-servers"))
    with open_registry(settings=settings) as opened:
        opened.register_task(SENTIMENT, SENTIMENT_TEXT)
        yield opened


@pytest.fixture(scope="module")
def server(registry: Registry, flag: str) -> Iterator[Replica]:
    """The server, started as `hyperplug serve` starts it."""
    settings = registry.settings
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("HF_HUB_OFFLINE", "1")
        url = str(settings.registry_url)
        started = Replica(settings.home, registry_url=url, arguments=(flag, "2", *ROOM))
        try:
            started.start()
            yield started
        finally:
            started.stop()


@pytest.fixture(scope="module")
def clients(server: Replica) -> Iterator[Clients]:
    """A client for each API server, by the process's id: connections are held open."""
    opened: list[httpx.Client] = []
    found: dict[str, httpx.Client] = {}
    try:
        while len(found) < 2:
            assert len(opened) < 32, f"only {set(found)} answers"
            opened.append(httpx.Client(base_url=server.url, timeout=300))
            found.setdefault(_process_of(server, opened[-1]), opened[-1])
        yield found
    finally:
        for client in opened:
            client.close()


def _process_of(server: Replica, client: httpx.Client) -> str:
    """Returns the id of the process that answers a client, as the log tells it."""
    request = uuid.uuid4().hex
    answer(server.ask(SENTIMENT, http=client, max_tokens=1, headers={"X-Request-Id": request}))
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        log = "".join(each.read_text("utf-8") for each in server.home.glob("server-*.log"))
        if found := re.search(rf"^\(ApiServer_\d+ pid=(\d+)\).* request={request}", log, re.M):
            return found[1]
        time.sleep(0.05)
    raise AssertionError("no API server has logged the request")


def _each(clients: Clients, server: Replica, model: str) -> list[httpx.Response]:
    """Asks all API servers at the same moment."""
    ready = threading.Barrier(len(clients))

    def ask(client: httpx.Client) -> httpx.Response:
        ready.wait(timeout=30)
        return server.ask(model, http=client)

    with ThreadPoolExecutor(len(clients)) as pool:
        return list(pool.map(ask, clients.values()))


def test_there_are_two_of_them_before_their_engines(
    server: Replica, clients: Clients, flag: str
) -> None:
    names = group_of(server.process.pid)
    assert {int(pid) for pid in clients} <= set(names)
    assert server.process.pid not in {int(pid) for pid in clients}
    assert sum("EngineCore" in name for name in names.values()) == ENGINES[flag]


def test_known_and_novel_tasks_are_served_alike(
    server: Replica, clients: Clients, registry: Registry
) -> None:
    one, two = (facts(each) for each in _each(clients, server, SENTIMENT))
    assert one == two
    assert one[0] == registry.get_adapter(SENTIMENT).name
    tasks, adapters = len(registry.list_tasks()), len(registry.list_adapters())
    first, second = _each(clients, server, f"hyperplug:{NOVEL}")
    assert "novel" in {each.headers["x-hyperplug-decision"] for each in (first, second)}
    assert facts(first) == facts(second)
    assert facts(first)[1] != one[1]
    assert len(registry.list_tasks()) == tasks + 1
    assert len(registry.list_adapters()) == adapters + 1


def test_what_one_unloads_the_other_goes_on_serving(
    server: Replica, clients: Clients, registry: Registry, flag: str
) -> None:
    names = [f"many-{number}" for number in range(4)]
    for number, name in enumerate(names):
        registry.register_task(name, f"Answer any question about grade {number} arithmetic.")
    first, *_ = clients.values()
    alone = {name: facts(server.ask(name, http=first)) for name in names}
    assert len({adapter for adapter, _ in alone.values()}) == len(names)

    def ask(work: tuple[httpx.Client, str]) -> bool:
        client, name = work
        return facts(server.ask(name, http=client)) == alone[name]

    work = [(client, name) for _ in range(4) for name in names for client in clients.values()]
    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(ask, work))
    for engine in range(ENGINES[flag]):  # none of them was idle
        assert metric(first, "vllm:prompt_tokens_total", engine=str(engine)) > 0


def test_a_promoted_version_reaches_both_within_two_seconds(
    server: Replica,
    clients: Clients,
    registry: Registry,
    record_testsuite_property: Callable[[str, object], None],
) -> None:
    old = registry.get_adapter(SENTIMENT).name
    _, made = registry.update_task(SENTIMENT, description=f"{SENTIMENT_TEXT} Nothing else.")
    assert made is not None and made.name != old
    took: list[float] = []
    for wanted in (old, made.name, old):
        started = time.monotonic()
        registry.promote(wanted)
        took += [_reached(server, each, wanted, since=started) for each in clients.values()]
    record_testsuite_property("api_server_seconds", [round(seconds, 3) for seconds in took])
    assert max(took) < PROMISED_SECONDS


def _reached(server: Replica, client: httpx.Client, adapter: str, *, since: float) -> float:
    """Returns the seconds after which an API server serves the task by that adapter."""
    while server.serving(SENTIMENT, http=client) != adapter:
        assert time.monotonic() - since < 30
    return time.monotonic() - since


def test_the_metrics_are_the_sum_of_both(server: Replica, clients: Clients) -> None:
    served = {"decision": "exact", "outcome": "served"}

    def counted(client: httpx.Client) -> float:
        return metric(client, "hyperplug_resolutions_total", **served)

    before = {counted(client) for client in clients.values()}
    assert len(before) == 1  # whichever is asked
    for client in clients.values():
        answer(server.ask(SENTIMENT, http=client))
    assert {counted(client) for client in clients.values()} == {before.pop() + len(clients)}
    live = [
        client.get("/v1/hyperplug/health").json()["live_adapters"] for client in clients.values()
    ]
    (one, *_) = clients.values()
    assert metric(one, "hyperplug_live_adapters") == sum(live) > 0
    assert metric(one, "hyperplug_lookups_in_flight") == 0


def test_a_killed_api_server_ends_the_whole(server: Replica, clients: Clients) -> None:
    """The last test of each server. Whoever started it sees that, and starts it again."""
    server.kill(int(next(iter(clients))))

"""What a server counts, and that its labels stay within bounds."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hyperplug_vllm.answers import BusyError
from hyperplug_vllm.metrics import SPECS, Degraded, Kind, Metrics, Outcome, error_kind, metrics

from hyperplug.entities import Decision, Timings
from hyperplug.errors import AdapterNotFoundError, NovelTaskError
from tests.integrations.vllm.conftest import FOREIGN, SENTIMENT
from tests.integrations.vllm.engine import BASE
from tests.integrations.vllm.front import Server

pytest.importorskip("vllm")
client = pytest.importorskip("prometheus_client")

Sample = Callable[..., float]
# A task that no other test asks for.
SHARED = "Given a recipe, decide whether it is vegetarian. Answer yes or no."


def _reader(registry: Any) -> Sample:
    def sample(name: str, **labels: str) -> float:
        value = registry.get_sample_value(name, labels)
        assert value is not None, f"no series {name} {labels}"
        return float(value)

    return sample


@pytest.fixture
def since() -> Sample:
    """What a series of this process grew by since the test began."""
    metrics()
    before = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in client.REGISTRY.collect()
        for sample in family.samples
    }
    now = _reader(client.REGISTRY)

    def grown(name: str, **labels: str) -> float:
        return now(name, **labels) - float(before[name, tuple(sorted(labels.items()))])

    return grown


def _series(registry: Any) -> set[tuple[str, tuple[tuple[str, str], ...]]]:
    return {
        (sample.name, tuple(sorted(sample.labels.items())))
        for family in registry.collect()
        for sample in family.samples
    }


def test_edge_48_every_series_is_there_from_the_start_and_none_is_added() -> None:
    registry = client.CollectorRegistry()
    counted = Metrics(registry)
    before = _series(registry)
    assert {name for name, _ in before} >= {name for spec in SPECS for name in spec.samples}
    for outcome in Outcome:
        for decision in (*Decision, None):
            counted.resolved(decision, outcome, score=0.5)
    counted.looked_up(Timings(embed_ms=1, lookup_ms=1, generate_ms=1, publish_ms=1))
    counted.loaded(0.1)
    counted.evicted()
    for cause in Degraded:
        counted.degraded(cause)
    for error in (BusyError("x"), ValueError("y"), AdapterNotFoundError("z")):
        counted.failed(error)
    assert _series(registry) == before


def test_stages_that_were_not_needed_are_not_counted() -> None:
    registry = client.CollectorRegistry()
    sample = _reader(registry)
    Metrics(registry).looked_up(Timings(embed_ms=250.0))
    assert sample("hyperplug_stage_seconds_sum", stage="embed") == 0.25
    assert sample("hyperplug_stage_seconds_count", stage="generate") == 0


def test_an_error_is_counted_by_its_nearest_known_class() -> None:
    class Stranger(NovelTaskError):
        """A class that no label names."""

    assert error_kind(Stranger("x")) == "NovelTaskError"
    assert error_kind(BusyError("x")) == "BusyError"
    assert error_kind(RuntimeError("x")) == "unexpected"


def test_names_follow_prometheus_rules() -> None:
    for spec in SPECS:
        assert spec.name.startswith("hyperplug_") and spec.help.endswith(".")
        assert spec.name.endswith("_total") == (spec.kind is Kind.COUNTER)
        assert bool(spec.buckets) == (spec.kind is Kind.HISTOGRAM)


def test_registering_again_takes_what_is_there() -> None:
    registry = client.CollectorRegistry()
    Metrics(registry).evicted()
    Metrics(registry).evicted()
    assert _reader(registry)("hyperplug_evictions_total") == 2


def test_several_processes_become_one_number(tmp_path: Path) -> None:
    program = (
        "from hyperplug_vllm.metrics import metrics; "
        "m = metrics(); m.evicted(); m.live(3); m.lookup_began()"
    )
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    for _ in range(2):
        subprocess.run([sys.executable, "-c", program], env=environment, check=True)
    registry = client.CollectorRegistry()
    from prometheus_client.multiprocess import MultiProcessCollector

    MultiProcessCollector(registry, path=str(tmp_path))  # type: ignore[no-untyped-call]
    sample = _reader(registry)
    assert sample("hyperplug_evictions_total") == 2
    assert sample("hyperplug_live_adapters") == 6
    assert sample("hyperplug_lookups_in_flight") == 2


def test_decisions_stages_and_loads(serve: Any, since: Sample) -> None:
    async def check(server: Server) -> None:
        for _ in range(2):
            await server.ask(SENTIMENT)
        await server.ask(f"hyperplug:{FOREIGN}")
        await server.ask(BASE)

    serve(check)
    ended = "hyperplug_resolutions_total"
    assert since(ended, decision="exact", outcome="served") == 2
    assert since(ended, decision="base", outcome="served") == 1
    assert since("hyperplug_resolution_score_count", decision="exact") == 2
    assert since("hyperplug_resolution_score_sum", decision="exact") == 2
    assert since("hyperplug_stage_seconds_count", stage="load") == 1
    assert since("hyperplug_stage_seconds_count", stage="embed") == 1
    assert since("hyperplug_lookups_in_flight") == 0
    assert _reader(client.REGISTRY)("hyperplug_live_adapters") == 1


def test_what_is_passed_on_told_or_refused(serve: Any, since: Sample) -> None:
    async def check(server: Server) -> None:
        await server.ask("nosuch-task")
        await server.ask("hyperplug: ")
        await server.ask(f"{SENTIMENT}@00000000")
        await server.http.post("/v1/hyperplug/resolve", json={"text": SENTIMENT})
        await server.http.post("/v1/hyperplug/resolve", json={})

    serve(check)
    ended = "hyperplug_resolutions_total"
    assert since(ended, decision="none", outcome="passed") == 1
    assert since(ended, decision="none", outcome="refused") == 2
    assert since(ended, decision="exact", outcome="told") == 1
    errors = "hyperplug_errors_total"
    assert since(errors, kind="InvalidDescriptionError") == 1
    assert since(errors, kind="AdapterNotFoundError") == 1
    assert since(errors, kind="ConfigError") == 1


def test_a_failed_load_has_its_decision(serve: Any, since: Sample, warm_registry: Any) -> None:
    async def check(server: Server) -> None:
        server.client.fail.add(warm_registry.get_adapter(SENTIMENT).id)
        assert (await server.ask(SENTIMENT)).status_code == 500

    serve(check)
    assert since("hyperplug_resolutions_total", decision="exact", outcome="refused") == 1
    assert since("hyperplug_errors_total", kind="LoadError") == 1
    assert since("hyperplug_stage_seconds_count", stage="load") == 0
    assert _reader(client.REGISTRY)("hyperplug_live_adapters") == 0


def test_evictions_and_requests_that_share_a_lookup(serve: Any, since: Sample) -> None:
    async def check(server: Server) -> None:
        await asyncio.gather(*(server.ask(f"hyperplug:{SHARED}") for _ in range(3)))
        await server.ask(SENTIMENT)

    serve(check, max_cpu_loras=2)  # one of the two places is a static adapter's
    assert since("hyperplug_evictions_total") == 1
    assert since("hyperplug_stage_seconds_count", stage="embed") == 1
    found = sum(
        since("hyperplug_resolutions_total", decision=decision.value, outcome="served")
        for decision in Decision
    )
    assert found == 4

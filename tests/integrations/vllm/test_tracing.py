"""Spans of resolutions, in the trace in which vLLM's own span stands."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from hyperplug_vllm.logline import Ended
from hyperplug_vllm.lookups import Found
from hyperplug_vllm.metrics import Outcome
from hyperplug_vllm.tracing import Clock, laid_out, record

from hyperplug.registry import Registry
from tests.integrations.vllm.conftest import FOREIGN, SENTIMENT
from tests.integrations.vllm.engine import BASE
from tests.integrations.vllm.front import Server
from tests.integrations.vllm.test_logline import RESOLUTION, SECRET

pytest.importorskip("vllm")
trace = pytest.importorskip("opentelemetry.trace")
pytest.importorskip("opentelemetry.sdk.trace")

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
GIVEN = {"traceparent": f"00-{TRACE}-{SPAN}-01"}
MS = 1_000_000


@pytest.fixture(scope="module")
def exporter() -> Any:
    """Where the spans of this process go; OpenTelemetry lets that be set up only once."""
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    memory = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(memory))
    trace.set_tracer_provider(provider)
    return memory


@pytest.fixture
def spans(exporter: Any) -> Iterator[Any]:
    """Returns the spans of this test, by name."""

    def ended() -> dict[str, Any]:
        return {span.name: span for span in exporter.get_finished_spans()}

    exporter.clear()
    yield ended
    exporter.clear()


def _trace_id(span: Any) -> str:
    return f"{span.context.trace_id:032x}"


def test_a_request_with_a_trace_gets_spans_in_it(
    serve: Any, spans: Any, warm_registry: Registry
) -> None:
    async def check(server: Server) -> None:
        answered = await server.ask(SENTIMENT, headers=GIVEN)
        assert answered.json()["headers"]["traceparent"] == GIVEN["traceparent"]

    serve(check)
    whole, load = spans()["hyperplug.resolve"], spans()["hyperplug.load"]
    assert (_trace_id(whole), f"{whole.parent.span_id:016x}") == (TRACE, SPAN)
    assert (_trace_id(load), load.parent.span_id) == (TRACE, whole.context.span_id)
    assert whole.start_time <= load.start_time < load.end_time == whole.end_time
    own = warm_registry.get_adapter(SENTIMENT)
    assert whole.attributes["hyperplug.decision"] == "exact"
    assert whole.attributes["hyperplug.adapter"] == own.id


def test_a_request_without_one_gets_a_trace_that_vllm_joins(serve: Any, spans: Any) -> None:
    async def check(server: Server) -> None:
        answered = await server.ask(f"hyperplug:{FOREIGN}")
        headers.update(answered.json()["headers"])

    headers: dict[str, str] = {}
    serve(check)
    whole = spans()["hyperplug.resolve"]
    assert whole.parent is None
    expected = f"00-{_trace_id(whole)}-{whole.context.span_id:016x}-"
    assert headers["traceparent"].startswith(expected)
    from vllm.tracing import extract_trace_context  # what vLLM makes its own span from

    seen = trace.get_current_span(extract_trace_context(headers)).get_span_context()
    assert seen.trace_id == whole.context.trace_id
    assert "hyperplug.embed" in spans() and "hyperplug.load" not in spans()


def test_an_instrumented_server_is_the_parent(serve: Any, spans: Any) -> None:
    async def check(server: Server) -> None:
        with trace.get_tracer("server").start_as_current_span("POST"):
            await server.ask(SENTIMENT)

    serve(check)
    assert spans()["hyperplug.resolve"].parent.span_id == spans()["POST"].context.span_id


def test_the_base_model_and_unknown_names_are_left_alone(serve: Any, spans: Any) -> None:
    async def check(server: Server) -> None:
        assert "traceparent" not in (await server.ask(BASE)).json()["headers"]

    serve(check)
    assert spans() == {}


def test_a_refusal_is_an_error_without_its_message(serve: Any, spans: Any) -> None:
    async def check(server: Server) -> None:
        await server.ask(f"{SECRET}@00000000", headers=GIVEN)

    serve(check)
    span = spans()["hyperplug.resolve"]
    assert span.status.status_code is trace.StatusCode.ERROR
    assert span.status.description is None
    assert span.attributes["hyperplug.error"] == "AdapterNotFoundError"
    assert SECRET not in span.to_json()


def test_no_text_and_no_name_in_a_span(spans: Any) -> None:
    ended = Ended(outcome=Outcome.SERVED, found=Found(resolution=RESOLUTION), load_ms=1.0)
    link = record(ended, Clock(began=0, decided=20 * MS, ended=21 * MS), headers=())
    assert link.trace_id == _trace_id(spans()["hyperplug.resolve"])
    assert set(spans()) == {f"hyperplug.{name}" for name in ("resolve", "embed", "find", "load")}
    assert not [span for span in spans().values() if SECRET in span.to_json()]


def test_stages_follow_each_other_within_the_whole() -> None:
    clock = Clock(began=100 * MS, decided=160 * MS, ended=175 * MS)
    stages = {"embed": 20.0, "find": 5.0, "generate": 0.0, "publish": 15.0, "load": 10.0}
    found = laid_out(stages, clock)
    assert found == {
        "embed": (120 * MS, 140 * MS),
        "find": (140 * MS, 145 * MS),
        "publish": (145 * MS, 160 * MS),
        "load": (165 * MS, 175 * MS),
    }
    shared = laid_out({**stages, "embed": 500.0}, clock)  # begun by an earlier request
    assert min(began for began, _ in shared.values()) == clock.began
    ordered = sorted(shared.values())
    assert all(one[1] <= two[0] for one, two in pairwise(ordered))


PLAIN = """
import sys
{before}
from hyperplug_vllm.logline import Ended
from hyperplug_vllm.metrics import Outcome
from hyperplug_vllm.tracing import Clock, Link, record
clock = Clock(began=0, decided=1, ended=2)
given = {given}
assert record(Ended(outcome=Outcome.SERVED), clock, headers=given) == Link()
"""


@pytest.mark.parametrize("given", [[], [(b"traceparent", GIVEN["traceparent"].encode())]])
@pytest.mark.parametrize("before", ["", "sys.modules['opentelemetry'] = None"])
def test_nothing_happens_without_tracing(before: str, given: list[tuple[bytes, bytes]]) -> None:
    """Neither where nothing is set up nor where OpenTelemetry is not installed."""
    program = PLAIN.format(before=before, given=given)
    subprocess.run([sys.executable, "-c", program], check=True)

"""A resolution as a span of the request's trace, with a child for each of its stages.

vLLM reads `traceparent` from a request's headers, and makes its own span when the answer is done.
A request that comes without one is given ours, so that both stand in one trace. Whether spans are
exported, and where to, is set up for vLLM (`--otlp-traces-endpoint`): without that, or without
OpenTelemetry, nothing happens here.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hyperplug_vllm.asgi import Headers
from hyperplug_vllm.logline import Ended, facts_of
from hyperplug_vllm.metrics import Outcome

if TYPE_CHECKING:
    from opentelemetry.context import Context

_TRACER = "hyperplug"
_HEADERS = ("traceparent", "tracestate")
_NS_IN_MS = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """When a resolution began, had its decision, and ended, in nanoseconds since 1970."""

    began: int
    decided: int
    ended: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """What ties others to a span of ours.

    Attributes:
        trace_id: 32 hexadecimal digits; None if nothing is recorded.
        headers: for vLLM, if the request brought none.
    """

    trace_id: str | None = None
    headers: Headers = ()


def record(ended: Ended, clock: Clock, *, headers: Headers) -> Link:
    """Records a resolution's span and those of its stages; returns what ties vLLM's to it.

    Args:
        headers: the request's.
    """
    if not _installed():
        return Link()
    from opentelemetry import trace
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    given = _trace_headers(headers)
    tracer = trace.get_tracer(_TRACER)
    span = tracer.start_span("hyperplug.resolve", context=_parent(given), start_time=clock.began)
    context = trace.set_span_in_context(span)
    trace_id = None
    if span.is_recording():
        trace_id = f"{span.get_span_context().trace_id:032x}"
        for key, value in facts_of(ended).items():
            span.set_attribute(f"hyperplug.{key}", value)
        for stage, (began, done) in laid_out(ended.stages, clock).items():
            child = tracer.start_span(f"hyperplug.{stage}", context=context, start_time=began)
            child.end(done)
        if ended.outcome is Outcome.REFUSED:
            span.set_status(trace.StatusCode.ERROR)  # no message: it may quote the request
    span.end(clock.ended)
    own: dict[str, str] = {}
    if "traceparent" not in given:  # where there is no trace, this adds nothing
        TraceContextTextMapPropagator().inject(own, context=context)
    return Link(
        trace_id=trace_id,
        headers=tuple((name.encode(), value.encode()) for name, value in own.items()),
    )


def laid_out(stages: Mapping[str, float], clock: Clock) -> dict[str, tuple[int, int]]:
    """Returns when each stage that was needed began and ended.

    Only their lengths are measured. They follow each other without a gap: loading ends with the
    resolution, the others with the decision; what is before them is waiting for a thread.
    """
    ends = clock.decided
    found: dict[str, tuple[int, int]] = {}
    for stage, milliseconds in reversed(list(stages.items())):
        length = round(milliseconds * _NS_IN_MS)
        if not length:
            continue
        last = clock.ended if stage == "load" else ends
        first = max(clock.began, last - length)
        found[stage] = (first, last)
        if stage != "load":
            ends = first
    return found


@functools.cache
def _installed() -> bool:
    try:
        import opentelemetry.trace.propagation.tracecontext  # noqa: F401
    except ImportError:
        return False
    return True


def _trace_headers(headers: Headers) -> dict[str, str]:
    named = ((name.decode("latin-1").lower(), value) for name, value in headers)
    return {name: value.decode("latin-1") for name, value in named if name in _HEADERS}


def _parent(given: Mapping[str, str]) -> Context | None:
    """Returns what our span belongs to: the span of an instrumented server, or the client's."""
    from opentelemetry import trace
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    if trace.get_current_span().get_span_context().is_valid:
        return None  # the current context
    return TraceContextTextMapPropagator().extract(given)

"""A resolution that has ended, and its one line in the log. No I/O.

What a request says never gets into that line, nor the names of tasks and adapters: those made from
a description hold its first words.
"""

from __future__ import annotations

from dataclasses import dataclass

from hyperplug.entities import Timings
from hyperplug.errors import HyperplugError
from hyperplug_vllm.answers import failure
from hyperplug_vllm.lookups import Found
from hyperplug_vllm.metrics import Degraded, Outcome, error_kind, stages_of
from hyperplug_vllm.targets import TargetKind

_UNEXPECTED_STATUS = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A resolution that has ended.

    Attributes:
        found: what was decided; None if it ended before that.
        named_by: how the request named its task; None if that made no sense.
        total_ms: all of it, waiting included.
        error: what ended it, unless it was answered.
        request_id: by which vLLM knows the request; None if that may not be logged.
        namespace: the tenant who asked; None where there is only one.
        trace_id: the trace that it is a span of; None if it is none.
    """

    outcome: Outcome
    found: Found | None = None
    named_by: TargetKind | None = None
    load_ms: float = 0.0
    total_ms: float = 0.0
    error: BaseException | None = None
    request_id: str | None = None
    namespace: str | None = None
    trace_id: str | None = None

    @property
    def stages(self) -> dict[str, float]:
        """The milliseconds of each stage, 0 where it was not needed."""
        timings = self.found.resolution.timings if self.found is not None else Timings()
        return stages_of(timings, load_ms=self.load_ms)

    @property
    def degraded(self) -> tuple[Degraded, ...]:
        """In which ways the answer is less than what was asked for."""
        if self.found is None or self.outcome is not Outcome.SERVED:
            return ()
        withheld = bool(self.found.resolution.reason)
        causes = {Degraded.STALE: self.found.stale, Degraded.WITHHELD: withheld}
        return tuple(cause for cause, holds in causes.items() if holds)


def facts_of(ended: Ended) -> dict[str, str | int | float]:
    """Returns what may be told of a resolution: nothing in it comes from a request's text."""
    facts: dict[str, str | int | float] = {"outcome": ended.outcome.value}
    if ended.found is not None:
        resolution = ended.found.resolution
        facts["decision"] = resolution.decision.value
        facts["score"] = round(resolution.score, 4)
        if resolution.adapter is not None:
            facts["adapter"] = resolution.adapter.id
            facts["digest"] = resolution.adapter.digest[:8]
    if ended.named_by is not None:
        facts["named_by"] = ended.named_by.value
    if ended.degraded:
        facts["degraded"] = ",".join(ended.degraded)
    if ended.outcome is Outcome.REFUSED and ended.error is not None:
        told = failure(ended.error) if isinstance(ended.error, HyperplugError) else None
        facts["status"] = told.status if told is not None else _UNEXPECTED_STATUS
        facts["error"] = error_kind(ended.error)
    return facts


def line(ended: Ended) -> str:
    """Returns the line: `key=value` after the word "resolution", values without spaces."""
    fields = {key: _shown(value) for key, value in facts_of(ended).items()}
    times = {**ended.stages, "total": ended.total_ms}
    fields |= {f"{stage}_ms": f"{milliseconds:.1f}" for stage, milliseconds in times.items()}
    whose = {
        "namespace": ended.namespace,
        "request": ended.request_id,
        "trace": ended.trace_id,
    }
    fields |= {key: value for key, value in whose.items() if value is not None}
    return " ".join(("resolution", *(f"{key}={value}" for key, value in fields.items())))


def _shown(value: str | int | float) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)

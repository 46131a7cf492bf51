"""Prometheus metrics on vLLM's own `/metrics`. Every label comes from a closed set.

vLLM's process chooses between its registry and files shared by several processes
(`PROMETHEUS_MULTIPROC_DIR`); metrics in prometheus_client's default registry follow it.
"""

from __future__ import annotations

import functools
import itertools
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from hyperplug import errors
from hyperplug.entities import Decision, Timings
from hyperplug.errors import HyperplugError
from hyperplug_vllm.answers import BusyError, LoadError, QuotaError
from hyperplug_vllm.compat import LOGGER_NAME

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

_log = logging.getLogger(LOGGER_NAME)


class Kind(StrEnum):
    """The types of metric that are used here."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Outcome(StrEnum):
    """How the resolution of a request ended."""

    SERVED = "served"
    """It went on to vLLM, with an adapter or for the base model."""
    TOLD = "told"
    """It was the answer itself, of /v1/hyperplug/resolve or warm-up."""
    PASSED = "passed"
    """The name is no task; the request was left to vLLM as it came."""
    REFUSED = "refused"
    """The client got an error."""
    LEFT = "left"
    """The client was gone before it was done."""


class Degraded(StrEnum):
    """Why an answer is less than what was asked for."""

    STALE = "stale"
    """The registry was out of reach: what it last said was served."""
    WITHHELD = "withheld"
    """The base answered for a task whose adapter harms on its own examples."""


UNEXPECTED = "unexpected"
_NONE = "none"
_DECISIONS = tuple(decision.value for decision in Decision)
STAGES = ("embed", "find", "generate", "publish", "load")
_KINDS = tuple(
    sorted(
        {
            each.__name__
            for each in (*vars(errors).values(), BusyError, LoadError, QuotaError)
            if isinstance(each, type) and issubclass(each, HyperplugError)
        }
    )
)
_SCORES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98, 0.9999)
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """One metric.

    Attributes:
        name: as queries know it, without a histogram's `_bucket`, `_sum` and `_count`.
        labels: each label with all values that it can have.
        mode: how a gauge of several processes becomes one number.
    """

    name: str
    kind: Kind
    help: str
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    buckets: tuple[float, ...] = ()
    mode: str = "all"

    @property
    def samples(self) -> tuple[str, ...]:
        """The names of the series that it exports."""
        if self.kind is Kind.HISTOGRAM:
            return tuple(f"{self.name}_{part}" for part in ("bucket", "sum", "count"))
        return (self.name,)


RESOLUTIONS = Spec(
    name="hyperplug_resolutions_total",
    kind=Kind.COUNTER,
    help="Resolutions of requests, by decision and by how they ended.",
    labels={
        "decision": (*_DECISIONS, _NONE),
        "outcome": tuple(outcome.value for outcome in Outcome),
    },
)
SCORE = Spec(
    name="hyperplug_resolution_score",
    kind=Kind.HISTOGRAM,
    help="Cosine similarity of resolutions to the task served, or to the nearest one.",
    labels={"decision": _DECISIONS},
    buckets=_SCORES,
)
STAGE_SECONDS = Spec(
    name="hyperplug_stage_seconds",
    kind=Kind.HISTOGRAM,
    help="Seconds that a stage took, each time it was needed.",
    labels={"stage": STAGES},
    buckets=_SECONDS,
)
LIVE_ADAPTERS = Spec(
    name="hyperplug_live_adapters",
    kind=Kind.GAUGE,
    help="Adapters that are loaded or about to be.",
    mode="livesum",
)
LOOKUPS_IN_FLIGHT = Spec(
    name="hyperplug_lookups_in_flight",
    kind=Kind.GAUGE,
    help="Lookups under way or waiting; requests for the same text share one.",
    mode="livesum",
)
EVICTIONS = Spec(
    name="hyperplug_evictions_total",
    kind=Kind.COUNTER,
    help="Adapters unloaded to make room for others.",
)
DEGRADED = Spec(
    name="hyperplug_degraded_answers_total",
    kind=Kind.COUNTER,
    help="Requests served with less than what they asked for.",
    labels={"cause": tuple(cause.value for cause in Degraded)},
)
ERRORS = Spec(
    name="hyperplug_errors_total",
    kind=Kind.COUNTER,
    help="Errors told to clients, by class.",
    labels={"kind": (*_KINDS, UNEXPECTED)},
)
SPECS = (
    RESOLUTIONS,
    SCORE,
    STAGE_SECONDS,
    LIVE_ADAPTERS,
    LOOKUPS_IN_FLIGHT,
    EVICTIONS,
    DEGRADED,
    ERRORS,
)


class Metrics:
    """The metrics in one registry; they do nothing without prometheus_client."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self._instruments = {spec.name: _instrument(spec, registry) for spec in SPECS}

    def resolved(self, decision: Decision | None, outcome: Outcome, *, score: float = 0.0) -> None:
        """Counts a resolution; `decision` is None if it ended before there was one."""
        labels = {"decision": decision.value if decision else _NONE, "outcome": outcome.value}
        self._instruments[RESOLUTIONS.name].labels(**labels).inc()
        if decision is not None:
            self._instruments[SCORE.name].labels(decision=decision.value).observe(score)

    def looked_up(self, timings: Timings) -> None:
        """Notes how long the stages of one lookup took, those that were needed."""
        for stage, milliseconds in stages_of(timings).items():
            if milliseconds > 0:
                self._stage(stage, milliseconds / 1000)

    def loaded(self, seconds: float) -> None:
        """Notes how long vLLM took to load an adapter."""
        self._stage("load", seconds)

    def live(self, count: int) -> None:
        """Says how many adapters this process holds."""
        self._instruments[LIVE_ADAPTERS.name].set(count)

    def lookup_began(self) -> None:
        """Counts a lookup in, from the moment that it waits for a thread."""
        self._instruments[LOOKUPS_IN_FLIGHT.name].inc()

    def lookup_ended(self) -> None:
        """Counts a lookup out."""
        self._instruments[LOOKUPS_IN_FLIGHT.name].dec()

    def evicted(self) -> None:
        """Counts an adapter that made room for another."""
        self._instruments[EVICTIONS.name].inc()

    def degraded(self, cause: Degraded) -> None:
        """Counts a request that got less than it asked for."""
        self._instruments[DEGRADED.name].labels(cause=cause.value).inc()

    def failed(self, error: Exception) -> None:
        """Counts an error that a client is told about."""
        self._instruments[ERRORS.name].labels(kind=error_kind(error)).inc()

    def _stage(self, stage: str, seconds: float) -> None:
        self._instruments[STAGE_SECONDS.name].labels(stage=stage).observe(seconds)


@functools.cache
def metrics() -> Metrics:
    """Returns the metrics of this process, registered at the first call."""
    return Metrics()


def stages_of(timings: Timings, *, load_ms: float = 0.0) -> dict[str, float]:
    """Returns the milliseconds of each stage, in the order in which they follow each other."""
    return {
        "embed": timings.embed_ms,
        "find": timings.lookup_ms,
        "generate": timings.generate_ms,
        "publish": timings.publish_ms,
        "load": load_ms,
    }


def error_kind(error: BaseException) -> str:
    """Returns the nearest class name that is a label: one of hyperplug's own, or "unexpected"."""
    names = (each.__name__ for each in type(error).__mro__)
    return next((name for name in names if name in _KINDS), UNEXPECTED)


class _Nothing:
    """Stands for a metric where there is none."""

    def labels(self, **_: str) -> _Nothing:
        return self

    def inc(self) -> None: ...

    def dec(self) -> None: ...

    def set(self, _: float) -> None: ...

    def observe(self, _: float) -> None: ...


def _instrument(spec: Spec, registry: CollectorRegistry | None) -> Any:
    """Returns prometheus_client's object for a metric, with every series at zero."""
    try:
        import prometheus_client as client
    except ImportError:
        return _Nothing()
    where = client.REGISTRY if registry is None else registry
    options: dict[str, Any] = {"labelnames": tuple(spec.labels), "registry": where}
    made: Any
    try:
        match spec.kind:
            case Kind.COUNTER:
                made = client.Counter(spec.name, spec.help, **options)
            case Kind.GAUGE:
                mode: Any = spec.mode
                made = client.Gauge(spec.name, spec.help, multiprocess_mode=mode, **options)
            case Kind.HISTOGRAM:
                made = client.Histogram(spec.name, spec.help, buckets=spec.buckets, **options)
    except ValueError:  # registered before: by this module under another name, or reloaded
        made = getattr(where, "_names_to_collectors", {}).get(spec.name)
        if made is None:
            _log.warning("the metric %s is missing: its name is taken", spec.name)
            return _Nothing()
    for values in itertools.product(*spec.labels.values()):
        if values:
            made.labels(*values)
    return made

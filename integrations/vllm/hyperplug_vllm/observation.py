"""What becomes of one resolution, and who is told of it."""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid
from dataclasses import replace
from types import TracebackType
from typing import Self

from hyperplug_vllm.asgi import Scope, header_values
from hyperplug_vllm.compat import LOGGER_NAME
from hyperplug_vllm.logline import Ended, line
from hyperplug_vllm.lookups import Found
from hyperplug_vllm.metrics import Metrics, Outcome, metrics
from hyperplug_vllm.targets import TargetKind
from hyperplug_vllm.tenants import NAMESPACE
from hyperplug_vllm.tracing import Clock, Link, record

_log = logging.getLogger(LOGGER_NAME)

# vLLM takes a request's id from here; a client may write anything into it.
_REQUEST_ID = b"x-request-id"
_HARMLESS = re.compile(rb"[A-Za-z0-9._:-]{1,64}")


class Observation:
    """A context manager around one resolution; its end is told once, however it ended.

    Attributes:
        outcome: how it ends, unless an exception ends it; None if it turns out to be none.
        named_by: how the request names its task.
        load_ms: what it took to load the adapter.
    """

    def __init__(self, scope: Scope, *, outcome: Outcome | None = Outcome.SERVED) -> None:
        self.outcome = outcome
        self.named_by: TargetKind | None = None
        self.load_ms = 0.0
        self._headers = scope["headers"]
        self._namespace: str | None = scope.get(NAMESPACE)
        self._given_ids = header_values(scope, _REQUEST_ID)
        self._request_id = _loggable(self._given_ids)
        self._found: Found | None = None
        self._link = Link()
        self._began = self._decided = 0.0

    def found(self, found: Found) -> None:
        """Says what was decided; it may still fail to load."""
        self._found = found
        self._decided = time.perf_counter()

    def linked(self, scope: Scope) -> Scope:
        """Returns a copy of `scope` by which vLLM's own lines can be told to belong to ours."""
        own = list(self._link.headers)
        if not self._given_ids and self._request_id is not None:
            own.append((_REQUEST_ID, self._request_id.encode()))
        return {**scope, "headers": [*scope["headers"], *own]}

    def __enter__(self) -> Self:
        """Begins."""
        self._began = time.perf_counter()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Ends, and tells of it."""
        outcome = self.outcome if error is None else _outcome_of(error)
        if outcome is None:
            return
        ended = Ended(
            outcome=outcome,
            found=self._found,
            named_by=self.named_by,
            load_ms=self.load_ms,
            total_ms=(time.perf_counter() - self._began) * 1000,
            error=error,
            request_id=self._request_id,
            namespace=self._namespace,
        )
        self._link = record(ended, self._clock(), headers=self._headers)
        ended = replace(ended, trace_id=self._link.trace_id)
        _count(metrics(), ended)
        if _log.isEnabledFor(logging.INFO):
            _log.info("%s", line(ended))

    def _clock(self) -> Clock:
        """Returns the times of an observation that ends now."""
        now, ended = time.perf_counter(), time.time_ns()
        decided = self._decided or now
        return Clock(
            began=ended - round((now - self._began) * 1e9),
            decided=ended - round((now - decided) * 1e9),
            ended=ended,
        )


def _outcome_of(error: BaseException) -> Outcome:
    left = isinstance(error, (asyncio.CancelledError, GeneratorExit))
    return Outcome.LEFT if left else Outcome.REFUSED


def _loggable(given: list[bytes]) -> str | None:
    """Returns a request's id, a new one if it has none, or None if it could hold anything."""
    if not given:
        return uuid.uuid4().hex
    return given[0].decode("ascii") if _HARMLESS.fullmatch(given[0]) else None


def _count(counters: Metrics, ended: Ended) -> None:
    if ended.found is None:
        counters.resolved(None, ended.outcome)
        return
    resolution = ended.found.resolution
    counters.resolved(resolution.decision, ended.outcome, score=resolution.score)
    for cause in ended.degraded:
        counters.degraded(cause)

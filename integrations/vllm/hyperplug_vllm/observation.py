"""What becomes of one resolution, and who is told of it."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

from hyperplug.entities import Resolution
from hyperplug_vllm.lookups import Found
from hyperplug_vllm.metrics import Degraded, Metrics, Outcome, metrics


class Observation:
    """A context manager around one resolution; its end is told once, however it ended.

    Attributes:
        outcome: how it ends, unless an exception ends it; None if it turns out to be none.
    """

    def __init__(self, *, outcome: Outcome | None = Outcome.SERVED) -> None:
        self.outcome = outcome
        self._found: Found | None = None

    def found(self, found: Found) -> None:
        """Says what was decided; it may still fail to load."""
        self._found = found

    def __enter__(self) -> Self:
        """Begins."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Ends, and tells of it."""
        outcome = self.outcome if error is None else _outcome_of(error)
        if outcome is not None:
            _count(metrics(), outcome, self._found)


def _outcome_of(error: BaseException) -> Outcome:
    left = isinstance(error, (asyncio.CancelledError, GeneratorExit))
    return Outcome.LEFT if left else Outcome.REFUSED


def _count(counters: Metrics, outcome: Outcome, found: Found | None) -> None:
    if found is None:
        counters.resolved(None, outcome)
        return
    resolution = found.resolution
    counters.resolved(resolution.decision, outcome, score=resolution.score)
    if outcome is Outcome.SERVED:
        for cause in degraded(resolution, stale=found.stale):
            counters.degraded(cause)


def degraded(resolution: Resolution, *, stale: bool) -> list[Degraded]:
    """Returns in which ways an answer is less than what was asked for."""
    causes = {Degraded.STALE: stale, Degraded.WITHHELD: bool(resolution.reason)}
    return [cause for cause, holds in causes.items() if holds]

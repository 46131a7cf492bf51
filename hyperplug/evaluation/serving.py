"""What a registry of the training tasks would serve: the lookup policy, without a store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hyperplug.embedding import Embedder
from hyperplug.entities import Decision, OnNovel
from hyperplug.hypernet.data import CorpusTask
from hyperplug.hypernet.generate import Generator
from hyperplug.naming import description_digest
from hyperplug.policy import decide


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A decision, and the description whose adapter serves it; None for the base model."""

    decision: Decision
    description: str | None


class ServingPolicy:
    """Decides as a registry does that holds the first description of every given task."""

    def __init__(
        self, tasks: Sequence[CorpusTask], *, generator: Generator, embedder: Embedder
    ) -> None:
        self._descriptions = [task.descriptions[0] for task in tasks]
        self._digests = {description_digest(text) for text in self._descriptions}
        self._vectors = embedder.embed(self._descriptions)  # (tasks, embedding)
        self._generator = generator
        self._embedder = embedder

    def serve(self, description: str) -> Served:
        """Returns what answers a request for that description."""
        if description_digest(description) in self._digests:
            return Served(decision=Decision.EXACT, description=description)
        vector = self._embedder.embed([description])[0]
        scores = self._vectors @ vector  # (tasks,)
        nearest = int(np.argmax(scores))
        decision = decide(
            nearest=float(scores[nearest]),
            support=self._generator.support(vector),
            thresholds=self._generator.thresholds,
            on_novel=OnNovel.GENERATE,
        )
        sources = {
            Decision.NEAREST: self._descriptions[nearest],
            Decision.NOVEL: description,
        }
        return Served(decision=decision, description=sources.get(decision))

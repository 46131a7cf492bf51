"""Adapters that are trained on a handful of a task's examples before it is asked anything."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch

from hyperplug.adapters.peft_format import unpack
from hyperplug.entities import AdapterWeights, Example, ModuleShape
from hyperplug.errors import ConfigError
from hyperplug.evaluation.answers import Answerer
from hyperplug.evaluation.arms import Source
from hyperplug.evaluation.finetuning import WeightTrainer
from hyperplug.hypernet.data import TokenSequence
from hyperplug.hypernet.frozen import FrozenBase
from hyperplug.hypernet.model import LoraBatch
from hyperplug.hypernet.refine import MIN_EXAMPLES, Refiner, RefineRecipe

# From the hypernetwork and from scratch: the better of two on validation tasks, as
# `benchmarks/refining.py` measures them. Those of the other starts were not compared.
LEARNING_RATES: Mapping[Source, float] = {
    Source.HYPERNET: 5e-4,
    Source.STATIC: 1e-3,
    Source.MAML: 1e-3,
    Source.REPTILE: 1e-3,
    Source.SCRATCH: 2e-3,
    Source.SEQUENTIAL: 1e-3,
    Source.WEIGHTS: 2e-5,
}
_RANK = 16
_STEP_TOKENS = 1_024  # of a step on all weights: ten times as dear as one on an adapter


class Tuner:
    """Refines adapters as `refine-adapter` does, and trains new ones as `train-adapter` does.

    A quarter of the examples is held back, and chooses the step.

    Args:
        modules: what `frozen` adapts, in its order.
        copy: loads the base model once more, for `tune_weights`.
    """

    def __init__(
        self,
        frozen: FrozenBase,
        tokenizer: Any,
        modules: Mapping[str, ModuleShape],
        *,
        seed: int,
        learning_rates: Mapping[Source, float] = LEARNING_RATES,
        copy: Callable[[], FrozenBase] | None = None,
    ) -> None:
        self._refiner = Refiner(frozen, tokenizer, modules)
        self._tokenizer = tokenizer
        self._copy = copy
        self._modules = modules
        self._seed = seed
        self._learning_rates = learning_rates

    def tune(
        self,
        source: Source,
        start: Sequence[LoraBatch] | None,
        examples: Sequence[Example],
        *,
        steps: int,
    ) -> list[LoraBatch]:
        """Returns the best adapter on the way from `start`, or from nothing if that is None."""
        recipe = RefineRecipe(
            steps=steps, learning_rate=self._learning_rates[source], seed=self._seed
        )
        if start is None:
            if len(examples) < MIN_EXAMPLES:
                return self._nothing()
            refined = self._refiner.train(_RANK, examples, recipe=recipe)
            return self._nothing() if refined.weights is None else self._loras(refined.weights)
        if len(examples) < MIN_EXAMPLES:
            return list(start)
        refined = self._refiner.refine_loras(start, examples, recipe=recipe)
        return list(start) if refined.weights is None else self._loras(refined.weights)

    def tune_weights(self, tasks: Iterable[Sequence[Example]], *, steps: int) -> Answerer:
        """Returns a copy of the base model, all weights trained on one task after another."""
        if self._copy is None:
            raise ConfigError("the base model cannot be trained", hint="leave that arm out")
        model = self._copy()
        trainer = WeightTrainer(model)
        for examples in tasks:
            sequences = self._refiner.sequences(examples)
            if sequences:
                trainer.train(
                    _small_batches(sequences, seed=self._seed),
                    steps=steps,
                    learning_rate=self._learning_rates[Source.WEIGHTS],
                )
        return Answerer(model, self._tokenizer)

    def _nothing(self) -> list[LoraBatch]:
        return [
            LoraBatch(
                a=torch.zeros(1, _RANK, shape.in_features),
                b=torch.zeros(1, shape.out_features, _RANK),
            )
            for shape in self._modules.values()
        ]

    def _loras(self, weights: AdapterWeights) -> list[LoraBatch]:
        """Returns an adapter as it comes out of its file."""
        factors = unpack(weights.data)
        multiplier = weights.alpha / weights.rank
        return [
            LoraBatch(
                a=torch.from_numpy(factors[path][0])[None],
                b=torch.from_numpy(factors[path][1] * multiplier)[None],
            )
            for path in self._modules
        ]


def _small_batches(
    sequences: Sequence[TokenSequence], *, seed: int
) -> Iterator[list[TokenSequence]]:
    """Yields batches of as many sequences as fit a step, at least one, in ever new orders."""
    chosen = random.Random(seed)
    batch: list[TokenSequence] = []
    while True:
        for sequence in chosen.sample(list(sequences), len(sequences)):
            if batch and sum(map(len, batch)) + len(sequence) > _STEP_TOKENS:
                yield batch
                batch = []
            batch.append(sequence)
        yield batch
        batch = []

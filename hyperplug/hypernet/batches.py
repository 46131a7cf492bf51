"""Batches for training: which tasks and examples a step sees. A function of seed and step."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hyperplug.errors import ConfigError
from hyperplug.hypernet.data import IGNORE, TokenSequence
from hyperplug.hypernet.encoding import MAX_EXAMPLES, EncodedDescription, EncodedExamples

_LENGTH_STEP = 48
_REPLAY_SHARE = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedTask:
    """A task ready for training.

    Attributes:
        examples: some of its examples: the hypernetwork's input, never the same examples
            as the step's targets.
        conditioning: how many leading sequences those are.
    """

    id: str
    family: str
    descriptions: tuple[EncodedDescription, ...]
    examples: EncodedExamples
    conditioning: int
    sequences: tuple[TokenSequence, ...]


def few_sequences(task: PreparedTask, count: int) -> PreparedTask:
    """Returns the task with so many sequences to train on at most."""
    return replace(task, sequences=task.sequences[: task.conditioning + count])


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What one step trains on: T tasks, and for each the same number of sequences.

    Attributes:
        descriptions: None where the task is to be read from its examples alone.
        keep: 0 where the generated part is dropped, to train the static part alone, (T,).
        length: no sequence has more tokens, unless its task has only longer ones.
    """

    descriptions: tuple[EncodedDescription | None, ...]
    examples: tuple[EncodedExamples, ...]
    keep: Tensor
    sequences: tuple[TokenSequence, ...]
    length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """Probabilities and sizes of a step."""

    tasks: int = 16
    sequences: int = 2
    static_only: float = 0.15
    with_examples: float = 0.25
    examples_only: float = 0.08


class Sampler:
    """Draws steps. Tasks of a step have similar lengths, so that little is padding."""

    def __init__(self, tasks: Sequence[PreparedTask], *, sampling: Sampling, seed: int) -> None:
        self._sampling = sampling
        self._seed = seed
        self._buckets: dict[int, list[PreparedTask]] = {}
        for task in tasks:
            lengths = sorted(len(sequence) for sequence in task.sequences[task.conditioning :])
            bucket = padded_length(lengths[len(lengths) // 2])
            self._buckets.setdefault(bucket, []).append(task)
        self._merge_small(sampling.tasks)

    def step(self, number: int) -> Step:
        """Returns the step of that number; the same for the same seed."""
        rng = random.Random(f"{self._seed}/{number}")
        buckets = sorted(self._buckets)
        weights = [len(self._buckets[bucket]) for bucket in buckets]
        bucket = rng.choices(buckets, weights)[0]
        pool = self._buckets[bucket]
        count = self._sampling.tasks
        tasks = rng.sample(pool, count) if len(pool) >= count else rng.choices(pool, k=count)
        drawn = [self._conditioning(rng, task) for task in tasks]
        sequences: list[TokenSequence] = []
        for task in tasks:
            targets = task.sequences[task.conditioning :]
            fitting = [s for s in targets if len(s) <= bucket] or list(targets)
            sequences += rng.choices(fitting, k=self._sampling.sequences)
        keep = [0.0 if rng.random() < self._sampling.static_only else 1.0 for _ in tasks]
        return Step(
            descriptions=tuple(description for description, _ in drawn),
            examples=tuple(examples for _, examples in drawn),
            keep=torch.tensor(keep),
            sequences=tuple(sequences),
            length=bucket,
        )

    def _conditioning(
        self, rng: random.Random, task: PreparedTask
    ) -> tuple[EncodedDescription | None, EncodedExamples]:
        description = rng.choice(task.descriptions)
        none = task.examples.take(())
        if len(task.examples) == 0 or rng.random() >= self._sampling.with_examples:
            return description, none
        count = rng.randint(1, min(MAX_EXAMPLES, len(task.examples)))
        rows = task.examples.take(rng.sample(range(len(task.examples)), count))
        alone = rng.random() < self._sampling.examples_only / self._sampling.with_examples
        return (None if alone else description), rows

    def _merge_small(self, minimum: int) -> None:
        """Merges a bucket with fewer tasks than a step holds into the next longer one."""
        for bucket in sorted(self._buckets):
            longer = [other for other in sorted(self._buckets) if other > bucket]
            if longer and len(self._buckets[bucket]) < minimum:
                self._buckets[longer[0]] += self._buckets.pop(bucket)


class ReplaySampler:
    """Draws steps of which a part is known tasks, trained on again."""

    def __init__(self, new: Sampler, known: Sampler) -> None:
        self._new = new
        self._known = known

    def step(self, number: int) -> Step:
        """Returns the step of that number; the same for the same seed."""
        new, known = self._new.step(number), self._known.step(number)
        return Step(
            descriptions=new.descriptions + known.descriptions,
            examples=new.examples + known.examples,
            keep=torch.cat([new.keep, known.keep]),
            sequences=new.sequences + known.sequences,
            length=max(new.length, known.length),
        )


def make_sampler(
    tasks: Sequence[PreparedTask],
    *,
    replayed: Sequence[PreparedTask] = (),
    sampling: Sampling,
    seed: int,
) -> Sampler | ReplaySampler:
    """Returns what draws the steps of a run.

    Args:
        replayed: known tasks, which get a share of every step's places.

    Raises:
        ConfigError: if a step has no place for both.
    """
    if not replayed:
        return Sampler(tasks, sampling=sampling, seed=seed)
    places = max(1, round(_REPLAY_SHARE * sampling.tasks))
    if places == sampling.tasks:
        raise ConfigError("a step of one task has no place for replay", hint="--tasks-per-step 2")
    return ReplaySampler(
        Sampler(tasks, sampling=replace(sampling, tasks=sampling.tasks - places), seed=seed),
        Sampler(replayed, sampling=replace(sampling, tasks=places), seed=seed + 1),
    )


def padded_length(size: int) -> int:
    """Returns the length that a sequence is padded to: one of few, as each is compiled anew."""
    return math.ceil(size / _LENGTH_STEP) * _LENGTH_STEP


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenBatch:
    """Right-padded sequences and which positions predict an answer token.

    Attributes:
        token_ids: (rows, length).
        targets: next-token ids, `IGNORE` elsewhere, (rows, length).
    """

    token_ids: Tensor
    targets: Tensor


def pad(sequences: Sequence[TokenSequence], *, length: int | None = None) -> TokenBatch:
    """Returns the sequences as one batch; the answer's tokens are the targets.

    Args:
        length: pad to at least so many tokens.
    """
    length = max(length or 0, *(len(sequence) for sequence in sequences))
    token_ids = torch.zeros(len(sequences), length, dtype=torch.long)
    targets = torch.full((len(sequences), length), IGNORE, dtype=torch.long)
    for row, sequence in enumerate(sequences):
        ids = sequence.prompt + sequence.answer
        token_ids[row, : len(ids)] = torch.tensor(ids)
        start = len(sequence.prompt) - 1
        targets[row, start : len(ids) - 1] = torch.tensor(sequence.answer)
    return TokenBatch(token_ids=token_ids, targets=targets)

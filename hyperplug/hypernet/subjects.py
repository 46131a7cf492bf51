"""Held-out tasks and their neighbours: what calibration measures on."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hyperplug.embedding import Embedder
from hyperplug.errors import ConfigError
from hyperplug.hypernet.data import CorpusTask, TokenSequence, tokenise
from hyperplug.naming import description_digest

# Near neighbours decide; the far ones show how the risk grows.
_RANKS = (1, 2, 3, 5, 10, 30, 100, 300)
_WORDINGS = 4
MIN_EXAMPLES = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationOptions:
    """What to measure on, and what is tolerated.

    Attributes:
        tasks: held-out tasks.
        train_tasks: what the hypernetwork was trained on; neighbours come from both.
        limit_tasks: measure on so many of the held-out tasks only.
        limit_examples: examples of a task.
        max_tokens: leave out longer examples; likewise `max_answer_tokens`.
        margin: a neighbour's adapter is worse if its loss is higher by more, nats a token.
        near_risk: share of worse neighbours that NEAREST may bring.
        harm_risk: chance of harm up to which an adapter is generated.
    """

    tasks: Path
    train_tasks: Path
    limit_tasks: int | None = None
    limit_examples: int = 6
    max_tokens: int = 256
    max_answer_tokens: int = 64
    margin: float = 0.1
    near_risk: float = 0.1
    harm_risk: float = 0.5
    seed: int = 0
    device: str = "auto"
    dtype: str = "auto"


def check_options(options: CalibrationOptions) -> None:
    """Raises ConfigError for an option that makes no sense."""
    for name in ("limit_tasks", "limit_examples", "max_tokens", "max_answer_tokens"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ConfigError(f"{name} is {value}", hint="give 1 or more")
    for name in ("near_risk", "harm_risk"):
        value = getattr(options, name)
        if not 0 < value < 1:
            raise ConfigError(f"{name} is {value}", hint="give a share between 0 and 1")
    if options.margin < 0:
        raise ConfigError(f"margin is {options.margin}", hint="give 0 or more nats a token")


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """A description, and whose it is."""

    owner: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A held-out task with what is measured on it.

    Attributes:
        wordings: its own descriptions, the preferred one first.
        neighbours: descriptions of other tasks.
    """

    task: CorpusTask
    sequences: tuple[TokenSequence, ...]
    wordings: tuple[Text, ...]
    neighbours: tuple[Text, ...]


def choose_subjects(
    held_out: Sequence[CorpusTask],
    known: Sequence[CorpusTask],
    tokenizer: Any,
    embedder: Embedder,
    options: CalibrationOptions,
) -> Iterator[Subject]:
    """Yields the held-out tasks that have enough short examples, with their neighbours.

    Args:
        known: further tasks among which neighbours are looked for.
    """
    pool = [Text(owner=task.id, text=task.descriptions[0]) for task in (*held_out, *known)]
    vectors = embedder.embed([text.text for text in pool])  # (pool, embedding)
    for row, task in enumerate(held_out):
        found = tokenise(
            tokenizer,
            task,
            max_tokens=options.max_tokens,
            max_answer_tokens=options.max_answer_tokens,
        )
        if len(found) < MIN_EXAMPLES:
            continue
        rng = random.Random(f"{options.seed}/{task.id}")
        yield Subject(
            task=task,
            sequences=tuple(rng.sample(found, min(options.limit_examples, len(found)))),
            wordings=tuple(Text(owner=task.id, text=t) for t in task.descriptions[:_WORDINGS]),
            neighbours=tuple(_neighbours(pool, vectors, row)),
        )


def _neighbours(pool: Sequence[Text], vectors: NDArray[np.float32], row: int) -> Iterator[Text]:
    """Yields other tasks of the pool at several ranks, the nearest first."""
    own = pool[row]
    digest = description_digest(own.text)
    order = np.argsort(-(vectors @ vectors[row]), kind="stable")
    others = [
        pool[index]
        for index in order[: max(_RANKS) + len(_RANKS)]
        if pool[index].owner != own.owner and description_digest(pool[index].text) != digest
    ]
    for rank in _RANKS:
        if rank <= len(others):
            yield others[rank - 1]

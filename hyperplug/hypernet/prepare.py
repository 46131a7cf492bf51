"""From a corpus to what the trainer needs: chosen projections, tokens, encodings."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from hyperplug.embedding import Embedder
from hyperplug.entities import BaseModelSpec, Example
from hyperplug.errors import BaseModelError, TrainingError
from hyperplug.hypernet.batches import PreparedTask
from hyperplug.hypernet.data import CorpusTask, TokenSequence, tokenise
from hyperplug.hypernet.encoding import (
    encode_descriptions,
    encode_examples,
)
from hyperplug.hypernet.frozen import layer_index
from hyperplug.hypernet.words import Vocabulary

DEFAULT_MODULES = ("q_proj", "v_proj", "o_proj", "down_proj")
MAX_DESCRIPTIONS = 8
_WORDINGS_IN_PROMPT = 3
_TASKS_AT_ONCE = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Preparation:
    """Limits on what a prepared task holds.

    Attributes:
        in_prompt: share of the sequences that carry the description in the prompt.
        conditioning: how many examples a task sets aside for the hypernetwork to read.
        fewest: a task with fewer others is left out.
    """

    max_tokens: int
    max_answer_tokens: int
    examples_per_task: int
    in_prompt: float
    seed: int
    conditioning: int = 8
    fewest: int = 4


def choose_modules(
    base: BaseModelSpec, *, modules: Sequence[str] = DEFAULT_MODULES, top_layers: int | None = None
) -> tuple[str, ...]:
    """Returns the full paths of the projections to adapt, in model order.

    Args:
        modules: last parts of their names; if the base model has none of them (it names
            or fuses its projections otherwise), all its projections are taken.
        top_layers: how many of the last layers; None for all.

    Raises:
        BaseModelError: if the base model has no linear projection in numbered layers.
    """
    paths = list(base.module_shapes)
    chosen = [path for path in paths if path.rsplit(".", 1)[-1] in modules] or paths
    if not chosen:
        raise BaseModelError(
            f"base model {base.id} has no linear projections in numbered layers",
            hint="hyperplug adapts decoder-only transformers",
        )
    layers = 1 + max(layer_index(path) for path in chosen)
    first = 0 if top_layers is None else max(0, layers - top_layers)
    return tuple(path for path in chosen if layer_index(path) >= first)


def prepare_tasks(
    tasks: Sequence[CorpusTask],
    *,
    tokenizer: Any,
    embedder: Embedder,
    vocabulary: Vocabulary | None = None,
    limits: Preparation,
    progress: Callable[[int], None] = lambda _: None,
) -> list[PreparedTask]:
    """Returns the tasks that have enough short sequences, tokenised and encoded.

    Raises:
        TrainingError: if none has.
    """
    prepared: list[PreparedTask] = []
    for start in range(0, len(tasks), _TASKS_AT_ONCE):
        group = tasks[start : start + _TASKS_AT_ONCE]
        kept = _chosen_sequences(group, tokenizer=tokenizer, limits=limits)
        prepared += _encoded(kept, embedder=embedder, vocabulary=vocabulary)
        progress(len(group))
    if not prepared:
        raise TrainingError(
            f"none of the {len(tasks)} tasks has {limits.fewest} examples within "
            f"{limits.max_tokens} tokens",
            hint="raise --max-tokens or give tasks with shorter inputs",
        )
    return prepared


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kept:
    """A task with its sequences, and the examples set aside for the hypernetwork."""

    task: CorpusTask
    sequences: tuple[TokenSequence, ...]
    shown: tuple[Example, ...]

    @property
    def descriptions(self) -> tuple[str, ...]:
        return self.task.descriptions[:MAX_DESCRIPTIONS]


def _chosen_sequences(
    tasks: Sequence[CorpusTask], *, tokenizer: Any, limits: Preparation
) -> list[_Kept]:
    kept: list[_Kept] = []
    for task in tasks:
        rng = random.Random(f"{limits.seed}/{task.id}")
        sequences = _sequences(task, tokenizer, limits, rng)
        conditioning = min(limits.conditioning, len(sequences) // 2)
        if len(sequences) - conditioning < limits.fewest:
            continue
        shown = (task.examples[example_index(sequence)] for sequence in sequences[:conditioning])
        kept.append(_Kept(task=task, sequences=tuple(sequences), shown=tuple(shown)))
    return kept


def _encoded(
    kept: Sequence[_Kept], *, embedder: Embedder, vocabulary: Vocabulary | None
) -> list[PreparedTask]:
    """Encodes the texts of some tasks at once, which is far faster than one by one."""
    texts = [text for one in kept for text in one.descriptions]
    descriptions = iter(encode_descriptions(embedder, texts, vocabulary=vocabulary))
    shown = [example for one in kept for example in one.shown]
    examples, first = encode_examples(embedder, shown, vocabulary=vocabulary), 0
    prepared: list[PreparedTask] = []
    for one in kept:
        prepared.append(
            PreparedTask(
                id=one.task.id,
                family=one.task.family,
                descriptions=tuple(itertools.islice(descriptions, len(one.descriptions))),
                examples=examples.take(range(first, first + len(one.shown))),
                conditioning=len(one.shown),
                sequences=one.sequences,
            )
        )
        first += len(one.shown)
    return prepared


def _sequences(
    task: CorpusTask, tokenizer: Any, limits: Preparation, rng: random.Random
) -> list[TokenSequence]:
    sizes: dict[str, Any] = {
        "max_tokens": limits.max_tokens,
        "max_answer_tokens": limits.max_answer_tokens,
        "limit": limits.examples_per_task,
    }
    stripped = tokenise(tokenizer, task, **sizes)
    if limits.in_prompt == 0:
        return stripped
    wordings = rng.sample(task.descriptions, min(_WORDINGS_IN_PROMPT, len(task.descriptions)))
    told = {
        (number, example_index(sequence)): sequence
        for number, wording in enumerate(wordings)
        for sequence in tokenise(tokenizer, task, description=wording, **sizes)
    }
    chosen: list[TokenSequence] = []
    for index in range(min(len(task.examples), limits.examples_per_task)):
        fitting = [told[n, index] for n in range(len(wordings)) if (n, index) in told]
        if fitting and rng.random() < limits.in_prompt:
            chosen.append(rng.choice(fitting))
        elif limits.in_prompt < 1:
            chosen += [s for s in stripped if example_index(s) == index]
    return chosen


def example_index(sequence: TokenSequence) -> int:
    """Returns which of its task's examples a sequence is."""
    return int(sequence.key.rsplit("/", 1)[1].split("#")[0])

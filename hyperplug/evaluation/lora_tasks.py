"""Which tasks get a LoRA of their own, and which of their examples it may see."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hyperplug.embedding import Embedder
from hyperplug.errors import ConfigError, InvalidTaskFileError, TrainingError
from hyperplug.evaluation.selection import select_examples, select_tasks
from hyperplug.hypernet.data import (
    Corpus,
    CorpusTask,
    TokenSequence,
    family_groups,
    read_corpus,
    shippable,
    tokenise,
)
from hyperplug.hypernet.options import check_output
from hyperplug.hypernet.prepare import DEFAULT_MODULES
from hyperplug.hypernet.splits import split_file

_POSITIVE = (
    "neighbours",
    "limit_tasks",
    "hold_out",
    "rank",
    "scale",
    "steps",
    "sequences_per_task",
    "learning_rate",
    "max_tokens",
    "max_answer_tokens",
    "tasks_at_once",
)
_NOT_NEGATIVE = ("top_layers", "cache_gib")
# Early stopping looks at a fifth of a task's examples, 2 to 8; training needs some too.
_HELD_BACK_SHARE = 0.2
_HELD_BACK = (2, 8)
_MIN_SEQUENCES = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraOptions:
    """Which tasks to train LoRAs for, and how.

    Attributes:
        tasks: a file of task lines or a folder; of a folder with a file `train.jsonl` (or
            `.gz`) only that file.
        out: file of LoRAs to write; finished groups of tasks are kept beside it until all
            are done, and an interrupted run goes on from there.
        like: only the tasks whose descriptions are nearest to those of the tasks in that
            file (or the `test.jsonl` of that folder) ...
        neighbours: ... so many of each of them.
        limit_tasks: so many tasks at most, the ones that a benchmark with that limit and
            seed takes; with `like`, so many tasks of that file.
        per_family: one task of each family; with `like`, of that file's families.
        hold_out: never train on the examples that a benchmark with that limit and seed
            asks; None if it asks others.
        scale: multiplier of the LoRA, folded into B.
        sequences_per_task: how many examples of each task a step sees.
        tasks_at_once: how many LoRAs are trained side by side.
        cache_gib: at most so much of the lower layers' output is kept.
        compiled: "auto", "on" or "off": compile the base model.
    """

    tasks: Path
    out: Path
    like: Path | None = None
    neighbours: int = 3
    limit_tasks: int | None = None
    per_family: bool = False
    hold_out: int | None = None
    include_noncommercial: bool = False
    seed: int = 0
    rank: int = 16
    scale: float = 2.0
    steps: int = 60
    sequences_per_task: int = 4
    learning_rate: float = 2e-3
    max_tokens: int = 192
    max_answer_tokens: int = 48
    top_layers: int = 12
    modules: tuple[str, ...] = DEFAULT_MODULES
    tasks_at_once: int = 16
    cache_gib: float = 8.0
    compiled: str = "auto"
    device: str = "auto"
    dtype: str = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraTask:
    """A task ready for training.

    Attributes:
        embedding: unit vector of its first description, (embedding,).
        train: what its LoRA is trained on ...
        held_back: ... and what chooses the best step.
    """

    id: str
    family: str
    embedding: NDArray[np.float32]
    train: tuple[TokenSequence, ...]
    held_back: tuple[TokenSequence, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraTasks:
    """The tasks that get a LoRA, and what could not be used, for people."""

    tasks: tuple[LoraTask, ...]
    remarks: tuple[str, ...]


def check_lora_options(options: LoraOptions) -> None:
    """Raises ConfigError for an option that makes no sense or an output file out of reach."""
    for name in _POSITIVE:
        value = getattr(options, name)
        if value is not None and not value > 0:
            raise ConfigError(f"{name} is {value}", hint="give a number above 0")
    for name in _NOT_NEGATIVE:
        value = getattr(options, name)
        if not value >= 0:
            raise ConfigError(f"{name} is {value}", hint="give 0 or more")
    if options.compiled not in ("auto", "on", "off"):
        raise ConfigError(f"compiled is {options.compiled!r}", hint="give auto, on or off")
    check_output(options.out)


def choose_lora_tasks(options: LoraOptions, *, tokenizer: Any, embedder: Embedder) -> LoraTasks:
    """Returns the tasks to train, in the order of their ids.

    Raises:
        InvalidTaskFileError: if a path is missing, or holds no usable task or two of one id.
        TrainingError: if no task is left to train.
    """
    corpus = _read(split_file(options.tasks, "train") or options.tasks)
    usable = [t for t in corpus.tasks if options.include_noncommercial or shippable(t)]
    if not usable:
        raise TrainingError(
            f"none of the {len(corpus.tasks)} tasks in {options.tasks} may be trained on: "
            "their licences forbid commercial use",
            hint="give other tasks, or --include-noncommercial for LoRAs of your own",
        )
    remarks = [f"Skipped {line}" for line in corpus.skipped]
    if len(usable) < len(corpus.tasks):
        remarks.append(f"Left out {len(corpus.tasks) - len(usable)} tasks for their licence")
    desk = _Desk(options, tokenizer)
    if options.like is None:
        chosen = [task for task in _selected(usable, options) if desk.sequences(task)]
    else:
        like = _read(split_file(options.like, "test") or options.like)
        wanted = _selected(like.tasks, options)
        chosen = _nearest(wanted, usable, count=options.neighbours, desk=desk, embedder=embedder)
    if desk.too_few:
        remarks.append(f"Left out, for too few short examples: {', '.join(desk.too_few)}")
    if not chosen:
        raise TrainingError(
            f"no task has {_MIN_SEQUENCES} examples within {options.max_tokens} tokens to train on",
            hint="raise --max-tokens, lower --hold-out, or give tasks with more short examples",
        )
    return LoraTasks(tasks=_ready(chosen, desk, embedder), remarks=tuple(remarks))


def trainable_examples(task: CorpusTask, *, hold_out: int | None, seed: int) -> CorpusTask:
    """Returns the task without the examples that a benchmark of that limit and seed asks.

    Other examples with the same input as one of those are left out too.
    """
    if hold_out is None:
        return task
    asked = {e.input for e in select_examples(task, limit=hold_out, seed=seed).examples}
    return replace(task, examples=tuple(e for e in task.examples if e.input not in asked))


class _Desk:
    """Tokenises tasks, each once, and remembers which have too few examples."""

    def __init__(self, options: LoraOptions, tokenizer: Any) -> None:
        self._options = options
        self._tokenizer = tokenizer
        self._done: dict[str, list[TokenSequence]] = {}
        self.too_few: list[str] = []

    def sequences(self, task: CorpusTask) -> list[TokenSequence]:
        """Returns what may be trained on, in random order; nothing if it is too little."""
        if task.id not in self._done:
            self._done[task.id] = self._tokenised(task)
        return self._done[task.id]

    def _tokenised(self, task: CorpusTask) -> list[TokenSequence]:
        options = self._options
        allowed = trainable_examples(task, hold_out=options.hold_out, seed=options.seed)
        if not allowed.examples:
            self.too_few.append(task.id)
            return []
        found = tokenise(
            self._tokenizer,
            allowed,
            max_tokens=options.max_tokens,
            max_answer_tokens=options.max_answer_tokens,
        )
        if len(found) < _MIN_SEQUENCES:
            self.too_few.append(task.id)
            return []
        return random.Random(f"{options.seed}/{task.id}/held-back").sample(found, len(found))


def _read(path: Path) -> Corpus:
    corpus = read_corpus(path)
    twice = [id for id, count in Counter(task.id for task in corpus.tasks).items() if count > 1]
    if twice:
        raise InvalidTaskFileError(
            f"{path} has two tasks with the id {twice[0]!r}", hint="give each an id of its own"
        )
    return corpus


def _selected(tasks: Sequence[CorpusTask], options: LoraOptions) -> tuple[CorpusTask, ...]:
    """Returns the tasks within the limits, as a benchmark chooses them."""
    limits = [options.limit_tasks, len(family_groups(tasks)) if options.per_family else None]
    given = [limit for limit in limits if limit is not None]
    return select_tasks(tasks, limit=min(given, default=None), seed=options.seed)


def _nearest(
    wanted: Sequence[CorpusTask],
    tasks: Sequence[CorpusTask],
    *,
    count: int,
    desk: _Desk,
    embedder: Embedder,
) -> list[CorpusTask]:
    """Returns those tasks that are among the `count` nearest usable ones of a wanted task."""
    scores = _first_descriptions(wanted, embedder) @ _first_descriptions(tasks, embedder).T
    chosen: dict[str, CorpusTask] = {}
    for row in scores:  # (tasks,)
        ranked = (tasks[index] for index in np.argsort(-row, kind="stable"))
        usable = (task for task in ranked if desk.sequences(task))
        chosen |= {task.id: task for task in itertools.islice(usable, count)}
    return list(chosen.values())


def _ready(tasks: Sequence[CorpusTask], desk: _Desk, embedder: Embedder) -> tuple[LoraTask, ...]:
    tasks = sorted(tasks, key=lambda task: task.id)
    ready: list[LoraTask] = []
    for task, embedding in zip(tasks, _first_descriptions(tasks, embedder), strict=True):
        sequences = desk.sequences(task)
        fewest, most = _HELD_BACK
        count = min(most, max(fewest, round(_HELD_BACK_SHARE * len(sequences))))
        ready.append(
            LoraTask(
                id=task.id,
                family=task.family,
                embedding=embedding,
                train=tuple(sequences[count:]),
                held_back=tuple(sequences[:count]),
            )
        )
    return tuple(ready)


def _first_descriptions(tasks: Sequence[CorpusTask], embedder: Embedder) -> NDArray[np.float32]:
    return embedder.embed([task.descriptions[0] for task in tasks])

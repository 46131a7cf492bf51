"""The arms of a benchmark: what each puts into the prompt and which adapter it applies."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from enum import StrEnum

from hyperplug.errors import ConfigError
from hyperplug.hypernet.data import CorpusTask, family_groups


class Arm(StrEnum):
    """A way to have a task done.

    | arm      | prompt                | adapter                                  |
    |----------|-----------------------|------------------------------------------|
    | base     | input                 | none                                     |
    | prompt   | description and input | none                                     |
    | static   | input                 | the hypernetwork's part shared by all    |
    | hypernet | input                 | generated from the task's description    |
    | shuffled | input                 | generated from another task's description|
    """

    BASE = "base"
    PROMPT = "prompt"
    STATIC = "static"
    HYPERNET = "hypernet"
    SHUFFLED = "shuffled"

    @property
    def needs_hypernet(self) -> bool:
        """Whether it applies an adapter."""
        return self not in (Arm.BASE, Arm.PROMPT)


ALL_ARMS = tuple(Arm)


def parse_arms(text: str) -> tuple[Arm, ...]:
    """Returns the arms of a comma-separated list, each once, in the order given.

    Raises:
        ConfigError: for an unknown arm or an empty list.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    known = [arm.value for arm in Arm]
    for name in names:
        if name not in known:
            raise ConfigError(f"unknown arm {name!r}", hint=f"choose among {', '.join(known)}")
    if not names:
        raise ConfigError("no arm is given", hint=f"choose among {', '.join(known)}")
    return tuple(dict.fromkeys(Arm(name) for name in names))


def shuffled_partners(tasks: Sequence[CorpusTask], *, seed: int) -> Mapping[str, CorpusTask]:
    """Returns for each task id the task whose description it gets in the shuffled arm.

    No task gets its own, each is given once, and the partner is of another family unless
    one family holds more than half of the tasks. The same for the same tasks and seed.

    Raises:
        ConfigError: if there is only one task.
    """
    if len(tasks) < 2:
        raise ConfigError(
            "the arm 'shuffled' needs the description of another task, and there is one only",
            hint="give more tasks, or leave that arm out",
        )
    groups = family_groups(sorted(tasks, key=lambda task: task.id))
    families = sorted(groups)
    random.Random(f"{seed}/shuffled").shuffle(families)
    ordered = [task for family in families for task in groups[family]]
    largest = max(len(group) for group in groups.values())
    # Families are blocks of `ordered`: a step of at least the largest block, and at most
    # all but it, always leaves the block.
    step = largest if 2 * largest <= len(ordered) else len(ordered) // 2
    return {task.id: ordered[(index + step) % len(ordered)] for index, task in enumerate(ordered)}


def select_tasks(
    tasks: Iterable[CorpusTask], *, limit: int | None, seed: int
) -> tuple[CorpusTask, ...]:
    """Returns at most `limit` tasks, one of each family before a second of any."""
    groups = family_groups(sorted(tasks, key=lambda task: task.id))
    rng = random.Random(f"{seed}/tasks")
    ranked: list[tuple[int, float, CorpusTask]] = []
    for family in sorted(groups):
        members = rng.sample(groups[family], len(groups[family]))
        ranked += [(turn, rng.random(), task) for turn, task in enumerate(members)]
    ranked.sort(key=lambda entry: entry[:2])
    return tuple(task for _, _, task in ranked)[:limit]


def select_examples(task: CorpusTask, *, limit: int | None, seed: int) -> CorpusTask:
    """Returns the task with at most `limit` of its examples, drawn at random."""
    if limit is None or len(task.examples) <= limit:
        return task
    rng = random.Random(f"{seed}/{task.id}/examples")
    chosen = sorted(rng.sample(range(len(task.examples)), limit))
    return replace(task, examples=tuple(task.examples[index] for index in chosen))

"""Which tasks, examples, descriptions and partners a benchmark takes: seeded choices."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from hyperplug.entities import Example
from hyperplug.errors import ConfigError
from hyperplug.hypernet.data import CorpusTask, family_groups
from hyperplug.hypernet.junk import JUNK

MAX_SHOWN = 16
MAX_STORED = 64


def shuffled_partners(tasks: Sequence[CorpusTask], *, seed: int) -> Mapping[str, CorpusTask]:
    """Returns for each task id the task whose description it gets in the shuffled arm.

    No task gets its own, each is given once, and the partner is of another family unless
    one family holds more than half of the tasks. The same for the same tasks and seed.

    Raises:
        ConfigError: if there is only one task.
    """
    if len(tasks) < 2:
        raise ConfigError(
            "a shuffled arm needs the description of another task, and there is one only",
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


def shown_examples(
    task: CorpusTask, asked: CorpusTask, *, seed: int, limit: int = MAX_SHOWN
) -> tuple[Example, ...]:
    """Returns up to `limit` examples of the task that are not asked, in random order.

    An arm that shows k examples shows the first k of these: the same to every arm. None
    has an input that is asked.

    Args:
        asked: what `select_examples` made of the task.
    """
    inputs = {example.input for example in asked.examples}
    others = [example for example in task.examples if example.input not in inputs]
    rng = random.Random(f"{seed}/{task.id}/shown")
    return tuple(rng.sample(others, min(limit, len(others))))


def junk_description(task: CorpusTask, *, seed: int) -> str:
    """Returns a text that describes no task: gibberish, small talk or a statement."""
    return random.Random(f"{seed}/{task.id}/junk").choice(JUNK)


def rephrased_description(task: CorpusTask) -> str:
    """Returns the task's last wording; if it has one only, that one in other words."""
    if len(task.descriptions) > 1:
        return task.descriptions[-1]
    return f"Here is what I need you to do with every message I send. {task.descriptions[0]}"

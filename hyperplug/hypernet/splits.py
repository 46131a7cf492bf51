"""Which tasks of a corpus to train on, to choose with, and to report on."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from hyperplug.errors import TrainingError
from hyperplug.hypernet.data import CorpusTask, family_groups, read_corpus, shippable
from hyperplug.hypernet.sni import task_list

_HELD_OUT_SHARE = 0.1
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingTasks:
    """The tasks of a training run.

    Attributes:
        validation: tasks of families that are not trained on; may be empty.
        skipped: lines that could not be used, "file:line: why".
        excluded: how many tasks were left out for their licence.
    """

    train: tuple[CorpusTask, ...]
    validation: tuple[CorpusTask, ...]
    skipped: tuple[str, ...]
    excluded: int


def split_file(path: Path, split: str) -> Path | None:
    """Returns the file of a split ("train") in a corpus folder, or None if it has none.

    For Super-NaturalInstructions' repository, or its `tasks`, that is the English list.
    """
    candidates = (path / f"{split}.jsonl", path / f"{split}.jsonl.gz")
    return next((file for file in candidates if file.is_file()), task_list(path, split))


def read_training_tasks(
    tasks: Path,
    *,
    validation: Path | None = None,
    include_noncommercial: bool = False,
    limit_tasks: int | None = None,
    seed: int = 0,
) -> TrainingTasks:
    """Returns what to train on and what to validate on.

    A folder with a file `train.jsonl` (or `.gz`) gives that file for training and its
    `validation.jsonl` for validation; its other files are not read. So does the repository
    of Super-NaturalInstructions with its list of training tasks. Without a validation file,
    a tenth of the families is held out.

    Args:
        tasks: a file or folder that `read_corpus` reads.
        validation: likewise; None for the default above.
        include_noncommercial: also train on tasks from which no checkpoint may be shipped.
        limit_tasks: train on so many tasks at most, drawn at random.

    Raises:
        InvalidTaskFileError: if a path is missing or holds no usable task.
        TrainingError: if no task is left to train on.
    """
    trained = split_file(tasks, "train") or tasks
    validation = validation or (split_file(tasks, "validation") if trained != tasks else None)
    corpus = read_corpus(trained)
    usable = [task for task in corpus.tasks if include_noncommercial or shippable(task)]
    if not usable:
        raise TrainingError(
            f"none of the {len(corpus.tasks)} tasks in {trained} may be trained on: "
            "their licences forbid commercial use",
            hint="give other tasks, or --include-noncommercial for a checkpoint of your own",
        )
    if validation is None:
        held_out = _held_out_families(usable, seed)
        train = [task for task in usable if task.family not in held_out]
        chosen = tuple(task for task in usable if task.family in held_out)
        skipped = corpus.skipped
    else:
        other = read_corpus(validation)
        train, chosen = usable, other.tasks
        skipped = corpus.skipped + other.skipped
    return TrainingTasks(
        train=tuple(drawn(train, limit_tasks, seed=seed)),
        validation=chosen,
        skipped=skipped,
        excluded=len(corpus.tasks) - len(usable),
    )


def drawn(items: Sequence[T], count: int | None, *, seed: int) -> list[T]:
    """Returns so many items in their order; fewer of one seed are among more of it."""
    order = list(range(len(items)))
    random.Random(f"{seed}/tasks").shuffle(order)
    return [items[index] for index in sorted(order[:count])]


def _held_out_families(tasks: Sequence[CorpusTask], seed: int) -> frozenset[str]:
    """Returns a tenth of the families, at least two; none of fewer than five."""
    families = sorted(family_groups(tasks))
    if len(families) < 5:
        return frozenset()
    count = max(2, round(_HELD_OUT_SHARE * len(families)))
    return frozenset(random.Random(f"{seed}/validation").sample(families, count))

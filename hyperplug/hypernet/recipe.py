"""The training recipe: from a corpus and a base model to a checkpoint.

The defaults are those with which the checkpoint that comes with hyperplug was trained.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from hyperplug.basemodel import BaseModel, resolve_base
from hyperplug.config import Settings
from hyperplug.embedding import Embedder, load_embedder
from hyperplug.entities import BaseModelSpec
from hyperplug.errors import TrainingError
from hyperplug.hypernet.batches import PreparedTask
from hyperplug.hypernet.checkpoint import Checkpoint, load_checkpoint
from hyperplug.hypernet.data import CorpusTask
from hyperplug.hypernet.loading import load_frozen, load_tokenizer, pick_device, pick_dtype
from hyperplug.hypernet.model import HypernetConfig
from hyperplug.hypernet.options import (
    DEFAULT_MINUTES,
    TrainingOptions,
    check_options,
    unwritable,
)
from hyperplug.hypernet.prepare import Preparation, choose_modules, prepare_tasks
from hyperplug.hypernet.splits import TrainingTasks, read_training_tasks
from hyperplug.hypernet.train import Report, TrainConfig, Trainer

_UNLIMITED_STEPS = 10**6
_VALIDATION_EXAMPLES = 40
_SHOWN_PROBLEMS = 10


class TrainingProgress:
    """Told how a training run goes; does nothing. Override what you want to show."""

    def say(self, line: str) -> None:
        """A step that takes more than a second begins, or something deserves notice."""

    def prepared(self, done: int, total: int) -> None:
        """So many of the tasks are tokenised and encoded."""

    def stepped(self, report: Report) -> None:
        """An optimizer step is done."""


def train_hypernet(
    options: TrainingOptions,
    *,
    settings: Settings,
    embedder: Embedder | None = None,
    progress: TrainingProgress | None = None,
) -> Checkpoint:
    """Returns the trained hypernetwork, which is also written to `options.out`.

    Args:
        settings: which base model and text encoder to use, and where the cache is.
        embedder: used in place of the settings' text encoder.

    Raises:
        ConfigError: if an option makes no sense or the output cannot be written.
        InvalidTaskFileError: if there is no usable task.
        BaseModelError: if the base model cannot be had or adapted.
        TrainingError: if training cannot start or go on.
    """
    progress = progress or TrainingProgress()
    check_options(options)
    tasks = read_training_tasks(
        options.tasks,
        validation=options.validation,
        include_noncommercial=options.include_noncommercial,
        limit_tasks=options.limit_tasks,
        seed=options.seed,
    )
    _say_what_was_left_out(tasks, progress)
    base = resolve_base(settings.base, cache=settings.cache, progress=progress.say)
    modules = choose_modules(
        base.spec, modules=options.modules, top_layers=options.top_layers or None
    )
    progress.say("Loading the text encoder")
    embedder = embedder or load_embedder(settings.embedder)
    train, validation = _prepare(options, tasks, base, embedder, progress)
    progress.say(f"Loading base model {base.spec.id}")
    device = pick_device(options.device)
    dtype = pick_dtype(options.dtype, device)
    frozen = load_frozen(base, modules, device=device, dtype=dtype)
    with _plain_failures(options.out):
        trainer = Trainer(
            config=_train_config(options),
            hypernet=_hypernet_config(options, base.spec, embedder, modules),
            base=frozen,
            train=train,
            validation=validation,
            out=options.out,
        )
        trainer.run(progress.stepped)
    return load_checkpoint(options.out)


def _say_what_was_left_out(tasks: TrainingTasks, progress: TrainingProgress) -> None:
    for line in tasks.skipped[:_SHOWN_PROBLEMS]:
        progress.say(f"Skipped {line}")
    if len(tasks.skipped) > _SHOWN_PROBLEMS:
        progress.say(f"Skipped {len(tasks.skipped) - _SHOWN_PROBLEMS} more lines")
    if tasks.excluded:
        progress.say(f"Left out {tasks.excluded} tasks for their licence")
    if not tasks.validation:
        progress.say("Too few families to hold any out: the run goes without validation")


def _prepare(
    options: TrainingOptions,
    tasks: TrainingTasks,
    base: BaseModel,
    embedder: Embedder,
    progress: TrainingProgress,
) -> tuple[list[PreparedTask], list[PreparedTask]]:
    limits = Preparation(
        max_tokens=options.max_tokens,
        max_answer_tokens=options.max_answer_tokens,
        examples_per_task=options.examples_per_task,
        in_prompt=options.in_prompt,
        seed=options.seed,
    )
    tokenizer = load_tokenizer(base)
    done, total = 0, len(tasks.train) + len(tasks.validation)

    def count(more: int) -> None:
        nonlocal done
        done += more
        progress.prepared(done, total)

    def prepare(chosen: tuple[CorpusTask, ...], limits: Preparation) -> list[PreparedTask]:
        return prepare_tasks(
            chosen, tokenizer=tokenizer, embedder=embedder, limits=limits, progress=count
        )

    progress.say(f"Preparing {total} tasks")
    train = prepare(tasks.train, limits)
    few = min(_VALIDATION_EXAMPLES, options.examples_per_task)
    validation = (
        prepare(tasks.validation, replace(limits, in_prompt=0.0, examples_per_task=few))
        if tasks.validation
        else []
    )
    progress.say(f"{len(train)} tasks to train on, {len(validation)} to validate on")
    return train, validation


def _train_config(options: TrainingOptions) -> TrainConfig:
    unlimited = options.steps is None and options.minutes is None
    return TrainConfig(
        steps=options.steps or _UNLIMITED_STEPS,
        minutes=DEFAULT_MINUTES if unlimited else options.minutes or 0.0,
        seed=options.seed,
        learning_rate=options.learning_rate,
        cache_gib=options.cache_gib,
        evaluate_every=options.evaluate_every,
    )


def _hypernet_config(
    options: TrainingOptions, base: BaseModelSpec, embedder: Embedder, modules: tuple[str, ...]
) -> HypernetConfig:
    shapes = [base.module_shapes[path] for path in modules]
    return HypernetConfig(
        base_fingerprint=base.fingerprint,
        embedder_id=embedder.id,
        embedding_size=embedder.dimension,
        target_modules=modules,
        in_features=tuple(shape.in_features for shape in shapes),
        out_features=tuple(shape.out_features for shape in shapes),
        static_rank=options.static_rank,
        generated_rank=options.generated_rank,
        atoms=options.atoms,
    )


@contextmanager
def _plain_failures(out: Path) -> Iterator[None]:
    """Turns a full disk or memory into an error with a remedy."""
    try:
        yield
    except OSError as exc:
        if exc.errno is None:
            raise
        raise unwritable(out, exc) from exc
    except RuntimeError as exc:
        if isinstance(exc, torch.OutOfMemoryError) or "can't allocate memory" in str(exc):
            raise TrainingError(
                "the base model and its training do not fit into memory",
                hint="lower --max-tokens or --cache-gib, or take a smaller base model",
            ) from exc
        raise

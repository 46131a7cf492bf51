"""From task files to prepared tasks: reading, augmenting, tokenising, encoding."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

from hyperplug.basemodel import BaseModel, resolve_base
from hyperplug.config import Settings
from hyperplug.embedding import Embedder, load_embedder
from hyperplug.entities import BaseModelSpec
from hyperplug.errors import ConfigError, TrainingError
from hyperplug.hypernet.augment import augment
from hyperplug.hypernet.batches import PreparedTask
from hyperplug.hypernet.data import CorpusTask
from hyperplug.hypernet.loading import load_tokenizer
from hyperplug.hypernet.options import (
    CorpusOptions,
    check_options,
    check_output,
    unwritable,
)
from hyperplug.hypernet.prepare import Preparation, prepare_tasks
from hyperplug.hypernet.prepared import SUFFIX, PreparedCorpus, load_prepared, save_prepared
from hyperplug.hypernet.splits import TrainingTasks, drawn, read_training_tasks
from hyperplug.hypernet.words import load_vocabulary

_VALIDATION_EXAMPLES = 40
_SHOWN_PROBLEMS = 10
_RECORDED = (
    "max_tokens",
    "max_answer_tokens",
    "examples_per_task",
    "in_prompt",
    "composed",
    "rewordings",
    "include_noncommercial",
    "seed",
)


class PreparationProgress:
    """Told how preparing goes; does nothing. Override what you want to show."""

    def say(self, line: str) -> None:
        """A step that takes more than a second begins, or something deserves notice."""

    def prepared(self, done: int, total: int) -> None:
        """So many of the tasks are tokenised and encoded."""


def prepare_corpus(
    options: CorpusOptions,
    *,
    settings: Settings,
    base: BaseModel,
    embedder: Embedder | None = None,
    progress: PreparationProgress | None = None,
) -> PreparedCorpus:
    """Returns the tasks ready for training, from a prepared file if that is what is given.

    Args:
        embedder: used in place of the settings' text encoder.

    Raises:
        InvalidTaskFileError: if there is no usable task.
        TrainingError: if no task has enough short examples, or a prepared file is for
            another base model.
    """
    progress = progress or PreparationProgress()
    if options.tasks.suffix == SUFFIX:
        return _load(options, base)
    tasks = read_training_tasks(
        options.tasks,
        validation=options.validation,
        include_noncommercial=options.include_noncommercial,
        limit_tasks=options.limit_tasks,
        seed=options.seed,
    )
    _say_what_was_left_out(tasks, progress)
    progress.say("Loading the text encoder")
    embedder = embedder or load_embedder(settings.embedder)
    train, validation = _prepare(options, tasks, base, embedder, progress)
    return PreparedCorpus(
        train=tuple(train),
        validation=tuple(validation),
        base_fingerprint=base.spec.fingerprint,
        embedder_id=embedder.id,
        embedding_size=embedder.dimension,
        settings={name: getattr(options, name) for name in _RECORDED},
    )


def write_corpus(
    options: CorpusOptions,
    out: Path,
    *,
    settings: Settings,
    embedder: Embedder | None = None,
    progress: PreparationProgress | None = None,
) -> PreparedCorpus:
    """Returns the tasks ready for training, and writes them to a file.

    Raises:
        ConfigError: if an option makes no sense or the file cannot be written.
    """
    progress = progress or PreparationProgress()
    check_options(options)
    if out.suffix != SUFFIX:
        raise ConfigError(f"{out} does not end in {SUFFIX}", hint=f"name it {out.stem}{SUFFIX}")
    check_output(out)
    base = resolve_base(settings.base, cache=settings.cache, progress=progress.say)
    corpus = prepare_corpus(
        options, settings=settings, base=base, embedder=embedder, progress=progress
    )
    try:
        save_prepared(out, corpus)
    except OSError as exc:
        raise unwritable(out, exc) from exc
    return corpus


def load_prepared_for(path: Path, base: BaseModelSpec) -> PreparedCorpus:
    """Returns prepared tasks. Raises TrainingError if they are for another base model."""
    corpus = load_prepared(path)
    if corpus.base_fingerprint != base.fingerprint:
        raise TrainingError(
            f"{path} was prepared for another base model than {base.id}",
            hint="make it again with: hyperplug prepare-tasks",
        )
    return corpus


def _load(options: CorpusOptions, base: BaseModel) -> PreparedCorpus:
    corpus = load_prepared_for(options.tasks, base.spec)
    _refuse_other_settings(options, corpus)
    origins = list(dict.fromkeys(_origin(task) for task in corpus.train))
    kept = set(drawn(origins, options.limit_tasks, seed=options.seed))
    return replace(corpus, train=tuple(t for t in corpus.train if _origin(t) in kept))


def _refuse_other_settings(options: CorpusOptions, corpus: PreparedCorpus) -> None:
    """Raises ConfigError for options that come too late for a prepared file."""
    defaults = {field.name: field.default for field in fields(CorpusOptions)}
    for name in ("validation", *_RECORDED):
        wanted = getattr(options, name)
        made = corpus.settings.get(name, defaults[name])
        if name != "seed" and wanted not in (defaults[name], made):
            raise ConfigError(
                f"{options.tasks} was prepared with {name} {made}, not {wanted}",
                hint=f"give --{name.replace('_', '-')} to: hyperplug prepare-tasks",
            )


def _origin(task: PreparedTask) -> str:
    """Returns the id of the task that a composed one was made from, or its own."""
    return task.id.partition("+")[0]


def _say_what_was_left_out(tasks: TrainingTasks, progress: PreparationProgress) -> None:
    for line in tasks.skipped[:_SHOWN_PROBLEMS]:
        progress.say(f"Skipped {line}")
    if len(tasks.skipped) > _SHOWN_PROBLEMS:
        progress.say(f"Skipped {len(tasks.skipped) - _SHOWN_PROBLEMS} more lines")
    if tasks.excluded:
        progress.say(f"Left out {tasks.excluded} tasks for their licence")
    if not tasks.validation:
        progress.say("Too few families to hold any out: the run goes without validation")


def _prepare(
    options: CorpusOptions,
    tasks: TrainingTasks,
    base: BaseModel,
    embedder: Embedder,
    progress: PreparationProgress,
) -> tuple[list[PreparedTask], list[PreparedTask]]:
    limits = Preparation(
        max_tokens=options.max_tokens,
        max_answer_tokens=options.max_answer_tokens,
        examples_per_task=options.examples_per_task,
        in_prompt=options.in_prompt,
        seed=options.seed,
    )
    tokenizer, vocabulary = load_tokenizer(base), load_vocabulary(base)
    if vocabulary is None:
        progress.say("No output embedding was found in the base model: words are left out")
    chosen = augment(
        tasks.train,
        composed_per_task=options.composed,
        rewordings=options.rewordings,
        seed=options.seed,
    )
    done, total = 0, len(chosen) + len(tasks.validation)

    def count(more: int) -> None:
        nonlocal done
        done += more
        progress.prepared(done, total)

    def prepare(chosen: tuple[CorpusTask, ...], limits: Preparation) -> list[PreparedTask]:
        return prepare_tasks(
            chosen,
            tokenizer=tokenizer,
            embedder=embedder,
            vocabulary=vocabulary,
            limits=limits,
            progress=count,
        )

    progress.say(f"Preparing {total} tasks")
    train = prepare(chosen, limits)
    few = min(_VALIDATION_EXAMPLES, options.examples_per_task)
    told = limits.in_prompt if limits.in_prompt == 1 else 0.0
    validation = (
        prepare(tasks.validation, replace(limits, in_prompt=told, examples_per_task=few))
        if tasks.validation
        else []
    )
    progress.say(f"{len(train)} tasks to train on, {len(validation)} to validate on")
    return train, validation

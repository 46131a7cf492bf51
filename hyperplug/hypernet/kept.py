"""The tasks that a hypernetwork must keep when it learns new ones: where they come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hyperplug.basemodel import BaseModel
from hyperplug.config import Settings
from hyperplug.embedding import Embedder, load_embedder
from hyperplug.entities import BaseModelSpec, Example
from hyperplug.errors import ConfigError, InvalidTaskFileError
from hyperplug.hypernet.batches import PreparedTask, few_sequences
from hyperplug.hypernet.checkpoint import Checkpoint, load_checkpoint
from hyperplug.hypernet.corpus import PreparationProgress, load_prepared_for
from hyperplug.hypernet.data import CorpusTask, read_corpus, shippable
from hyperplug.hypernet.encoding import EncodedDescription, encode_descriptions
from hyperplug.hypernet.extension import Extension, extend
from hyperplug.hypernet.generate import check_base, check_embedder, vocabulary_for
from hyperplug.hypernet.loading import load_tokenizer
from hyperplug.hypernet.model import Hypernet
from hyperplug.hypernet.options import DEFAULT_KEEP_STRENGTH, TrainingOptions
from hyperplug.hypernet.prepare import MAX_DESCRIPTIONS, Preparation, prepare_tasks
from hyperplug.hypernet.prepared import SUFFIX
from hyperplug.hypernet.splits import split_file
from hyperplug.taskfile import read_tasks


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptTasks:
    """Descriptions to keep, and tasks whose examples are trained on again."""

    descriptions: tuple[EncodedDescription, ...] = ()
    replayed: tuple[PreparedTask, ...] = ()


def load_start(path: Path, base: BaseModelSpec) -> Checkpoint:
    """Returns the checkpoint that a run is to go on from.

    Raises:
        CheckpointError: if it is unusable.
        BaseMismatchError: if it was trained for another base model.
        ConfigError: if it is no hypernetwork of ours.
    """
    checkpoint = load_checkpoint(path)
    check_base(checkpoint, path, base)
    if not isinstance(checkpoint.network, Hypernet):
        raise ConfigError(f"{path} is a Text-to-LoRA network", hint="--extend takes our own only")
    return checkpoint


def extension_of(
    checkpoint: Checkpoint,
    options: TrainingOptions,
    *,
    base: BaseModel,
    settings: Settings,
    embedder: Embedder | None = None,
    kept: Sequence[CorpusTask] = (),
    progress: PreparationProgress,
) -> Extension:
    """Returns what a run with these options starts from, and what it keeps.

    Args:
        kept: tasks to keep, in place of a file of them.

    Raises:
        ConfigError: if examples are to be replayed and there are none.
        InvalidTaskFileError: if the file of tasks to keep is unusable.
        CheckpointError: if they were encoded by another text encoder.
    """
    if options.keep is not None and options.keep.suffix == SUFFIX:
        found = _prepared(options.keep, checkpoint, options, base)
    else:
        tasks = read_kept(options.keep) if options.keep is not None else kept
        embedder = embedder or load_embedder(settings.embedder) if tasks else None
        found = _encoded(tasks, embedder, checkpoint, options, base) if embedder else KeptTasks()
    if options.replay and not found.replayed:
        raise ConfigError(
            "none of the tasks to keep has examples that can be replayed",
            hint="give tasks with short examples: --keep FILE.jsonl",
        )
    strength = options.keep_strength
    extension = extend(
        checkpoint,
        kept=[found.descriptions],
        strength=DEFAULT_KEEP_STRENGTH if strength is None else strength,
        replayed=found.replayed,
        new_atoms=options.new_atoms,
        seed=options.seed,
    )
    known, given = len(checkpoint.support), len(found.descriptions)
    progress.say(
        f"Keeping what {options.extend} makes for {known:,} descriptions of its training"
        + (f" and {given:,} given ones" if given else "")
        if extension.keeper
        else f"Going on from {options.extend}; nothing holds what it knows"
    )
    return extension


def read_kept(path: Path) -> tuple[CorpusTask, ...]:
    """Returns the tasks of a corpus, or of a file that `register-task` reads.

    Raises:
        InvalidTaskFileError: if there is no usable task.
    """
    try:
        return read_corpus(split_file(path, "train") or path).tasks
    except InvalidTaskFileError:
        if not path.is_file():
            raise
        drafts = [line.task for line in read_tasks(path) if line.task is not None]
        if not drafts:
            raise
    return tuple(kept_task(d.name, d.description, d.examples) for d in drafts)


def kept_task(name: str, description: str, examples: Sequence[Example]) -> CorpusTask:
    """Returns a registered task as one to keep."""
    return CorpusTask(
        id=name,
        family=name,
        descriptions=(description,),
        metric="exact_match",
        examples=tuple(examples),
    )


def _prepared(
    path: Path, checkpoint: Checkpoint, options: TrainingOptions, base: BaseModel
) -> KeptTasks:
    corpus = load_prepared_for(path, base.spec)
    check_embedder(checkpoint, path, corpus.embedder_id)
    replayed = [few_sequences(task, options.replay) for task in corpus.train if options.replay]
    return KeptTasks(
        descriptions=tuple(d for task in corpus.train for d in task.descriptions),
        replayed=tuple(replayed),
    )


def _encoded(
    tasks: Sequence[CorpusTask],
    embedder: Embedder,
    checkpoint: Checkpoint,
    options: TrainingOptions,
    base: BaseModel,
) -> KeptTasks:
    texts = [text for task in tasks for text in task.descriptions[:MAX_DESCRIPTIONS]]
    vocabulary = vocabulary_for(checkpoint, base)
    descriptions = tuple(encode_descriptions(embedder, texts, vocabulary=vocabulary))
    usable = [
        task
        for task in tasks
        if task.examples and (options.include_noncommercial or shippable(task))
    ]
    if not options.replay or not usable:
        return KeptTasks(descriptions=descriptions)
    replayed = prepare_tasks(
        usable,
        tokenizer=load_tokenizer(base),
        embedder=embedder,
        vocabulary=vocabulary,
        limits=Preparation(
            max_tokens=options.max_tokens,
            max_answer_tokens=options.max_answer_tokens,
            examples_per_task=options.replay,
            in_prompt=options.in_prompt,
            seed=options.seed,
            conditioning=0,
            fewest=1,
        ),
    )
    return KeptTasks(descriptions=descriptions, replayed=tuple(replayed))

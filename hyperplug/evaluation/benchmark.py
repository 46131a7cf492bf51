"""Runs a benchmark: every arm answers the same examples, greedily, and is scored."""

from __future__ import annotations

import contextlib
import hashlib
import json
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from hyperplug.basemodel import BaseModel, resolve_base
from hyperplug.config import Settings
from hyperplug.embedding import Embedder, load_embedder
from hyperplug.errors import ConfigError, InvalidTaskFileError
from hyperplug.evaluation.arms import Arm, select_examples, select_tasks, shuffled_partners
from hyperplug.evaluation.bench import Bench
from hyperplug.evaluation.machine import hardware, versions
from hyperplug.evaluation.options import BenchmarkOptions, check_options
from hyperplug.evaluation.partial import PartialFile
from hyperplug.evaluation.result import BenchmarkResult, TaskScores, ordered
from hyperplug.hypernet.checkpoint import write_atomically
from hyperplug.hypernet.data import CorpusTask, read_corpus
from hyperplug.hypernet.generate import Generator, load_generator
from hyperplug.hypernet.loading import pick_device, pick_dtype
from hyperplug.hypernet.splits import split_file

_SHOWN_PROBLEMS = 10


class BenchmarkProgress:
    """Told how a benchmark goes; does nothing. Override what you want to show."""

    def say(self, line: str) -> None:
        """A step that takes more than a second begins, or something deserves notice."""

    def answered(self, done: int, total: int) -> None:
        """So many of the answers, over all arms, are given."""

    def finished(self, scores: TaskScores) -> None:
        """A task is done."""


def run_benchmark(
    options: BenchmarkOptions,
    *,
    settings: Settings,
    embedder: Embedder | None = None,
    progress: BenchmarkProgress | None = None,
) -> BenchmarkResult:
    """Returns the scores of every arm, and writes them to `options.out`.

    Args:
        settings: base model, text encoder and hypernetwork to measure.
        embedder: used in place of the settings' text encoder.

    Raises:
        ConfigError: if an option makes no sense or an output file cannot be written.
        InvalidTaskFileError: if there is no usable task.
        BaseModelError: if the base model cannot be had.
        BaseMismatchError: if the hypernetwork was trained for another one.
        CheckpointError: if the hypernetwork is unusable.
    """
    progress = progress or BenchmarkProgress()
    check_options(options)
    device = pick_device(options.device)
    dtype = pick_dtype(options.dtype, device)
    every = _read_tasks(options.tasks, progress)
    tasks = [
        select_examples(task, limit=options.limit_examples, seed=options.seed)
        for task in select_tasks(every, limit=options.limit_tasks, seed=options.seed)
    ]
    shuffled = Arm.SHUFFLED in options.arms
    partners = shuffled_partners(every, seed=options.seed) if shuffled else {}
    base = resolve_base(settings.base, cache=settings.cache, progress=progress.say)
    generator = None
    if any(arm.needs_hypernet for arm in options.arms):
        progress.say("Loading the text encoder and the hypernetwork")
        embedder = embedder or load_embedder(settings.embedder)
        generator = load_generator(settings.hypernet, embedder=embedder, base=base.spec)
    progress.say(f"Loading base model {base.spec.id}")
    bench = Bench(base, generator=generator, partners=partners, device=device, dtype=dtype)
    about = _about(options, base, generator, device=device, dtype=dtype)
    with _record(options.out, {"about": about, "tasks": _digest(tasks, partners)}) as record:
        _measure(bench, tasks, arms=options.arms, record=record, progress=progress)
        result = _result(options, tasks, record, about)
        with _writing(options.out):
            _write(options, result, record)
    return result


def _read_tasks(path: Path, progress: BenchmarkProgress) -> tuple[CorpusTask, ...]:
    corpus = read_corpus(split_file(path, "test") or path)
    for line in corpus.skipped[:_SHOWN_PROBLEMS]:
        progress.say(f"Skipped {line}")
    if len(corpus.skipped) > _SHOWN_PROBLEMS:
        progress.say(f"Skipped {len(corpus.skipped) - _SHOWN_PROBLEMS} more lines")
    twice = [id_ for id_, count in Counter(task.id for task in corpus.tasks).items() if count > 1]
    if twice:
        raise InvalidTaskFileError(
            f"{path} has two tasks with the id {twice[0]!r}", hint="give each an id of its own"
        )
    return corpus.tasks


def _measure(
    bench: Bench,
    tasks: Sequence[CorpusTask],
    *,
    arms: Sequence[Arm],
    record: PartialFile,
    progress: BenchmarkProgress,
) -> None:
    total = len(arms) * sum(len(task.examples) for task in tasks)
    done = 0

    def count(answers: int) -> None:
        nonlocal done
        done += answers
        progress.answered(done, total)

    if record.finished:
        progress.say(f"Going on: {len(record.finished)} of {len(tasks)} tasks are done")
    for task in tasks:
        size = len(task.examples)
        if task.id in record.finished:
            count(size * len(arms))
            continue
        finished = bench.measure(task, arms=arms, on_arm=partial(count, size))
        with _writing(record.path):
            record.add(finished)
        progress.finished(finished.scores)


def _result(
    options: BenchmarkOptions,
    tasks: Sequence[CorpusTask],
    record: PartialFile,
    about: dict[str, Any],
) -> BenchmarkResult:
    return BenchmarkResult(
        arms=options.arms,
        tasks=ordered([record.finished[task.id] for task in tasks]),
        seed=options.seed,
        seconds=record.seconds,
        about=about,
    )


def _write(options: BenchmarkOptions, result: BenchmarkResult, record: PartialFile) -> None:
    if options.out is not None:
        text = json.dumps(result.as_dict(), indent=1, ensure_ascii=False)
        write_atomically(options.out, f"{text}\n".encode())
    if options.answers is not None:
        record.keep_as(options.answers)


def _about(
    options: BenchmarkOptions,
    base: BaseModel,
    generator: Generator | None,
    *,
    device: torch.device,
    dtype: torch.dtype,
) -> dict[str, Any]:
    """Returns what the figures belong to; equal for runs that may be joined."""
    return {
        "versions": versions(),
        "hardware": hardware(device),
        "base": {"id": base.spec.id, "fingerprint": base.spec.fingerprint},
        "hypernet": {"fingerprint": generator.spec.fingerprint} if generator else None,
        "settings": {
            "arms": [arm.value for arm in options.arms],
            "dtype": str(dtype).removeprefix("torch."),
            "device": device.type,
            "threads": torch.get_num_threads(),
            "limit_tasks": options.limit_tasks,
            "limit_examples": options.limit_examples,
        },
    }


def _digest(tasks: Sequence[CorpusTask], partners: Any) -> str:
    """Returns a digest over what is asked: tasks, examples, descriptions and partners."""
    hasher = hashlib.sha256()
    for task in tasks:
        hasher.update(repr(task).encode())
        hasher.update(repr(partners[task.id].descriptions if partners else ()).encode())
    return hasher.hexdigest()


@contextlib.contextmanager
def _record(out: Path | None, settings: dict[str, Any]) -> Iterator[PartialFile]:
    """Yields the record of finished tasks: beside `out`, to be gone on with, or for now.

    It is removed when the benchmark is complete and stays when it is interrupted.
    """
    if out is None:
        with tempfile.TemporaryDirectory(prefix="hyperplug-benchmark-") as folder:
            yield PartialFile(Path(folder) / "partial.jsonl", settings=settings)
        return
    with _writing(out):
        record = PartialFile(out.with_name(f".{out.name}.partial"), settings=settings)
    yield record
    record.remove()


@contextlib.contextmanager
def _writing(path: Path | None) -> Iterator[None]:
    """Turns a failed write into an error with a remedy."""
    try:
        yield
    except OSError as exc:
        raise ConfigError(
            f"cannot write {path}: {exc.strerror or exc}",
            hint="choose another --json file or free the disk",
        ) from exc

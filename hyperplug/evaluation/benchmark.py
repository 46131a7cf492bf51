"""Runs a benchmark: every arm answers the same examples, greedily, and is scored."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hyperplug.basemodel import resolve_base
from hyperplug.config import Settings
from hyperplug.embedding import Embedder, load_embedder
from hyperplug.errors import ConfigError
from hyperplug.evaluation.adapters import AdapterMaker
from hyperplug.evaluation.answers import Answerer
from hyperplug.evaluation.artefacts import Artefacts, load_artefacts
from hyperplug.evaluation.bench import BatchRun
from hyperplug.evaluation.gathering import about, gather, kept_answers
from hyperplug.evaluation.options import BenchmarkOptions, check_options
from hyperplug.evaluation.partial import PartialFile
from hyperplug.evaluation.plan import batches, limits
from hyperplug.evaluation.prompts import PromptMaker
from hyperplug.evaluation.result import BenchmarkResult
from hyperplug.evaluation.tuning import Tuner
from hyperplug.evaluation.works import Subject, Work, choose_subject, digest, list_works
from hyperplug.hypernet.checkpoint import write_atomically
from hyperplug.hypernet.frozen import FrozenBase
from hyperplug.hypernet.loading import load_frozen, load_tokenizer, pick_device, pick_dtype


class BenchmarkProgress:
    """Told how a benchmark goes; does nothing. Override what you want to show."""

    def say(self, line: str) -> None:
        """A step that takes more than a second begins, or something deserves notice."""

    def answered(self, done: int, total: int) -> None:
        """So many of the answers, over all arms, are given."""

    def finished(self, arm: str) -> None:
        """An arm has answered a batch, and the answers are kept."""


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
        BaseMismatchError: if an adapter was trained for another one.
        CheckpointError: if a network or a file of LoRAs is unusable.
    """
    progress = progress or BenchmarkProgress()
    check_options(options)
    subject = choose_subject(options, progress.say)
    artefacts = _load(options, settings, embedder=embedder, progress=progress)
    subject.check_oracle(artefacts.banks.get("oracle"), options)
    progress.say(f"Loading base model {artefacts.base.spec.id}")
    device = pick_device(options.device)
    dtype = pick_dtype(options.dtype, device)
    frozen = load_frozen(artefacts.base, artefacts.target_modules, device=device, dtype=dtype)
    found = about(options, artefacts, frozen)
    with _record(options.out, {"about": found, "asked": digest(subject)}) as record:
        adapters = _measure(subject, options, artefacts, frozen, record=record, progress=progress)
        result = gather(subject, options, record, adapters=adapters, about=found)
        with _writing(options.out):
            _write(options, subject, result, record)
    return result


def _load(
    options: BenchmarkOptions,
    settings: Settings,
    *,
    embedder: Embedder | None,
    progress: BenchmarkProgress,
) -> Artefacts:
    base = resolve_base(settings.base, cache=settings.cache, progress=progress.say)
    if options.needs_hypernet or any(arm.needs_embedder for arm in options.arms):
        progress.say("Loading the text encoder and what makes the adapters")
        embedder = embedder or load_embedder(settings.embedder)
    return load_artefacts(options, base=base, embedder=embedder, hypernet=settings.hypernet)


def _measure(
    subject: Subject,
    options: BenchmarkOptions,
    artefacts: Artefacts,
    frozen: FrozenBase,
    *,
    record: PartialFile,
    progress: BenchmarkProgress,
) -> AdapterMaker:
    """Lets every arm answer, and returns what made the adapters."""
    tokenizer = load_tokenizer(artefacts.base)
    answerer = Answerer(frozen, tokenizer)
    modules = artefacts.target_modules
    shapes = {path: artefacts.base.spec.module_shapes[path] for path in modules}

    def copy() -> FrozenBase:
        return load_frozen(artefacts.base, modules, device=frozen.device, dtype=frozen.dtype)

    tuner = Tuner(frozen, tokenizer, shapes, seed=options.seed, copy=copy)
    adapters = AdapterMaker(artefacts, subject.conditions, modules=modules, tuner=tuner)
    prompts = PromptMaker(
        answerer, tokenizer, conditions=subject.conditions, embedder=artefacts.embedder
    )
    works = list_works(subject, options, prompts)
    if record.done:
        progress.say("Going on where the last run was interrupted")
    counter = _Counter(works, adapters, progress)
    for work in works:
        for number, rows in enumerate(batches(work.rows, limit=limits(frozen.device.type))):
            run = BatchRun(rows, answerer=answerer, adapters=adapters)
            for arm in work.arms:
                key = f"{work.key}/{number}/{arm.name}"
                if key not in record.done:
                    batch = run.answer(arm)
                    with _writing(record.path):
                        record.add(key, batch)
                    progress.finished(arm.name)
                counter.count(sum(adapters.covers(arm, row.task) for row in rows))
    return adapters


class _Counter:
    """Counts answers over all arms."""

    def __init__(
        self, works: Sequence[Work], adapters: AdapterMaker, progress: BenchmarkProgress
    ) -> None:
        self._progress = progress
        self._done = 0
        self._total = sum(
            adapters.covers(arm, row.task)
            for work in works
            for arm in work.arms
            for row in work.rows
        )

    def count(self, answers: int) -> None:
        """So many more answers are given."""
        self._done += answers
        self._progress.answered(self._done, self._total)


def _write(
    options: BenchmarkOptions, subject: Subject, result: BenchmarkResult, record: PartialFile
) -> None:
    if options.out is not None:
        text = json.dumps(result.as_dict(), indent=1, ensure_ascii=False)
        write_atomically(options.out, f"{text}\n".encode())
    if options.answers is not None:
        lines = kept_answers(subject, result, record)
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        write_atomically(options.answers, text.encode())


@contextlib.contextmanager
def _record(out: Path | None, settings: Mapping[str, Any]) -> Iterator[PartialFile]:
    """Yields the record of the answers: beside `out`, to be gone on with, or for now.

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

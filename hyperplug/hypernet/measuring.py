"""Measures on held-out tasks where the lookup policy's borders should lie."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hyperplug.basemodel import resolve_base
from hyperplug.config import Settings
from hyperplug.embedding import Embedder, load_embedder
from hyperplug.entities import Thresholds
from hyperplug.errors import TrainingError
from hyperplug.hypernet.checkpoint import Checkpoint, shipped_checkpoint
from hyperplug.hypernet.curves import (
    Border,
    Pair,
    Probe,
    Source,
    near_border,
    risk_curve,
    support_border,
)
from hyperplug.hypernet.data import CorpusTask, read_corpus
from hyperplug.hypernet.encoding import EncodedDescription, encode_descriptions
from hyperplug.hypernet.generate import load_fitting, vocabulary_for
from hyperplug.hypernet.junk import JUNK
from hyperplug.hypernet.loading import load_frozen, load_tokenizer, pick_device, pick_dtype
from hyperplug.hypernet.probes import AdapterProbe
from hyperplug.hypernet.splits import drawn
from hyperplug.hypernet.subjects import (
    MIN_EXAMPLES,
    CalibrationOptions,
    Subject,
    Text,
    check_options,
    choose_subjects,
)

_JUNK_INPUTS = 8
_JUNK_ANSWER_TOKENS = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What was measured, and the borders that follow.

    Attributes:
        before: the checkpoint's thresholds so far.
        skipped: held-out tasks without enough short examples.
    """

    checkpoint: Path
    fingerprint: str
    options: CalibrationOptions
    near: Border
    support: Border
    before: Thresholds
    pairs: tuple[Pair, ...]
    probes: tuple[Probe, ...]
    tasks: int
    skipped: int
    seconds: float

    @property
    def thresholds(self) -> Thresholds:
        """The borders, as a checkpoint keeps them."""
        return Thresholds(near=self.near.value, support=self.support.value)


class CalibrationProgress:
    """Told how calibrating goes; does nothing. Override what you want to show."""

    def say(self, line: str) -> None:
        """A step that takes more than a second begins."""

    def measured(self, done: int, total: int) -> None:
        """So many of the tasks are measured."""


def measure_calibration(
    options: CalibrationOptions,
    *,
    settings: Settings,
    embedder: Embedder | None = None,
    progress: CalibrationProgress | None = None,
) -> Calibration:
    """Returns the borders for the settings' hypernetwork, measured by answer loss.

    Args:
        embedder: used in place of the settings' text encoder.

    Raises:
        ConfigError: if an option makes no sense.
        InvalidTaskFileError: if there is no usable task.
        CheckpointError, BaseMismatchError: if the hypernetwork does not fit.
        TrainingError: if no task has enough short examples.
    """
    check_options(options)
    progress = progress or CalibrationProgress()
    started = time.monotonic()
    base = resolve_base(settings.base, cache=settings.cache, progress=progress.say)
    progress.say("Loading the text encoder")
    embedder = embedder or load_embedder(settings.embedder)
    checkpoint = load_fitting(settings.hypernet, embedder=embedder, base=base.spec)
    held_out = drawn(read_corpus(options.tasks).tasks, options.limit_tasks, seed=options.seed)
    known = read_corpus(options.train_tasks).tasks
    tokenizer = load_tokenizer(base)
    progress.say(f"Encoding the descriptions of {len(held_out) + len(known)} tasks")
    subjects = list(choose_subjects(held_out, known, tokenizer, embedder, options))
    if not subjects:
        raise TrainingError(
            f"none of the {len(held_out)} tasks has {MIN_EXAMPLES} examples within "
            f"{options.max_tokens} tokens",
            hint="raise --max-tokens or give tasks with shorter inputs",
        )
    progress.say(f"Loading base model {base.spec.id}")
    device = pick_device(options.device)
    frozen = load_frozen(
        base,
        checkpoint.spec.target_modules,
        device=device,
        dtype=pick_dtype(options.dtype, device),
    )
    probe = AdapterProbe(checkpoint.network, base=frozen, tokenizer=tokenizer)
    reader = partial(encode_descriptions, embedder, vocabulary=vocabulary_for(checkpoint, base))
    measure = _Measurement(checkpoint, probe=probe, reader=reader)
    for done, subject in enumerate(subjects, start=1):
        measure.task(subject)
        progress.measured(done, len(subjects))
    progress.say("Measuring texts that describe no task")
    measure.junk([subject.task for subject in subjects])
    return Calibration(
        checkpoint=settings.hypernet or shipped_checkpoint(),
        fingerprint=checkpoint.fingerprint,
        options=options,
        near=near_border(risk_curve(measure.pairs, margin=options.margin), bound=options.near_risk),
        support=support_border(measure.probes, bound=options.harm_risk),
        before=checkpoint.thresholds,
        pairs=tuple(measure.pairs),
        probes=tuple(measure.probes),
        tasks=len(subjects),
        skipped=len(held_out) - len(subjects),
        seconds=time.monotonic() - started,
    )


class _Measurement:
    """Pairs and probes, as they are measured."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        probe: AdapterProbe,
        reader: Callable[[Sequence[str]], list[EncodedDescription]],
    ) -> None:
        self.pairs: list[Pair] = []
        self.probes: list[Probe] = []
        self._support: NDArray[np.float32] = checkpoint.support.float().numpy()
        self._probe = probe
        self._read = reader

    def task(self, subject: Subject) -> None:
        """Measures the adapters of a task's own wordings and of its neighbours."""
        texts = (*subject.wordings, *subject.neighbours)
        encoded = self._read([text.text for text in texts])
        base = self._probe.base_loss(subject.sequences)
        losses = self._probe.adapter_losses(encoded, subject.sequences)
        own = len(subject.wordings)
        for number, (text, loss) in enumerate(zip(texts, losses, strict=True)):
            source = Source.WORDING if number else Source.TASK
            if number < own:
                self._add_probe(text.owner, source, encoded[number], loss - base)
            if number:
                kind = Source.WORDING if number < own else Source.TASK
                similarity = float(encoded[0].pooled @ encoded[number].pooled)
                self._add_pair(subject, text, kind, similarity, loss - losses[0])
            if 0 < number < own:  # asked for in other words, served by the preferred ones
                self._add_pair(subject, text, Source.WORDING, similarity, losses[0] - loss)

    def junk(self, tasks: Sequence[CorpusTask]) -> None:
        """Measures what adapters of texts that are no tasks do to the base's own answers."""
        every = max(1, len(tasks) // _JUNK_INPUTS)
        inputs = [
            min(task.examples, key=lambda example: len(example.input)).input
            for task in tasks[::every][:_JUNK_INPUTS]
        ]
        answers = self._probe.own_answers(inputs, max_new_tokens=_JUNK_ANSWER_TOKENS)
        base = self._probe.base_loss(answers)
        encoded = self._read(JUNK)
        losses = self._probe.adapter_losses(encoded, answers)
        for text, description, loss in zip(JUNK, encoded, losses, strict=True):
            self._add_probe(text, Source.JUNK, description, loss - base)

    def _add_pair(
        self, subject: Subject, text: Text, source: Source, similarity: float, extra: float
    ) -> None:
        self.pairs.append(
            Pair(
                task=subject.task.id,
                neighbour=text.owner,
                source=source,
                similarity=similarity,
                extra=extra,
            )
        )

    def _add_probe(
        self, name: str, source: Source, encoded: EncodedDescription, harm: float
    ) -> None:
        support = float(np.max(self._support @ encoded.pooled))
        self.probes.append(Probe(name=name, source=source, support=support, harm=harm))

"""The models of a benchmark at work: batches of prompts in, answers of each arm out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from hyperplug.evaluation.adapters import AdapterMaker
from hyperplug.evaluation.answers import Answerer
from hyperplug.evaluation.arms import Arm
from hyperplug.evaluation.decoding import Reading
from hyperplug.evaluation.partial import Answered, FinishedBatch
from hyperplug.evaluation.plan import Row
from hyperplug.hypernet.data import CorpusTask
from hyperplug.hypernet.model import LoraBatch


@dataclass(frozen=True, slots=True, kw_only=True)
class _Chosen:
    """The rows of a batch that an arm answers, and their tasks, each once."""

    rows: tuple[int, ...]
    tasks: tuple[CorpusTask, ...]
    task_of_row: tuple[int, ...]


class BatchRun:
    """A batch that several arms answer; its prompts are read once for all of them that ask the
    same model."""

    def __init__(self, rows: Sequence[Row], *, answerer: Answerer, adapters: AdapterMaker) -> None:
        self._rows = rows
        self._answerer = answerer
        self._adapters = adapters
        self._readings: dict[Answerer, Reading] = {}

    def answer(self, arm: Arm) -> FinishedBatch:
        """Returns an arm's answers; none for tasks that it has no adapter for."""
        started = time.monotonic()
        begun = time.monotonic()
        answerer = self._adapters.model(arm) or self._answerer
        training = time.monotonic() - begun
        if answerer not in self._readings:
            self._readings[answerer] = answerer.read([row.prompt for row in self._rows])
        chosen = _choose(self._rows, [self._adapters.covers(arm, row.task) for row in self._rows])
        begun = time.monotonic()
        loras = self._adapters.loras(arm, chosen.tasks) if chosen.tasks else None
        adapting = training + time.monotonic() - begun
        texts = answerer.answer(
            self._readings[answerer], _by_row(loras, chosen.task_of_row), rows=chosen.rows
        )
        return FinishedBatch(
            arm=arm.name,
            seconds=time.monotonic() - started,
            adapting=adapting,
            answers=tuple(
                _answered(self._rows[row], text)
                for row, text in zip(chosen.rows, texts, strict=True)
            ),
        )


def _choose(rows: Sequence[Row], covered: Sequence[bool]) -> _Chosen:
    numbers = [number for number, yes in enumerate(covered) if yes]
    tasks = list({rows[number].task.id: rows[number].task for number in numbers}.values())
    places = {task.id: place for place, task in enumerate(tasks)}
    return _Chosen(
        rows=tuple(numbers),
        tasks=tuple(tasks),
        task_of_row=tuple(places[rows[number].task.id] for number in numbers),
    )


def _by_row(
    loras: Sequence[LoraBatch] | None, task_of_row: Sequence[int]
) -> Sequence[LoraBatch] | None:
    """Returns an adapter a row of those of the tasks; one for all stays one."""
    if loras is None or loras[0].a.shape[0] == 1:
        return loras
    places = torch.tensor(task_of_row)
    return [LoraBatch(a=lora.a[places], b=lora.b[places]) for lora in loras]


def _answered(row: Row, text: str) -> Answered:
    return Answered(
        task=row.task.id, index=row.index, answer=text, prompt_tokens=len(row.prompt.ids)
    )

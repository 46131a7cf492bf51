"""From the answers of a benchmark to its result."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from hyperplug.evaluation import unrelated
from hyperplug.evaluation.adapters import AdapterMaker
from hyperplug.evaluation.arms import Source
from hyperplug.evaluation.artefacts import Artefacts
from hyperplug.evaluation.comparisons import TaskScores
from hyperplug.evaluation.machine import hardware, versions
from hyperplug.evaluation.metrics import score
from hyperplug.evaluation.options import BenchmarkOptions
from hyperplug.evaluation.partial import PartialFile
from hyperplug.evaluation.result import BenchmarkResult, Unrelated, ordered
from hyperplug.evaluation.works import Subject
from hyperplug.hypernet.data import CorpusTask
from hyperplug.hypernet.frozen import FrozenBase


def gather(
    subject: Subject,
    options: BenchmarkOptions,
    record: PartialFile,
    *,
    adapters: AdapterMaker,
    about: Mapping[str, Any],
) -> BenchmarkResult:
    """Returns the result of a finished benchmark."""
    names = [arm.name for arm in options.arms]
    decided = any(arm.adapter is Source.POLICY for arm in options.arms)
    return BenchmarkResult(
        arms=options.arms,
        tasks=ordered([_scores(task, names, record) for task in subject.tasks]),
        seed=options.seed,
        seconds=record.seconds,
        about=about,
        prompt_tokens={name: _prompt_tokens(name, subject, record) for name in names},
        adapt_seconds={
            arm.name: record.adapting(arm.name) / len(subject.tasks)
            for arm in options.arms
            if arm.adapter is not Source.NONE
        },
        decisions=(
            {task.id: adapters.decision(task).value for task in subject.tasks} if decided else {}
        ),
        unrelated=_unrelated(subject, options, record) if options.unrelated else None,
    )


def about(options: BenchmarkOptions, artefacts: Artefacts, frozen: FrozenBase) -> dict[str, Any]:
    """Returns what the figures belong to; equal for runs that may be joined."""
    network = artefacts.networks.get("hypernet")
    spec = artefacts.base.spec
    return {
        "versions": versions(),
        "hardware": hardware(frozen.device),
        "base": {"id": spec.id, "fingerprint": spec.fingerprint},
        "hypernet": {"fingerprint": network.generator.spec.fingerprint} if network else None,
        "checkpoints": artefacts.as_dict(),
        "settings": {
            "arms": [arm.name for arm in options.arms],
            "dtype": str(frozen.dtype).removeprefix("torch."),
            "device": frozen.device.type,
            "threads": torch.get_num_threads(),
            "limit_tasks": options.limit_tasks,
            "limit_examples": options.limit_examples,
            "registered_tasks": len(artefacts.train_tasks),
            "unrelated": options.unrelated,
        },
    }


def kept_answers(
    subject: Subject, result: BenchmarkResult, record: PartialFile
) -> Iterator[dict[str, Any]]:
    """Yields each task with what was asked, expected and answered by every arm."""
    for task in subject.tasks:
        given = {name: record.answers(name, task.id) for name in result.names}
        yield {
            "id": task.id,
            "family": task.family,
            "metric": task.metric,
            "description": task.descriptions[0],
            "scores": next(t.scores for t in result.tasks if t.id == task.id),
            "examples": [
                {
                    "input": example.input,
                    "expected": example.output,
                    "answers": {n: found[index].answer for n, found in given.items() if found},
                }
                for index, example in enumerate(task.examples)
            ],
        }


def _scores(task: CorpusTask, arms: list[str], record: PartialFile) -> TaskScores:
    return TaskScores(
        id=task.id,
        family=task.family,
        category=task.category,
        metric=task.metric,
        examples=len(task.examples),
        scores={arm: _mean(task, arm, record) for arm in arms if record.answers(arm, task.id)},
    )


def _mean(task: CorpusTask, arm: str, record: PartialFile) -> float:
    answers = record.answers(arm, task.id)
    return statistics.fmean(
        score(task.metric, answer=answers[index].answer, expected=example.output)
        for index, example in enumerate(task.examples)
    )


def _prompt_tokens(arm: str, subject: Subject, record: PartialFile) -> float:
    """Returns the mean over tasks of the mean length of an arm's prompts."""
    means = [
        statistics.fmean(answer.prompt_tokens for answer in answers.values())
        for answers in (record.answers(arm, task.id) for task in subject.tasks)
        if answers
    ]
    return round(statistics.fmean(means), 1) if means else 0.0


def _unrelated(subject: Subject, options: BenchmarkOptions, record: PartialFile) -> Unrelated:
    bare = unrelated.asked_bare()
    return Unrelated(
        questions=len(unrelated.QUESTIONS),
        base=_mean(bare, unrelated.BARE.name, record),
        standing={arm.name: _mean(bare, arm.name, record) for arm in options.arms if arm.standing},
        mounted={
            unrelated.task_id(asked): _mean(asked, unrelated.MOUNTED.name, record)
            for asked in unrelated.asked_under(subject.tasks)
        },
    )

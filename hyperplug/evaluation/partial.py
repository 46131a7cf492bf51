"""The record of a benchmark under way: one JSON line a finished task, so that an
interrupted run goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hyperplug.entities import Example
from hyperplug.evaluation.arms import Arm
from hyperplug.evaluation.result import TaskScores


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedTask:
    """A task with its scores and what was answered.

    Attributes:
        answers: by arm, in the order of the examples.
        seconds: how long it took.
    """

    scores: TaskScores
    examples: Sequence[Example]
    answers: Mapping[Arm, Sequence[str]]
    seconds: float


class PartialFile:
    """Finished tasks on disk. A file written with other settings is begun anew.

    Attributes:
        finished: scores by task id.
        seconds: how long the finished tasks took.
    """

    def __init__(self, path: Path, *, settings: Mapping[str, Any]) -> None:
        self.path = path
        self.finished: dict[str, TaskScores] = {}
        self.seconds = 0.0
        text = json.dumps(settings, sort_keys=True)
        header = {"benchmark": hashlib.sha256(text.encode()).hexdigest()}
        lines = self._read()
        if lines and lines[0] == header:
            for line in lines[1:]:
                self._remember(_scores(line), float(line["seconds"]))
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(header) + "\n", encoding="utf-8")

    def add(self, task: FinishedTask) -> None:
        """Appends a finished task."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(_line(task), ensure_ascii=False) + "\n")
        self._remember(task.scores, task.seconds)

    def keep_as(self, path: Path) -> None:
        """Gives the record, with all answers, to the user under another name."""
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(self.path, path)

    def remove(self) -> None:
        """Deletes the record."""
        self.path.unlink(missing_ok=True)

    def _remember(self, scores: TaskScores, seconds: float) -> None:
        self.finished[scores.id] = scores
        self.seconds += seconds

    def _read(self) -> list[Any]:
        """Returns the complete lines, and cuts off one that was interrupted."""
        if not self.path.is_file():
            return []
        lines: list[Any] = []
        size = 0
        for line in self.path.read_bytes().split(b"\n")[:-1]:
            try:
                lines.append(json.loads(line))
            except ValueError:
                break
            size += len(line) + 1
        with self.path.open("rb+") as file:
            file.truncate(size)
        return lines


def _line(task: FinishedTask) -> dict[str, Any]:
    return {
        "id": task.scores.id,
        "family": task.scores.family,
        "metric": task.scores.metric,
        "seconds": round(task.seconds, 3),
        "scores": dict(task.scores.scores),
        "examples": [
            {
                "input": example.input,
                "expected": example.output,
                "answers": {arm.value: answers[index] for arm, answers in task.answers.items()},
            }
            for index, example in enumerate(task.examples)
        ],
    }


def _scores(line: Mapping[str, Any]) -> TaskScores:
    return TaskScores(
        id=line["id"],
        family=line["family"],
        metric=line["metric"],
        examples=len(line["examples"]),
        scores={Arm(name): float(value) for name, value in line["scores"].items()},
    )

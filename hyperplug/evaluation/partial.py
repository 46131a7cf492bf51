"""The record of a benchmark under way: one JSON line a finished batch of an arm, so that an
interrupted run goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """An answer to one example of a task."""

    task: str
    index: int
    answer: str
    prompt_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedBatch:
    """What an arm answered to a batch.

    Attributes:
        seconds: how long it took ...
        adapting: ... and how much of that was making the adapters.
    """

    arm: str
    seconds: float
    answers: tuple[Answered, ...]
    adapting: float = 0.0


class PartialFile:
    """Answers on disk. A file written with other settings is begun anew.

    Attributes:
        done: keys of the batches that are finished.
        seconds: how long they took.
    """

    def __init__(self, path: Path, *, settings: Mapping[str, Any]) -> None:
        self.path = path
        self.done: set[str] = set()
        self.seconds = 0.0
        self._adapting: dict[str, float] = {}
        self._answers: dict[str, dict[str, dict[int, Answered]]] = {}
        text = json.dumps(settings, sort_keys=True)
        header = {"benchmark": hashlib.sha256(text.encode()).hexdigest()}
        lines = self._read()
        if lines and lines[0] == header:
            for line in lines[1:]:
                self._remember(line["key"], _batch(line))
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(header) + "\n", encoding="utf-8")

    def add(self, key: str, batch: FinishedBatch) -> None:
        """Appends a finished batch."""
        line = {
            "key": key,
            "arm": batch.arm,
            "seconds": round(batch.seconds, 3),
            "adapting": round(batch.adapting, 4),
            "answers": [[a.task, a.index, a.answer, a.prompt_tokens] for a in batch.answers],
        }
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
        self._remember(key, batch)

    def answers(self, arm: str, task: str) -> Mapping[int, Answered]:
        """Returns the answers of an arm to a task, by the number of the example."""
        return self._answers.get(arm, {}).get(task, {})

    def adapting(self, arm: str) -> float:
        """Returns how many seconds an arm's adapters took to make."""
        return self._adapting.get(arm, 0.0)

    def remove(self) -> None:
        """Deletes the record."""
        self.path.unlink(missing_ok=True)

    def _remember(self, key: str, batch: FinishedBatch) -> None:
        self.done.add(key)
        self.seconds += batch.seconds
        self._adapting[batch.arm] = self.adapting(batch.arm) + batch.adapting
        tasks = self._answers.setdefault(batch.arm, {})
        for answer in batch.answers:
            tasks.setdefault(answer.task, {})[answer.index] = answer

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


def _batch(line: Mapping[str, Any]) -> FinishedBatch:
    return FinishedBatch(
        arm=line["arm"],
        seconds=float(line["seconds"]),
        adapting=float(line.get("adapting", 0.0)),
        answers=tuple(
            Answered(task=task, index=index, answer=answer, prompt_tokens=tokens)
            for task, index, answer, tokens in line["answers"]
        ),
    )

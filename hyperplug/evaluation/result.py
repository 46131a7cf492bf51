"""What a benchmark found: scores by arm and task, and the figures drawn from them."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hyperplug.errors import ConfigError
from hyperplug.evaluation.arms import Arm

_RESAMPLES = 2_000
# Pairs whose difference says what the adapter, and what its description, is worth.
_COMPARED = (
    (Arm.HYPERNET, Arm.SHUFFLED),
    (Arm.HYPERNET, Arm.STATIC),
    (Arm.HYPERNET, Arm.PROMPT),
    (Arm.HYPERNET, Arm.BASE),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskScores:
    """Scores of one task, 0 to 100, by arm.

    Attributes:
        examples: how many examples they are means over.
    """

    id: str
    family: str
    metric: str
    examples: int
    scores: Mapping[Arm, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """How far one arm is ahead of another: the mean over families of their means.

    Attributes:
        low: lower end of the 95 % interval, by paired bootstrap over families; `high`
            likewise.
    """

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkResult:
    """The outcome of a benchmark.

    Attributes:
        about: what was measured and where: versions, hardware, models, settings.
    """

    arms: tuple[Arm, ...]
    tasks: tuple[TaskScores, ...]
    seed: int
    seconds: float
    about: Mapping[str, Any]

    def mean(self, arm: Arm) -> float:
        """Returns the mean score over tasks."""
        return statistics.fmean(task.scores[arm] for task in self.tasks)

    def family_mean(self, arm: Arm) -> float:
        """Returns the mean over families of the mean over their tasks."""
        return float(self.family_scores(arm).mean())

    def family_scores(self, arm: Arm) -> NDArray[np.float64]:
        """Returns the mean score of each family, in the order of their names."""
        families: dict[str, list[float]] = {}
        for task in self.tasks:
            families.setdefault(task.family, []).append(task.scores[arm])
        return np.array([statistics.fmean(families[name]) for name in sorted(families)])

    def differences(self) -> dict[str, Difference]:
        """Returns how far the generated adapters are ahead of the other arms measured."""
        return {
            f"{first} - {second}": self._difference(first, second)
            for first, second in _COMPARED
            if first in self.arms and second in self.arms
        }

    def as_dict(self) -> dict[str, Any]:
        """Returns the result as JSON values."""
        return {
            "arms": {
                arm.value: {
                    "mean": round(self.mean(arm), 2),
                    "family_mean": round(self.family_mean(arm), 2),
                    "tasks": {task.id: round(task.scores[arm], 2) for task in self.tasks},
                }
                for arm in self.arms
            },
            "differences": {
                name: {
                    "mean": round(difference.mean, 2),
                    "low": round(difference.low, 2),
                    "high": round(difference.high, 2),
                }
                for name, difference in self.differences().items()
            },
            "tasks": len(self.tasks),
            "families": len({task.family for task in self.tasks}),
            "examples": max(task.examples for task in self.tasks),
            "examples_total": sum(task.examples for task in self.tasks),
            "task_details": {
                task.id: {"family": task.family, "metric": task.metric, "examples": task.examples}
                for task in self.tasks
            },
            "seed": self.seed,
            "seconds": round(self.seconds, 1),
            **self.about,
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> BenchmarkResult:
        """Returns the result of `as_dict`'s content."""
        fields = ("versions", "hardware", "settings", "base", "hypernet")
        arms = tuple(Arm(name) for name in content["arms"])
        return cls(
            arms=arms,
            tasks=tuple(
                TaskScores(
                    id=id_,
                    family=details["family"],
                    metric=details["metric"],
                    examples=details["examples"],
                    scores={arm: content["arms"][arm.value]["tasks"][id_] for arm in arms},
                )
                for id_, details in content["task_details"].items()
            ),
            seed=content["seed"],
            seconds=content["seconds"],
            about={name: content[name] for name in fields if name in content},
        )

    def _difference(self, first: Arm, second: Arm) -> Difference:
        gains = self.family_scores(first) - self.family_scores(second)  # (families,)
        rng = np.random.default_rng(self.seed)
        drawn = rng.integers(len(gains), size=(_RESAMPLES, len(gains)))
        low, high = np.quantile(gains[drawn].mean(axis=1), [0.025, 0.975])
        return Difference(mean=float(gains.mean()), low=float(low), high=float(high))


def read_result(path: Path) -> BenchmarkResult:
    """Returns the result in a file that a benchmark wrote.

    Raises:
        ConfigError: if it is missing or something else.
    """
    try:
        return BenchmarkResult.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise ConfigError(
            f"{path} is not a benchmark result: {type(exc).__name__}",
            hint="write one with: hyperplug evaluate --json FILE",
        ) from exc


def ordered(tasks: Sequence[TaskScores]) -> tuple[TaskScores, ...]:
    """Returns the tasks by family and id, whatever order they were measured in."""
    return tuple(sorted(tasks, key=lambda task: (task.family, task.id)))

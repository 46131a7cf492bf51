"""What a benchmark found: scores by arm and task, and the figures drawn from them."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hyperplug.errors import ConfigError
from hyperplug.evaluation import comparisons
from hyperplug.evaluation.arms import Arm, find_arm
from hyperplug.evaluation.comparisons import SAVED, Estimate, TaskScores, answered_by

_ABOUT = ("versions", "hardware", "settings", "base", "hypernet", "checkpoints")


@dataclass(frozen=True, slots=True, kw_only=True)
class Unrelated:
    """What adapters do to simple questions that none of them is for.

    Attributes:
        questions: how many are asked.
        base: the base model's own score, 0 to 100.
        mounted: the score under the adapter of each task, by task id.
        standing: the score of each arm whose adapter or weights answer whatever is asked.
    """

    questions: int
    base: float
    mounted: Mapping[str, float]
    standing: Mapping[str, float] = field(default_factory=dict)

    @property
    def loss(self) -> float:
        """How many points the base model's score loses, on average over the adapters."""
        return self.base - statistics.fmean(self.mounted.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkResult:
    """The outcome of a benchmark.

    Attributes:
        prompt_tokens: mean length of an arm's prompts, by its name.
        adapt_seconds: how long an arm's adapter takes to make or train, mean over tasks.
        decisions: what the policy decided, by task id, if that arm was measured.
        unrelated: None if it was not asked for.
        about: what was measured and where: versions, hardware, models with the budget of
            their training, settings.
    """

    arms: tuple[Arm, ...]
    tasks: tuple[TaskScores, ...]
    seed: int
    seconds: float
    about: Mapping[str, Any]
    prompt_tokens: Mapping[str, float] = field(default_factory=dict)
    adapt_seconds: Mapping[str, float] = field(default_factory=dict)
    decisions: Mapping[str, str] = field(default_factory=dict)
    unrelated: Unrelated | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the arms."""
        return tuple(arm.name for arm in self.arms)

    def tasks_of(self, arm: str) -> list[TaskScores]:
        """Returns the tasks that an arm answered."""
        return answered_by(self.tasks, (arm,))

    def mean(self, arm: str) -> float:
        """Returns the mean score over tasks."""
        return statistics.fmean(task.scores[arm] for task in self.tasks_of(arm))

    def family_mean(self, arm: str) -> float:
        """Returns the mean over families of the mean over their tasks."""
        return float(self.family_scores(arm).mean())

    def family_scores(self, arm: str) -> NDArray[np.float64]:
        """Returns the mean score of each family, in the order of their names."""
        return comparisons.family_scores(self.tasks_of(arm), arm)

    def interval(self, arm: str) -> Estimate | None:
        """Returns the mean over families with its interval."""
        return comparisons.interval(self.tasks, arm, seed=self.seed)

    def differences(self) -> dict[str, Estimate]:
        """Returns how far arms are ahead of others."""
        return comparisons.differences(self.tasks, self.names, seed=self.seed)

    def gaps(self) -> dict[str, Estimate]:
        """Returns each arm's share of the way from the base model to the task's own LoRA."""
        return comparisons.gaps(self.tasks, self.names, seed=self.seed)

    def tokens_saved(self) -> dict[str, float]:
        """Returns by how many tokens the second arm's prompts are shorter than the first's."""
        tokens = self.prompt_tokens
        return {
            f"{first} - {second}": tokens[first] - tokens[second]
            for first, second in SAVED
            if first in tokens and second in tokens
        }

    def decision_shares(self) -> dict[str, float]:
        """Returns the share of each of the policy's decisions."""
        counts = Counter(self.decisions.values())
        return {name: counts[name] / len(self.decisions) for name in sorted(counts)}

    def as_dict(self) -> dict[str, Any]:
        """Returns the result as JSON values."""
        content: dict[str, Any] = {
            "arms": {name: self._arm_dict(name) for name in self.names},
            "differences": {n: _estimate_dict(d) for n, d in self.differences().items()},
            "normalised_gaps": {n: _estimate_dict(g, digits=3) for n, g in self.gaps().items()},
            "prompt_tokens_saved": {n: round(x, 1) for n, x in self.tokens_saved().items()},
            "decisions": dict(self.decisions),
            "decision_shares": {n: round(x, 3) for n, x in self.decision_shares().items()},
            "unrelated": None if self.unrelated is None else _unrelated_dict(self.unrelated),
            "tasks": len(self.tasks),
            "families": len({task.family for task in self.tasks}),
            "examples": max(task.examples for task in self.tasks),
            "examples_total": sum(task.examples for task in self.tasks),
            "task_details": {
                task.id: {
                    "family": task.family,
                    "category": task.category,
                    "metric": task.metric,
                    "examples": task.examples,
                }
                for task in self.tasks
            },
            "seed": self.seed,
            "seconds": round(self.seconds, 1),
        }
        return content | dict(self.about)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> BenchmarkResult:
        """Returns the result of `as_dict`'s content."""
        entries = content["arms"]
        other = content.get("unrelated")
        return cls(
            arms=tuple(find_arm(name) for name in entries),
            tasks=tuple(
                TaskScores(
                    id=id_,
                    scores={n: e["tasks"][id_] for n, e in entries.items() if id_ in e["tasks"]},
                    **details,
                )
                for id_, details in content["task_details"].items()
            ),
            seed=content["seed"],
            seconds=content["seconds"],
            about={name: content[name] for name in _ABOUT if name in content},
            prompt_tokens={
                n: e["prompt_tokens"] for n, e in entries.items() if "prompt_tokens" in e
            },
            adapt_seconds={
                n: e["adapt_seconds"] for n, e in entries.items() if "adapt_seconds" in e
            },
            decisions=content.get("decisions", {}),
            unrelated=other
            and Unrelated(
                questions=other["questions"],
                base=other["base"],
                mounted=other["mounted"],
                standing=other.get("standing", {}),
            ),
        )

    def _arm_dict(self, arm: str) -> dict[str, Any]:
        tasks = self.tasks_of(arm)
        interval = self.interval(arm)
        if interval is None:
            return {"n": 0, "tasks": {}}
        return {
            "mean": round(self.mean(arm), 2),
            "family_mean": round(interval.mean, 2),
            "low": round(interval.low, 2),
            "high": round(interval.high, 2),
            "families": interval.families,
            "n": sum(task.examples for task in tasks),
            "prompt_tokens": self.prompt_tokens.get(arm, 0.0),
            **(
                {"adapt_seconds": round(self.adapt_seconds[arm], 3)}
                if arm in self.adapt_seconds
                else {}
            ),
            "tasks": {task.id: round(task.scores[arm], 2) for task in tasks},
        }


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


def _estimate_dict(estimate: Estimate, *, digits: int = 2) -> dict[str, Any]:
    return {
        "mean": round(estimate.mean, digits),
        "low": round(estimate.low, digits),
        "high": round(estimate.high, digits),
        "families": estimate.families,
        "tasks": estimate.tasks,
        "wanted": estimate.wanted,
    }


def _unrelated_dict(unrelated: Unrelated) -> dict[str, Any]:
    return {
        "questions": unrelated.questions,
        "base": round(unrelated.base, 2),
        "loss": round(unrelated.loss, 2),
        "mounted": {name: round(score, 2) for name, score in unrelated.mounted.items()},
        "standing": {name: round(score, 2) for name, score in unrelated.standing.items()},
    }

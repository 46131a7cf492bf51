"""How far arms are ahead of one another: means over families, with bootstrap intervals."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_RESAMPLES = 2_000
_LEVELS = (0.025, 0.975)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskScores:
    """Scores of one task, 0 to 100, by the arms that answered it.

    Attributes:
        examples: how many examples they are means over.
    """

    id: str
    family: str
    metric: str
    examples: int
    scores: Mapping[str, float]
    category: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two arms whose difference answers a question.

    Attributes:
        meaning: what it is worth to know.
        wanted: the least that the project set itself.
    """

    first: str
    second: str
    meaning: str
    wanted: float | None = None

    @property
    def name(self) -> str:
        """Both names: "hypernet - shuffled"."""
        return f"{self.first} - {self.second}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A figure over families.

    Attributes:
        low: lower end of the 95 % interval, by paired bootstrap over families; `high`
            likewise.
        families: how many it is over.
        tasks: of how many tasks.
    """

    mean: float
    low: float
    high: float
    families: int
    tasks: int
    meaning: str = ""
    wanted: float | None = None


PAIRS = (
    Pair(
        first="hypernet",
        second="shuffled",
        meaning="the right description against another task's",
        wanted=15,
    ),
    Pair(first="hypernet", second="junk", meaning="the right description against none"),
    Pair(
        first="hypernet",
        second="static",
        meaning="one adapter a task against one for all",
        wanted=6,
    ),
    Pair(
        first="hypernet",
        second="static-part",
        meaning="what the generated part adds to the shared one",
    ),
    Pair(first="hypernet", second="base", meaning="adapter against no adapter"),
    Pair(
        first="hypernet",
        second="prompt",
        meaning="description in the adapter against description in the prompt",
        wanted=25,
    ),
    *(
        Pair(first="hypernet", second=f"shots-{k}", meaning="against worked examples in the prompt")
        for k in (1, 4, 8)
    ),
    Pair(
        first="hypernet",
        second="static-prompt",
        meaning="description in the adapter only against plain instruction tuning",
        wanted=-1,
    ),
    Pair(
        first="hypernet-prompt",
        second="static-prompt",
        meaning="description in adapter and prompt against plain instruction tuning",
        wanted=2,
    ),
    Pair(first="hypernet", second="t2l", meaning="ours against Text-to-LoRA", wanted=3),
    Pair(first="t2l", second="t2l-shuffled", meaning="Text-to-LoRA: right description or not"),
    Pair(first="t2l", second="t2l-junk", meaning="Text-to-LoRA: right description or none"),
    Pair(first="hypernet", second="mean", meaning="against the mean of training LoRAs"),
    Pair(first="hypernet", second="nearest", meaning="against the nearest task's LoRA"),
    Pair(first="hypernet", second="merge", meaning="against a merge of the nearest LoRAs"),
    Pair(first="hypernet", second="oracle", meaning="against a LoRA of the task's own"),
    Pair(
        first="rephrased",
        second="hypernet",
        meaning="the description in other words",
        wanted=-1,
    ),
    Pair(first="hypernet-both", second="hypernet", meaning="what examples add"),
    Pair(
        first="hypernet-examples",
        second="examples-shuffled",
        meaning="the right examples against another task's",
    ),
    Pair(first="refined", second="hypernet-both", meaning="what 20 steps on the examples add"),
    Pair(first="refined", second="lora", meaning="from a generated start or from scratch"),
    Pair(
        first="refined", second="static-refined", meaning="from a generated start or a common one"
    ),
    Pair(first="refined", second="maml", meaning="against a start by MAML"),
    Pair(first="refined", second="reptile", meaning="against a start by Reptile"),
    Pair(first="hypernet-both", second="rag", meaning="against retrieval into the prompt"),
    Pair(first="policy", second="hypernet", meaning="the registry's choice against generating"),
)
# Arms whose share of the way from the base model to the task's own LoRA is of interest.
GAPS = {
    "hypernet": 0.60,
    "hypernet-both": 0.75,
    "hypernet-examples": None,
    "hypernet-prompt": None,
    "static": None,
    "static-prompt": None,
    "t2l": None,
}
# How much shorter prompts become: arms with and without the description in them.
SAVED = (
    ("prompt", "hypernet"),
    ("static-prompt", "hypernet"),
    ("shots-8", "hypernet"),
)


def family_scores(tasks: Iterable[TaskScores], arm: str) -> NDArray[np.float64]:
    """Returns the mean score of each family, in the order of their names."""
    families: dict[str, list[float]] = {}
    for task in tasks:
        families.setdefault(task.family, []).append(task.scores[arm])
    return np.array([statistics.fmean(families[name]) for name in sorted(families)])


def answered_by(tasks: Iterable[TaskScores], arms: Sequence[str]) -> list[TaskScores]:
    """Returns the tasks that every one of the arms answered."""
    return [task for task in tasks if all(arm in task.scores for arm in arms)]


def interval(tasks: Sequence[TaskScores], arm: str, *, seed: int) -> Estimate | None:
    """Returns an arm's mean over families; None if it answered no task."""
    return _estimate(tasks, (arm,), lambda means: means[0], seed=seed)


def differences(
    tasks: Sequence[TaskScores], arms: Sequence[str], *, seed: int
) -> dict[str, Estimate]:
    """Returns how far arms are ahead of others, over the tasks that both answered."""
    found = {
        pair.name: _estimate(
            tasks,
            (pair.first, pair.second),
            lambda means: means[0] - means[1],
            seed=seed,
            meaning=pair.meaning,
            wanted=pair.wanted,
        )
        for pair in PAIRS
        if pair.first in arms and pair.second in arms
    }
    return {name: estimate for name, estimate in found.items() if estimate is not None}


def gaps(tasks: Sequence[TaskScores], arms: Sequence[str], *, seed: int) -> dict[str, Estimate]:
    """Returns (arm - base) / (oracle - base) over the oracle's tasks, by arm.

    None if the oracle is not better than the base model beyond doubt.
    """
    if not {"base", "oracle"} <= set(arms):
        return {}
    found = {
        arm: _estimate(
            tasks,
            (arm, "base", "oracle"),
            lambda means: (means[0] - means[1]) / (means[2] - means[1]),
            seed=seed,
            meaning="share of the way from the base model to the task's own LoRA",
            wanted=wanted,
        )
        for arm, wanted in GAPS.items()
        if arm in arms
    }
    room = _estimate(tasks, ("oracle", "base"), lambda means: means[0] - means[1], seed=seed)
    if room is None or room.low <= 0:  # else some resamples divide by nothing or less
        return {}
    return {arm: estimate for arm, estimate in found.items() if estimate is not None}


def _estimate(
    tasks: Sequence[TaskScores],
    arms: Sequence[str],
    figure: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    *,
    seed: int,
    meaning: str = "",
    wanted: float | None = None,
) -> Estimate | None:
    """Returns a figure of the arms' means over families, (arms,) or (arms, resamples)."""
    common = answered_by(tasks, arms)
    if not common:
        return None
    scores = np.stack([family_scores(common, arm) for arm in arms])  # (arms, families)
    count = scores.shape[1]
    drawn = np.random.default_rng(seed).integers(count, size=(_RESAMPLES, count))
    with np.errstate(divide="ignore", invalid="ignore"):
        resampled = figure(scores[:, drawn].mean(axis=-1))  # (resamples,)
        mean = float(figure(scores.mean(axis=-1)))
        low, high = np.quantile(resampled, _LEVELS)
    return Estimate(
        mean=mean,
        low=float(low),
        high=float(high),
        families=count,
        tasks=len(common),
        meaning=meaning,
        wanted=wanted,
    )

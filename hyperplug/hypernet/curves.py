"""Risk and coverage of the lookup policy's borders. Arithmetic only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from hyperplug.entities import Promise

# A border must hold over at least so many pairs: the share of bad ones among fewer is noise.
_MIN_PAIRS = 20
_NEVER = 1.0  # no two different texts are so near
_QUANTILE = 0.02
_DIGITS = 3


class Source(StrEnum):
    """Where a description came from."""

    TASK = "task"
    WORDING = "wording"
    JUNK = "junk"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A request, and a registered task whose adapter might serve it.

    Attributes:
        task: id of the task that is asked for; likewise `neighbour`.
        source: WORDING if both are the same task in other words.
        similarity: cosine of the two descriptions.
        extra: answer loss with the neighbour's adapter minus that with the request's own.
    """

    task: str
    neighbour: str
    source: Source
    similarity: float
    extra: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """A description that an adapter was generated for.

    Attributes:
        name: id of its task, or the text if it is junk.
        support: cosine to the nearest training description.
        harm: answer loss with its adapter minus the base model's.
    """

    name: str
    source: Source
    support: float
    harm: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RiskPoint:
    """What a border of NEAREST would do.

    Attributes:
        threshold: the border, a cosine.
        pairs: how many pairs are at least as near; `coverage` is their share.
        risk: share of those whose neighbour is worse by more than the margin.
        extra: their mean extra loss.
    """

    threshold: float
    pairs: int
    coverage: float
    risk: float
    extra: float


@dataclass(frozen=True, slots=True, kw_only=True)
class HarmPoint:
    """Chance that generating harms at a nearness to the training descriptions."""

    support: float
    chance: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Border:
    """A border, and in words why it lies there."""

    value: float
    reason: str


def risk_curve(pairs: Sequence[Pair], *, margin: float) -> tuple[RiskPoint, ...]:
    """Returns risk and coverage at each border that parts the pairs, the highest first."""
    ordered = sorted(pairs, key=lambda pair: -pair.similarity)
    bad = np.cumsum([pair.extra > margin for pair in ordered])
    extra = np.cumsum([pair.extra for pair in ordered])
    return tuple(
        RiskPoint(
            threshold=pair.similarity,
            pairs=count,
            coverage=count / len(ordered),
            risk=float(bad[count - 1]) / count,
            extra=float(extra[count - 1]) / count,
        )
        for count, pair in enumerate(ordered, start=1)
        if count == len(ordered) or ordered[count].similarity < pair.similarity
    )


def near_border(curve: Sequence[RiskPoint], *, bound: float) -> Border:
    """Returns the lowest border down to which the risk stays within the bound."""
    enough = min(_MIN_PAIRS, curve[-1].pairs) if curve else 0
    best: RiskPoint | None = None
    for point in curve:
        if point.pairs < enough:
            continue
        if point.risk > bound:
            break
        best = point
    if best is None:
        return Border(
            value=_NEVER, reason=f"at no similarity is the risk within {bound:.0%}: only EXACT"
        )
    return Border(
        value=_rounded_up(best.threshold),
        reason=f"the lowest similarity down to which the risk stays within {bound:.0%}: "
        f"{best.risk:.1%} of the pairs at least as near, which are {best.coverage:.0%} of all",
    )


def harm_curve(probes: Sequence[Probe]) -> tuple[HarmPoint, ...]:
    """Returns the chance of harm by support, which by assumption never rises with it.

    Junk and tasks weigh the same in total, as if a request were as likely one as the other.
    """
    ordered, weights = _weighed(probes)
    chances = _never_rising([float(probe.harm > 0) for probe in ordered], weights)
    return tuple(
        HarmPoint(support=probe.support, chance=chance)
        for probe, chance in zip(ordered, chances, strict=True)
    )


def promises(probes: Sequence[Probe]) -> tuple[Promise, ...]:
    """Returns what to expect of an adapter by support, as steps, the lowest support first.

    The mean gain and the chance of one, neither of which falls as support rises, by the
    assumption of `harm_curve`.
    """
    ordered, weights = _weighed(probes)
    losses = _never_rising([probe.harm for probe in ordered], weights)
    steps: list[Promise] = []
    for point, loss in zip(harm_curve(probes), losses, strict=True):
        promise = Promise(
            support=round(point.support, _DIGITS),
            gain=round(-loss, _DIGITS),
            confidence=round(1 - point.chance, _DIGITS),
        )
        if steps and promise.support == steps[-1].support:
            steps.pop()
        if not steps or replace(promise, support=steps[-1].support) != steps[-1]:
            steps.append(promise)
    return tuple(steps)


def _weighed(probes: Sequence[Probe]) -> tuple[list[Probe], list[float]]:
    """Returns the probes by support, and weights with which tasks and junk sum to 1 each."""
    ordered = sorted(probes, key=lambda probe: probe.support)
    junk = sum(probe.source is Source.JUNK for probe in ordered)
    return ordered, [
        1 / (junk if probe.source is Source.JUNK else len(ordered) - junk) for probe in ordered
    ]


def _never_rising(values: Sequence[float], weights: Sequence[float]) -> list[float]:
    """Returns the nearest values that never rise: isotonic regression by pooling."""
    blocks: list[tuple[float, float, int]] = []  # weight, weighted sum, values
    for value, weight in zip(values, weights, strict=True):
        block = (weight, weight * value, 1)
        while blocks and blocks[-1][1] * block[0] <= block[1] * blocks[-1][0]:
            before = blocks.pop()
            block = (before[0] + block[0], before[1] + block[1], before[2] + block[2])
        blocks.append(block)
    return [total / weight for weight, total, count in blocks for _ in range(count)]


def support_border(probes: Sequence[Probe], *, bound: float) -> Border:
    """Returns the border below which generating harms more often than the bound.

    If no task was harmed, it is the support that 98 % of the tasks reach.
    """
    tasks = [probe for probe in probes if probe.source is Source.TASK]
    if not any(probe.harm > 0 for probe in tasks):
        return Border(
            value=quantile_border([probe.support for probe in tasks]),
            reason=f"none of the {len(tasks)} validation tasks is harmed by its adapter: "
            f"the support that {1 - _QUANTILE:.0%} of them reach",
        )
    curve = harm_curve(probes)
    above = [point.support for point in curve if point.chance <= bound]
    if not above:
        return Border(value=_NEVER, reason=f"generating harms more often than {bound:.0%}")
    below = [point.support for point in curve if point.chance > bound]
    value = (max(below) + min(above)) / 2 if below else min(above)
    harmed = sum(probe.harm > 0 for probe in tasks)
    return Border(
        value=round(value, 3),
        reason=f"below it generating harms more often than {bound:.0%}; "
        f"{harmed} of {len(tasks)} validation tasks are harmed by their adapters",
    )


def quantile_border(values: Sequence[float] | NDArray[np.float32]) -> float:
    """Returns the support that all but 2 % reach."""
    return round(float(np.quantile(np.asarray(values), _QUANTILE)), 3)


def _rounded_up(value: float) -> float:
    """Returns three decimals, never below: the pair beneath must stay outside."""
    return float(np.ceil(value * 1000 - 1e-6) / 1000)

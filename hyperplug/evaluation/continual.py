"""How much a learner keeps of a stream of tasks, and what earlier tasks give to later ones.

The figures are those of Lopez-Paz and Ranzato (2017) and, for forgetting, of Chaudhry et al.
(2018), for streams in which a stage brings one task or several. Pure functions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamFigures:
    """What a table of marks comes to; None where a stream has no task for a figure.

    Attributes:
        acc: mean mark at the end of the stream.
        learned: mean mark of each task right after its stage.
        bwt: backward transfer: what tasks gained since their stage, those of the last apart.
        fwt: forward transfer: what tasks had gained before their stage, those of the first
            apart.
        forgetting: how far tasks are below the best that they had since their stage, those
            of the last apart.
    """

    acc: float | None
    learned: float | None
    bwt: float | None
    fwt: float | None
    forgetting: float | None


def stream_figures(marks: NDArray[np.float64], *, stages: Sequence[int]) -> StreamFigures:
    """Returns the figures of a stream.

    Args:
        marks: higher is better, one row a stage, the first before the stream,
            (stages + 1, tasks); NaN where a task was not measured.
        stages: the stage that brought each task, counted from 1, (tasks,).

    Raises:
        ValueError: if the table has other sizes, or lacks a mark that is needed.
    """
    last = len(marks) - 1
    if marks.ndim != 2 or marks.shape[1] != len(stages) or not all(1 <= s <= last for s in stages):
        raise ValueError(f"marks of shape {marks.shape} do not fit tasks of stages {stages}")
    tasks = list(enumerate(stages))
    earlier = [(task, stage) for task, stage in tasks if stage < last]
    later = [(task, stage) for task, stage in tasks if stage > 1]
    return StreamFigures(
        acc=_mean([marks[last, task] for task, _ in tasks]),
        learned=_mean([marks[stage, task] for task, stage in tasks]),
        bwt=_mean([marks[last, task] - marks[stage, task] for task, stage in earlier]),
        fwt=_mean([marks[stage - 1, task] - marks[0, task] for task, stage in later]),
        forgetting=_mean(
            [marks[stage:last, task].max() - marks[last, task] for task, stage in earlier]
        ),
    )


def _mean(values: Sequence[float]) -> float | None:
    if not values:
        return None
    mean = float(np.mean(values))
    if np.isnan(mean):
        raise ValueError("the table lacks a mark that is needed")
    return mean

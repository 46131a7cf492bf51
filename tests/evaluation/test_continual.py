"""The figures of a stream, on tables that can be checked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from hyperplug.evaluation.continual import stream_figures

NAN = float("nan")


def test_a_stream_of_single_tasks() -> None:
    marks = np.array(
        [
            [10.0, 20.0, 30.0],
            [90.0, 25.0, NAN],  # the third is not needed yet
            [70.0, 80.0, 36.0],
            [50.0, 60.0, 70.0],
        ]
    )
    figures = stream_figures(marks, stages=[1, 2, 3])
    assert figures.acc == (50 + 60 + 70) / 3
    assert figures.learned == (90 + 80 + 70) / 3
    assert figures.bwt == ((50 - 90) + (60 - 80)) / 2
    assert figures.fwt == ((25 - 20) + (36 - 30)) / 2
    assert figures.forgetting == ((90 - 50) + (80 - 60)) / 2


def test_a_stage_of_several_tasks_and_a_peak_between() -> None:
    marks = np.array(
        [
            [0.0, 0.0, 0.0],
            [40.0, 50.0, 10.0],
            [60.0, 50.0, 80.0],
            [55.0, 52.0, 80.0],
        ]
    )
    figures = stream_figures(marks, stages=[1, 1, 2])
    assert figures.bwt == ((55 - 40) + (52 - 50) + 0) / 3
    assert figures.forgetting == ((60 - 55) + (50 - 52) + 0) / 3  # gains count against it
    assert figures.fwt == 10.0


def test_a_stream_of_one_stage_has_no_transfer() -> None:
    figures = stream_figures(np.array([[1.0, 2.0], [3.0, 5.0]]), stages=[1, 1])
    assert (figures.acc, figures.learned) == (4.0, 4.0)
    assert (figures.bwt, figures.fwt, figures.forgetting) == (None, None, None)


def test_a_learner_that_changes_nothing_forgets_nothing() -> None:
    marks = np.tile([3.0, 4.0, 5.0], (4, 1))
    figures = stream_figures(marks, stages=[3, 1, 2])
    assert (figures.acc, figures.bwt, figures.fwt, figures.forgetting) == (4.0, 0.0, 0.0, 0.0)


@pytest.mark.parametrize("stages", [[1], [0, 1], [1, 2]])
def test_stages_that_do_not_fit(stages: list[int]) -> None:
    with pytest.raises(ValueError, match="do not fit"):
        stream_figures(np.zeros((2, 2)), stages=stages)


def test_a_mark_that_is_lacking() -> None:
    with pytest.raises(ValueError, match="lacks a mark"):
        stream_figures(np.array([[0.0, 0.0], [1.0, 1.0], [NAN, 1.0]]), stages=[1, 2])

"""Borders from risk and coverage."""

from __future__ import annotations

import pytest

from hyperplug.hypernet.curves import (
    Pair,
    Probe,
    Source,
    harm_curve,
    near_border,
    promises,
    risk_curve,
    support_border,
)


def pair(similarity: float, extra: float) -> Pair:
    return Pair(task="a", neighbour="b", source=Source.TASK, similarity=similarity, extra=extra)


def probe(support: float, harm: float, source: Source = Source.TASK) -> Probe:
    return Probe(name="a", source=source, support=support, harm=harm)


def test_risk_is_the_share_of_the_nearer_pairs_that_are_worse() -> None:
    pairs = [pair(0.9, 0.0), pair(0.8, 0.3), pair(0.8, -0.1), pair(0.2, 1.0)]
    curve = risk_curve(pairs, margin=0.1)
    assert [point.threshold for point in curve] == [0.9, 0.8, 0.2]
    assert [point.pairs for point in curve] == [1, 3, 4]
    assert [point.coverage for point in curve] == [0.25, 0.75, 1.0]
    assert [point.risk for point in curve] == pytest.approx([0, 1 / 3, 1 / 2])
    assert [point.extra for point in curve] == pytest.approx([0, 0.2 / 3, 0.3])


def test_near_lies_as_low_as_the_risk_allows() -> None:
    pairs = [pair(0.5 + n / 200, 1.0 if n < 50 else 0.0) for n in range(100)]
    border = near_border(risk_curve(pairs, margin=0.1), bound=0.1)
    # 50 good pairs from 0.75 on; five bad ones below them are 9.1 %, a sixth is too many.
    assert border.value == pytest.approx(0.725)
    assert "within 10%: 9.1% of the pairs" in border.reason and "55% of all" in border.reason


def test_one_bad_pair_at_the_top_does_not_decide() -> None:
    pairs = [pair(0.99, 5.0)] + [pair(0.9 - n / 100, 0.0) for n in range(40)]
    assert near_border(risk_curve(pairs, margin=0.1), bound=0.1).value < 0.6


def test_near_is_closed_if_no_neighbour_can_be_trusted() -> None:
    pairs = [pair(n / 100, 1.0) for n in range(100)]
    border = near_border(risk_curve(pairs, margin=0.1), bound=0.1)
    assert border.value == 1.0 and "only EXACT" in border.reason
    assert near_border((), bound=0.1).value == 1.0


def test_border_takes_in_the_last_good_pair_and_not_the_first_bad_one() -> None:
    pairs = [pair(0.70004, 0.0)] * 20 + [pair(0.69999, 9.0)] * 20
    value = near_border(risk_curve(pairs, margin=0.1), bound=0.1).value
    assert 0.69999 < value <= 0.7011


def test_chance_of_harm_never_rises_with_support() -> None:
    probes = [probe(0.1, 1.0), probe(0.2, -1.0), probe(0.3, 1.0), probe(0.4, -1.0)]
    curve = harm_curve(probes)
    assert [point.support for point in curve] == [0.1, 0.2, 0.3, 0.4]
    assert [point.chance for point in curve] == pytest.approx([1.0, 0.5, 0.5, 0.0])


def test_junk_weighs_as_much_as_tasks_however_much_there_is() -> None:
    tasks = [probe(0.5, -1.0), probe(0.3, 1.0)]
    for count in (1, 10):
        junk = [probe(0.3, 1.0, Source.JUNK)] * count + [probe(0.5, 1.0, Source.JUNK)] * count
        # At 0.5 half of the tasks' weight is unharmed, half of the junk's harmed.
        assert harm_curve([*tasks, *junk])[-1].chance == pytest.approx(0.5)


def test_promises_are_steps_that_never_fall() -> None:
    """Of the mixed ones in the middle, the mean."""
    tasks = [probe(0.1, 2.0), probe(0.2, -1.0), probe(0.3, 1.0), probe(0.4, -4.0)]
    steps = promises(tasks)
    assert [step.support for step in steps] == [0.1, 0.2, 0.4]
    assert [step.gain for step in steps] == pytest.approx([-2.0, 0.0, 4.0])
    assert [step.confidence for step in steps] == pytest.approx([0.0, 0.5, 1.0])


def test_support_lies_where_generating_begins_to_help_more_often() -> None:
    junk = [probe(0.2 + n / 100, 1.0, Source.JUNK) for n in range(20)]
    tasks = [probe(0.35 + n / 100, -1.0) for n in range(60)] + [probe(0.36, 0.2)]
    border = support_border([*junk, *tasks], bound=0.5)
    assert 0.38 < border.value < 0.41
    assert "1 of 61 validation tasks are harmed" in border.reason


def test_without_harmed_tasks_the_quantile_holds_and_it_is_said() -> None:
    tasks = [probe(n / 100, -1.0) for n in range(101)]
    border = support_border([*tasks, probe(0.9, 1.0, Source.JUNK)], bound=0.5)
    assert border.value == 0.02
    assert border.reason.startswith("none of the 101 validation tasks is harmed")


def test_a_hypernetwork_that_only_harms_is_never_used() -> None:
    assert support_border([probe(0.9, 1.0), probe(0.1, 1.0)], bound=0.5).value == 1.0

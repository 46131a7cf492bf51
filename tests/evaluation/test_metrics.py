"""Scores of answers, checked by hand and against rouge-score."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperplug.evaluation.metrics import exact_match, rouge_l, score


@pytest.mark.parametrize(
    ("answer", "expected", "points"),
    [
        ("yes", "yes", 100),
        (" Yes \n", "yes", 100),
        ("STRASSE", "straße", 100),
        ("two  words", "Two words", 100),
        ("cafe\u0301", "café", 100),
        ("yes.", "yes", 0),
        ("yes it is", "yes", 0),
        ("", "yes", 0),
    ],
)
def test_exact_match(answer: str, expected: str, points: float) -> None:
    assert exact_match(answer, expected) == points


@pytest.mark.parametrize(
    ("answer", "expected", "points"),
    [
        ("the cat sat", "the cat sat", 100),
        ("The cat, sat!", "the cat sat", 100),
        ("the cat", "the cat sat", 80),
        ("sat cat the", "the cat sat", 100 / 3),
        ("dog", "the cat sat", 0),
        ("", "the cat sat", 0),
        ("...", "...", 0),
        ("кот сидел", "кот сидел тут", 80),
    ],
)
def test_rouge_l(answer: str, expected: str, points: float) -> None:
    assert rouge_l(answer, expected) == pytest.approx(points)


@settings(deadline=None)  # the first call imports rouge-score
@given(
    answer=st.text("abc de_,.7Z", max_size=40),
    expected=st.text("abc de_,.7Z", max_size=40),
)
def test_rouge_l_is_that_of_rouge_score_on_ascii(answer: str, expected: str) -> None:
    rouge_scorer = pytest.importorskip("rouge_score.rouge_scorer")
    scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=False)
    theirs = 100 * scorer.score(expected, answer)["rougeL"].fmeasure
    assert rouge_l(answer, expected) == pytest.approx(theirs)


@given(st.text(), st.text())
def test_scores_are_symmetric_and_within_bounds(first: str, second: str) -> None:
    for metric in ("exact_match", "rougeL"):
        points = score(metric, answer=first, expected=second)
        assert 0 <= points <= 100
        assert points == pytest.approx(score(metric, answer=second, expected=first))


def test_an_unknown_metric() -> None:
    with pytest.raises(ValueError, match="bleu"):
        score("bleu", answer="", expected="")

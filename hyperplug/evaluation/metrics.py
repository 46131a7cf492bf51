"""Scores of an answer against the expected one, 0 to 100. Pure functions."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

# Letters and digits of any script: on ASCII text these are rouge-score's own tokens.
_WORD = re.compile(r"[^\W_]+")


def score(metric: str, *, answer: str, expected: str) -> float:
    """Returns the score of an answer by a metric: "exact_match", "rougeL" or "contains"."""
    if metric == "exact_match":
        return exact_match(answer, expected)
    if metric == "rougeL":
        return rouge_l(answer, expected)
    if metric == "contains":
        return contains(answer, expected)
    raise ValueError(f"unknown metric {metric!r}")


def exact_match(answer: str, expected: str) -> float:
    """Returns 100 if both are equal but for case and white space, else 0."""
    return 100.0 if _normal(answer) == _normal(expected) else 0.0


def rouge_l(answer: str, expected: str) -> float:
    """Returns the F1 of ROUGE-L (Lin, 2004) over lower-case words, without stemming."""
    found, wanted = _words(answer), _words(expected)
    common = _longest_common_subsequence(found, wanted)
    if common == 0:
        return 0.0
    precision, recall = common / len(found), common / len(wanted)
    return 100.0 * 2 * precision * recall / (precision + recall)


def contains(answer: str, accepted: str) -> float:
    """Returns 100 if one of the accepted texts, "4|four", is among the answer's words."""
    words = " ".join(_words(answer))
    wanted = (" ".join(_words(text)) for text in accepted.split("|"))
    return 100.0 if any(f" {text} " in f" {words} " for text in wanted) else 0.0


def _normal(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).casefold().split())


def _words(text: str) -> list[str]:
    return _WORD.findall(unicodedata.normalize("NFC", text).lower())


def _longest_common_subsequence(first: Sequence[str], second: Sequence[str]) -> int:
    """Returns the length of the longest common subsequence."""
    row = [0] * (len(second) + 1)
    for word in first:
        diagonal = 0
        for column, other in enumerate(second, start=1):
            above = row[column]
            row[column] = diagonal + 1 if word == other else max(above, row[column - 1])
            diagonal = above
    return row[-1]

"""In which batches a benchmark asks its prompts. Pure functions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hyperplug.entities import Example
from hyperplug.evaluation.decoding import Prompt
from hyperplug.hypernet.data import CorpusTask

# Rows of a batch answer together: it takes as long as the row with the most tokens.
_BUDGET_CLASSES = (8, 20, 40)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A prompt to be answered.

    Attributes:
        task: whose adapter answers it.
        index: the number of the example among the task's.
    """

    task: CorpusTask
    index: int
    prompt: Prompt

    @property
    def example(self) -> Example:
        """What is asked, and expected."""
        return self.task.examples[self.index]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much a device does at once: prompts of a batch, and their padded tokens."""

    rows: int
    tokens: int


def limits(device_type: str) -> Limits:
    """Returns the limits for a kind of device, "cpu" or "cuda"."""
    # More rows make a step on two cores no faster by the row.
    return (
        Limits(rows=48, tokens=12_288) if device_type == "cpu" else Limits(rows=256, tokens=2**18)
    )


def batches(rows: Sequence[Row], *, limit: Limits) -> list[tuple[Row, ...]]:
    """Returns the rows in batches of similar answer room and prompt length.

    A task's rows stay together as far as they fit, so that its adapter is made once. The
    batches with the most tokens come first: one that is too large shows at once.
    """
    found: list[tuple[Row, ...]] = []
    batch: list[Row] = []
    for piece in sorted(_pieces(rows, limit.rows), key=_rank, reverse=True):
        if batch and not _fits([*batch, *piece], limit):
            found.append(tuple(batch))
            batch = []
        batch += piece
    found += [tuple(batch)] if batch else []
    return [part for whole in found for part in _split(whole, limit)]


def _pieces(rows: Sequence[Row], size: int) -> Iterator[list[Row]]:
    """Yields the rows of each task, in pieces of at most `size`."""
    tasks: dict[str, list[Row]] = {}
    for row in rows:
        tasks.setdefault(row.task.id, []).append(row)
    for own in tasks.values():
        for start in range(0, len(own), size):
            yield own[start : start + size]


def _rank(rows: Sequence[Row]) -> tuple[int, int, str]:
    budget = max(row.prompt.max_new_tokens for row in rows)
    class_ = sum(budget > border for border in _BUDGET_CLASSES)
    return class_, max(len(row.prompt.ids) for row in rows), rows[0].task.id


def _fits(rows: Sequence[Row], limit: Limits) -> bool:
    return len(rows) <= limit.rows and len(rows) * _longest(rows) <= limit.tokens


def _split(rows: tuple[Row, ...], limit: Limits) -> Iterator[tuple[Row, ...]]:
    """Yields one batch, or several if a single task's prompts are too long for one."""
    size = len(rows)
    while size > 1 and size * _longest(rows) > limit.tokens:
        size = -(-size // 2)
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def _longest(rows: Sequence[Row]) -> int:
    return max(len(row.prompt.ids) + row.prompt.max_new_tokens for row in rows)

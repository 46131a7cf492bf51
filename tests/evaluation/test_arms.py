"""Which tasks, examples and partners a benchmark takes."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperplug.entities import Example
from hyperplug.errors import ConfigError
from hyperplug.evaluation.arms import (
    Arm,
    parse_arms,
    select_examples,
    select_tasks,
    shuffled_partners,
)
from hyperplug.hypernet.data import CorpusTask


def corpus(*sizes: int) -> list[CorpusTask]:
    """Returns families of these sizes."""
    return [
        CorpusTask(
            id=f"f{family}-{number}",
            family=f"f{family}",
            descriptions=(f"Do task {number} of {family}.",),
            metric="exact_match",
            examples=tuple(Example(input=str(n), output=str(n)) for n in range(10)),
        )
        for family, size in enumerate(sizes)
        for number in range(size)
    ]


def test_arms_are_parsed() -> None:
    assert parse_arms("base, hypernet,base") == (Arm.BASE, Arm.HYPERNET)
    with pytest.raises(ConfigError, match="unknown arm 'oracle'") as caught:
        parse_arms("base,oracle")
    assert "shuffled" in caught.value.hint
    with pytest.raises(ConfigError, match="no arm"):
        parse_arms(" , ")


@given(sizes=st.lists(st.integers(1, 6), min_size=2, max_size=8), seed=st.integers(0, 99))
def test_partners_are_a_derangement_across_families(sizes: list[int], seed: int) -> None:
    tasks = corpus(*sizes)
    partners = shuffled_partners(tasks, seed=seed)
    given_ids = [partners[task.id].id for task in tasks]
    assert Counter(given_ids) == Counter(task.id for task in tasks)
    assert all(partner != task.id for partner, task in zip(given_ids, tasks, strict=True))
    if 2 * max(sizes) <= len(tasks):
        assert all(partners[task.id].family != task.family for task in tasks)


def test_partners_do_not_depend_on_the_order_of_the_file() -> None:
    tasks = corpus(3, 2, 4, 1, 1, 2)
    assert shuffled_partners(tasks, seed=0) == shuffled_partners(tasks[::-1], seed=0)
    assert shuffled_partners(tasks, seed=0) != shuffled_partners(tasks, seed=1)


def test_one_task_has_no_partner() -> None:
    with pytest.raises(ConfigError, match="one only"):
        shuffled_partners(corpus(1), seed=0)


def test_few_tasks_are_of_many_families() -> None:
    tasks = corpus(9, 1, 5)
    assert {t.family for t in select_tasks(tasks, limit=3, seed=4)} == {"f0", "f1", "f2"}
    assert len(select_tasks(tasks, limit=None, seed=0)) == 15
    assert select_tasks(tasks, limit=5, seed=0) == select_tasks(tasks[::-1], limit=5, seed=0)
    assert select_tasks(tasks, limit=5, seed=0) != select_tasks(tasks, limit=5, seed=1)


def test_examples_are_drawn_once_each() -> None:
    task = corpus(1)[0]
    few = select_examples(task, limit=4, seed=0)
    assert len(set(few.examples)) == 4 and set(few.examples) < set(task.examples)
    assert few == select_examples(task, limit=4, seed=0) != select_examples(task, limit=4, seed=1)
    assert select_examples(task, limit=99, seed=0) == task
    assert select_examples(task, limit=None, seed=0) == task

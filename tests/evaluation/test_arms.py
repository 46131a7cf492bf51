"""Which tasks, examples and partners a benchmark takes."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperplug.entities import Example
from hyperplug.errors import ConfigError
from hyperplug.evaluation.arms import (
    ALL_ARMS,
    check_arms,
    find_arm,
    parse_arms,
)
from hyperplug.evaluation.selection import (
    junk_description,
    rephrased_description,
    select_examples,
    select_tasks,
    shown_examples,
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
    assert [arm.name for arm in parse_arms("base, hypernet,base")] == ["base", "hypernet"]
    with pytest.raises(ConfigError, match="unknown arm 'nope'") as caught:
        parse_arms("base,nope")
    assert "shuffled" in caught.value.hint
    with pytest.raises(ConfigError, match="no arm"):
        parse_arms(" , ")


def test_all_arms_are_those_with_what_they_need() -> None:
    assert len({arm.name for arm in ALL_ARMS}) == len(ALL_ARMS)
    plain = [arm.name for arm in parse_arms("all")]
    assert "hypernet-both" in plain and "shots-8" in plain
    assert not {"static", "oracle", "merge", "policy", "t2l"} & set(plain)
    more = [arm.name for arm in parse_arms("all", given={"loras", "t2l"})]
    assert set(more) - set(plain) == {
        *("mean", "nearest", "merge"),
        *("t2l", "t2l-shuffled", "t2l-junk"),
    }


def test_an_arm_without_its_file_is_refused() -> None:
    check_arms(parse_arms("static,oracle"), given={"static", "oracle"})
    with pytest.raises(ConfigError, match="arm 'oracle' needs LoRAs") as caught:
        check_arms(parse_arms("static,oracle"), given={"static"})
    assert "--oracle FILE" in caught.value.hint
    with pytest.raises(ConfigError) as caught:
        check_arms(parse_arms("static-prompt"), given=())
    assert "--static-prompt FILE" in caught.value.hint


def test_the_number_of_examples_is_chosen() -> None:
    arm = find_arm("hypernet-both:4")
    assert (arm.name, arm.examples) == ("hypernet-both:4", 4)
    assert arm.meaning == "adapter from the description and 4 examples"
    assert find_arm("hypernet-both").examples == 8
    for wrong in ("hypernet-both:0", "hypernet-both:17", "hypernet-both:x", "hypernet:4"):
        with pytest.raises(ConfigError):
            find_arm(wrong)


def test_shown_examples_are_never_asked() -> None:
    task = replace(corpus(1)[0], examples=corpus(1)[0].examples * 2)  # each input twice
    asked = select_examples(task, limit=4, seed=0)
    shown = shown_examples(task, asked, seed=0)
    assert shown == shown_examples(task, asked, seed=0) != shown_examples(task, asked, seed=1)
    assert shown and not {e.input for e in shown} & {e.input for e in asked.examples}
    assert shown_examples(task, task, seed=0) == ()


def test_descriptions_for_a_task_are_chosen() -> None:
    task = corpus(1)[0]
    assert junk_description(task, seed=0) == junk_description(task, seed=0)
    assert len({junk_description(task, seed=seed) for seed in range(20)}) > 5
    assert task.descriptions[0] in rephrased_description(task) != task.descriptions[0]
    assert rephrased_description(replace(task, descriptions=("a", "b", "c"))) == "c"


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

"""Composed tasks say what they ask for, and rewordings keep what a description says."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperplug.entities import Example
from hyperplug.hypernet.augment import augment, choice_labels, composed, rewritten
from hyperplug.hypernet.data import CorpusTask
from hyperplug.hypernet.wording import reworded

SEEDS = range(25)


def _task(name: str, descriptions: list[str], answers: list[str], **fields: object) -> CorpusTask:
    examples = tuple(
        Example(input=f"{name} {number}", output=answers[number % len(answers)])
        for number in range(max(12, 3 * len(answers)))
    )
    kept = {"family": f"family of {name}", "metric": "exact_match", **fields}
    return CorpusTask(id=name, descriptions=tuple(descriptions), examples=examples, **kept)  # type: ignore[arg-type]


REVIEW = _task(
    "review",
    ["Is the letter from a guest glad or cross? Answer positive or negative.", "Judge the mood"],
    ["positive", "negative"],
    labels=("positive", "negative"),
)
FITS = _task(
    "fits",
    ['Decide whether the key fits the lock. Answer "Yes" if so, otherwise "No".'],
    ["Yes", "No"],
    labels=("No", "Yes"),
    metric="rougeL",
)
CARGO = _task(
    "cargo",
    ["Classify the cargo note: dry_goods, live_animals or cold_chain."],
    ["dry_goods", "live_animals", "cold_chain"],
    labels=("dry_goods", "live_animals", "cold_chain"),
)
UNSTATED = _task("unstated", ["Which of the two ports is meant?"], ["Hull", "Ghent"])
TITLES = _task(
    "titles",
    ["Write a title for the ship's log entry."],
    [f"{name} Sails for Port {name[::-1].title()}" for name in ["Anna", "Berta", "Clara", "Dora"]]
    + [f"Fog off Cape {number * 'Ho'}" for number in range(1, 8)]
    + [f"{number * 'Ha'} a Gale" for number in range(1, 5)],
    metric="rougeL",
    category="generation",
)
LISTS = _task(
    "lists",
    ["Sort the numbers and output the list."],
    [f"[{n}, {n + 2}, {n + 5}]" for n in range(20)],
    category="reasoning",
)
LONG = _task(
    "long", ["Retell the voyage."], [f"{n} " + "and then the wind rose " * 9 for n in "ab"]
)
TASKS = (REVIEW, FITS, CARGO, UNSTATED, TITLES, LISTS, LONG)
RELABELLED = {"letters", "numbers", "words", "compounds", "synonyms", "inverted"} | {
    "french",
    "german",
    "spanish",
    "italian",
    "portuguese",
}
PAIR = r"{new}{q} (?:for|=|instead of|stands for|when it would be) {q}{old}(?!\w)"
ARROW = r"{old}{q} -> {q}{new}(?!\w)"


def _all_composed(task: CorpusTask) -> Iterator[CorpusTask]:
    for seed in SEEDS:
        yield from composed(task, count=99, seed=seed)


def _format(task: CorpusTask) -> str:
    return task.id.rsplit("+", 1)[1]


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.id)
def test_a_composed_task_is_the_same_task_with_other_answers(task: CorpusTask) -> None:
    for new in _all_composed(task):
        assert new.id == f"{task.id}+{_format(new)}"
        assert (new.family, new.category, new.source) == (task.family, task.category, task.source)
        assert [e.input for e in new.examples] == [e.input for e in task.examples]
        outputs = [(e.output, f.output) for e, f in zip(task.examples, new.examples, strict=True)]
        assert all(after.strip() for _, after in outputs)
        assert any(before != after for before, after in outputs)
        assert len(set(outputs)) == len({before for before, _ in outputs})  # a function
        assert not set(new.descriptions) & set(task.descriptions)
        assert len(new.descriptions) == len(task.descriptions)


@pytest.mark.parametrize("task", [REVIEW, FITS, CARGO, UNSTATED], ids=lambda task: task.id)
def test_labels_stay_one_to_one_and_are_all_the_answers(task: CorpusTask) -> None:
    for new in _all_composed(task):
        labels = choice_labels(task)
        assert len({label.casefold() for label in new.labels}) == len(labels)
        to_new = dict(zip(labels, new.labels, strict=True))
        assert [to_new[e.output] for e in task.examples] == [e.output for e in new.examples]
        assert new.metric == "exact_match"


@pytest.mark.parametrize("task", [REVIEW, FITS, CARGO, UNSTATED], ids=lambda task: task.id)
def test_every_description_states_the_whole_mapping(task: CorpusTask) -> None:
    seen = set()
    for new in _all_composed(task):
        if _format(new) not in RELABELLED:
            continue
        seen.add(_format(new))
        for old, word in zip(choice_labels(task), new.labels, strict=True):
            parts = {"old": re.escape(old), "new": re.escape(word), "q": '"?'}
            stated = re.compile(f"{PAIR.format(**parts)}|{ARROW.format(**parts)}")
            assert all(stated.search(d) for d in new.descriptions), (old, word, new.descriptions)
    assert seen >= {"letters", "numbers", "words", "compounds"}


def test_which_formats_a_task_gets() -> None:
    wrapping = {"json", "tag", "sentence", "prefix", "twice", "upper", "double-quotes"}
    found = {task.id: {_format(new) for new in _all_composed(task)} for task in TASKS}
    assert found["review"] >= wrapping | {"letters", "synonyms", "inverted", "french", "spanish"}
    assert found["fits"] >= {"lower", "upper", "synonyms", "german"}
    assert "lower" not in found["review"]  # it would change nothing
    assert not found["cargo"] & {"inverted", "synonyms", "french"}
    assert found["titles"] >= {"json", "upper", "lower", "first-word", "last-word"}
    assert not found["titles"] & RELABELLED
    assert found["lists"] >= {"reversed", "separated", "json"}
    assert not found["lists"] & {"upper", "lower", "first-word"}
    assert found["long"] & RELABELLED == set() == found["long"]


def test_json_answers_parse_and_their_key_is_named() -> None:
    for new in (n for task in (REVIEW, TITLES) for n in _all_composed(task)):
        if _format(new) == "json":
            ((key, _),) = json.loads(new.examples[0].output).items()
            assert all(f'"{key}"' in d for d in new.descriptions)
            base = REVIEW if new.id.startswith("review") else TITLES
            values = [json.loads(e.output)[key] for e in new.examples]
            assert values == [e.output for e in base.examples]


def test_wrapped_answers_show_or_name_what_is_around_them() -> None:
    for new in _all_composed(TITLES):
        left = new.examples[0].output.split("Anna")[0]
        if _format(new) in ("prefix", "tag", "sentence"):
            assert all(left in d for d in new.descriptions), new.id
        if _format(new).endswith(("quotes", "brackets", "braces", "backticks", "asterisks")):
            assert all(_format(new).replace("-", " ") in d for d in new.descriptions)


def test_lists_are_reversed_and_rejoined() -> None:
    by_format = {_format(new): new for new in composed(LISTS, count=99, seed=1)}
    assert by_format["reversed"].examples[0].output == "[5, 2, 0]"
    assert re.fullmatch(r"0(; | \| | )2(\1)5", by_format["separated"].examples[0].output)


def test_the_inverted_question_swaps_the_labels() -> None:
    (new,) = [n for n in composed(REVIEW, count=99, seed=0) if _format(n) == "inverted"]
    assert new.labels == ("negative", "positive")
    assert all("positive when it would be negative" in d.replace('"', "") for d in new.descriptions)


def test_answers_that_already_have_marks_are_not_wrapped_in_the_same() -> None:
    marked = _task("marked", ["Quote it."], ['say "ahoy".', 'cry "land!"'])
    formats = {_format(new) for new in _all_composed(marked)}
    assert not formats & {"double-quotes", "full-stop", "sentence"}
    assert formats >= {"single-quotes", "json"}


@pytest.mark.parametrize(
    ("description", "expected"),
    [
        ("Answer yes or no.", "Answer up or down."),
        ("Is it open? Reply with no, or yes", "Is it open? Reply with down, or up"),
        ("Say \"yes\" if it floats, else 'No'.", "Say \"up\" if it floats, else 'down'."),
        ('Answer "yes" or no.', "Answer up or down."),
        ("Say yes if it floats.", None),  # not all labels are named
        ("Yes or no? If there is no anchor say so.", None),  # "no" is left
        ("Does it float?", None),
    ],
)
def test_label_words_are_replaced_only_where_safe(description: str, expected: str | None) -> None:
    assert rewritten(description, {"yes": "up", "no": "down"}) == expected


def test_labels_that_differ_by_case_only_are_never_rewritten() -> None:
    assert rewritten("Answer He or he.", {"He": "A", "he": "B"}) is None


def test_counts_are_kept_and_more_of_them_only_add() -> None:
    few, many = composed(REVIEW, count=3, seed=5), composed(REVIEW, count=6, seed=5)
    assert (len(few), many[:3]) == (3, few)
    assert len({new.id for new in many}) == 6
    assert composed(REVIEW, count=0, seed=5) == ()
    assert composed(REVIEW, count=3, seed=6) != few
    empty = _task("empty", ["Say nothing."], ["", " "])
    assert composed(empty, count=9, seed=0) == ()


def test_augmented_tasks_come_with_their_composed_ones() -> None:
    new = augment(TASKS, composed_per_task=2, rewordings=3, seed=0)
    assert len({task.id for task in new}) == len(new) == len(TASKS) * 3 - 2
    assert [task.id for task in new if "+" not in task.id] == [task.id for task in TASKS]
    assert {task.family for task in new} == {task.family for task in TASKS}
    assert new[0].descriptions[:2] == REVIEW.descriptions
    assert (len(new[0].descriptions), new[0].examples) == (5, REVIEW.examples)
    assert all(task.id.startswith("review+") for task in new[1:3])


@pytest.mark.parametrize(("rewordings", "originals"), [(0, 8), (3, 5), (7, 1), (9, 1)])
def test_rewordings_take_the_place_of_later_originals(rewordings: int, originals: int) -> None:
    wordings = [f"Name the {thing} of the ship in port." for thing in "abcdefghij"]
    (task,) = augment(
        [_task("many", wordings, ["x", "y"])], composed_per_task=0, rewordings=rewordings, seed=0
    )
    assert task.descriptions[:originals] == tuple(wordings[:originals])
    assert len(task.descriptions) == originals + rewordings == len(set(task.descriptions))
    assert not set(task.descriptions[originals:]) & set(wordings)


def test_another_process_makes_the_same_tasks() -> None:
    program = (
        "from tests.hypernet.test_augment import TASKS, augment;"
        "print(augment(TASKS, composed_per_task=4, rewordings=2, seed=3))"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for hash_seed in ("1", "2")
    }
    assert printed == {str(augment(TASKS, composed_per_task=4, rewordings=2, seed=3))}


def test_rewordings_are_new_and_keep_labels_quotes_and_braces() -> None:
    description = (
        "Your task is to decide whether the given barrel is sound. Do not guess. "
        'Answer leaky or Tight as {"label": "..."}, or "cannot tell" for 3_of_4.'
    )
    wordings = reworded(description, count=20, seed=0, protected=("leaky", "Tight"))
    assert len(set(wordings)) == 20
    assert description not in wordings
    for kept in ("leaky", "Tight", '{"label": "..."}', '"cannot tell"', "3_of_4"):
        assert all(kept in wording for wording in wordings)
    assert all("barrel" in w or len(w) > 60 for w in wordings)
    assert any(w[0].islower() for w in wordings)
    assert any("don't" in w for w in wordings)


def test_commands_are_framed_as_people_ask() -> None:
    wordings = reworded("Your job is to name the harbour. Be brief.", count=40, seed=0)
    assert "name the harbour. be brief" in wordings  # terse
    framed = {w.split(" name the")[0] for w in wordings if " name the harbour" in w}
    assert len(framed & {"I need you to", "Please", "I want you to", "Can you please"}) >= 2
    assert any("Name the harbour. Be brief." in w and w[0] in "TIYHD" for w in wordings)


def test_an_answer_sentence_moves_first_only_if_it_stands_alone() -> None:
    alone = reworded("Is the rope dry? Answer yes or no.", count=30, seed=1)
    assert any(re.match(r".*\b(yes or no)\. Is the", w) for w in alone)
    tied = reworded("Read the note. Output it in French.", count=30, seed=1)
    assert not any(re.search(r"French.*note", w) for w in tied)


def test_a_label_that_looks_like_an_article_is_told_from_it() -> None:
    wordings = reworded(
        "Answer a question about a ship. Answer A or B.", count=30, seed=0, protected=("A", "B")
    )
    assert all("A or B" in w for w in wordings)
    assert not any(
        re.search(r"(?i)\b(?:say|output|reply with)\b (?:a )?question", w) for w in wordings
    )


def test_rewordings_of_odd_texts_do_not_fail() -> None:
    assert reworded("\ue000", count=3, seed=0) == ()
    assert all(wording.strip() for wording in reworded("?", count=3, seed=0))


WORDS = st.text(alphabet="abcdeéß AB.,'\"{}_19\n-", max_size=60)


@settings(max_examples=150, deadline=None)
@given(st.lists(WORDS, min_size=1, max_size=4), WORDS, st.integers(0, 9))
def test_no_text_breaks_a_composition(answers: list[str], description: str, seed: int) -> None:
    task = _task("any", [description or "?"], answers)
    new = augment([task], composed_per_task=20, rewordings=2, seed=seed)
    assert new == augment([task], composed_per_task=20, rewordings=2, seed=seed)
    for one in new[1:]:
        pairs = {
            (e.output.strip(), f.output) for e, f in zip(task.examples, one.examples, strict=True)
        }
        assert all(after.strip() for _, after in pairs)
        assert any(before != after for before, after in pairs)
        if one.labels:
            assert len({after for _, after in pairs}) == len(pairs)


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=80), st.lists(st.from_regex(r"[a-z]{2,8}", fullmatch=True), max_size=3))
def test_protected_words_survive_any_rewording(text: str, labels: list[str]) -> None:
    description = f"{text} Answer {' or '.join(labels)}."
    for wording in reworded(description, count=3, seed=0, protected=labels):
        for label in labels:
            assert wording.count(label) >= description.count(f" {label} ") > -1
            assert re.search(rf"(?<!\w){label}(?!\w)", wording)

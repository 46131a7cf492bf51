"""Registering, finding, listing and removing tasks, and what bad input comes to."""

from __future__ import annotations

import json

import pytest

from tests.cli.conftest import Hyperplug, only_line

REVIEWS = "Decide whether a film review is positive or negative. Answer with one word."


def register(hyperplug: Hyperplug, name: str = "sentiment", text: str = REVIEWS) -> None:
    assert hyperplug("register-task", name, text, "--no-generate").status == 0


def test_registering_twice_is_no_error(hyperplug: Hyperplug) -> None:
    register(hyperplug)
    again = hyperplug("register-task", "sentiment", f" {REVIEWS}\n", "--no-generate")
    assert (again.status, again.out) == (0, "sentiment\n")
    assert hyperplug("list-tasks").out.count("\n") == 1


def test_another_text_under_the_same_name_is_refused(hyperplug: Hyperplug) -> None:
    register(hyperplug)
    ran = hyperplug("register-task", "sentiment", "Translate into Latin.", "--no-generate")
    assert ran.status == 1
    assert "'sentiment'" in only_line(ran.err, start="Error: ")
    assert "update-task sentiment" in only_line(ran.err, start="Hint: ")
    assert REVIEWS in hyperplug("show-task", "sentiment").out


@pytest.mark.parametrize(
    "name",
    [
        "a/b",
        "../up",
        "a.b",
        "a,b",
        "a@b",
        "a b",
        "ABC",
        "",
        "-",
        "x" * 300,
        "sеntiment",
        "naïve",
        "line\nbreak",
        "nul\x01",
    ],
)
def test_illegal_names_are_refused_with_a_suggestion(name: str, hyperplug: Hyperplug) -> None:
    ran = hyperplug("register-task", "--no-generate", "--", name, REVIEWS)
    assert ran.status == 2
    assert "is not allowed" in only_line(ran.err, start="Error: ")
    assert "a-z" in only_line(ran.err, start="Hint: ")
    assert json.loads(hyperplug("list-tasks", "--json").out) == []


@pytest.mark.parametrize(
    ("description", "word"),
    [
        (b"", "empty"),
        (b" \n\t ", "empty"),
        (b"word " * 200_000, "999,999 bytes"),
        (b"caf\xe9 \xff", "UTF-8"),
        (b"a\x00b", "control"),
    ],
    ids=["empty", "white", "megabyte", "latin-1", "binary"],
)
def test_descriptions_that_are_none_are_refused(
    description: bytes, word: str, hyperplug: Hyperplug
) -> None:
    ran = hyperplug("register-task", "task", "-", "--no-generate", stdin=description)
    assert ran.status == 2
    assert word in only_line(ran.err, start="Error: ")
    assert max(map(len, ran.err.splitlines())) < 300  # the text itself is not thrown back
    assert json.loads(hyperplug("list-tasks", "--json").out) == []


def test_description_from_stdin(hyperplug: Hyperplug) -> None:
    assert hyperplug("register-task", "t", "-", "--no-generate", stdin=REVIEWS.encode()).status == 0
    assert json.loads(hyperplug("show-task", "t", "--json").out)["description"] == REVIEWS


def test_find_prints_the_nearest_first(hyperplug: Hyperplug) -> None:
    register(hyperplug)
    register(hyperplug, "to-german", "Translate an English sentence into German.")
    found = hyperplug("find-task", "Is the film review good or bad?", "--min-score=-1", "--json")
    assert found.status == 0
    matches = json.loads(found.out)
    assert [match["task"]["name"] for match in matches] == ["sentiment", "to-german"]
    assert matches[0]["score"] > matches[1]["score"]
    one = hyperplug("find-task", "Is the film review good or bad?", "--limit", "1")
    assert one.status == 0
    assert "sentiment" in one.out and "to-german" not in one.out


@pytest.mark.parametrize("flags", [(), ("--json",)])
def test_find_with_nothing_near_ends_with_3(flags: tuple[str, ...], hyperplug: Hyperplug) -> None:
    empty = hyperplug("find-task", "Is the review good?", *flags)
    register(hyperplug)
    far = hyperplug("find-task", "purple trombones dream of rain", *flags)
    for ran in (empty, far):
        assert ran.status == 3
        assert ran.out == ("[]\n" if flags else "")
    assert "sentiment" in far.err


def test_namespace_may_stand_before_or_after_the_command(hyperplug: Hyperplug) -> None:
    ran = hyperplug("register-task", "t", REVIEWS, "--no-generate", "--namespace", "tenant")
    assert ran.status == 0
    assert hyperplug("--namespace", "tenant", "list-tasks").out.startswith("t ")
    assert hyperplug("list-tasks").out == ""
    assert hyperplug("list-tasks", "--namespace", "A/B").status == 2


def test_unknown_task_is_one_line_and_a_remedy(hyperplug: Hyperplug) -> None:
    for command in (("show-task", "nope"), ("remove-task", "nope", "--yes")):
        ran = hyperplug(*command)
        assert ran.status == 1
        assert "'nope'" in only_line(ran.err, start="Error: ")
        assert "list-tasks" in only_line(ran.err, start="Hint: ")


@pytest.mark.parametrize(("answer", "gone"), [(b"y\n", True), (b"n\n", False), (b"", False)])
def test_removing_asks(answer: bytes, gone: bool, hyperplug: Hyperplug) -> None:
    register(hyperplug)
    ran = hyperplug("remove-task", "sentiment", stdin=answer)
    assert ran.status == (0 if gone else 1)
    assert "[y/N]" in ran.err
    assert hyperplug("show-task", "sentiment").status == (1 if gone else 0)


def test_removing_does_not_ask_with_yes(hyperplug: Hyperplug) -> None:
    register(hyperplug)
    ran = hyperplug("remove-task", "sentiment", "--yes")
    assert ran.status == 0 and "[y/N]" not in ran.err

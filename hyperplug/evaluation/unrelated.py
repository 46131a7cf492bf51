"""Simple questions that no task here is about: does an adapter spoil what the base knows?

A question counts as answered if one of the accepted words is in the answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hyperplug.entities import Example
from hyperplug.evaluation.arms import Arm, Source
from hyperplug.hypernet.data import CorpusTask

MAX_NEW_TOKENS = 24
CONTAINS = "contains"
_PREFIX = "unrelated"

_QUESTIONS = (
    ("What is the capital of France?", "Paris"),
    ("What is the capital of Japan?", "Tokyo"),
    ("What is the capital of Italy?", "Rome"),
    ("What is the capital of Germany?", "Berlin"),
    ("What is the capital of Spain?", "Madrid"),
    ("What is the capital of Egypt?", "Cairo"),
    ("What is the capital of England?", "London"),
    ("What is the capital of Russia?", "Moscow"),
    ("What is 2 + 2?", "4|four"),
    ("What is 3 + 5?", "8|eight"),
    ("What is 1 + 1?", "2|two"),
    ("What is 5 + 4?", "9|nine"),
    ("How many days are there in a week?", "7|seven"),
    ("How many legs does a spider have?", "8|eight"),
    ("What colour is the sky on a clear day?", "blue"),
    ("What colour is grass?", "green"),
    ("What is the opposite of hot?", "cold|cool"),
    ("What is the opposite of up?", "down"),
    ("What planet do we live on?", "Earth"),
    ("What is the largest ocean on Earth?", "Pacific"),
    ("Which animal says meow?", "cat"),
    ("What is frozen water called?", "ice"),
    ("Who wrote Romeo and Juliet?", "Shakespeare"),
    ("What gas do humans need to breathe?", "oxygen"),
)
QUESTIONS = tuple(Example(input=question, output=answers) for question, answers in _QUESTIONS)

BARE = Arm(name="base-own", meaning="unrelated questions, no adapter")
MOUNTED = Arm(
    name="hypernet-unrelated",
    meaning="unrelated questions under the adapter of a task",
    adapter=Source.HYPERNET,
)


def asked_bare() -> CorpusTask:
    """Returns the questions as a task for the base model alone."""
    return CorpusTask(
        id=_PREFIX,
        family=_PREFIX,
        descriptions=("Answer the question.",),
        metric=CONTAINS,
        examples=QUESTIONS,
    )


def asked_under(tasks: Sequence[CorpusTask]) -> list[CorpusTask]:
    """Returns the questions for the adapter of one task of each family: the first by id."""
    firsts: dict[str, CorpusTask] = {}
    for task in sorted(tasks, key=lambda task: task.id):
        firsts.setdefault(task.family, task)
    return [
        replace(task, id=f"{_PREFIX}/{task.id}", metric=CONTAINS, examples=QUESTIONS)
        for task in firsts.values()
    ]


def task_id(asked: CorpusTask) -> str:
    """Returns the id of the task whose adapter was mounted."""
    return asked.id.removeprefix(f"{_PREFIX}/")

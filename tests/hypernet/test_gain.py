"""Does an adapter help on a task's own examples?"""

from __future__ import annotations

from dataclasses import replace

import pytest

from hyperplug.basemodel import BaseModel
from hyperplug.entities import Example
from hyperplug.hypernet.gain import GainCheck, trials
from hyperplug.hypernet.generate import load_generator
from tests.hypernet.conftest import MakeTrainer
from tests.miniature import WordHashEmbedder, task_line


def numbered(count: int) -> list[Example]:
    return [Example(input=f"input {n}", output="yes") for n in range(count)]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 16, 17, 19])
def test_few_examples_are_each_checked_once_and_never_by_what_read_them(count: int) -> None:
    examples = numbered(count)
    planned = trials(examples)
    checked = [example for trial in planned for example in trial.checked]
    assert sorted(e.input for e in checked) == sorted(e.input for e in examples[:16])
    assert all(not set(trial.shown) & set(trial.checked) for trial in planned)


@pytest.mark.parametrize("count", [20, 40, 200])
def test_many_examples_check_the_stored_adapter_itself(count: int) -> None:
    examples = numbered(count)
    (trial,) = trials(examples)
    assert trial.shown == tuple(examples[:16])
    assert 4 <= len(trial.checked) <= 16
    assert not set(trial.shown) & set(trial.checked)


def test_halves_hold_both_answers_of_a_sorted_file() -> None:
    examples = [Example(input=str(n), output="yes" if n < 4 else "no") for n in range(8)]
    for trial in trials(examples):
        assert {e.output for e in trial.shown} == {e.output for e in trial.checked} == {"yes", "no"}


def test_no_examples_are_no_check() -> None:
    assert trials([]) == []


def test_a_learned_adapter_gains_and_harms_where_other_answers_are_wanted(
    base: BaseModel, make_trainer: MakeTrainer
) -> None:
    trainer = make_trainer(steps=60, ema=0.9)
    trainer.run()
    line = task_line("agree", answer="yes", start=100, examples=6)
    examples = [Example(**example) for example in line["examples"]]
    generator = load_generator(trainer.out, embedder=WordHashEmbedder(), base=base)
    check = GainCheck(base, generator=generator, device="cpu")

    def measured(examples: list[Example]) -> dict[str, float]:
        gain = check.measure(line["descriptions"][0], examples)
        assert gain is not None
        return gain.metrics

    good = measured(examples)
    assert good["checked_examples"] == 6
    assert good["gain"] == pytest.approx(good["loss_base"] - good["loss_adapter"])
    assert good["gain"] > 0.5
    assert measured(examples) == good
    long = [replace(examples[0], input="long " * 400)]
    assert measured([*examples, *long])["checked_examples"] == 6
    assert measured([replace(example, output="P" * 8) for example in examples])["gain"] < 0


def test_examples_that_are_all_too_long_leave_the_adapter_unchecked(
    base: BaseModel, make_trainer: MakeTrainer
) -> None:
    trainer = make_trainer(steps=1)
    trainer.run()
    generator = load_generator(trainer.out, embedder=WordHashEmbedder(), base=base)
    check = GainCheck(base, generator=generator, device="cpu")
    assert check.measure("say yes", [Example(input="long " * 400, output="yes")]) is None

"""Training LoRAs of single tasks on a tiny model, and choosing the tasks."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hyperplug.basemodel import read_spec
from hyperplug.config import Settings
from hyperplug.errors import (
    ConfigError,
    InvalidTaskFileError,
    TrainingError,
)
from hyperplug.evaluation.lora_group import LoraGroup, LoraRecipe
from hyperplug.evaluation.lora_tasks import (
    LoraOptions,
    LoraTask,
    LoraTasks,
    choose_lora_tasks,
    trainable_examples,
)
from hyperplug.evaluation.loras import LoraBank, load_loras
from hyperplug.evaluation.selection import select_examples, select_tasks
from hyperplug.evaluation.train_loras import LoraProgress, LoraReport, grouped, train_loras
from hyperplug.hypernet.data import TokenSequence, read_corpus
from hyperplug.hypernet.loading import load_frozen
from hyperplug.hypernet.losses import AnswerLoss
from hyperplug.hypernet.model import LoraBatch
from hyperplug.hypernet.prepare import choose_modules
from tests.miniature import (
    WordHashEmbedder,
    base_folder,
    byte_tokenizer,
    settings,
    task_line,
    write_tasks,
)

ANSWERS = {"agree": "yes", "refuse": "no", "wonder": "maybe"}


class Recorder(LoraProgress):
    """Remembers what it was told; interrupts the run when a group begins."""

    def __init__(self, *, stop_at_group: int | None = None) -> None:
        self.lines: list[str] = []
        self.reports: list[LoraReport] = []
        self._stop_at_group = stop_at_group

    def say(self, line: str) -> None:
        self.lines.append(line)

    def stepped(self, report: LoraReport) -> None:
        self.reports.append(report)
        if report.group == self._stop_at_group:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny base model and three tasks with one input and three answers."""
    folder = tmp_path_factory.mktemp("loras")
    torch.set_num_threads(1)
    base_folder(folder / "base")
    lines = [task_line(name, answer=answer) for name, answer in ANSWERS.items()]
    write_tasks(folder / "tasks.jsonl", lines)
    return folder


def at(home: Path) -> Settings:
    return settings(home, base=home / "base")


def options(home: Path, out: Path, **changes: Any) -> LoraOptions:
    small: dict[str, Any] = {"rank": 4, "top_layers": 2, "learning_rate": 2e-2, "compiled": "off"}
    return LoraOptions(**{"tasks": home / "tasks.jsonl", "out": out} | small | changes)


def train(home: Path, out: Path, progress: LoraProgress | None = None, **changes: Any) -> LoraBank:
    return train_loras(
        options(home, out, **changes),
        settings=at(home),
        embedder=WordHashEmbedder(),
        progress=progress,
    )


@pytest.fixture(scope="module")
def trained(home: Path) -> LoraBank:
    return train(home, home / "loras.safetensors", hold_out=6)


# -- training ------------------------------------------------------------------------


def test_each_lora_has_learned_its_own_task(home: Path, trained: LoraBank) -> None:
    assert sorted(trained.ids) == sorted(ANSWERS)
    assert all(record.after < record.before - 2 for record in trained.records)
    assert all(0 < record.best_step <= 60 for record in trained.records)
    losses = _losses_by_task(home, trained)
    for own in ANSWERS:
        assert all(losses[own, own] < losses[own, other] - 0.5 for other in {*ANSWERS} - {own})


def test_the_file_says_how_it_was_made(home: Path, trained: LoraBank) -> None:
    path = home / "loras.safetensors"
    bank = load_loras(path)
    assert bank.records == trained.records and bank.training == trained.training
    assert bank.base_fingerprint == read_spec(home / "base").fingerprint
    assert bank.embedder_id == WordHashEmbedder.id
    assert bank.target_modules == choose_modules(read_spec(home / "base"), top_layers=2)
    first = WordHashEmbedder().embed([f"{name} with {ANSWERS[name]}" for name in bank.ids])
    np.testing.assert_array_equal(bank.embeddings, first)
    about = bank.training
    assert (about["steps"], about["seed"], about["hold_out"], about["rank"]) == (60, 0, 6, 4)
    assert about["tokens"] > 0 and about["seconds"] > 0 and about["hardware"]
    assert not (home / ".loras.safetensors.partial").exists()


def test_tasks_do_not_reach_one_another(home: Path, tmp_path: Path, trained: LoraBank) -> None:
    """Alone a task gets the LoRA that it gets beside others."""
    lines = [task_line("refuse", answer="no")]
    alone = write_tasks(tmp_path / "alone.jsonl", lines)
    bank = train(home, tmp_path / "alone.safetensors", tasks=alone, hold_out=6)
    for one, other in zip(bank.loras("refuse"), trained.loras("refuse"), strict=True):
        torch.testing.assert_close(one.a, other.a, rtol=1e-2, atol=1e-2)
        torch.testing.assert_close(one.b, other.b, rtol=1e-2, atol=1e-2)


def test_an_interrupted_run_goes_on(home: Path, tmp_path: Path) -> None:
    out = tmp_path / "loras.safetensors"
    changes: dict[str, Any] = {"steps": 6, "tasks_at_once": 1}
    with pytest.raises(KeyboardInterrupt):
        train(home, out, Recorder(stop_at_group=3), **changes)
    assert not out.exists()
    second = Recorder()
    bank = train(home, out, second, **changes)
    assert any("2 of 3 groups are done" in line for line in second.lines)
    assert {report.group for report in second.reports} == {3}
    assert second.reports[-1].done == pytest.approx(1)
    whole = train(home, tmp_path / "whole.safetensors", **changes)
    assert bank.records == whole.records and bank.training["tokens"] == whole.training["tokens"]
    for one, other in zip(bank.stacked, whole.stacked, strict=True):
        assert torch.equal(one.a, other.a) and torch.equal(one.b, other.b)
    assert [path.name for path in out.parent.iterdir()].count(out.name) == 1


def test_other_settings_are_not_gone_on_with(home: Path, tmp_path: Path) -> None:
    out = tmp_path / "loras.safetensors"
    with pytest.raises(KeyboardInterrupt):
        train(home, out, Recorder(stop_at_group=2), steps=2, tasks_at_once=1)
    recorder = Recorder()
    train(home, out, recorder, steps=2, tasks_at_once=1, seed=1)
    assert {report.group for report in recorder.reports} == {1, 2, 3}


def test_the_best_step_of_each_task_is_kept(home: Path) -> None:
    """What one of the two is taught makes its held-back examples worse before long."""
    good, misled = _task("good"), _task("misled")
    wrong = [replace(s, answer=(9, 9)) for s in misled.train]  # and then not the end token
    misled = replace(misled, train=tuple(wrong))
    group = _group(home, [good, misled], learning_rate=0.03).train()
    assert group.best_steps[0] > group.best_steps[1] and group.best_steps[1] < 60
    assert group.after[0] < group.before[0] - 1 and group.after[1] <= group.before[1]
    base = _base(home)
    modules = choose_modules(base.spec, top_layers=1)
    frozen = load_frozen(base, modules, device=torch.device("cpu"), dtype=torch.float32)
    held_back = (*good.held_back, *misled.held_back)
    with torch.no_grad():
        losses = AnswerLoss(frozen, states=None)(list(group.loras), held_back)
    torch.testing.assert_close(losses.view(2, 2).mean(dim=1), torch.tensor(group.after))


def test_a_group_goes_on_from_trained_loras(home: Path) -> None:
    tasks = [_task("one"), _task("two", sizes=(9,) * 10)]
    first = _group(home, tasks, learning_rate=1e-2).train()
    again = _group(home, tasks, learning_rate=1e-2, start=first.loras).train()
    assert again.before == pytest.approx(first.after, rel=1e-4)
    assert sum(again.after) <= sum(first.after) < sum(first.before)


def test_a_group_ends_when_no_task_gets_on(home: Path) -> None:
    group = _group(home, [_task("a")], learning_rate=1e-30).train()
    assert group.steps == 30 and group.best_steps == (0,)


def test_a_loss_that_is_no_number_ends_the_run(home: Path) -> None:
    with pytest.raises(TrainingError, match="no number"):
        _group(home, [_task("a")], learning_rate=math.inf).train()


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a compiler")
def test_a_compiled_base_model_gives_the_same(home: Path, tmp_path: Path) -> None:
    plain = train(home, tmp_path / "plain.safetensors", steps=4)
    compiled = train(home, tmp_path / "compiled.safetensors", steps=4, compiled="on")
    for one, other in zip(plain.records, compiled.records, strict=True):
        assert one.after == pytest.approx(other.after, abs=0.02)


# -- which tasks and examples --------------------------------------------------------


def choose(home: Path, **changes: Any) -> LoraTasks:
    given: LoraOptions = replace(options(home, home / "unused.safetensors"), **changes)
    return choose_lora_tasks(given, tokenizer=byte_tokenizer(), embedder=WordHashEmbedder())


@pytest.mark.parametrize("seed", [0, 5])
def test_what_a_benchmark_asks_is_never_trained_on(home: Path, seed: int) -> None:
    chosen = choose(home, hold_out=6, seed=seed)
    for task in read_corpus(home / "tasks.jsonl").tasks:
        asked = {e.input for e in select_examples(task, limit=6, seed=seed).examples}
        ready = next(entry for entry in chosen.tasks if entry.id == task.id)
        seen = {_text(s).split("<|user|>")[1] for s in (*ready.train, *ready.held_back)}
        seen = {text.split("<|end|>")[0] for text in seen}
        assert len(asked) == 6 and len(seen) == 18 and not asked & seen
        assert not set(ready.train) & set(ready.held_back)


def test_no_example_shares_the_input_of_one_that_is_asked(home: Path) -> None:
    task = read_corpus(home / "tasks.jsonl").tasks[0]
    twice = replace(task, examples=(*task.examples, *task.examples))
    asked = {e.input for e in select_examples(twice, limit=6, seed=0).examples}
    left = trainable_examples(twice, hold_out=6, seed=0).examples
    assert left and not asked & {e.input for e in left}
    assert trainable_examples(twice, hold_out=None, seed=0) == twice


def test_tasks_are_those_that_a_benchmark_takes(home: Path, tmp_path: Path) -> None:
    lines = [
        task_line(f"{family}{number}", answer="x", family=family)
        for family in ("one", "two", "three")
        for number in range(3)
    ]
    tasks = write_tasks(tmp_path / "tasks.jsonl", lines)
    corpus = read_corpus(tasks).tasks
    for limit in (2, 5):
        expected = {task.id for task in select_tasks(corpus, limit=limit, seed=3)}
        chosen = choose(home, tasks=tasks, limit_tasks=limit, seed=3)
        assert {task.id for task in chosen.tasks} == expected
    families = [task.family for task in choose(home, tasks=tasks, per_family=True).tasks]
    assert sorted(families) == ["one", "three", "two"]


def test_like_takes_the_nearest_usable_tasks(home: Path, tmp_path: Path) -> None:
    lines = [
        task_line("sort numbers", answer="x"),
        task_line("sort words", answer="x", examples=3),  # too few to train on
        task_line("sort fruit", answer="x"),
        task_line("translate cheese", answer="q"),
    ]
    tasks = write_tasks(tmp_path / "train.jsonl", lines)
    like = write_tasks(tmp_path / "test.jsonl", [task_line("sort words", answer="x", examples=1)])
    chosen = choose(home, tasks=tasks, like=like, neighbours=2)
    assert [task.id for task in chosen.tasks] == ["sort fruit", "sort numbers"]
    assert any("sort words" in remark for remark in chosen.remarks)
    every = choose(home, tasks=tmp_path, like=tmp_path, neighbours=9)  # a folder with splits
    assert len(every.tasks) == 3


def test_a_licence_can_forbid_training(home: Path, tmp_path: Path) -> None:
    forbidden = task_line("b", answer="x") | {"licence_class": "noncommercial"}
    tasks = write_tasks(tmp_path / "tasks.jsonl", [task_line("a", answer="x"), forbidden])
    chosen = choose(home, tasks=tasks)
    assert [task.id for task in chosen.tasks] == ["a"]
    assert "Left out 1 tasks for their licence" in chosen.remarks
    assert len(choose(home, tasks=tasks, include_noncommercial=True).tasks) == 2
    with pytest.raises(TrainingError, match="forbid commercial use"):
        choose(home, tasks=write_tasks(tmp_path / "none.jsonl", [forbidden]))


def test_mistakes_are_named(home: Path, tmp_path: Path) -> None:
    out = tmp_path / "loras.safetensors"
    mistakes: list[dict[str, Any]] = [
        {"rank": 0},
        {"steps": -1},
        {"hold_out": 0},
        {"top_layers": -1},
        {"compiled": "perhaps"},
        {"out": tmp_path},
    ]
    for changes in mistakes:
        with pytest.raises(ConfigError) as caught:
            train_loras(
                replace(options(home, out), **changes),
                settings=at(home),
                embedder=WordHashEmbedder(),
            )
        assert caught.value.hint
    with pytest.raises(TrainingError, match="no task has 6 examples"):
        choose(home, hold_out=23)
    twice = write_tasks(tmp_path / "twice.jsonl", [task_line("a", answer="x")] * 2)
    with pytest.raises(InvalidTaskFileError, match="two tasks with the id 'a'"):
        choose(home, tasks=twice)


def test_groups_are_of_one_size_and_similar_length() -> None:
    tasks = [_task(f"t{n}", sizes=(10 + 10 * n,) * 6) for n in range(7)]
    groups = list(grouped(tasks[::-1], size=3))
    assert [[task.id for task in group.tasks] for group in groups] == [
        ["t0", "t1", "t2"],
        ["t3", "t4", "t5"],
        ["t6"],
    ]
    assert [len(group.filled) for group in groups] == [3, 3, 3]
    assert [group.length for group in groups] == [48, 96, 96]
    assert [len(group.tasks) for group in grouped(tasks[:4], size=3)] == [2, 2]


# -- the command --------------------------------------------------------------------


def test_the_command_prints_what_it_made(home: Path, tmp_path: Path, capsys: Any) -> None:
    from hyperplug.cli.main import run

    out = tmp_path / "loras.safetensors"
    arguments = ["train-loras", "--tasks", str(home / "tasks.jsonl"), "--out", str(out)]
    arguments += ["--base", str(home / "base"), "--home", str(home), "--steps", "2", "--json"]
    assert run([*arguments, "--rank", "2", "--compiled", "off", "--limit-tasks", "2"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["loras"] == str(out) and len(content["tasks"]) == 2
    assert content["training"]["rank"] == load_loras(out).rank == 2
    assert run([*arguments, "--rank", "0"]) == 2
    assert "rank is 0" in capsys.readouterr().err


# -- help ----------------------------------------------------------------------------


def _base(home: Path) -> Any:
    from hyperplug.basemodel import BaseModel

    return BaseModel(folder=home / "base", spec=read_spec(home / "base"))


def _losses_by_task(home: Path, bank: LoraBank) -> dict[tuple[str, str], float]:
    """Returns the loss of each task's held-back examples through each task's LoRA."""
    frozen = load_frozen(
        _base(home), bank.target_modules, device=torch.device("cpu"), dtype=torch.float32
    )
    losses = AnswerLoss(frozen, states=None)
    with torch.no_grad():
        return {
            (task.id, other): float(losses(bank.loras(other), task.held_back).mean())
            for task in choose(home, hold_out=6).tasks
            for other in bank.ids
        }


def _group(
    home: Path,
    tasks: Sequence[LoraTask],
    *,
    learning_rate: float,
    start: Sequence[LoraBatch] | None = None,
) -> LoraGroup:
    """Returns a group on the last layer of the tiny base model."""
    base = _base(home)
    modules = choose_modules(base.spec, top_layers=1)
    frozen = load_frozen(base, modules, device=torch.device("cpu"), dtype=torch.float32)
    return LoraGroup(
        tasks,
        shapes=[base.spec.module_shapes[path] for path in modules],
        recipe=LoraRecipe(
            rank=4, scale=2.0, steps=60, sequences=2, learning_rate=learning_rate, seed=0
        ),
        losses=AnswerLoss(frozen, states=None),
        length=48,
        start=start,
    )


def _task(id: str, *, sizes: Sequence[int] = (8,) * 10) -> LoraTask:
    """Returns a task with sequences of these lengths, whose answer is one token."""
    sequences = tuple(
        TokenSequence(key=f"{id}/{n}", prompt=tuple(range(1, size - 1)), answer=(7, 256))
        for n, size in enumerate(sizes)
    )
    embedding = np.zeros(4, dtype=np.float32)
    return LoraTask(id=id, family=id, embedding=embedding, train=sequences, held_back=sequences[:2])


def _text(sequence: TokenSequence) -> str:
    text: str = byte_tokenizer().decode(sequence.prompt)
    return text

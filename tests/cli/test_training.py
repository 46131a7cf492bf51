"""refine-adapter and train-adapter, as a user runs them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Hyperplug, TinyModels

TEXT = "Always answer with one word."


@pytest.fixture
def examples(tmp_path: Path) -> Path:
    """Twelve examples of a task that is easily learned, one a line."""
    path = tmp_path / "examples.jsonl"
    lines = [{"input": f"word {n}", "output": "ja"} for n in range(12)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


@pytest.fixture
def task(hyperplug: Hyperplug, tiny: TinyModels, examples: Path) -> str:
    """A registered task with examples and a generated adapter."""
    command = ("register-task", "yes", TEXT, "--examples", str(examples))
    assert hyperplug(*command, *tiny.options).status == 0
    return "yes"


def shown(hyperplug: Hyperplug, tiny: TinyModels, name: str) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(hyperplug("show-adapter", name, "--json", *tiny.options).out)
    return told


@pytest.mark.parametrize(
    ("command", "origin"),
    [
        (("refine-adapter", "--steps", "20", "--learning-rate", "1e-2"), "refined"),
        (("refine-adapter", "--code-only", "--steps", "20"), "refined"),
        (("train-adapter", "--steps", "20", "--rank", "2", "--learning-rate", "1e-2"), "trained"),
    ],
)
def test_a_better_version(
    hyperplug: Hyperplug, tiny: TinyModels, task: str, command: tuple[str, ...], origin: str
) -> None:
    parent = shown(hyperplug, tiny, task)
    ran = hyperplug(command[0], task, *command[1:], "--json", *tiny.options)
    assert ran.status == 0, ran.err
    told = json.loads(ran.out)
    assert told["loss"] < told["loss_start"]
    assert (told["examples"], told["held_back"]) == (9, 3)
    adapter = shown(hyperplug, tiny, told["adapter"]["name"])
    assert (adapter["origin"], adapter["parent"]) == (origin, parent["name"])
    assert adapter["metrics"]["loss_adapter"] == pytest.approx(told["loss"])
    assert adapter["metrics"]["gain"] == pytest.approx(told["loss_base"] - told["loss"])
    now = shown(hyperplug, tiny, task)["name"]
    assert now == (adapter["name"] if told["promoted"] else parent["name"])
    kept = shown(hyperplug, tiny, parent["name"])
    assert kept["digest"] == parent["digest"]  # the old version is as it was


def test_it_is_promoted_and_said_so(hyperplug: Hyperplug, tiny: TinyModels, task: str) -> None:
    command = ("refine-adapter", task, "--steps", "20", "--learning-rate", "1e-2")
    ran = hyperplug(*command, *tiny.options)
    assert ran.out.strip() == shown(hyperplug, tiny, task)["name"]
    assert "Loss on 3 held-back examples: base " in ran.err
    assert "promote-adapter" not in ran.err


def test_no_promote(hyperplug: Hyperplug, tiny: TinyModels, task: str) -> None:
    before = shown(hyperplug, tiny, task)["name"]
    command = ("refine-adapter", task, "--steps", "20", "--learning-rate", "1e-2", "--no-promote")
    ran = hyperplug(*command, *tiny.options)
    name = ran.out.strip()
    assert f"hyperplug promote-adapter {name}" in ran.err
    assert shown(hyperplug, tiny, task)["name"] == before != name


def test_what_is_not_better_is_not_stored(
    hyperplug: Hyperplug, tiny: TinyModels, task: str
) -> None:
    before = hyperplug("list-adapters", "--json", *tiny.options).out
    ran = hyperplug("refine-adapter", task, "--learning-rate", "100", "--steps", "2", *tiny.options)
    assert (ran.status, ran.out) == (0, "")
    assert "nothing was stored" in ran.err
    assert hyperplug("list-adapters", "--json", *tiny.options).out == before


def test_no_state_is_left_behind(
    hyperplug: Hyperplug, tiny: TinyModels, task: str, home: Path
) -> None:
    assert hyperplug("train-adapter", task, "--steps", "2", *tiny.options).status == 0
    assert list(home.glob("training/*")) == []


@pytest.mark.parametrize("command", ["refine-adapter", "train-adapter"])
def test_without_examples(hyperplug: Hyperplug, tiny: TinyModels, command: str) -> None:
    assert hyperplug("register-task", "bare", TEXT, *tiny.options).status == 0
    ran = hyperplug(command, "bare", *tiny.options)
    assert ran.status == 2
    assert "task 'bare' has no examples" in ran.err
    assert "--examples FILE.jsonl" in ran.err


def test_without_an_adapter(hyperplug: Hyperplug, tiny: TinyModels, examples: Path) -> None:
    command = ("register-task", "bare", TEXT, "--no-generate")
    assert hyperplug(*command, *tiny.options).status == 0
    ran = hyperplug("refine-adapter", "bare", "--examples", str(examples), *tiny.options)
    assert ran.status == 1
    assert "hyperplug generate-adapter bare" in ran.err
    trained = hyperplug(
        "train-adapter", "bare", "--examples", str(examples), "--steps", "5", *tiny.options
    )
    assert trained.status == 0, trained.err

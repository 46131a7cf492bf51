"""A start from which few steps suffice: what it learns, and going on after an interruption."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hyperplug.errors import ConfigError, TrainingError
from hyperplug.evaluation.lora_tasks import LoraOptions
from hyperplug.evaluation.loras import LoraBank, load_loras
from hyperplug.evaluation.meta import MetaOptions, MetaReport, Method, train_start
from tests.evaluation.conftest import World
from tests.miniature import WordHashEmbedder, task_line, write_tasks


@pytest.fixture
def options(tmp_path: Path) -> MetaOptions:
    """Four tasks with one answer each: what they share is that the answer is one word."""
    words = ("red", "raw", "rim", "rod")
    tasks = write_tasks(
        tmp_path / "tasks.jsonl", [task_line(f"say-{w}", answer=w, family=w) for w in words]
    )
    return MetaOptions(
        loras=LoraOptions(
            tasks=tasks,
            out=tmp_path / "start.safetensors",
            rank=4,
            top_layers=2,
            steps=24,
            tasks_at_once=3,
            sequences_per_task=2,
            learning_rate=1e-2,
        ),
        method=Method.MAML,
        inner_steps=6,
        inner_learning_rate=3e-2,
    )


def run(options: MetaOptions, world: World) -> tuple[LoraBank, list[MetaReport]]:
    reports: list[MetaReport] = []
    bank = train_start(
        options, settings=world.settings, embedder=WordHashEmbedder(), on_step=reports.append
    )
    return bank, reports


@pytest.mark.parametrize(("method", "rate"), [(Method.MAML, 1e-2), (Method.REPTILE, 0.5)])
def test_tasks_learn_faster_from_it(
    options: MetaOptions, world: World, method: Method, rate: float
) -> None:
    chosen = replace(options, method=method, loras=replace(options.loras, learning_rate=rate))
    bank, reports = run(chosen, world)
    losses = [report.loss for report in reports]
    assert sum(losses[-6:]) < 0.9 * sum(losses[:6])
    assert bank.ids == (method.value,)
    assert bank.training["method"] == method.value
    assert load_loras(options.loras.out).training == bank.training


def test_an_interrupted_run_goes_on(
    options: MetaOptions, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = run(options, world)
    monkeypatch.setattr("hyperplug.evaluation.meta._SAVE_EVERY", 5)

    def stop(report: MetaReport) -> None:
        if report.step == 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_start(options, settings=world.settings, embedder=WordHashEmbedder(), on_step=stop)
    rest, reports = run(options, world)
    assert reports[0].step == 11
    for mine, theirs in zip(rest.stacked, whole.stacked, strict=True):
        assert torch.allclose(mine.a, theirs.a, atol=1e-5)
        assert torch.allclose(mine.b, theirs.b, atol=1e-5)
    assert sorted(path.name for path in options.loras.out.parent.iterdir()) == [
        "start.safetensors",
        "tasks.jsonl",
    ]


def test_what_makes_no_sense_is_refused(options: MetaOptions, world: World) -> None:
    with pytest.raises(ConfigError, match="steps is 0"):
        run(replace(options, loras=replace(options.loras, steps=0)), world)


def test_a_loss_that_is_no_number_ends_the_run(options: MetaOptions, world: World) -> None:
    with pytest.raises(TrainingError, match="no number"):
        run(replace(options, inner_learning_rate=1e30), world)

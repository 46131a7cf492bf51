"""Measuring the lookup policy's borders on real adapters of a tiny base model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hyperplug.basemodel import BaseModel
from hyperplug.config import Settings
from hyperplug.errors import BaseMismatchError, CheckpointError, ConfigError, TrainingError
from hyperplug.hypernet.curves import Source
from hyperplug.hypernet.junk import JUNK
from hyperplug.hypernet.measuring import Calibration, CalibrationProgress, measure_calibration
from hyperplug.hypernet.subjects import CalibrationOptions
from tests.hypernet.conftest import MakeTrainer
from tests.miniature import (
    WordHashEmbedder,
    base_folder,
    settings,
    task_line,
    toy_corpus,
    write_tasks,
)


@pytest.fixture
def options(tmp_path: Path) -> CalibrationOptions:
    """Two held-out tasks, and two that were trained on."""
    held_out = [
        task_line("agree", answer="yes", start=50, examples=6) | {"id": "agree-again"},
        task_line("deny", answer="no", start=50, examples=6),
    ]
    return CalibrationOptions(
        tasks=write_tasks(tmp_path / "held-out.jsonl", held_out),
        train_tasks=toy_corpus(tmp_path / "train.jsonl"),
        limit_examples=3,
        device="cpu",
        dtype="float32",
    )


@pytest.fixture
def chosen(base: BaseModel, make_trainer: MakeTrainer, tmp_path: Path) -> Settings:
    """Settings with a hypernetwork that has learned both tasks."""
    trainer = make_trainer(steps=120, ema=0.9)
    trainer.run()
    return settings(tmp_path / "home", base=base.folder, hypernet=trainer.out)


def measured(options: CalibrationOptions, chosen: Settings) -> Calibration:
    return measure_calibration(options, settings=chosen, embedder=WordHashEmbedder())


def test_neighbours_are_told_from_other_wordings_and_from_junk(
    options: CalibrationOptions, chosen: Settings
) -> None:
    found = measured(options, chosen)
    assert (found.tasks, found.skipped) == (2, 0)
    wordings = [pair for pair in found.pairs if pair.source is Source.WORDING]
    others = [pair for pair in found.pairs if pair.source is Source.TASK]
    # Each task has one other wording, asked for and served; each was measured both ways.
    assert sum(pair.extra for pair in wordings) == pytest.approx(0, abs=1e-5)
    assert len(wordings) == 4 and all(pair.neighbour == pair.task for pair in wordings)
    # "agree" is word for word the task "agree-again": that would be EXACT, no neighbour.
    assert {(pair.task, pair.neighbour) for pair in others} == {
        ("agree-again", "deny"),
        ("agree-again", "refuse"),
        ("deny", "agree-again"),
        ("deny", "agree"),
        ("deny", "refuse"),
    }
    opposite = next(p for p in others if (p.task, p.neighbour) == ("agree-again", "refuse"))
    assert opposite.extra > 0.1
    assert all(-1 <= pair.similarity <= 1 for pair in found.pairs)
    junk = [probe for probe in found.probes if probe.source is Source.JUNK]
    assert [probe.name for probe in junk] == list(JUNK)
    assert sum(probe.harm > 0 for probe in junk) > len(junk) / 2
    tasks = [probe for probe in found.probes if probe.source is Source.TASK]
    assert len(tasks) == 2 and all(probe.harm < 0 for probe in tasks)
    assert "none of the 2 validation tasks is harmed" in found.support.reason
    assert measured(options, chosen).pairs == found.pairs


def test_progress_and_limits(options: CalibrationOptions, chosen: Settings) -> None:
    class Seen(CalibrationProgress):
        counts: list[tuple[int, int]] = []  # noqa: RUF012

        def measured(self, done: int, total: int) -> None:
            self.counts.append((done, total))

    found = measure_calibration(
        replace(options, limit_tasks=1),
        settings=chosen,
        embedder=WordHashEmbedder(),
        progress=Seen(),
    )
    assert Seen.counts == [(1, 1)]
    assert {pair.task for pair in found.pairs} < {"agree-again", "deny"}


def test_what_makes_no_sense_is_refused(
    options: CalibrationOptions, chosen: Settings, tmp_path: Path
) -> None:
    with pytest.raises(TrainingError, match="none of the 2 tasks has 2 examples within 5"):
        measured(replace(options, max_tokens=5), chosen)
    for changes in ({"limit_examples": 0}, {"near_risk": 1.0}, {"margin": -0.1}):
        with pytest.raises(ConfigError):
            measured(replace(options, **changes), chosen)
    with pytest.raises(CheckpointError):
        measured(options, replace(chosen, hypernet=options.tasks))
    other = base_folder(tmp_path / "other", seed=5)
    with pytest.raises(BaseMismatchError):
        measured(options, replace(chosen, base=str(other)))

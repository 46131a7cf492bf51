"""From a corpus to a checkpoint in one call."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hyperplug.basemodel import BaseModel
from hyperplug.errors import BaseModelError, ConfigError, InvalidTaskFileError, TrainingError
from hyperplug.hypernet.corpus import write_corpus
from hyperplug.hypernet.generate import load_generator
from hyperplug.hypernet.options import TrainingOptions
from hyperplug.hypernet.recipe import TrainingProgress, forecast_training, train_hypernet
from hyperplug.hypernet.train import Report
from tests.miniature import WordHashEmbedder, base_folder, settings, task_line, write_tasks


class Recorder(TrainingProgress):
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.counts: list[tuple[int, int]] = []
        self.reports: list[Report] = []

    def say(self, line: str) -> None:
        self.lines.append(line)

    def prepared(self, done: int, total: int) -> None:
        self.counts.append((done, total))

    def stepped(self, report: Report) -> None:
        self.reports.append(report)


@pytest.fixture
def options(tmp_path: Path) -> TrainingOptions:
    lines: list[Any] = [task_line(f"task{n}", answer=f"w{n}", examples=12) for n in range(10)]
    lines.append(task_line("closed", answer="x") | {"licence_class": "noncommercial"})
    lines.append({"id": "broken"})
    return TrainingOptions(
        tasks=write_tasks(tmp_path / "tasks.jsonl", lines),
        out=tmp_path / "runs" / "hypernet.safetensors",
        steps=2,
        top_layers=1,
        static_rank=1,
        generated_rank=2,
        atoms=2,
        cache_gib=0.1,
    )


def train(options: TrainingOptions, base: BaseModel, recorder: TrainingProgress) -> Any:
    return train_hypernet(
        options,
        settings=settings(options.tasks.parent, base=base.folder),
        embedder=WordHashEmbedder(),
        progress=recorder,
    )


def test_a_corpus_becomes_a_generator(options: TrainingOptions, base: BaseModel) -> None:
    recorder = Recorder()
    checkpoint = train(options, base, recorder)
    generator = load_generator(options.out, embedder=WordHashEmbedder(), base=base)
    assert generator.spec == checkpoint.spec
    assert generator.spec.rank == 3
    assert {path.split(".")[2] for path in generator.spec.target_modules} == {"2"}
    assert checkpoint.training["tasks"] == 16  # two families are held out; one composed a task
    assert recorder.counts[-1] == (18, 18)
    assert [report.step for report in recorder.reports] == [1, 2]
    assert any("tasks.jsonl:12" in line for line in recorder.lines)
    assert any("1 tasks for their licence" in line for line in recorder.lines)


def test_an_interrupted_run_is_resumed(options: TrainingOptions, base: BaseModel) -> None:
    train(options, base, Recorder())
    recorder = Recorder()
    train(replace(options, steps=3), base, recorder)
    assert [report.step for report in recorder.reports] == [3]


@pytest.mark.parametrize(
    "changes",
    [
        {"steps": 0},
        {"minutes": -1.0},
        {"learning_rate": 0.0},
        {"learning_rate": float("nan")},
        {"in_prompt": 1.5},
        {"generated_rank": 0, "static_rank": 0},
        {"generated_rank": -1},
        {"network": "perceptron"},
        {"compiled": "maybe"},
        {"top_layers": -1},
        {"device": "abacus"},
        {"dtype": "int3"},
    ],
)
def test_an_option_that_makes_no_sense(
    options: TrainingOptions, base: BaseModel, changes: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError) as caught:
        train(replace(options, **changes), base, Recorder())
    assert caught.value.hint and str(next(iter(changes.values()))) in caught.value.message
    assert not options.out.exists()


def test_outputs_that_cannot_be_written(
    options: TrainingOptions, base: BaseModel, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="is a folder"):
        train(replace(options, out=tmp_path), base, Recorder())
    with pytest.raises(ConfigError, match="cannot write"):
        train(replace(options, out=options.tasks / "x.safetensors"), base, Recorder())
    if Path("/dev/full").exists() and os.geteuid() == 0:
        options.out.parent.mkdir()
        options.out.with_suffix(".csv").mkdir()  # a rename onto it fails
        with pytest.raises(ConfigError, match="cannot write"):
            train(options, base, Recorder())


def test_a_missing_corpus_or_base(options: TrainingOptions, base: BaseModel) -> None:
    with pytest.raises(InvalidTaskFileError, match="cannot read"):
        train(replace(options, tasks=options.out), base, Recorder())
    with pytest.raises(BaseModelError, match="does not exist"):
        train(options, BaseModel(folder=options.out, spec=base.spec), Recorder())


def test_a_run_that_diverges_says_so(options: TrainingOptions, base: BaseModel) -> None:
    with pytest.raises(TrainingError, match="loss is"):
        train(replace(options, learning_rate=1e30, steps=50), base, Recorder())


def test_a_base_whose_weights_are_no_linear_layers(
    options: TrainingOptions, tmp_path: Path
) -> None:
    folder = base_folder(tmp_path / "gpt2", family="gpt2")
    base = BaseModel(folder=folder, spec=None)  # type: ignore[arg-type]
    with pytest.raises(BaseModelError, match="is a Conv1D"):
        train(options, base, Recorder())


def test_a_forecast_trains_nothing(options: TrainingOptions, base: BaseModel) -> None:
    where = settings(options.tasks.parent, base=base.folder)
    needs = forecast_training(options, settings=where, embedder=WordHashEmbedder())
    assert (needs.steps, needs.minutes > 0) == (2, True)
    network = train(options, base, Recorder()).network
    assert needs.parameters == sum(p.numel() for p in network.parameters())
    assert needs.memory_bytes > 4 * needs.base_parameters
    assert needs.matrix_rate > 1e6


def test_a_forecast_writes_nothing(options: TrainingOptions, base: BaseModel) -> None:
    forecast_training(
        options,
        settings=settings(options.tasks.parent, base=base.folder),
        embedder=WordHashEmbedder(),
    )
    assert not options.out.exists()


def test_prepared_tasks_train_as_the_files_they_come_from(
    options: TrainingOptions, base: BaseModel, tmp_path: Path
) -> None:
    direct, file = Recorder(), tmp_path / "tasks.prepared"
    train(options, base, direct)
    where = settings(tmp_path, base=base.folder)
    write_corpus(options, file, settings=where, embedder=WordHashEmbedder())
    again = Recorder()
    train(replace(options, tasks=file, out=tmp_path / "again.safetensors"), base, again)
    first, second = ([r.loss for r in recorder.reports] for recorder in (direct, again))
    assert second == pytest.approx(first, rel=1e-3)


@pytest.mark.parametrize("changes", [{"in_prompt": 1.0}, {"max_tokens": 50}, {"composed": 3}])
def test_options_that_come_too_late_for_prepared_tasks(
    options: TrainingOptions, base: BaseModel, tmp_path: Path, changes: dict[str, Any]
) -> None:
    file = tmp_path / "tasks.prepared"
    where = settings(tmp_path, base=base.folder)
    write_corpus(options, file, settings=where, embedder=WordHashEmbedder())
    with pytest.raises(ConfigError, match="was prepared with") as caught:
        train(replace(options, tasks=file, **changes), base, Recorder())
    assert "prepare-tasks" in caught.value.hint


@pytest.mark.parametrize("network", ["text-to-lora-l", "text-to-lora-matched"])
def test_text_to_lora_is_trained_and_used_alike(
    options: TrainingOptions, base: BaseModel, network: str
) -> None:
    train(replace(options, network=network), base, Recorder())
    generator = load_generator(options.out, embedder=WordHashEmbedder(), base=base)
    assert generator.generate("Say left.").rank == generator.spec.rank == 3


def test_a_multi_task_lora_does_not_read_the_description(
    options: TrainingOptions, base: BaseModel
) -> None:
    train(replace(options, generated_rank=0, static_rank=3), base, Recorder())
    generator = load_generator(options.out, embedder=WordHashEmbedder(), base=base)
    assert generator.generate("Say left.") == generator.generate("Something else.")

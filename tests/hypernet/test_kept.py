"""Extending a checkpoint in one call: what it keeps, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hyperplug.basemodel import BaseModel
from hyperplug.errors import BaseMismatchError, CheckpointError, ConfigError, InvalidTaskFileError
from hyperplug.hypernet.checkpoint import Checkpoint, load_checkpoint
from hyperplug.hypernet.corpus import write_corpus
from hyperplug.hypernet.kept import kept_task, load_start
from hyperplug.hypernet.options import CorpusOptions, TrainingOptions
from hyperplug.hypernet.recipe import TrainingProgress, forecast_training, train_hypernet
from tests.hypernet.test_recipe import Recorder
from tests.miniature import (
    WordHashEmbedder,
    base_folder,
    settings,
    task_line,
    toy_corpus,
    write_tasks,
)


@pytest.fixture(scope="module")
def known(base: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of two tasks, trained for a moment."""
    folder = tmp_path_factory.mktemp("known")
    options = TrainingOptions(
        tasks=toy_corpus(folder / "tasks.jsonl"),
        out=folder / "hypernet.safetensors",
        steps=2,
        top_layers=1,
        static_rank=1,
        generated_rank=2,
        atoms=2,
        cache_gib=0.1,
    )
    train(options, base)
    return options.out


@pytest.fixture
def options(known: Path, tmp_path: Path) -> TrainingOptions:
    """A run that learns one more task."""
    return TrainingOptions(
        tasks=write_tasks(tmp_path / "news.jsonl", [task_line("shrug", answer="hm")]),
        out=tmp_path / "extended.safetensors",
        extend=known,
        steps=2,
        cache_gib=0.1,
    )


def train(
    options: TrainingOptions,
    base: BaseModel,
    recorder: TrainingProgress | None = None,
    **given: Any,
) -> Checkpoint:
    return train_hypernet(
        options,
        settings=settings(options.tasks.parent, base=base.folder),
        embedder=WordHashEmbedder(),
        progress=recorder,
        **given,
    )


def test_a_checkpoint_is_extended_in_its_shape(options: TrainingOptions, base: BaseModel) -> None:
    recorder = Recorder()
    new, old = train(options, base, recorder), load_checkpoint(options.extend or Path())
    assert new.network.config == old.network.config
    assert new.training["extends"]["fingerprint"] == old.fingerprint != new.fingerprint
    assert new.training["recipe"]["learning_rate"] == 2e-4
    assert any("for 12 descriptions of its training" in line for line in recorder.lines)


def test_new_atoms_make_it_larger(options: TrainingOptions, base: BaseModel) -> None:
    more = replace(options, new_atoms=3)
    where = settings(options.tasks.parent, base=base.folder)
    needs = forecast_training(more, settings=where, embedder=WordHashEmbedder())
    network = train(more, base).network
    assert network.config.atoms == 5
    assert needs.parameters == sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize("kind", ["corpus", "folder", "registered", "prepared"])
def test_what_is_kept_comes_from_files_of_every_kind(
    options: TrainingOptions, base: BaseModel, tmp_path: Path, kind: str
) -> None:
    file = toy_corpus(tmp_path / "train.jsonl")
    if kind == "folder":
        file = tmp_path
    if kind == "registered":
        examples = [{"input": f"input {n}", "output": "yes"} for n in range(5)]
        line = {"name": "agree", "description": "agree with yes", "examples": examples}
        file.write_text(json.dumps(line) + "\n", encoding="utf-8")
    if kind == "prepared":
        file = tmp_path / "kept.prepared"
        where = settings(tmp_path, base=base.folder)
        plain = CorpusOptions(tasks=tmp_path / "train.jsonl", composed=0, rewordings=0)
        write_corpus(plain, file, settings=where, embedder=WordHashEmbedder())
    extends = train(replace(options, keep=file, replay=3), base).training["extends"]
    wanted = (1, 1) if kind == "registered" else (4, 2)
    assert (extends["kept"], extends["replayed"]) == wanted


def test_what_is_kept_can_be_given(options: TrainingOptions, base: BaseModel) -> None:
    tasks = (kept_task("agree", "agree with yes", ()), kept_task("refuse", "refuse with no", ()))
    assert train(options, base, kept=tasks).training["extends"]["kept"] == 2
    with pytest.raises(ConfigError, match="none of the tasks to keep has examples"):
        train(replace(options, replay=2, out=options.out.with_stem("other")), base, kept=tasks)


@pytest.mark.parametrize(
    "changes",
    [
        {"network": "text-to-lora-s"},
        {"scale": 1.0},
        {"top_layers": 2},
        {"modules": ("q_proj",)},
        {"static_rank": 2},
        {"generated_rank": 3},
        {"atoms": 4},
        {"words": False},
    ],
)
def test_what_would_change_its_shape_is_refused(
    options: TrainingOptions, base: BaseModel, changes: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError, match="has its shape already") as caught:
        train(replace(options, **changes), base)
    assert caught.value.message.startswith(f"{next(iter(changes))} is ")
    assert not options.out.exists()


@pytest.mark.parametrize(
    "changes",
    [{"keep": Path("tasks.jsonl")}, {"keep_strength": 0.0}, {"replay": 1}, {"new_atoms": 1}],
)
def test_what_makes_sense_only_when_extending(
    options: TrainingOptions, base: BaseModel, changes: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError, match="no checkpoint is extended"):
        train(replace(options, extend=None, **changes), base)


def test_values_and_places_that_make_no_sense(options: TrainingOptions, base: BaseModel) -> None:
    for name in ("keep_strength", "replay", "new_atoms"):
        changes: dict[str, Any] = {name: -1}
        with pytest.raises(ConfigError, match=f"{name} is -1"):
            train(replace(options, **changes), base)
    with pytest.raises(ConfigError, match="name another --out"):
        train(replace(options, out=options.extend or Path()), base)
    with pytest.raises(ConfigError, match="can be replayed"):
        train(replace(options, replay=2), base)
    with pytest.raises(InvalidTaskFileError):
        train(replace(options, keep=options.out / "none.jsonl"), base)
    with pytest.raises(CheckpointError, match="does not exist"):
        train(replace(options, extend=options.out.with_stem("none")), base)


def test_a_checkpoint_of_another_base_or_kind(
    options: TrainingOptions, base: BaseModel, tmp_path: Path
) -> None:
    other = base_folder(tmp_path / "other", seed=1)
    with pytest.raises(BaseMismatchError):
        train_hypernet(options, settings=settings(tmp_path, base=other))
    theirs = replace(
        options, extend=None, network="text-to-lora-s", out=tmp_path / "theirs.safetensors"
    )
    train(theirs, base)
    with pytest.raises(ConfigError, match="is a Text-to-LoRA network"):
        load_start(theirs.out, base.spec)

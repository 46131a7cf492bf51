"""A tiny base model, a hypernetwork trained on it for a moment, and tasks to measure."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from hyperplug.basemodel import BaseModel, read_spec
from hyperplug.config import Settings
from hyperplug.hypernet.options import TrainingOptions
from hyperplug.hypernet.recipe import train_hypernet
from tests.miniature import (
    WordHashEmbedder,
    base_folder,
    settings,
    task_line,
    toy_corpus,
    write_tasks,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What a benchmark needs."""

    base: BaseModel
    settings: Settings
    tasks: Path


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Threads only wait for one another over matrices this small."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def world(_one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> World:
    """The tasks that are measured include what was trained on: this tests the measuring."""
    folder = tmp_path_factory.mktemp("world")
    base = base_folder(folder / "base")
    hypernet = folder / "hypernet.safetensors"
    train_hypernet(
        TrainingOptions(
            tasks=toy_corpus(folder / "train.jsonl"),
            out=hypernet,
            steps=200,
            learning_rate=3e-3,
            top_layers=2,
            static_rank=2,
            generated_rank=4,
            atoms=8,
        ),
        settings=settings(folder, base=base),
        embedder=WordHashEmbedder(),
    )
    lines = [
        task_line("agree", answer="yes", family="one", start=18, examples=6),
        task_line("refuse", answer="no", family="two", start=18, examples=5),
        task_line("greet", answer="hi there", family="two", examples=5) | {"metric": "rougeL"},
    ]
    return World(
        base=BaseModel(folder=base, spec=read_spec(base)),
        settings=settings(folder, base=base, hypernet=hypernet),
        tasks=write_tasks(folder / "tasks.jsonl", lines),
    )

"""A tiny base model and two toy tasks, ready to train on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hyperplug.basemodel import BaseModel, read_spec
from hyperplug.hypernet.batches import PreparedTask, Sampling
from hyperplug.hypernet.data import read_corpus
from hyperplug.hypernet.frozen import FrozenBase
from hyperplug.hypernet.loading import load_frozen, load_tokenizer
from hyperplug.hypernet.model import HypernetConfig
from hyperplug.hypernet.prepare import Preparation, choose_modules, prepare_tasks
from hyperplug.hypernet.states import LowerStates
from hyperplug.hypernet.train import TrainConfig, Trainer
from hyperplug.hypernet.words import load_vocabulary
from tests.miniature import WordHashEmbedder, base_folder, toy_corpus

LIMITS = Preparation(
    max_tokens=128, max_answer_tokens=16, examples_per_task=24, in_prompt=0.0, seed=0
)
CONFIG = TrainConfig(
    steps=12,
    learning_rate=3e-3,
    ema=0.5,
    sampling=Sampling(tasks=2, sequences=2),
    evaluate_every=1000,
)

MakeTrainer = Callable[..., Trainer]


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Threads only wait for one another over matrices this small."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def base(_one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    """A random Llama of three layers."""
    folder = base_folder(tmp_path_factory.mktemp("base") / "llama")
    return BaseModel(folder=folder, spec=read_spec(folder))


@pytest.fixture(scope="session")
def modules(base: BaseModel) -> tuple[str, ...]:
    """Projections of its upper two layers."""
    return choose_modules(base.spec, top_layers=2)


@pytest.fixture
def frozen(base: BaseModel, modules: tuple[str, ...]) -> FrozenBase:
    """The base model with its hooks."""
    return load_frozen(base, modules, device=torch.device("cpu"), dtype=torch.float32)


@pytest.fixture(scope="session")
def prepared(base: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> Sequence[PreparedTask]:
    """Two tasks that want opposite answers."""
    corpus = read_corpus(toy_corpus(tmp_path_factory.mktemp("corpus") / "tasks.jsonl"))
    return prepare_tasks(
        corpus.tasks,
        tokenizer=load_tokenizer(base),
        embedder=WordHashEmbedder(),
        vocabulary=load_vocabulary(base),
        limits=LIMITS,
    )


@pytest.fixture(scope="session")
def config(base: BaseModel, modules: tuple[str, ...]) -> HypernetConfig:
    """A hypernetwork of a few thousand weights."""
    shapes = [base.spec.module_shapes[path] for path in modules]
    return HypernetConfig(
        base_fingerprint=base.spec.fingerprint,
        embedder_id=WordHashEmbedder.id,
        embedding_size=WordHashEmbedder.dimension,
        target_modules=modules,
        in_features=tuple(shape.in_features for shape in shapes),
        out_features=tuple(shape.out_features for shape in shapes),
        static_rank=2,
        generated_rank=3,
        atoms=4,
        code_size=32,
        latents=2,
        encoder_layers=1,
        word_size=32,
    )


@pytest.fixture
def make_trainer(
    config: HypernetConfig, frozen: FrozenBase, prepared: Sequence[PreparedTask], tmp_path: Path
) -> MakeTrainer:
    """Makes a trainer; keyword arguments change its configuration."""

    def make(
        *,
        out: str = "hypernet.safetensors",
        cache_bytes: int = 0,
        validation: Sequence[PreparedTask] = prepared,
        **changes: object,
    ) -> Trainer:
        return Trainer(
            config=replace(CONFIG, **changes),  # type: ignore[arg-type]
            network=config,
            base=frozen,
            train=prepared,
            validation=validation,
            out=tmp_path / out,
            states=LowerStates(frozen, budget_bytes=cache_bytes) if cache_bytes else None,
        )

    return make

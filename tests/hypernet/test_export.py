"""Families of base models: train, export, and get the same logits through PEFT."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import peft
import pytest
import torch
import transformers

from hyperplug.adapters.library import Library
from hyperplug.adapters.peft_format import unpack
from hyperplug.basemodel import BaseModel, read_spec
from hyperplug.entities import Adapter, AdapterWeights, Origin
from hyperplug.hypernet.frozen import FrozenBase
from hyperplug.hypernet.generate import load_generator
from hyperplug.hypernet.loading import load_frozen
from hyperplug.hypernet.model import LoraBatch
from hyperplug.hypernet.options import TrainingOptions
from hyperplug.hypernet.recipe import TrainingProgress, train_hypernet
from hyperplug.hypernet.train import Report
from hyperplug.naming import adapter_name
from tests.miniature import FAMILIES, WordHashEmbedder, base_folder, settings, toy_corpus

DESCRIPTION = "agree with yes"
TOKEN_IDS = torch.arange(5, 29).reshape(2, 12)


class Losses(TrainingProgress):
    """Keeps the losses."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def stepped(self, report: Report) -> None:
        self.values.append(report.loss)


def as_adapter(weights: AdapterWeights, base: BaseModel) -> Adapter:
    return Adapter(
        id=2**20,
        namespace="default",
        name=adapter_name("agree", weights.digest),
        task_name="agree",
        digest=weights.digest,
        rank=weights.rank,
        alpha=weights.alpha,
        target_modules=weights.target_modules,
        origin=Origin.GENERATED,
        base_fingerprint=base.spec.fingerprint,
        hypernet_fingerprint=None,
        size_bytes=len(weights.data),
        metrics={},
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
    )


def ours(frozen: FrozenBase, weights: AdapterWeights) -> torch.Tensor:
    """Returns the logits with the exported factors, applied by our hooks."""
    pairs = unpack(weights.data)
    loras = [
        LoraBatch(a=torch.from_numpy(a)[None], b=torch.from_numpy(b)[None])
        for a, b in pairs.values()
    ]
    with torch.no_grad(), frozen.adapted(loras):
        return frozen.logits(frozen.hidden(TOKEN_IDS))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_trains_and_its_exports_act_alike_everywhere(family: str, tmp_path: Path) -> None:
    folder = base_folder(tmp_path / "base", family=family)
    base = BaseModel(folder=folder, spec=read_spec(folder))
    options = TrainingOptions(
        tasks=toy_corpus(tmp_path / "tasks.jsonl"),
        out=tmp_path / "hypernet.safetensors",
        steps=20,
        learning_rate=3e-3,
        top_layers=2,
        static_rank=2,
        generated_rank=2,
        atoms=4,
    )
    losses = Losses()
    train_hypernet(
        options,
        settings=settings(tmp_path, base=folder),
        embedder=WordHashEmbedder(),
        progress=losses,
    )
    assert sum(losses.values[-5:]) < sum(losses.values[:5])

    generator = load_generator(options.out, embedder=WordHashEmbedder(), base=base)
    weights = generator.generate(DESCRIPTION)
    frozen = load_frozen(
        base, generator.spec.target_modules, device=torch.device("cpu"), dtype=torch.float32
    )
    expected = ours(frozen, weights)
    with torch.no_grad():
        plain = frozen.logits(frozen.hidden(TOKEN_IDS))
        with frozen.adapted(generator.loras(DESCRIPTION)):
            unrounded = frozen.logits(frozen.hidden(TOKEN_IDS))
    effect = (expected - plain).norm()
    assert effect > 1  # the adapter does something, and float16 loses little of it:
    assert (unrounded - expected).norm() < 0.02 * effect

    published = Library(tmp_path / "library").publish(
        as_adapter(weights, base), weights.data, base_id=str(folder)
    )
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    adapted = peft.PeftModel.from_pretrained(model, published).eval()
    with torch.no_grad():
        theirs = adapted(TOKEN_IDS).logits
    assert (theirs - expected).abs().max() < 1e-3


def test_a_seed_makes_a_run_repeatable(tmp_path: Path) -> None:
    folder = base_folder(tmp_path / "base")
    options = TrainingOptions(
        tasks=toy_corpus(tmp_path / "tasks.jsonl"), out=tmp_path / "1.safetensors", steps=2, atoms=2
    )

    def fingerprint(options: TrainingOptions) -> str:
        return train_hypernet(
            options, settings=settings(tmp_path, base=folder), embedder=WordHashEmbedder()
        ).fingerprint

    first = fingerprint(options)
    assert fingerprint(replace(options, out=tmp_path / "2.safetensors")) == first
    assert fingerprint(replace(options, out=tmp_path / "3.safetensors", seed=1)) != first

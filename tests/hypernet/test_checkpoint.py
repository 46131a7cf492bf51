"""The hypernetwork on disk, and the generator that uses it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from hyperplug.adapters.peft_format import unpack
from hyperplug.basemodel import BaseModel
from hyperplug.entities import Example, Thresholds
from hyperplug.errors import BaseMismatchError, CheckpointError
from hyperplug.hypernet.checkpoint import FORMAT, Checkpoint, load_checkpoint, save_checkpoint
from hyperplug.hypernet.generate import Generator, load_generator
from hyperplug.hypernet.model import Hypernet, HypernetConfig
from tests.miniature import WordHashEmbedder

EMBEDDER = WordHashEmbedder()


@pytest.fixture
def saved(config: HypernetConfig, tmp_path: Path) -> Path:
    """The file of a hypernetwork whose output is not zero."""
    torch.manual_seed(0)
    hypernet = Hypernet(config).requires_grad_(False)
    for parameter in hypernet.parameters():
        parameter.add_(0.05 * torch.randn_like(parameter))
    path = tmp_path / "hypernet.safetensors"
    save_checkpoint(
        path,
        Checkpoint(
            network=hypernet,
            support=torch.from_numpy(EMBEDDER.embed(["first task", "second task"])),
            thresholds=Thresholds(near=0.7, support=0.25),
            training={"steps": 3},
        ),
    )
    return path


def test_a_checkpoint_comes_back_as_it_was_saved(saved: Path, config: HypernetConfig) -> None:
    checkpoint = load_checkpoint(saved)
    assert checkpoint.network.config == config
    assert checkpoint.thresholds == Thresholds(near=0.7, support=0.25)
    assert checkpoint.training == {"steps": 3}
    assert checkpoint.support.shape == (2, EMBEDDER.dimension)
    again = saved.with_name("again.safetensors")
    save_checkpoint(again, checkpoint)
    assert again.read_bytes() == saved.read_bytes()
    assert load_checkpoint(again).fingerprint == checkpoint.fingerprint


def test_the_fingerprint_is_of_the_weights(saved: Path) -> None:
    checkpoint = load_checkpoint(saved)
    next(checkpoint.network.parameters()).add_(0.1)
    save_checkpoint(saved, checkpoint)
    assert load_checkpoint(saved).fingerprint != checkpoint.fingerprint


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        load_checkpoint(tmp_path / "none.safetensors")


@pytest.mark.parametrize("share", [0.0, 0.1, 0.9, 0.999])
def test_a_truncated_file(saved: Path, share: float) -> None:
    data = saved.read_bytes()
    saved.write_bytes(data[: int(share * len(data))])
    with pytest.raises(CheckpointError, match="damaged"):
        load_checkpoint(saved)


def test_a_foreign_safetensors_file(saved: Path) -> None:
    save_file({"x": torch.zeros(2)}, saved)
    with pytest.raises(CheckpointError, match="not a hyperplug hypernetwork"):
        load_checkpoint(saved)


def test_a_file_that_lacks_weights_or_facts(saved: Path) -> None:
    from safetensors import safe_open

    with safe_open(saved, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(saved)
    save_file({n: t for n, t in tensors.items() if "mix_a" not in n}, saved, metadata)
    with pytest.raises(CheckpointError, match="damaged"):
        load_checkpoint(saved)
    about = json.loads(metadata[FORMAT])
    about["config"]["unknown"] = 1
    save_file(tensors, saved, {FORMAT: json.dumps(about)})
    with pytest.raises(CheckpointError, match="damaged"):
        load_checkpoint(saved)


def test_another_base_or_encoder_is_refused(saved: Path, base: BaseModel) -> None:
    other = replace(base, spec=replace(base.spec, fingerprint="0" * 64))
    with pytest.raises(BaseMismatchError, match="not trained for"):
        load_generator(saved, embedder=EMBEDDER, base=other)

    class Other(WordHashEmbedder):
        id = "another:1"

    with pytest.raises(CheckpointError, match="word-hash:1, not another:1"):
        load_generator(saved, embedder=Other(), base=base)


def test_generation_is_deterministic_and_reads_its_input(saved: Path, base: BaseModel) -> None:
    generator = load_generator(saved, embedder=EMBEDDER, base=base)
    again = load_generator(saved, embedder=EMBEDDER, base=base)
    first = generator.generate("first task")
    assert first.digest == again.generate("first task").digest
    assert first.digest != generator.generate("second task").digest
    pair = Example(input="a", output="b")
    shown = generator.generate("first task", [pair])
    assert shown.digest != first.digest
    assert first.rank == 5 and first.alpha == 5.0
    assert first.target_modules == generator.spec.target_modules


def test_examples_beyond_the_sixteenth_are_not_read(saved: Path, base: BaseModel) -> None:
    generator = load_generator(saved, embedder=EMBEDDER, base=base)
    pairs = [Example(input=str(n), output=str(n)) for n in range(20)]
    assert generator.generate("x", pairs[:16]).digest == generator.generate("x", pairs).digest


def test_the_static_adapter_is_the_shared_part(saved: Path, base: BaseModel) -> None:
    generator = load_generator(saved, embedder=EMBEDDER, base=base)
    static = unpack(generator.static().data)
    rank = generator.spec.rank
    for path, (a, b) in unpack(generator.generate("first task").data).items():
        shared_a, shared_b = static[path]
        assert a.shape[0] == b.shape[1] == rank
        assert np.allclose(shared_b @ shared_a, b[:, :2] @ a[:2], atol=1e-3)


def test_support_is_the_nearest_training_description(saved: Path, base: BaseModel) -> None:
    generator: Generator = load_generator(saved, embedder=EMBEDDER, base=base)
    known, strange = EMBEDDER.embed(["second task", "quite unrelated words"])
    assert generator.support(known) == pytest.approx(1.0, abs=1e-3)
    assert generator.support(strange) < 0.9

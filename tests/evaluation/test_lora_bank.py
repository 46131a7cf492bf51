"""LoRAs of single tasks on disk, and arithmetic on them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hyperplug.entities import ModuleShape
from hyperplug.errors import CheckpointError, ConfigError
from hyperplug.evaluation.loras import LoraBank, LoraRecord, joined, load_loras, save_loras
from hyperplug.hypernet.model import LoraBatch


@given(count=st.integers(1, 4), rank=st.integers(1, 3), seed=st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_a_file_gives_back_what_was_saved(
    tmp_path_factory: pytest.TempPathFactory, count: int, rank: int, seed: int
) -> None:
    bank = _bank(count=count, rank=rank, seed=seed)
    path = tmp_path_factory.mktemp("file") / "deep" / "bank.safetensors"
    save_loras(path, bank)
    again = load_loras(path)
    assert (again.records, again.training) == (bank.records, bank.training)
    assert (again.ids, again.rank) == (bank.ids, rank)
    np.testing.assert_array_equal(again.embeddings, bank.embeddings)
    for id in bank.ids:
        for one, other in zip(again.loras(id), bank.loras(id), strict=True):
            assert one.a.shape[0] == 1 and one.a.dtype == torch.float32
            torch.testing.assert_close(_delta(one), _delta(other), rtol=1e-2, atol=1e-2)
    first = path.read_bytes()
    save_loras(path, again)
    assert path.read_bytes() == first


def test_a_merge_is_the_weighted_sum() -> None:
    bank = _bank(count=4, rank=2)
    weights = {"t2": 0.5, "t0": -1.5}
    for slot, merged in enumerate(bank.merged(weights)):
        expected = sum(w * _delta(bank.loras(id)[slot]) for id, w in weights.items())
        assert merged.a.shape[:2] == (1, 4)
        torch.testing.assert_close(_delta(merged), expected)
    with pytest.raises(ConfigError, match="none of task 'x'"):
        bank.merged({"x": 1.0})
    with pytest.raises(ConfigError, match="no LoRAs to merge"):
        bank.merged({})


def test_the_mean_is_the_best_of_its_rank() -> None:
    bank = _bank(count=5, rank=2)
    for slot, mean in enumerate(bank.mean()):
        dense = torch.stack([_delta(bank.loras(id)[slot]) for id in bank.ids]).mean(dim=0)
        left = torch.linalg.svdvals(dense[0])[2:].square().sum().sqrt()
        assert mean.a.shape[1] == bank.rank
        torch.testing.assert_close((_delta(mean) - dense).norm(), left)
    one = _bank(count=1, rank=2)
    for mean, lora in zip(one.mean(), one.loras("t0"), strict=True):
        torch.testing.assert_close(_delta(mean), _delta(lora))


def test_banks_are_joined_in_order() -> None:
    first, second = _bank(count=2, seed=1), _bank(count=1, seed=2, name="u")
    both = joined([first, second], training={"steps": 1})
    assert both.ids == ("t0", "t1", "u0") and both.embeddings.shape[0] == 3
    for one, other in zip(both.loras("u0"), second.loras("u0"), strict=True):
        assert torch.equal(one.a, other.a)


def test_a_bad_file_is_named(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    with pytest.raises(CheckpointError, match="does not exist"):
        load_loras(tmp_path / "none")
    damaged = tmp_path / "damaged"
    damaged.write_bytes(b"no tensors")
    with pytest.raises(CheckpointError, match="is damaged"):
        load_loras(damaged)
    foreign = tmp_path / "foreign"
    save_file({"x": torch.zeros(1)}, foreign)
    with pytest.raises(CheckpointError, match="no file of LoRAs"):
        load_loras(foreign)


def _bank(*, count: int, rank: int = 2, seed: int = 0, name: str = "t") -> LoraBank:
    generator = torch.Generator().manual_seed(seed)
    shapes = [
        ModuleShape(in_features=6, out_features=8),
        ModuleShape(in_features=5, out_features=7),
    ]

    def normal(*sizes: int) -> Tensor:
        return torch.randn(*sizes, generator=generator)

    return LoraBank(
        records=tuple(
            LoraRecord(id=f"{name}{n}", family="f", examples=9, best_step=3, before=2.5, after=0.5)
            for n in range(count)
        ),
        stacked=tuple(
            LoraBatch(a=normal(count, rank, s.in_features), b=normal(count, s.out_features, rank))
            for s in shapes
        ),
        embeddings=normal(count, 4).numpy(),
        base_fingerprint="f" * 64,
        embedder_id="e:1",
        target_modules=("layers.0.q_proj", "layers.0.v_proj"),
        training={"steps": 60, "seed": seed},
    )


def _delta(lora: LoraBatch) -> Tensor:
    return lora.b @ lora.a

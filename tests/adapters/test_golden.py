"""Numbers: what we export acts in PEFT exactly as W + (alpha / r) B A."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hyperplug.adapters import pack, unpack, validate_folder
from hyperplug.adapters.peft_format import Pair
from hyperplug.entities import AdapterWeights
from tests.adapters.samples import BASE, MODULES, export, foreign, pairs, weights
from tests.adapters.tiny import build_model

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")

WIDTH = 8


@pytest.fixture(autouse=True)
def _two_threads() -> None:
    torch.set_num_threads(2)


def logits(model: Any) -> Any:
    """Returns what the model makes of a fixed input, shape (1, 8, vocabulary)."""
    with torch.no_grad():
        return model(torch.arange(2, 10)[None]).logits


def with_peft(folder: Path) -> Any:
    """Returns the tiny model with the adapter in `folder`; a warning is a failure."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return peft.PeftModel.from_pretrained(build_model(), folder).eval()


def by_hand(adapter: Mapping[str, Pair], *, multiplier: float) -> Any:
    """Returns the tiny model with multiplier · B A added to its weights."""
    model = build_model()
    with torch.no_grad():
        for module, (a, b) in adapter.items():
            update = torch.from_numpy(np.asarray(b @ a, np.float32))  # (out, in)
            model.get_submodule(module).weight += multiplier * update
    return model


def wide_model() -> Any:
    """Returns a model of twelve small layers."""
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=10,
            hidden_size=WIDTH,
            intermediate_size=8,
            num_hidden_layers=12,
            num_attention_heads=2,
            num_key_value_heads=2,
        )
    )


def test_the_samples_are_the_shapes_of_the_model() -> None:
    model = build_model()
    for module, shape in BASE.module_shapes.items():
        expected = (shape.out_features, shape.in_features)
        assert tuple(model.get_submodule(module).weight.shape) == expected


def test_a_zero_adapter_leaves_logits_unchanged(tmp_path: Path) -> None:
    zeros = {module: (a, np.zeros_like(b)) for module, (a, b) in pairs().items()}
    model = with_peft(export(tmp_path / "a", pack(zeros, alpha=4)))
    assert torch.equal(logits(model), logits(build_model()))


@pytest.mark.parametrize(("rank", "alpha"), [(4, 4.0), (4, 8.0), (8, 2.0), (1, 2.5)])
def test_peft_adds_alpha_over_rank_times_b_a(tmp_path: Path, rank: int, alpha: float) -> None:
    adapter = pairs(3, rank=rank, scale=0.3)
    model = with_peft(export(tmp_path / "a", pack(adapter, alpha=alpha)))
    expected = logits(by_hand(adapter, multiplier=alpha / rank))
    torch.testing.assert_close(logits(model), expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(expected, logits(build_model()), atol=0.05)


def test_peft_makes_only_the_modules_that_have_weights(tmp_path: Path) -> None:
    model = with_peft(export(tmp_path / "a"))
    adapted = {
        name.removeprefix("base_model.model.").removesuffix(".lora_A")
        for name, _ in model.named_modules()
        if name.endswith(".lora_A")
    }
    assert adapted == set(MODULES)


def test_peft_keeps_to_full_paths_when_there_are_many(tmp_path: Path) -> None:
    # From twenty targets on PEFT looks for shorter names, which must not reach further.
    model = wide_model()
    modules = [
        module for module, _ in model.named_modules() if module.endswith(("q_proj", "up_proj"))
    ][:-1]
    assert len(modules) > 20
    adapter = {
        module: (np.ones((2, WIDTH)), np.ones((model.get_submodule(module).out_features, 2)))
        for module in modules
    }
    folder = foreign(tmp_path / "a", pack(adapter, alpha=2))
    adapted = peft.PeftModel.from_pretrained(model, folder)
    found = {name for name, _ in adapted.named_modules() if name.endswith(".lora_A")}
    assert found == {f"base_model.model.{module}.lora_A" for module in modules}


def test_folded_rslora_acts_as_peft_with_the_flag(tmp_path: Path) -> None:
    packed = AdapterWeights(
        data=weights(5).data, digest="", rank=4, alpha=16.0, target_modules=MODULES
    )
    flagged = foreign(tmp_path / "flagged", packed, use_rslora=True)
    folded = validate_folder(flagged, base=BASE).weights
    model = with_peft(export(tmp_path / "folded", folded))
    torch.testing.assert_close(logits(model), logits(with_peft(flagged)), rtol=1e-4, atol=1e-4)
    plain = logits(with_peft(foreign(tmp_path / "plain", packed)))
    assert not torch.allclose(logits(model), plain, atol=1e-2)


def test_what_peft_saves_is_taken_and_means_the_same(tmp_path: Path) -> None:
    torch.manual_seed(1)
    config = peft.LoraConfig(
        r=4,
        lora_alpha=12,
        target_modules=["q_proj", "up_proj"],
        layers_to_transform=[1],
        init_lora_weights=False,
        task_type="CAUSAL_LM",
    )
    trained = peft.get_peft_model(build_model(), config).eval()
    trained.save_pretrained(tmp_path / "trained")
    taken = validate_folder(tmp_path / "trained", base=BASE).weights
    assert (taken.rank, taken.alpha) == (4, 12.0)
    by_peft, ours = logits(trained), logits(by_hand(unpack(taken.data), multiplier=3))
    torch.testing.assert_close(by_peft, ours, rtol=1e-4, atol=1e-4)
    again = with_peft(export(tmp_path / "again", taken))
    torch.testing.assert_close(logits(again), by_peft, rtol=1e-4, atol=1e-4)


def test_bfloat16_from_peft_is_taken(tmp_path: Path) -> None:
    config = peft.LoraConfig(
        r=4, lora_alpha=4, target_modules=list(MODULES), init_lora_weights=False
    )
    model = peft.get_peft_model(build_model(), config).to(torch.bfloat16)
    model.save_pretrained(tmp_path / "a")
    taken = unpack(validate_folder(tmp_path / "a", base=BASE).weights.data)
    layer = model.get_submodule(f"base_model.model.{MODULES[0]}")
    expected = layer.lora_A["default"].weight.detach().float().numpy()
    np.testing.assert_array_equal(taken[MODULES[0]][0], expected)

"""The base model with batched LoRA: exact, reversible, and the same in two parts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import nn

from hyperplug.basemodel import BaseModel, read_spec
from hyperplug.errors import BaseModelError, ConfigError
from hyperplug.hypernet.frozen import FrozenBase, layer_index
from hyperplug.hypernet.loading import (
    check_projections,
    load_frozen,
    load_tokenizer,
    pick_device,
    pick_dtype,
)
from hyperplug.hypernet.model import LoraBatch
from hyperplug.hypernet.prepare import choose_modules
from tests.miniature import FAMILIES, base_folder

CPU = torch.device("cpu")


def random_loras(
    frozen: FrozenBase, modules: Sequence[str], *, tasks: int, seed: int = 1
) -> list[LoraBatch]:
    generator = torch.Generator().manual_seed(seed)
    loras = []
    for path in modules:
        module = frozen.model.get_submodule(path)
        assert isinstance(module, nn.Linear)
        a = torch.randn(tasks, 4, module.in_features, generator=generator)
        b = torch.randn(tasks, module.out_features, 4, generator=generator)
        loras.append(LoraBatch(a=0.3 * a, b=0.3 * b))
    return loras


@pytest.mark.parametrize("family", FAMILIES)
def test_lower_then_upper_equals_the_whole(family: str, tmp_path: Path) -> None:
    folder = base_folder(tmp_path / family, family=family)
    base = BaseModel(folder=folder, spec=read_spec(folder))
    modules = choose_modules(base.spec, top_layers=2)
    frozen = load_frozen(base, modules, device=CPU, dtype=torch.float32)
    assert frozen.can_split and frozen.split == 1
    token_ids = torch.arange(40).reshape(2, 20)
    with torch.no_grad(), frozen.adapted(random_loras(frozen, modules, tasks=2)):
        whole = frozen.hidden(token_ids)
        parts = frozen.upper(frozen.lower(token_ids))
    assert torch.allclose(whole, parts, atol=1e-5)


@pytest.mark.parametrize("family", ["opt", "falcon"])
def test_other_decoders_are_adapted_whole(family: str, tmp_path: Path) -> None:
    """They keep their layers elsewhere; nothing is computed ahead then."""
    folder = base_folder(tmp_path / family, family=family)
    base = BaseModel(folder=folder, spec=read_spec(folder))
    modules = choose_modules(base.spec, top_layers=2)
    frozen = load_frozen(base, modules, device=CPU, dtype=torch.float32)
    assert not frozen.can_split
    token_ids = torch.arange(40).reshape(2, 20)
    with torch.no_grad():
        before = frozen.hidden(token_ids)
        after = frozen.adapted_hidden(random_loras(frozen, modules, tasks=2), token_ids=token_ids)
    assert not torch.allclose(before, after, atol=1e-3)


def test_rows_of_a_batch_get_their_own_task(frozen: FrozenBase, modules: tuple[str, ...]) -> None:
    token_ids = torch.arange(48).reshape(4, 12)
    loras = random_loras(frozen, modules, tasks=2)
    with torch.no_grad():
        with frozen.adapted(loras):
            together = frozen.hidden(token_ids)
        for task in (0, 1):
            rows = slice(2 * task, 2 * task + 2)
            only = [LoraBatch(a=x.a[task : task + 1], b=x.b[task : task + 1]) for x in loras]
            with frozen.adapted(only):
                alone = frozen.hidden(token_ids[rows])
            assert torch.allclose(together[rows], alone, atol=1e-5)


def test_the_hook_adds_b_a_x(frozen: FrozenBase, modules: tuple[str, ...]) -> None:
    loras = random_loras(frozen, modules, tasks=1)
    module = frozen.model.get_submodule(modules[0])
    x = torch.randn(1, 5, loras[0].a.shape[-1])
    with torch.no_grad():
        plain = module(x)
        with frozen.adapted(loras):
            adapted = module(x)
    expected = plain + x @ loras[0].a[0].T @ loras[0].b[0].T
    assert torch.allclose(adapted, expected, atol=1e-4)


def test_the_adapter_is_gone_after_an_error(frozen: FrozenBase, modules: tuple[str, ...]) -> None:
    token_ids = torch.arange(8)[None]
    before = frozen.hidden(token_ids)
    with pytest.raises(RuntimeError), frozen.adapted(random_loras(frozen, modules, tasks=1)):
        raise RuntimeError
    assert torch.equal(frozen.hidden(token_ids), before)


def test_no_gradient_reaches_the_base(frozen: FrozenBase, modules: tuple[str, ...]) -> None:
    loras = random_loras(frozen, modules, tasks=1)
    for lora in loras:
        lora.b.requires_grad_()
    with frozen.adapted(loras):
        frozen.hidden(torch.arange(8)[None]).sum().backward()  # type: ignore[no-untyped-call]
    assert all(lora.b.grad is not None for lora in loras)
    assert all(p.grad is None for p in frozen.model.parameters())


def test_adapting_the_first_layer_leaves_nothing_to_split(base: BaseModel) -> None:
    frozen = load_frozen(base, choose_modules(base.spec), device=CPU, dtype=torch.float32)
    assert frozen.split == 0 and not frozen.can_split


def test_layer_index() -> None:
    assert layer_index("model.layers.12.mlp.up_proj") == 12


def test_a_module_that_is_no_projection_is_refused(base: BaseModel, tmp_path: Path) -> None:
    other = base_folder(tmp_path / "wider", layers=2)
    model = nn.Module()
    with pytest.raises(BaseModelError, match="is missing"):
        check_projections(model, base.spec, ["model.layers.0.mlp.up_proj"])
    linear = nn.Module()
    linear.up = nn.Linear(3, 5)
    spec = read_spec(other)
    path, shape = next(iter(spec.module_shapes.items()))
    object.__setattr__(spec, "module_shapes", {"up": shape})
    with pytest.raises(BaseModelError, match=f"{shape.in_features} to {shape.out_features}"):
        check_projections(linear, spec, ["up"])
    assert path


def test_a_folder_without_weights_or_tokenizer(base: BaseModel, tmp_path: Path) -> None:
    empty = BaseModel(folder=tmp_path, spec=base.spec)
    with pytest.raises(BaseModelError, match="tokenizer"):
        load_tokenizer(empty)
    with pytest.raises(BaseModelError, match="cannot load"):
        load_frozen(empty, ["x"], device=CPU, dtype=torch.float32)


def test_devices_and_number_formats() -> None:
    assert pick_device("cpu") == CPU
    assert pick_dtype("bfloat16", CPU) is torch.bfloat16
    assert pick_dtype("auto", CPU) in (torch.float32, torch.bfloat16)
    with pytest.raises(ConfigError, match="no device 'abacus'"):
        pick_device("abacus")
    with pytest.raises(ConfigError, match="unknown dtype 'int3'"):
        pick_dtype("int3", CPU)

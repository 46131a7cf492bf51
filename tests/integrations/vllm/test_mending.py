"""Faults of vLLM by which a request could be answered under another's adapter."""

from __future__ import annotations

import sys
import types
from typing import Any

import pytest
import torch

pytest.importorskip("vllm")

from hyperplug_vllm import mending


@pytest.fixture
def mended(monkeypatch: pytest.MonkeyPatch) -> Any:
    """vLLM's operations for a CPU, mended for the test."""
    from vllm.lora.ops.torch_ops import lora_ops
    from vllm.lora.punica_wrapper import punica_cpu

    original = getattr(lora_ops.bgmv_shrink, "__wrapped__", lora_ops.bgmv_shrink)
    for module in (lora_ops, punica_cpu):
        monkeypatch.setattr(module, "bgmv_shrink", original)
    mending._leave_rows_without_adapter_alone()
    return lora_ops


def test_rows_without_an_adapter_get_nothing(mended: Any) -> None:
    torch.manual_seed(0)
    inputs = torch.randn(3, 8)
    weights = torch.randn(2, 1, 4, 8)  # two slots
    rows, lengths = torch.tensor([0, -1, 1]), torch.ones(3, dtype=torch.long)
    for prefill in (False, True):
        out = torch.full((3, 4), 7.0)
        if prefill:
            mended.sgmv_shrink(inputs, weights, out, None, lengths, rows, 3, 1, 3, 0.5)
        else:
            mended.bgmv_shrink(inputs, weights, out, rows, 0.5)
        assert torch.equal(out[1], torch.zeros(4))
        assert torch.allclose(out[0], 0.5 * weights[0, 0] @ inputs[0], atol=1e-5)
        assert torch.allclose(out[2], 0.5 * weights[1, 0] @ inputs[2], atol=1e-5)


def test_it_is_mended_wherever_it_is_used_and_once(mended: Any) -> None:
    from vllm.lora.punica_wrapper import punica_cpu

    first = mended.bgmv_shrink
    assert punica_cpu.bgmv_shrink is first
    mending._leave_rows_without_adapter_alone()
    assert mended.bgmv_shrink is first


def test_slots_that_change_are_mapped_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    class LoRAModelManager:
        """As releases had it that compare the requests of a batch only."""

        def __init__(self) -> None:
            self.active: set[int] = set()
            self._last_mapping: object = "the last batch's"

        def activate_adapter(self, lora_id: int) -> bool:
            fresh = lora_id not in self.active
            self.active.add(lora_id)
            return fresh

    module = types.ModuleType("old_model_manager")
    module.LoRAModelManager = LoRAModelManager  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "old_model_manager", module)
    mending._map_anew_when_slots_change("old_model_manager")
    manager = LoRAModelManager()
    manager.activate_adapter(1)
    assert manager._last_mapping is None
    manager._last_mapping = "this batch's"
    manager.activate_adapter(1)  # no slot changed
    assert manager._last_mapping == "this batch's"


def test_the_installed_release_looks_at_slots_itself() -> None:
    from vllm.lora import model_manager

    known = hasattr(model_manager, "LoRAModelManager")
    assert known and mending._module_that_forgets_slots() is None

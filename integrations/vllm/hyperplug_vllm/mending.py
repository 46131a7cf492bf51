"""Mends two faults of vLLM by which a request could be answered under another's adapter.

Both lie in the engine, so this runs in each of vLLM's processes, as a general plugin. What a
release has mended itself is left alone.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from pathlib import Path
from typing import Any

_MENDED = "_mended_by_hyperplug"


def mend() -> None:
    """Mends what has to be; does nothing the second time."""
    _leave_rows_without_adapter_alone()
    module = _module_that_forgets_slots()
    if module is not None:
        _map_anew_when_slots_change(module)


def _leave_rows_without_adapter_alone() -> None:
    """On a CPU, rows of the base model in a batch with others got the last slot's adapter.

    vLLM marks them by the index -1, which PyTorch takes for the last one (vLLM pull requests
    48421 and 49656, both open). What the first factor gives for them is set to zero here.
    """
    from vllm.lora.ops.torch_ops import lora_ops
    from vllm.lora.punica_wrapper import punica_cpu

    shrink = lora_ops.bgmv_shrink
    if hasattr(shrink, _MENDED):
        return

    @functools.wraps(shrink)
    def bgmv_shrink(
        inputs: Any,
        lora_b_weights: Any,
        output_tensor: Any,
        lora_indices_tensor: Any,
        scaling: float = 1.0,
    ) -> None:
        shrink(inputs, lora_b_weights, output_tensor, lora_indices_tensor, scaling)
        output_tensor.masked_fill_((lora_indices_tensor < 0)[:, None], 0)

    setattr(bgmv_shrink, _MENDED, True)
    lora_ops.bgmv_shrink = punica_cpu.bgmv_shrink = bgmv_shrink


def _map_anew_when_slots_change(module: str) -> None:
    """Loading an adapter could move others to other slots while a batch kept its old map.

    That gave requests in flight another's adapter (vLLM issue 47724). Releases with the fault
    map rows to slots anew only if the requests of a batch change; here also if slots do.
    """
    manager = importlib.import_module(module).LoRAModelManager
    activate = manager.activate_adapter
    if hasattr(activate, _MENDED):
        return

    @functools.wraps(activate)
    def activate_adapter(self: Any, lora_id: int) -> bool:
        changed = bool(activate(self, lora_id))
        if changed:
            self._last_mapping = None
        return changed

    setattr(activate_adapter, _MENDED, True)
    manager.activate_adapter = activate_adapter


def _module_that_forgets_slots() -> str | None:
    """Returns the module with the second fault, None if there is none; it is read, not imported."""
    for name in ("vllm.lora.model_manager", "vllm.lora.models"):
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.origin is not None:
            source = Path(spec.origin).read_text(encoding="utf-8")
            return None if "_last_slot_layout" in source else name
    return None

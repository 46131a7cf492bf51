"""LoRA weights in PEFT's file format: safetensors bytes and `adapter_config.json`.

A module's pair is stored as `base_model.model.<module>.lora_A.weight`, shape
(rank, in_features), and `.lora_B.weight`, shape (out_features, rank). A runtime adds
(alpha / rank) · B A to the module's frozen weight.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hyperplug.adapters.peft_config import MAX_MODULE_LENGTH
from hyperplug.adapters.safetensors_file import read_tensors
from hyperplug.entities import Adapter, AdapterWeights
from hyperplug.errors import InvalidAdapterError

WEIGHTS_FILE = "adapter_model.safetensors"
CONFIG_FILE = "adapter_config.json"
PROVENANCE_FILE = "hyperplug.json"
PROVENANCE_FORMAT = 1

# Bounded, and free of what a path, a log or a database could stumble over.
_NAME = re.compile(
    rf"base_model\.model\.(?P<module>[\w.-]{{1,{MAX_MODULE_LENGTH}}})\.lora_(?P<factor>[AB])\.weight\Z",
    re.ASCII,
)

Pair = tuple[NDArray[np.floating[Any]], NDArray[np.floating[Any]]]


def tensor_name(module: str, factor: str) -> str:
    """Returns PEFT's name for factor "A" or "B" of a module, "model.layers.0.mlp.up_proj"."""
    return f"base_model.model.{module}.lora_{factor}.weight"


def split_tensor_name(name: str) -> tuple[str, str] | None:
    """Returns (module, "A" or "B") of a tensor name, or None if it is none of PEFT's."""
    match = _NAME.match(name)
    return (match["module"], match["factor"]) if match else None


def model_order(modules: Iterable[str]) -> tuple[str, ...]:
    """Returns module paths sorted so that layer 2 comes before layer 10."""
    return tuple(sorted(modules, key=_natural_key))


def pack(
    tensors: Mapping[str, Pair],
    *,
    alpha: float,
    dtype: type[np.float16 | np.float32] = np.float16,
) -> AdapterWeights:
    """Returns LoRA pairs as a safetensors file; equal input gives equal bytes.

    Args:
        tensors: module path to (A, B), A of shape (rank, in), B of shape (out, rank).
        alpha: LoRA alpha; the pairs act with multiplier alpha / rank.

    Raises:
        InvalidAdapterError: if there is no pair, ranks differ, or a value is not finite
            or does not fit `dtype`.
    """
    from safetensors.numpy import save

    ranks = {a.shape[0] if a.ndim == 2 else 0 for a, _ in tensors.values()}
    ranks |= {b.shape[1] if b.ndim == 2 else 0 for _, b in tensors.values()}
    if len(ranks) != 1 or 0 in ranks:
        raise _invalid(f"LoRA pairs need one common rank, got {sorted(ranks)}")
    if not (np.isfinite(alpha) and alpha > 0):
        raise _invalid(f"LoRA alpha {alpha} is not a positive number")
    stored: dict[str, NDArray[Any]] = {}
    for module in sorted(tensors):
        for factor, values in zip("AB", tensors[module], strict=True):
            name = tensor_name(module, factor)
            stored[name] = _cast(name, values, dtype)
    data = bytes(save(stored))
    return AdapterWeights(
        data=data,
        digest=hashlib.sha256(data).hexdigest(),
        rank=ranks.pop(),
        alpha=float(alpha),
        target_modules=model_order(tensors),
    )


def unpack(data: bytes) -> dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Returns module path to (A, B) in model order, widened to float32 without loss.

    Raises:
        InvalidAdapterError: if the file is damaged, holds other tensors, or half a pair.
    """
    factors: dict[str, dict[str, NDArray[np.float32]]] = {}
    for name, values in read_tensors(data).items():
        parts = split_tensor_name(name)
        if parts is None:
            raise _invalid(f"tensor {name[:120]!r} is no LoRA factor")
        factors.setdefault(parts[0], {})[parts[1]] = values
    for module, found in factors.items():
        if len(found) != 2:
            raise _invalid(f"module {module!r} has only factor {next(iter(found))}")
    return {module: (factors[module]["A"], factors[module]["B"]) for module in model_order(factors)}


def adapter_config(adapter: Adapter | AdapterWeights, base_id: str) -> dict[str, Any]:
    """Returns `adapter_config.json`: PEFT's LoRA settings, and nothing of ours.

    Modules are named by full path, which PEFT matches exactly and vLLM does not restrict:
    a list of suffixes would create adapters in layers that have no weights.
    """
    alpha = adapter.alpha
    return {
        "base_model_name_or_path": base_id,
        "bias": "none",
        "inference_mode": True,
        "lora_alpha": int(alpha) if float(alpha).is_integer() else alpha,
        "lora_dropout": 0.0,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": adapter.rank,
        "target_modules": list(adapter.target_modules),
        "task_type": "CAUSAL_LM",
        "use_dora": False,
        "use_rslora": False,
    }


def provenance(adapter: Adapter) -> dict[str, Any]:
    """Returns `hyperplug.json`: where the adapter came from and what it fits.

    Nothing in it changes during the adapter's life, so that two processes write the same.
    """
    return {
        "format": PROVENANCE_FORMAT,
        "name": adapter.name,
        "namespace": adapter.namespace,
        "task": adapter.task_name,
        "origin": adapter.origin.value,
        "rank": adapter.rank,
        "alpha": adapter.alpha,
        "base_fingerprint": adapter.base_fingerprint,
        "hypernet_fingerprint": adapter.hypernet_fingerprint,
        "created_at": adapter.created_at.isoformat(),
        "sha256": adapter.digest,
    }


def _cast(name: str, values: NDArray[Any], dtype: type[np.float16 | np.float32]) -> NDArray[Any]:
    with np.errstate(over="ignore", invalid="ignore"):
        cast = np.ascontiguousarray(values, dtype=dtype)
    if not np.isfinite(cast).all():
        raise _invalid(f"tensor {name!r} holds values that are not finite in {dtype.__name__}")
    return cast


def _natural_key(module: str) -> list[tuple[int, int | str]]:
    return [
        (0, int(part)) if part.isascii() and part.isdecimal() and len(part) < 10 else (1, part)
        for part in module.split(".")
    ]


def _invalid(message: str) -> InvalidAdapterError:
    return InvalidAdapterError(
        message, problems=(message,), hint="export the adapter again from where it was made"
    )

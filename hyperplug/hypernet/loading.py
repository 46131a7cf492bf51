"""Loading a base model: on which device, in which number format, and whether it fits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hyperplug.basemodel import BaseModel
from hyperplug.entities import BaseModelSpec
from hyperplug.errors import BaseModelError, ConfigError
from hyperplug.hypernet.frozen import FrozenBase, best_dtype, load_causal_lm

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def pick_device(name: str) -> torch.device:
    """Returns the torch device of that name; "auto" takes the GPU if there is one.

    Raises:
        ConfigError: for an unknown device or one that is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as exc:
        raise ConfigError(f"there is no device {name!r} here", hint="use cpu or auto") from exc
    return device


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """Returns the torch number format of that name; "auto" the fastest that is safe.

    Raises:
        ConfigError: for an unknown name.
    """
    if name == "auto":
        return best_dtype(device)
    if name not in _DTYPES:
        raise ConfigError(f"unknown dtype {name!r}", hint=f"use auto, {', '.join(_DTYPES)}")
    return _DTYPES[name]


def load_frozen(
    base: BaseModel, modules: Sequence[str], *, device: torch.device, dtype: torch.dtype
) -> FrozenBase:
    """Returns the base model with batched LoRA on `modules`.

    Raises:
        BaseModelError: if it cannot be loaded, does not fit into the free memory, or a
            module is not a linear projection.
    """
    check_memory(base.folder, dtype=dtype, device=device)
    model = load_causal_lm(base.folder, dtype=dtype, device=device)
    check_projections(model, base.spec, modules)
    return FrozenBase(model, target_modules=modules)


def check_projections(model: nn.Module, base: BaseModelSpec, modules: Sequence[str]) -> None:
    """Raises BaseModelError unless every module is a linear projection of the stated shape."""
    for path in modules:
        shape = base.module_shapes[path]
        try:
            found = model.get_submodule(path)
        except AttributeError:
            found = None
        expected = (shape.in_features, shape.out_features)
        actual = (getattr(found, "in_features", 0), getattr(found, "out_features", 0))
        if not isinstance(found, nn.Linear) or actual != expected:
            kind = "missing" if found is None else f"a {type(found).__name__}"
            raise BaseModelError(
                f"base model {base.id} cannot be adapted: {path} is {kind}, "
                f"not a linear projection of {expected[0]} to {expected[1]}",
                hint="hyperplug adapts transformers with nn.Linear projections; see --modules",
            )


def load_tokenizer(base: BaseModel) -> Any:
    """Returns the base model's tokenizer. Raises BaseModelError if it has none."""
    import transformers

    try:
        return transformers.AutoTokenizer.from_pretrained(base.folder)
    except (OSError, ValueError, KeyError) as exc:
        raise BaseModelError(
            f"transformers cannot load the tokenizer in {base.folder}: {str(exc).splitlines()[0]}",
            hint="the base model's folder must hold its tokenizer",
        ) from exc


def check_memory(folder: Path, *, dtype: torch.dtype, device: torch.device) -> None:
    """Raises BaseModelError if the weights in `folder` alone exceed the free memory."""
    free = _free_bytes(device)
    needed = weights_bytes(folder, dtype)
    if free is not None and needed > free:
        raise BaseModelError(
            f"the base model needs {needed / 2**30:.1f} GiB as {dtype}, "
            f"{free / 2**30:.1f} GiB are free on {device}",
            hint="take a smaller base model, or a machine with more memory",
        )


def weights_bytes(folder: Path, dtype: torch.dtype) -> int:
    """Returns the size of the safetensors in `folder` when loaded as `dtype`."""
    from safetensors import safe_open

    total = 0
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118
                size = dtype.itemsize
                for length in file.get_slice(name).get_shape():
                    size *= length
                total += size
    return total


def _free_bytes(device: torch.device) -> int | None:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    found = [int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    return found[0] * 1024 if found else None

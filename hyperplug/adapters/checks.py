"""The checks on an adapter's matrices: pairs, ranks, modules, shapes and values."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from hyperplug.adapters.peft_config import LoraSettings
from hyperplug.adapters.peft_format import model_order, split_tensor_name
from hyperplug.adapters.problems import Problems
from hyperplug.entities import BaseModelSpec

# A layer of a 70 B model has a Frobenius norm of some 200; a useful change is far below.
MAX_UPDATE_NORM = 1e4
# The values that vLLM takes for --max-lora-rank.
_SERVED_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
EXPORT_HINT = "export it again with PEFT's save_pretrained(safe_serialization=True)"
_BASE_HINT = "use an adapter of this base model, or --base to name the one it was made for"
_VALUES_HINT = "the training diverged or the file is damaged: train or export it again"

Matrix = NDArray[np.float32]
Pair = tuple[Matrix, Matrix]


def pair_up(tensors: Mapping[str, Matrix], problems: Problems) -> dict[str, Pair]:
    """Returns module to (A, B); notes foreign tensors, half pairs and vectors."""
    factors: dict[str, dict[str, Matrix]] = {}
    foreign: list[str] = []
    for name, values in tensors.items():
        parts = split_tensor_name(name)
        if parts is None or values.ndim != 2:
            foreign.append(name)
        else:
            factors.setdefault(parts[0], {})[parts[1]] = values
    problems.add_each("tensors that are no LoRA matrices", foreign, hint=EXPORT_HINT)
    half = [module for module, found in factors.items() if len(found) != 2]
    problems.add_each("lora_A or lora_B is missing for", half, hint=EXPORT_HINT)
    return {
        module: (found["A"], found["B"]) for module, found in factors.items() if len(found) == 2
    }


def check_ranks(
    pairs: Mapping[str, Pair], problems: Problems, *, max_rank: int, declared: int | None = None
) -> int:
    """Returns the rank of the tensors; notes if they differ or exceed the maximum."""
    sizes = {size for a, b in pairs.values() for size in (a.shape[0], b.shape[1])}
    if declared is not None and sizes - {declared}:
        problems.add(
            f"adapter_config.json says rank {declared}, the tensors have "
            f"{', '.join(map(str, sorted(sizes)[:5]))}",
            hint=EXPORT_HINT,
        )
    elif len(sizes) > 1:
        problems.add(f"its tensors have several ranks: {sorted(sizes)[:5]}", hint=EXPORT_HINT)
    rank = max(sizes, default=0)
    if rank > max_rank:
        problems.add(
            f"rank {rank} is above the maximum of {max_rank}",
            hint=_rank_hint(rank),
        )
    return rank


def _rank_hint(rank: int) -> str:
    flag = next((size for size in _SERVED_RANKS if size >= rank), None)
    raise_it = f"serve and import with --max-lora-rank {flag}, or " if flag else ""
    return f"{raise_it}train a smaller rank"


def check_keys(
    pairs: Mapping[str, Pair],
    settings: LoraSettings,
    problems: Problems,
    *,
    base: BaseModelSpec | None,
) -> None:
    """Compares the modules in the file with those that the configuration asks for."""
    known = set(base.module_shapes) if base is not None else set(pairs)
    if settings.targets is not None and base is None:
        known |= {target for target in settings.targets if "." in target}
    selected = settings.select(known)
    if selected is not None:
        missing, extra = model_order(selected - set(pairs)), model_order(set(pairs) - selected)
        problems.add_each("tensors are missing for", list(missing), hint=EXPORT_HINT)
        extra_known = [module for module in extra if module in known]
        problems.add_each("tensors outside target_modules", extra_known, hint=EXPORT_HINT)


def check_shapes(
    pairs: Mapping[str, Pair], problems: Problems, *, base: BaseModelSpec | None
) -> None:
    """Notes modules that the base model lacks or has in another size."""
    if base is None:
        return
    unknown = [module for module in pairs if module not in base.module_shapes]
    problems.add_each(f"modules that {base.id} does not have", unknown, hint=_BASE_HINT)
    wrong: list[str] = []
    for module, (a, b) in pairs.items():
        shape = base.module_shapes.get(module)
        if shape and (a.shape[1], b.shape[0]) != (shape.in_features, shape.out_features):
            wrong.append(
                f"{module} is {a.shape[1]}->{b.shape[0]}, the base model has "
                f"{shape.in_features}->{shape.out_features}"
            )
    problems.add_each("wrong shapes", wrong, hint=_BASE_HINT)


def check_values(pairs: Mapping[str, Pair], problems: Problems, *, scale: float) -> None:
    """Notes modules whose update is not finite or far larger than any layer."""
    not_finite, too_large = [], []
    for module, (a, b) in pairs.items():
        if not (np.isfinite(a).all() and np.isfinite(b).all()):
            not_finite.append(module)
        elif a.shape[0] == b.shape[1] and not scale * _product_norm(a, b) <= MAX_UPDATE_NORM:
            too_large.append(module)
    problems.add_each("NaN or infinite values in", not_finite, hint=_VALUES_HINT)
    problems.add_each("absurdly large weights in", too_large, hint=_VALUES_HINT)


def _product_norm(a: Matrix, b: Matrix) -> float:
    """Returns the Frobenius norm of B A without forming it: from two (rank, rank) products."""
    with np.errstate(over="ignore", invalid="ignore"):
        wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
        squared = float(((wide_b.T @ wide_b) * (wide_a @ wide_a.T)).sum())
    return math.sqrt(max(squared, 0.0)) if math.isfinite(squared) else math.inf

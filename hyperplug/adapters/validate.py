"""Deciding whether adapter bytes or an adapter folder may enter the registry.

Runtimes load much that they should not: an adapter of a narrower base lands in a corner
of the buffers, unknown modules are ignored, NaN spreads into answers. So every key, shape
and value is checked here, against the base model, before anything is stored.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hyperplug.adapters.peft_config import (
    MAX_CONFIG_BYTES,
    LoraSettings,
    parse_config,
    parse_object,
)
from hyperplug.adapters.peft_format import (
    CONFIG_FILE,
    PROVENANCE_FILE,
    WEIGHTS_FILE,
    model_order,
    pack,
    split_tensor_name,
)
from hyperplug.adapters.problems import Problems
from hyperplug.adapters.safetensors_file import read_tensors
from hyperplug.entities import AdapterWeights, BaseModelSpec
from hyperplug.errors import BaseMismatchError

MAX_WEIGHTS_BYTES = 512 * 2**20
# A layer of a 70 B model has a Frobenius norm of some 200; a useful change is far below.
MAX_UPDATE_NORM = 1e4

_TOLERATED = frozenset({"README.md", ".gitattributes"})
_OURS = frozenset({WEIGHTS_FILE, CONFIG_FILE, PROVENANCE_FILE})
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")
_EXPORT_HINT = "export it again with PEFT's save_pretrained(safe_serialization=True)"
_FILES_HINT = "keep only adapter_config.json and adapter_model.safetensors in the folder"
_SIZE_HINT = "is it an adapter? adapters are far smaller than models"
_BASE_HINT = "use an adapter of this base model, or --base to name the one it was made for"
_VALUES_HINT = "the training diverged or the file is damaged: train or export it again"

_Matrix = NDArray[np.float32]
_Pair = tuple[_Matrix, _Matrix]


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterReport:
    """A folder that passed.

    Attributes:
        weights: what to store; rsLoRA's scale is folded in.
        base_fingerprint: the base model that its hyperplug.json names; None without one.
        warnings: what could not be checked, a sentence each.
    """

    weights: AdapterWeights
    base_fingerprint: str | None
    warnings: tuple[str, ...]


def validate_bytes(
    data: bytes, *, base: BaseModelSpec | None, max_rank: int = 64, alpha: float | None = None
) -> AdapterWeights:
    """Returns the adapter in a safetensors file, checked.

    Args:
        base: what it must fit; None checks only that it is consistent in itself.
        max_rank: the highest rank that the deployment serves.
        alpha: LoRA alpha; None takes the rank, a multiplier of 1.

    Raises:
        InvalidAdapterError: with everything that is wrong.
    """
    problems = Problems("the adapter")
    if len(data) > MAX_WEIGHTS_BYTES:
        problems.add(_too_large(len(data), MAX_WEIGHTS_BYTES), hint=_SIZE_HINT)
        problems.raise_any()
    pairs = _pair_up(read_tensors(data), problems)
    rank = _check_ranks(pairs, problems, max_rank=max_rank)
    _check_shapes(pairs, problems, base=base)
    _check_values(pairs, problems, scale=(alpha or rank) / max(rank, 1))
    problems.raise_any()
    return AdapterWeights(
        data=data,
        digest=hashlib.sha256(data).hexdigest(),
        rank=rank,
        alpha=float(alpha or rank),
        target_modules=model_order(pairs),
    )


def validate_folder(
    folder: Path, *, base: BaseModelSpec | None, max_rank: int = 64
) -> AdapterReport:
    """Returns what a PEFT adapter folder holds, checked and ready to store.

    Raises:
        InvalidAdapterError: with everything that is wrong.
        BaseMismatchError: if its hyperplug.json names another base model.
    """
    problems = Problems(f"adapter folder {folder}")
    files = _list_files(folder, problems)
    settings = parse_config(_read_file(folder / CONFIG_FILE, MAX_CONFIG_BYTES, problems), problems)
    origin = _read_origin(folder, problems) if PROVENANCE_FILE in files else _Origin()
    if settings is None or problems:
        raise problems.error()
    _check_base(folder, base=base, fingerprint=origin.base_fingerprint)
    data = _read_file(folder / WEIGHTS_FILE, MAX_WEIGHTS_BYTES, problems)
    pairs = _pair_up(read_tensors(data), problems)
    if origin.sha256 not in (None, hashlib.sha256(data).hexdigest()):
        problems.add(f"{WEIGHTS_FILE} differs from {PROVENANCE_FILE}", hint="copy it again")
    _check_ranks(pairs, problems, max_rank=max_rank, declared=settings.rank)
    _check_keys(pairs, settings, problems, base=base)
    _check_shapes(pairs, problems, base=base)
    _check_values(pairs, problems, scale=settings.scale)
    problems.raise_any()
    return AdapterReport(
        weights=_normalise(data, pairs, settings),
        base_fingerprint=origin.base_fingerprint,
        warnings=_warnings(settings, base=base, fingerprint=origin.base_fingerprint),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Origin:
    """What a folder's hyperplug.json says about itself."""

    base_fingerprint: str | None = None
    sha256: str | None = None


def _list_files(folder: Path, problems: Problems) -> set[str]:
    """Returns the names in `folder` after refusing all that is not a plain adapter file."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as exc:
        problems.add(f"it cannot be listed: {exc.strerror}", hint="check the path")
        raise problems.error() from exc
    for entry in entries:
        _check_entry(entry, problems)
    names = {entry.name for entry in entries}
    missing = [name for name in (CONFIG_FILE, WEIGHTS_FILE) if name not in names]
    problems.add_each("missing", missing, hint=_EXPORT_HINT)
    problems.raise_any()
    return names


def _check_entry(entry: os.DirEntry[str], problems: Problems) -> None:
    name = entry.name
    if entry.is_symlink():
        problems.add(f"{name!r} is a symbolic link", hint="copy the folder with cp -rL")
    elif name.endswith(_PICKLES):
        problems.add(f"{name!r} is a pickle, which can run code", hint=_EXPORT_HINT)
    elif not entry.is_file(follow_symlinks=False):
        problems.add(f"{name!r} is not a regular file", hint=_FILES_HINT)
    elif name not in _OURS and name not in _TOLERATED:
        problems.add(f"{name!r} is not part of an adapter", hint=_FILES_HINT)


def _read_file(path: Path, max_bytes: int, problems: Problems) -> bytes:
    """Returns a file's bytes; never follows a link, waits on a pipe or reads too much."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            size_bytes = os.fstat(descriptor).st_size
            if size_bytes <= max_bytes:
                return file.read(max_bytes)
    except OSError as exc:
        problems.add(f"{path.name} cannot be read: {exc.strerror}", hint="check its permissions")
        raise problems.error() from exc
    problems.add(f"{path.name} {_too_large(size_bytes, max_bytes)}", hint=_SIZE_HINT)
    raise problems.error()


def _read_origin(folder: Path, problems: Problems) -> _Origin:
    raw = _read_file(folder / PROVENANCE_FILE, MAX_CONFIG_BYTES, problems)
    values = parse_object(raw, PROVENANCE_FILE, problems) or {}
    fingerprint, sha256 = values.get("base_fingerprint"), values.get("sha256")
    if not isinstance(fingerprint, str | None) or not isinstance(sha256, str | None):
        problems.add(f"{PROVENANCE_FILE} is not one of ours", hint="delete it or copy it again")
        return _Origin()
    return _Origin(base_fingerprint=fingerprint, sha256=sha256)


def _check_base(folder: Path, *, base: BaseModelSpec | None, fingerprint: str | None) -> None:
    if base is not None and fingerprint not in (None, base.fingerprint):
        raise BaseMismatchError(
            f"adapter folder {folder} was made for the base model {str(fingerprint)[:8]}, "
            f"not for {base.id} ({base.fingerprint[:8]})",
            hint="use an adapter of this base model, or --base to name the other",
        )


def _pair_up(tensors: Mapping[str, _Matrix], problems: Problems) -> dict[str, _Pair]:
    """Returns module to (A, B); notes foreign tensors, half pairs and vectors."""
    factors: dict[str, dict[str, _Matrix]] = {}
    foreign: list[str] = []
    for name, values in tensors.items():
        parts = split_tensor_name(name)
        if parts is None or values.ndim != 2:
            foreign.append(name)
        else:
            factors.setdefault(parts[0], {})[parts[1]] = values
    problems.add_each("tensors that are no LoRA matrices", foreign, hint=_EXPORT_HINT)
    half = [module for module, found in factors.items() if len(found) != 2]
    problems.add_each("lora_A or lora_B is missing for", half, hint=_EXPORT_HINT)
    return {
        module: (found["A"], found["B"]) for module, found in factors.items() if len(found) == 2
    }


def _check_ranks(
    pairs: Mapping[str, _Pair], problems: Problems, *, max_rank: int, declared: int | None = None
) -> int:
    """Returns the rank of the tensors; notes if they differ or exceed the maximum."""
    sizes = {size for a, b in pairs.values() for size in (a.shape[0], b.shape[1])}
    if declared is not None and sizes - {declared}:
        problems.add(
            f"adapter_config.json says rank {declared}, the tensors have "
            f"{', '.join(map(str, sorted(sizes)[:5]))}",
            hint=_EXPORT_HINT,
        )
    elif len(sizes) > 1:
        problems.add(f"its tensors have several ranks: {sorted(sizes)[:5]}", hint=_EXPORT_HINT)
    rank = max(sizes, default=0)
    if rank > max_rank:
        problems.add(
            f"rank {rank} is above the maximum of {max_rank}",
            hint=f"serve and import with --max-lora-rank {rank}, or train a smaller rank",
        )
    return rank


def _check_keys(
    pairs: Mapping[str, _Pair],
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
        problems.add_each("tensors are missing for", list(missing), hint=_EXPORT_HINT)
        extra_known = [module for module in extra if module in known]
        problems.add_each("tensors outside target_modules", extra_known, hint=_EXPORT_HINT)


def _check_shapes(
    pairs: Mapping[str, _Pair], problems: Problems, *, base: BaseModelSpec | None
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


def _check_values(pairs: Mapping[str, _Pair], problems: Problems, *, scale: float) -> None:
    """Notes modules whose update is not finite or far larger than any layer."""
    not_finite, too_large = [], []
    for module, (a, b) in pairs.items():
        if not (np.isfinite(a).all() and np.isfinite(b).all()):
            not_finite.append(module)
        elif a.shape[0] == b.shape[1] and not scale * _product_norm(a, b) <= MAX_UPDATE_NORM:
            too_large.append(module)
    problems.add_each("NaN or infinite values in", not_finite, hint=_VALUES_HINT)
    problems.add_each("absurdly large weights in", too_large, hint=_VALUES_HINT)


def _product_norm(a: _Matrix, b: _Matrix) -> float:
    """Returns the Frobenius norm of B A without forming it: tr(BᵀB · AAᵀ), rank × rank."""
    with np.errstate(over="ignore", invalid="ignore"):
        wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
        squared = float(((wide_b.T @ wide_b) * (wide_a @ wide_a.T)).sum())
    return math.sqrt(max(squared, 0.0)) if math.isfinite(squared) else math.inf


def _normalise(data: bytes, pairs: dict[str, _Pair], settings: LoraSettings) -> AdapterWeights:
    """Returns the weights as the registry keeps them.

    Bytes stay as they are, so that an export imports as the same adapter, unless rsLoRA's
    multiplier has to be folded into B: runtimes differ in honouring its flag.
    """
    if settings.use_rslora:
        folded = {
            module: (a, (b.astype(np.float64) * settings.scale).astype(np.float32))
            for module, (a, b) in pairs.items()
        }
        return pack(folded, alpha=settings.rank, dtype=np.float32)
    return AdapterWeights(
        data=data,
        digest=hashlib.sha256(data).hexdigest(),
        rank=settings.rank,
        alpha=settings.alpha,
        target_modules=model_order(pairs),
    )


def _warnings(
    settings: LoraSettings, *, base: BaseModelSpec | None, fingerprint: str | None
) -> tuple[str, ...]:
    found: list[str] = []
    if base is None:
        found.append("no base model given: shapes and modules were not compared with one")
    elif fingerprint is None:
        named = f" (its config names {settings.base_id!r})" if settings.base_id else ""
        found.append(f"it fits {base.id} in shape, but nothing proves its base model{named}")
    if settings.targets is None:
        found.append("target_modules is a pattern: whether tensors are missing was not checked")
    return tuple(found)


def _too_large(size_bytes: int, max_bytes: int) -> str:
    return f"has {size_bytes:,} bytes, over the limit of {max_bytes:,}"

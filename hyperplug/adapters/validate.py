"""Deciding whether adapter bytes or an adapter folder may enter the registry.

Runtimes load much that they should not: an adapter of a narrower base lands in a corner
of the buffers, unknown modules are ignored, NaN spreads into answers. So every key, shape
and value is checked here, against the base model, before anything is stored.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hyperplug.adapters.checks import (
    EXPORT_HINT,
    Pair,
    check_keys,
    check_ranks,
    check_shapes,
    check_values,
    pair_up,
)
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
)
from hyperplug.adapters.problems import Problems
from hyperplug.adapters.safetensors_file import read_tensors
from hyperplug.entities import AdapterWeights, BaseModelSpec
from hyperplug.errors import BaseMismatchError, InvalidAdapterError

MAX_WEIGHTS_BYTES = 512 * 2**20

_TOLERATED = frozenset({"README.md", ".gitattributes"})
_OURS = frozenset({WEIGHTS_FILE, CONFIG_FILE, PROVENANCE_FILE})
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")
_FILES_HINT = "keep only adapter_config.json and adapter_model.safetensors in the folder"
_SIZE_HINT = "is it an adapter? adapters are far smaller than models"


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
    pairs = pair_up(read_tensors(data), problems)
    rank = check_ranks(pairs, problems, max_rank=max_rank)
    check_shapes(pairs, problems, base=base)
    problems.raise_any()  # comparing values takes memory in the square of the rank
    check_values(pairs, problems, scale=(alpha or rank) / max(rank, 1))
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
    pairs = pair_up(read_tensors(data), problems)
    if origin.sha256 not in (None, hashlib.sha256(data).hexdigest()):
        problems.add(f"{WEIGHTS_FILE} differs from {PROVENANCE_FILE}", hint="copy it again")
    check_ranks(pairs, problems, max_rank=max_rank, declared=settings.rank)
    check_keys(pairs, settings, problems, base=base)
    check_shapes(pairs, problems, base=base)
    problems.raise_any()  # comparing values takes memory in the square of the rank
    check_values(pairs, problems, scale=settings.scale)
    problems.raise_any()
    return AdapterReport(
        weights=_normalise(data, pairs, settings),
        base_fingerprint=origin.base_fingerprint,
        warnings=_warnings(settings, base=base, fingerprint=origin.base_fingerprint),
    )


def named_task(folder: Path) -> str | None:
    """Returns the task that a folder's hyperplug.json names; None if it names none."""
    problems = Problems(f"adapter folder {folder}")
    try:
        raw = _read_file(folder / PROVENANCE_FILE, MAX_CONFIG_BYTES, problems)
    except InvalidAdapterError:
        return None
    task = (parse_object(raw, PROVENANCE_FILE, problems) or {}).get("task")
    return task if isinstance(task, str) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Origin:
    """What a folder's hyperplug.json says about itself."""

    base_fingerprint: str | None = None
    sha256: str | None = None


def _list_files(folder: Path, problems: Problems) -> set[str]:
    """Returns the names in `folder` after refusing all that is not a plain adapter file."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except (OSError, ValueError) as exc:  # ValueError: a NUL in the path
        reason = exc.strerror if isinstance(exc, OSError) else exc
        problems.add(f"it cannot be listed: {reason}", hint="check the path")
        raise problems.error() from exc
    for entry in entries:
        _check_entry(entry, problems)
    names = {entry.name for entry in entries}
    missing = [name for name in (CONFIG_FILE, WEIGHTS_FILE) if name not in names]
    problems.add_each("missing", missing, hint=EXPORT_HINT)
    problems.raise_any()
    return names


def _check_entry(entry: os.DirEntry[str], problems: Problems) -> None:
    name = entry.name
    if entry.is_symlink():
        problems.add(f"{name!r} is a symbolic link", hint="copy the folder with cp -rL")
    elif name.endswith(_PICKLES):
        problems.add(f"{name!r} is a pickle, which can run code", hint=EXPORT_HINT)
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
                return file.read(size_bytes)
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


def _normalise(data: bytes, pairs: dict[str, Pair], settings: LoraSettings) -> AdapterWeights:
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

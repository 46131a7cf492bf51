"""A training run on disk: its state, to be gone on with, and its log."""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hyperplug.errors import TrainingError
from hyperplug.hypernet.batches import PreparedTask
from hyperplug.hypernet.checkpoint import write_atomically


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    """All that an interrupted run needs to go on as if it had not been interrupted.

    Attributes:
        best: the averaged weights with the lowest validation loss so far.
        settings: what must be the same in the run that goes on.
    """

    network: dict[str, Tensor]
    average: dict[str, Tensor]
    best: dict[str, Tensor] | None
    optimizer: dict[str, Any]
    step: int
    elapsed_seconds: float
    tokens: int
    log: list[dict[str, float]]
    settings: Mapping[str, Any]


def save_state(file: Path, state: RunState) -> None:
    """Writes the state, by rename."""
    buffer = io.BytesIO()
    torch.save({name: getattr(state, name) for name in state.__slots__}, buffer)
    write_atomically(file, buffer.getvalue())


def load_state(file: Path, *, settings: Mapping[str, Any]) -> RunState | None:
    """Returns the state in `file`, None if there is no such file.

    Raises:
        TrainingError: if it belongs to a run with other settings, or is unusable.
    """
    if not file.is_file():
        return None
    try:
        state = RunState(**torch.load(file, weights_only=True))
    except (OSError, RuntimeError, TypeError, ValueError, EOFError, pickle.UnpicklingError) as exc:
        raise TrainingError(
            f"{file} is not the state of a run of this version",
            hint="give another --out, or delete that file",
        ) from exc
    if state.settings != settings:
        raise TrainingError(
            f"{file} belongs to a run with other settings: {_difference(state.settings, settings)}",
            hint="give the same settings to resume, another --out, or delete that file",
        )
    return state


def write_log(file: Path, rows: Sequence[Mapping[str, float]]) -> None:
    """Writes the log as CSV, by rename."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=list(rows[0]))
    writer.writeheader()
    writer.writerows({k: f"{v:.4f}" for k, v in row.items()} for row in rows)
    write_atomically(file, buffer.getvalue().encode())


def data_digest(*splits: Sequence[PreparedTask]) -> str:
    """Returns a digest over tasks and sequences, in their order."""
    hasher = hashlib.sha256()
    for task in itertools.chain(*splits):
        hasher.update(repr((task.id, [s.key for s in task.sequences])).encode())
    return hasher.hexdigest()[:16]


def _difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Returns the names of the settings that differ."""
    names: list[str] = []
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            both = sorted(before.keys() | after.keys())
            names += [name for name in both if before.get(name) != after.get(name)]
        elif before != after:
            names.append(key)
    return ", ".join(names)

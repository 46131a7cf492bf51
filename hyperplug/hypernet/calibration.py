"""The lookup policy's borders: the trainer's quick rule, and how measured ones are kept."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hyperplug.entities import Thresholds
from hyperplug.errors import CheckpointError
from hyperplug.hypernet.batches import PreparedTask
from hyperplug.hypernet.checkpoint import FORMAT, load_checkpoint, write_atomically

# A novel description is generated for unless it is farther from the training tasks than
# all but this share of validation tasks; a neighbour is trusted where no more than this
# share of validation tasks has one of another dataset.
_SUPPORT_MISS = 0.02
_NEAR_FALSE = 0.025
_DEFAULT_NEAR = 0.8
_DEFAULT_SUPPORT = 0.3
# How many wordings of a training task stand for it.
_SUPPORTING = 3


def calibrate(train: Sequence[PreparedTask], validation: Sequence[PreparedTask]) -> Thresholds:
    """Returns the lookup policy's borders, from tasks that share no dataset with training.

    This is the quick rule, of a checkpoint fresh from training: it looks at descriptions
    only. `hyperplug calibrate` looks at what the adapters do.

    `near` is the similarity at which 2.5 % of validation tasks would take a validation
    task of another family for their own; `support` is the similarity to the nearest
    training task of another family that 98 % of validation tasks reach. Where all tasks
    are of one family there is nothing to learn the borders from, and defaults hold.
    """
    first = np.stack([task.descriptions[0].pooled for task in validation])  # (n, embedding)
    families = np.array([task.family for task in validation])[:, None]  # (n, 1)
    owners = np.array([task.family for task in train for _ in task.descriptions[:_SUPPORTING]])
    to_others = np.where(families == families.T, -1.0, first @ first.T).max(axis=1)  # (n,)
    to_known = np.where(families == owners, -1.0, first @ support_vectors(train).T).max(axis=1)
    return Thresholds(
        near=_quantile(to_others, 1 - _NEAR_FALSE, default=_DEFAULT_NEAR),
        support=_quantile(to_known, _SUPPORT_MISS, default=_DEFAULT_SUPPORT),
    )


def support_vectors(train: Sequence[PreparedTask]) -> Any:
    """Returns the unit vectors of the training descriptions, (n, embedding)."""
    return np.stack([d.pooled for task in train for d in task.descriptions[:_SUPPORTING]])


def write_thresholds(
    path: Path, thresholds: Thresholds, *, fingerprint: str, about: Mapping[str, Any]
) -> None:
    """Puts other thresholds into a checkpoint, by rename.

    The tensors stay as they are, and so does the configuration, word for word: the
    fingerprint is over these two, and adapters made before keep their hypernetwork.

    Args:
        fingerprint: of the network that they were measured with.
        about: how the thresholds were found; kept with how the network was trained.

    Raises:
        CheckpointError: if the file is no checkpoint, or by now another one.
    """
    from safetensors import safe_open
    from safetensors.torch import save

    if load_checkpoint(path).fingerprint != fingerprint:
        raise CheckpointError(
            f"{path} is not the checkpoint that was measured: it has changed meanwhile",
            hint="calibrate it again",
        )
    with safe_open(path, framework="pt") as file:
        content = json.loads(file.metadata()[FORMAT])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    content["thresholds"] = asdict(thresholds)
    content["training"] = {**content["training"], "calibration": dict(about)}
    write_atomically(path, save(tensors, metadata={FORMAT: json.dumps(content, sort_keys=True)}))


def _quantile(nearest: NDArray[np.float32], share: float, *, default: float) -> float:
    """Returns the quantile over those that have a task of another family at all."""
    found = nearest[nearest > -1.0]
    return round(float(np.quantile(found, share)), 3) if len(found) else default

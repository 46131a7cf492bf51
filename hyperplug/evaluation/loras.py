"""LoRAs that were trained a task at a time: their file, and arithmetic on them.

They are what generated adapters are compared with: the task's own LoRA (oracle), that of
the nearest training task, a weighted sum of some, and the mean of all.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hyperplug.errors import CheckpointError, ConfigError
from hyperplug.hypernet.checkpoint import write_atomically
from hyperplug.hypernet.model import LoraBatch

FORMAT = "hyperplug-loras-1"
_A, _B = ".lora_A", ".lora_B"
_EMBEDDINGS = "embeddings"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraRecord:
    """What is known of one LoRA.

    Attributes:
        examples: how many examples it was trained on.
        best_step: the step it is of; 0 if training made nothing better.
        before: loss of the base model alone on the task's held-back examples ...
        after: ... and with the LoRA.
    """

    id: str
    family: str
    examples: int
    best_step: int
    before: float
    after: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LoraBank:
    """LoRAs of n tasks for one base model, all of one rank.

    Attributes:
        stacked: one a slot: A (n, r, in) and B (n, out, r), scale folded in.
        embeddings: unit vectors of the tasks' first descriptions, (n, embedding).
        training: how they were trained: steps, tokens, seconds, hardware, seed, rate, and
            which examples were held out.
    """

    records: tuple[LoraRecord, ...]
    stacked: tuple[LoraBatch, ...]
    embeddings: NDArray[np.float32]
    base_fingerprint: str
    embedder_id: str
    target_modules: tuple[str, ...]
    training: Mapping[str, Any] = field(default_factory=dict)

    @property
    def ids(self) -> tuple[str, ...]:
        """The tasks that it has LoRAs of."""
        return tuple(record.id for record in self.records)

    @property
    def rank(self) -> int:
        """Rank of each LoRA."""
        return int(self.stacked[0].a.shape[1])

    def loras(self, id: str) -> list[LoraBatch]:
        """Returns the LoRA of a task as a batch of one.

        Raises:
            ConfigError: if there is none.
        """
        row = self._row(id)
        return [
            LoraBatch(a=slot.a[row : row + 1].float(), b=slot.b[row : row + 1].float())
            for slot in self.stacked
        ]

    def merged(self, weights: Mapping[str, float]) -> list[LoraBatch]:
        """Returns the weighted sum of some tasks' deltas, as a batch of one.

        It is exact: the factors stand side by side, so that the rank is their sum's.

        Raises:
            ConfigError: if a task has no LoRA, or no weight is given.
        """
        if not weights:
            raise ConfigError("no LoRAs to merge", hint="give the weight of at least one task")
        rows = [self._row(id) for id in weights]
        factors = torch.tensor(list(weights.values()), dtype=torch.float32)[:, None, None]
        return [
            _side_by_side(slot.a[rows].float(), slot.b[rows].float() * factors)
            for slot in self.stacked
        ]

    def mean(self) -> list[LoraBatch]:
        """Returns the mean of all tasks' deltas B A, as a batch of one.

        Side by side the factors of many tasks would be too large, so each slot's mean delta
        is cut back to `rank` by a singular value decomposition: the best approximation of
        that rank, exact only where the mean's own rank is no higher.
        """
        count = len(self.records)
        return [
            _truncated(_side_by_side(slot.a.float(), slot.b.float() / count), self.rank)
            for slot in self.stacked
        ]

    def _row(self, id: str) -> int:
        try:
            return self.ids.index(id)
        except ValueError as exc:
            raise ConfigError(
                f"the file of LoRAs has none of task {id!r}",
                hint="train it with: hyperplug train-loras",
            ) from exc


def joined(banks: Sequence[LoraBank], *, training: Mapping[str, Any]) -> LoraBank:
    """Returns the LoRAs of several banks of one kind in one.

    Args:
        training: how all of them were trained.
    """
    first = banks[0]
    slots = range(len(first.target_modules))
    return LoraBank(
        records=tuple(record for bank in banks for record in bank.records),
        stacked=tuple(
            LoraBatch(
                a=torch.cat([bank.stacked[slot].a for bank in banks]),
                b=torch.cat([bank.stacked[slot].b for bank in banks]),
            )
            for slot in slots
        ),
        embeddings=np.concatenate([bank.embeddings for bank in banks]),
        base_fingerprint=first.base_fingerprint,
        embedder_id=first.embedder_id,
        target_modules=first.target_modules,
        training=training,
    )


def save_loras(path: Path, bank: LoraBank) -> None:
    """Writes a bank as one safetensors file, factors in float16, by rename."""
    from safetensors.torch import save

    tensors = {_EMBEDDINGS: torch.from_numpy(np.ascontiguousarray(bank.embeddings))}
    for module, slot in zip(bank.target_modules, bank.stacked, strict=True):
        tensors[module + _A] = _half(slot.a)
        tensors[module + _B] = _half(slot.b)
    about = {
        "base": bank.base_fingerprint,
        "embedder": bank.embedder_id,
        "modules": bank.target_modules,
        "records": [asdict(record) for record in bank.records],
        "training": dict(bank.training),
    }
    # One entry only: safetensors writes several in an order that changes from run to run.
    write_atomically(path, save(tensors, metadata={FORMAT: json.dumps(about, sort_keys=True)}))


def load_loras(path: Path) -> LoraBank:
    """Returns the bank in `path`, on the CPU; its factors stay in float16.

    Raises:
        CheckpointError: if it is missing, damaged or of another format.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if FORMAT not in metadata:
                raise CheckpointError(
                    f"{path} is no file of LoRAs", hint="make one with: hyperplug train-loras"
                )
            about = json.loads(metadata[FORMAT])
            return LoraBank(
                records=tuple(LoraRecord(**record) for record in about["records"]),
                stacked=tuple(
                    LoraBatch(a=file.get_tensor(module + _A), b=file.get_tensor(module + _B))
                    for module in about["modules"]
                ),
                embeddings=file.get_tensor(_EMBEDDINGS).numpy(),
                base_fingerprint=about["base"],
                embedder_id=about["embedder"],
                target_modules=tuple(about["modules"]),
                training=about["training"],
            )
    except FileNotFoundError as exc:
        raise CheckpointError(
            f"file of LoRAs {path} does not exist", hint="make it with: hyperplug train-loras"
        ) from exc
    except (SafetensorError, OSError, KeyError, ValueError, TypeError) as exc:
        raise CheckpointError(
            f"file of LoRAs {path} is damaged: {str(exc).splitlines()[0]}",
            hint="make it again with: hyperplug train-loras",
        ) from exc


def _side_by_side(a: Tensor, b: Tensor) -> LoraBatch:
    """Returns the sum of n deltas as one LoRA of n times the rank, a batch of one."""
    return LoraBatch(
        a=a.flatten(0, 1)[None],  # (1, n * r, in)
        b=b.transpose(0, 1).flatten(1)[None],  # (1, out, n * r)
    )


def _truncated(lora: LoraBatch, rank: int) -> LoraBatch:
    """Returns the best approximation of that rank, its singular values shared by A and B."""
    delta = lora.b[0] @ lora.a[0]  # (out, in)
    left, values, right = torch.linalg.svd(delta, full_matrices=False)
    root = values[:rank].sqrt()
    return LoraBatch(
        a=(root[:, None] * right[:rank])[None],  # (1, rank, in)
        b=(left[:, :rank] * root)[None],  # (1, out, rank)
    )


def _half(values: Tensor) -> Tensor:
    return values.detach().to(torch.float16).contiguous().cpu()

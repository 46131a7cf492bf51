"""The hypernetwork on disk: one safetensors file, with its configuration as metadata."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hyperplug.entities import HypernetSpec, Promise, Thresholds
from hyperplug.errors import CheckpointError
from hyperplug.hypernet.model import AdapterNetwork
from hyperplug.hypernet.networks import build_network, config_as_dict, config_from_dict

FORMAT = "hyperplug-hypernet-1"
_PREFIX = "hypernet."
_SUPPORT = "support"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A hypernetwork with what is needed to use it.

    Attributes:
        network: generates the adapters.
        support: unit embeddings of the descriptions it was trained on, (n, embedding).
        thresholds: the lookup policy's defaults, chosen on validation tasks.
        training: how it was trained: steps, tasks, seed, hardware, figures.
        fingerprint: SHA-256 hex over configuration and weights.
    """

    network: AdapterNetwork
    support: Tensor
    thresholds: Thresholds
    fingerprint: str = ""
    training: Mapping[str, Any] = field(default_factory=dict)

    @property
    def promises(self) -> tuple[Promise, ...]:
        """What calibration lets expect of its adapters, by rising support; () without any."""
        steps = self.training.get("calibration", {}).get("promises", ())
        return tuple(Promise(**step) for step in steps)

    @property
    def spec(self) -> HypernetSpec:
        """Its identity, as the registry stores it."""
        config = self.network.config
        return HypernetSpec(
            fingerprint=self.fingerprint,
            base_fingerprint=config.base_fingerprint,
            embedder_id=config.embedder_id,
            rank=config.rank,
            target_modules=config.target_modules,
        )


def shipped_checkpoint() -> Path:
    """Returns the path of the checkpoint that comes with hyperplug."""
    return Path(__file__).parent.parent / "checkpoints" / "smollm2-135m-instruct.safetensors"


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Writes a checkpoint in float16, by rename."""
    from safetensors.torch import save

    tensors = {
        _PREFIX + name: value.detach().to(torch.float16).contiguous().cpu()
        for name, value in checkpoint.network.state_dict().items()
    }
    tensors[_SUPPORT] = checkpoint.support.to(torch.float16).contiguous().cpu()
    about = {
        "config": config_as_dict(checkpoint.network.config),
        "thresholds": {
            "near": checkpoint.thresholds.near,
            "support": checkpoint.thresholds.support,
        },
        "training": dict(checkpoint.training),
    }
    # One entry only: safetensors writes several in an order that changes from run to run.
    write_atomically(path, save(tensors, metadata={FORMAT: json.dumps(about, sort_keys=True)}))


def load_checkpoint(path: Path) -> Checkpoint:
    """Returns the checkpoint in `path`, on the CPU in float32.

    Raises:
        CheckpointError: if it is missing, damaged or of another format.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if FORMAT not in metadata:
                raise CheckpointError(
                    f"{path} is not a hyperplug hypernetwork",
                    hint="train one with: hyperplug train-hypernet",
                )
            tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
        about = json.loads(metadata[FORMAT], parse_constant=lambda _: None)  # NaN
        network = build_network(config_from_dict(about["config"]))
        network.load_state_dict(
            {n.removeprefix(_PREFIX): t for n, t in tensors.items() if n.startswith(_PREFIX)}
        )
        return Checkpoint(
            network=network.eval().requires_grad_(False),
            support=tensors[_SUPPORT],
            thresholds=Thresholds(**about["thresholds"]),
            fingerprint=_fingerprint(about["config"], tensors),
            training=about["training"],
        )
    except FileNotFoundError as exc:
        raise CheckpointError(
            f"hypernetwork checkpoint {path} does not exist",
            hint="train one with: hyperplug train-hypernet",
        ) from exc
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, RuntimeError) as exc:
        raise CheckpointError(
            f"hypernetwork checkpoint {path} is damaged: {str(exc).splitlines()[0]}",
            hint="fetch it again",
        ) from exc


def write_atomically(path: Path, data: bytes) -> None:
    """Writes a file so that readers see the old content or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _fingerprint(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    hasher = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for name in sorted(tensors):
        hasher.update(name.encode())
        hasher.update(tensors[name].numpy().tobytes())
    return hasher.hexdigest()

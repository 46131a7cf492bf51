"""A trained hypernetwork as the start of further training: what it brings, and what it keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hyperplug.entities import Thresholds
from hyperplug.hypernet.batches import PreparedTask
from hyperplug.hypernet.checkpoint import Checkpoint
from hyperplug.hypernet.encoding import EncodedDescription
from hyperplug.hypernet.keeping import Keeper
from hyperplug.hypernet.model import AdapterNetwork, Hypernet


@dataclass(frozen=True, slots=True, kw_only=True)
class Extension:
    """What a run starts from in place of fresh weights.

    Attributes:
        network: with the weights to start from.
        support: of its checkpoint, (n, embedding).
        thresholds: likewise. They stay: a few new tasks are too few to find others by.
        keeper: holds what the network knows; None lets it go.
        replayed: known tasks whose examples are trained on again.
        about: which checkpoint it was and what is kept, for the new one.
    """

    network: AdapterNetwork
    support: Tensor
    thresholds: Thresholds
    keeper: Keeper | None = None
    replayed: Sequence[PreparedTask] = ()
    about: Mapping[str, Any] = field(default_factory=dict)


def extend(
    checkpoint: Checkpoint,
    *,
    kept: Sequence[Sequence[EncodedDescription]] = (),
    strength: float,
    replayed: Sequence[PreparedTask] = (),
    new_atoms: int = 0,
    seed: int = 0,
) -> Extension:
    """Returns what a run needs to go on from a checkpoint.

    Args:
        kept: groups of descriptions to keep besides those that the checkpoint was trained
            on, of which it holds the sentence vectors alone; a step looks at each group.
        strength: weight of the penalty; 0 for none.
        new_atoms: how many to add to every dictionary.
    """
    network = checkpoint.network
    if new_atoms and isinstance(network, Hypernet):
        network = with_new_atoms(network, new_atoms, seed=seed)
    keeper = (
        Keeper(network, [known_descriptions(checkpoint), *kept], strength=strength, seed=seed)
        if strength
        else None
    )
    return Extension(
        network=network,
        support=checkpoint.support,
        thresholds=checkpoint.thresholds,
        keeper=keeper,
        replayed=replayed,
        about={
            "fingerprint": checkpoint.fingerprint,
            "training": dict(checkpoint.training),
            "kept": sum(len(group) for group in kept),
            "keep_strength": strength,
            "replayed": len(replayed),
            "new_atoms": new_atoms,
        },
    )


def known_descriptions(checkpoint: Checkpoint) -> list[EncodedDescription]:
    """Returns the descriptions that a checkpoint was trained on, as far as it holds them:
    their sentence vectors, without tokens and words."""
    vectors = checkpoint.support.float().numpy()
    none = np.zeros((0, vectors.shape[1]), dtype=np.float16)
    return [EncodedDescription(pooled=vector, tokens=none) for vector in vectors]


def with_new_atoms(network: Hypernet, count: int, *, seed: int = 0) -> Hypernet:
    """Returns the network with `count` more atoms in every dictionary.

    They start as atoms of a fresh network do, and nothing is mixed of them yet: every
    adapter is as before, and the mixing of new atoms has live gradients.
    """
    config = network.config
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        grown = Hypernet(replace(config, atoms=config.atoms + count))
    fresh, state = grown.state_dict(), network.state_dict()
    for name, old in state.items():
        if name.startswith("atoms_a"):
            state[name] = torch.cat([old, fresh[name][config.atoms :]])  # (atoms, in)
        elif name.startswith("atoms_b"):
            state[name] = torch.cat([old, fresh[name][:, config.atoms :]], dim=1)  # (out, atoms)
        elif name.startswith("mix_"):
            rows = old.view(config.generated_rank, config.atoms, -1)
            rows = torch.nn.functional.pad(rows, (0, 0, 0, count))  # (r, atoms, code or 1)
            state[name] = rows.reshape(fresh[name].shape)
    grown.load_state_dict(state)
    return grown.requires_grad_(False).eval()

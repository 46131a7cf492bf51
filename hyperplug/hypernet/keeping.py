"""Holds a hypernetwork's adapters for tasks that it knows while it learns new ones.

A network that makes weights forgets if what it makes for earlier task codes changes. That
change is penalised on a few descriptions a step, against the network as it was before the
new training (von Oswald et al., "Continual learning with hypernetworks", ICLR 2020). Of the
earlier tasks nothing is needed but their descriptions.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor

from hyperplug.hypernet.encoding import EncodedDescription, EncodedExamples, collate
from hyperplug.hypernet.model import AdapterNetwork, LoraBatch, TaskInput

_A_STEP = 8
_MEASURED = 64


class Keeper:
    """The penalty on what changes for descriptions that must be kept.

    Their adapters of before are made anew when a step needs them: in one forward pass, where
    to store them all would take gigabytes.

    Args:
        before: the network before the new training; its weights never change.
        groups: the descriptions; each step draws as many of every group.
        strength: weight of the penalty beside the loss on the new tasks.
    """

    def __init__(
        self,
        before: AdapterNetwork,
        groups: Sequence[Sequence[EncodedDescription]],
        *,
        strength: float,
        seed: int = 0,
    ) -> None:
        self._before = before
        self._groups = [group for group in groups if group]
        self._strength = strength
        self._seed = seed

    @property
    def descriptions(self) -> int:
        """How many are kept."""
        return sum(len(group) for group in self._groups)

    def penalty(self, network: AdapterNetwork, *, step: int) -> Tensor:
        """Returns what is added to the loss of a step."""
        return self._strength * self._changes(network, self._drawn(step, count=_A_STEP)).mean()

    @torch.no_grad()
    def changed(self, network: AdapterNetwork) -> float:
        """Returns how far the adapters are from those of before: the root of the mean
        squared change as a share of their size, over some of the kept descriptions."""
        drawn = self._drawn(-1, count=_MEASURED)
        parts = [drawn[start : start + _A_STEP] for start in range(0, len(drawn), _A_STEP)]
        return float(torch.cat([self._changes(network, part) for part in parts]).mean().sqrt())

    def _changes(self, network: AdapterNetwork, kept: Sequence[EncodedDescription]) -> Tensor:
        """Returns the relative squared change of each description's adapter, (T,)."""
        task = self._task(kept).to(next(network.parameters()).device)
        self._before.to(task.pooled.device)
        with torch.no_grad():
            before = self._before(task)
        return relative_change(network(task), before)

    def _drawn(self, step: int, *, count: int) -> list[EncodedDescription]:
        rng = random.Random(f"{self._seed}/{step}/kept")
        share = -(-count // len(self._groups))
        return [
            description
            for group in self._groups
            for description in rng.sample(group, min(share, len(group)))
        ]

    def _task(self, kept: Sequence[EncodedDescription]) -> TaskInput:
        size = self._before.config.embedding_size
        return collate(kept, [EncodedExamples.none(size)] * len(kept), embedding_size=size)


def relative_change(now: Sequence[LoraBatch], before: Sequence[LoraBatch]) -> Tensor:
    """Returns the squared change of each adapter as a share of its squared size, (T,).

    Both are of the products B A, summed over the slots: what the base model is given. An
    adapter that was zero has nothing to keep: its change counts as 0.
    """
    slots = list(zip(now, before, strict=True))
    # B A - B' A' = (B - B') A + B' (A - A'): small terms, where the squares of the two
    # products would cancel each other.
    change = torch.stack(
        [
            _squared(
                torch.cat([x.b - y.b, y.b], dim=2),  # (T, out, 2r)
                torch.cat([x.a, x.a - y.a], dim=1),  # (T, 2r, in)
            )
            for x, y in slots
        ]
    ).sum(dim=0)  # (T,)
    size = torch.stack([_squared(y.b, y.a) for _, y in slots]).sum(dim=0)  # (T,)
    return torch.where(size > 0, change / size.clamp(min=torch.finfo(size.dtype).tiny), 0.0)


def _squared(b: Tensor, a: Tensor) -> Tensor:
    """Returns the squared Frobenius norm of each B A, (T,), without making the products."""
    return ((b.transpose(1, 2) @ b) * (a @ a.transpose(1, 2))).sum(dim=(1, 2))

"""How well a network does on tasks of datasets that it has not seen, by its loss."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from hyperplug.hypernet.batches import PreparedTask
from hyperplug.hypernet.data import TokenSequence
from hyperplug.hypernet.encoding import collate
from hyperplug.hypernet.losses import AnswerLoss
from hyperplug.hypernet.model import AdapterNetwork

_TASKS_AT_ONCE = 8


@torch.no_grad()
def validation_losses(
    network: AdapterNetwork,
    tasks: Sequence[PreparedTask],
    *,
    losses: AnswerLoss,
    sequences: int = 4,
    examples: int = 0,
    described: bool = True,
) -> dict[str, float]:
    """Returns mean losses over tasks with three adapters: from the task's own description
    (matched), from another task's (shuffled), and the part shared by all tasks (static).

    Args:
        sequences: how many of a task's last sequences the loss is taken over.
        examples: how many of its set-aside examples the network reads.
        described: whether it reads the description too.
    """
    ordered = sorted(tasks, key=lambda task: len(task.sequences[-1]))
    totals = {"matched": 0.0, "shuffled": 0.0, "static": 0.0}
    device = next(network.parameters()).device
    for start in range(0, len(ordered), _TASKS_AT_ONCE):
        group = ordered[start : start + _TASKS_AT_ONCE]
        indices = range(start, start + len(group))
        others = [ordered[(index + len(ordered) // 2) % len(ordered)] for index in indices]
        rows = [s for task in group for s in _last(task.sequences, sequences)]
        for arm, sources in (("matched", group), ("shuffled", others), ("static", group)):
            encoded = collate(
                [task.descriptions[0] if described else None for task in sources],
                [task.examples.take(range(min(examples, len(task.examples)))) for task in sources],
                embedding_size=network.config.embedding_size,
            ).to(device)
            keep = torch.full((len(group),), float(arm != "static"), device=device)
            found = losses(network(encoded, keep=keep), rows)  # (rows,)
            totals[arm] += float(found.sum()) / sequences
    return {arm: total / max(1, len(ordered)) for arm, total in totals.items()}


def _last(sequences: Sequence[TokenSequence], count: int) -> list[TokenSequence]:
    """Returns the last `count` sequences, repeating if there are fewer."""
    return [sequences[-1 - index % len(sequences)] for index in range(count)]

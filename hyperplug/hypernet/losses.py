"""The base model's loss on answers, with adapters applied."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hyperplug.hypernet.batches import pad
from hyperplug.hypernet.data import IGNORE, TokenSequence
from hyperplug.hypernet.frozen import FrozenBase
from hyperplug.hypernet.model import LoraBatch
from hyperplug.hypernet.states import LowerStates


class AnswerLoss:
    """Next-token loss on the answers' tokens through a frozen base model.

    Attributes:
        tokens: how many tokens it has seen.
    """

    def __init__(self, base: FrozenBase, *, states: LowerStates | None) -> None:
        self._base = base
        self._states = states if base.can_split else None
        self.tokens = 0

    def __call__(
        self,
        loras: list[LoraBatch] | None,
        sequences: Sequence[TokenSequence],
        *,
        length: int | None = None,
    ) -> Tensor:
        """Returns the mean answer-token loss of each sequence, (rows,).

        Args:
            loras: adapters of T tasks, None for the base model alone; the sequences are T
                groups of equal size.
            length: pad to so many tokens; None for the longest sequence's.
        """
        batch = pad(sequences, length=length)
        self.tokens += sum(len(sequence) for sequence in sequences)
        token_ids = batch.token_ids.to(self._base.device)
        if self._states is None:
            hidden = self._base.adapted_hidden(loras, token_ids=token_ids)
        else:
            states = self._states.batch(sequences, batch.token_ids)
            hidden = self._base.adapted_hidden(loras, states=states)  # (rows, length, hidden)
        targets = batch.targets.to(self._base.device)
        chosen = targets != IGNORE
        logits = self._base.logits(hidden[chosen]).float()  # (answer tokens, vocabulary)
        losses = torch.nn.functional.cross_entropy(logits, targets[chosen], reduction="none")
        rows = chosen.nonzero()[:, 0]  # (answer tokens,)
        counts = chosen.sum(dim=1)  # (rows,)
        sums = torch.zeros(len(sequences), device=self._base.device)
        return sums.index_add(0, rows, losses) / counts

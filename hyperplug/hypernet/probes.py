"""Answer losses with the adapters of descriptions: what calibration measures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from hyperplug.hypernet.data import TokenSequence, chat_prompt
from hyperplug.hypernet.encoding import EncodedDescription, EncodedExamples, collate
from hyperplug.hypernet.frozen import FrozenBase
from hyperplug.hypernet.losses import AnswerLoss
from hyperplug.hypernet.model import AdapterNetwork, LoraBatch
from hyperplug.hypernet.states import LowerStates

_ROWS_AT_ONCE = 32
_STATES_BYTES = 2**31


class AdapterProbe:
    """A base model and a hypernetwork, for the losses of many adapters on few sequences."""

    def __init__(self, network: AdapterNetwork, *, base: FrozenBase, tokenizer: Any) -> None:
        self._network = network.to(base.device)
        self._base = base
        self._tokenizer = tokenizer
        on_cpu = base.device.type == "cpu"
        states = LowerStates(base, budget_bytes=_STATES_BYTES) if on_cpu else None
        self._losses = AnswerLoss(base, states=states)

    @torch.no_grad()
    def base_loss(self, sequences: Sequence[TokenSequence]) -> float:
        """Returns the base model's mean loss over the sequences."""
        groups = [
            sequences[start : start + _ROWS_AT_ONCE]
            for start in range(0, len(sequences), _ROWS_AT_ONCE)
        ]
        total = sum(float(self._losses(None, group).sum()) for group in groups)
        return total / len(sequences)

    @torch.no_grad()
    def adapter_losses(
        self, descriptions: Sequence[EncodedDescription], sequences: Sequence[TokenSequence]
    ) -> list[float]:
        """Returns the mean loss over the sequences with the adapter of each description.

        After `base_loss` of the same sequences, the lower layers are not run again.
        """
        at_once = max(1, _ROWS_AT_ONCE // len(sequences))
        found: list[float] = []
        for start in range(0, len(descriptions), at_once):
            group = descriptions[start : start + at_once]
            rows = [sequence for _ in group for sequence in sequences]
            losses = self._losses(self._loras(group), rows)  # (adapters * sequences,)
            found += losses.view(len(group), -1).mean(dim=1).tolist()
        return found

    @torch.no_grad()
    def own_answers(self, inputs: Sequence[str], *, max_new_tokens: int) -> list[TokenSequence]:
        """Returns inputs with the base model's own greedy answers, one at a time."""
        model: Any = self._base.model
        sequences: list[TokenSequence] = []
        for number, text in enumerate(inputs):
            prompt = self._tokenizer(
                chat_prompt(self._tokenizer, text), add_special_tokens=False, return_tensors="pt"
            )["input_ids"].to(self._base.device)  # (1, length)
            ids = model.generate(
                input_ids=prompt,
                attention_mask=torch.ones_like(prompt),
                max_new_tokens=max_new_tokens,
                min_new_tokens=1,
                do_sample=False,
                temperature=None,
                top_p=None,
                top_k=None,
                pad_token_id=self._tokenizer.eos_token_id,
            )[0].tolist()
            size = prompt.shape[1]
            sequences.append(
                TokenSequence(
                    key=f"own/{number}", prompt=tuple(ids[:size]), answer=tuple(ids[size:])
                )
            )
        return sequences

    def _loras(self, descriptions: Sequence[EncodedDescription]) -> list[LoraBatch]:
        size = self._network.config.embedding_size
        empty = EncodedExamples.none(size)
        task = collate(descriptions, [empty] * len(descriptions), embedding_size=size)
        loras: list[LoraBatch] = self._network(task.to(self._base.device))
        return loras

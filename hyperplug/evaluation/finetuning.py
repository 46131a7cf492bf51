"""Ordinary fine-tuning: all weights of a model are trained on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from hyperplug.errors import TrainingError
from hyperplug.evaluation.lora_group import schedule
from hyperplug.hypernet.data import TokenSequence
from hyperplug.hypernet.frozen import FrozenBase
from hyperplug.hypernet.losses import AnswerLoss

_GRADIENT_NORM = 1.0


class WeightTrainer:
    """Trains all weights of a base model that nobody else uses.

    The optimizer has them in float32: its steps are smaller than what bfloat16 can tell apart.
    """

    def __init__(self, base: FrozenBase) -> None:
        self._model = base.model
        self._losses = AnswerLoss(base, states=None)
        self._precise = {
            name: weight.detach().float().clone() for name, weight in base.model.named_parameters()
        }

    def train(
        self,
        batches: Iterable[Sequence[TokenSequence]],
        *,
        steps: int,
        learning_rate: float,
    ) -> None:
        """Takes `steps` steps with an optimizer of their own.

        Args:
            batches: at least so many.

        Raises:
            TrainingError: if a loss is no number.
        """
        weights = dict(self._model.requires_grad_(True).named_parameters())
        optimizer = torch.optim.AdamW(
            self._precise.values(), betas=(0.9, 0.95), weight_decay=0, fused=True
        )
        for step, batch in zip(range(steps), batches, strict=False):
            optimizer.param_groups[0]["lr"] = learning_rate * schedule(step, steps=steps)
            loss = self._losses(None, batch).mean()
            if not loss.isfinite():
                raise TrainingError(f"the loss is {loss} at step {step}")
            self._model.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            for name, precise in self._precise.items():
                gradient = weights[name].grad
                precise.grad = None if gradient is None else gradient.float()
            torch.nn.utils.clip_grad_norm_(self._precise.values(), _GRADIENT_NORM)
            optimizer.step()
            self._show()
        self._model.zero_grad(set_to_none=True)
        self._model.requires_grad_(False)

    def state(self) -> dict[str, Tensor]:
        """Returns the weights, to be loaded again."""
        return self._precise

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Takes the weights of a `state`."""
        with torch.no_grad():
            for name, precise in self._precise.items():
                precise.copy_(state[name])
        self._show()

    @torch.no_grad()
    def _show(self) -> None:
        """Gives the model the weights, rounded to its number format."""
        for name, weight in self._model.named_parameters():
            weight.copy_(self._precise[name])

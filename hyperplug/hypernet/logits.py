"""From final hidden states to next-token logits, as the model itself does it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from hyperplug.errors import BaseModelError


class LogitHead:
    """A model's output projection, with what some families do to the logits after it.

    Cohere multiplies them by `logit_scale`, Granite divides them by `logits_scaling`,
    Gemma 2 bounds them by `final_logit_softcapping`. Adapted hidden states of chosen
    positions pass through here alone, so that most of the vocabulary's work is saved.
    """

    def __init__(self, model: Any) -> None:
        config = model.config.get_text_config()
        self._head: nn.Module = model.get_output_embeddings()
        self._scale = _number(config, "logit_scale") / _number(config, "logits_scaling")
        self._cap: float | None = getattr(config, "final_logit_softcapping", None)

    def __call__(self, hidden: Tensor) -> Tensor:
        """Returns the logits of hidden states, (..., hidden) to (..., vocabulary)."""
        logits: Tensor = self._head(hidden)
        if self._scale != 1.0:
            logits = logits * self._scale
        return logits if self._cap is None else self._cap * torch.tanh(logits / self._cap)


@torch.no_grad()
def check_logits(model: Any, logits: Tensor, *, token_ids: Tensor) -> None:
    """Raises BaseModelError unless the model's own logits for a text are these."""
    expected = model(input_ids=token_ids, use_cache=False).logits.float()
    if not torch.allclose(logits.float(), expected, rtol=1e-2, atol=1e-2):
        raise BaseModelError(
            f"base model {type(model).__name__} changes its logits in an unknown way",
            hint="hyperplug knows those of Cohere, Granite and Gemma; please report the model",
        )


def _number(config: Any, name: str) -> float:
    value = getattr(config, name, None)
    return float(value) if isinstance(value, int | float) and value else 1.0

"""Noise on what the hypernetwork reads in training, so that it does not learn texts by heart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hyperplug.hypernet.model import TaskInput


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """How much of it: see the attributes of the same names of `TrainConfig`."""

    noise: float
    token_dropout: float
    word_dropout: float


def perturbed(task: TaskInput, noise: Noise, *, generator: torch.Generator) -> TaskInput:
    """Returns a batch with noise on its encodings and some tokens and words hidden."""

    def noisy(values: Tensor) -> Tensor:
        spread = values.std(dim=-1, keepdim=True) if values.numel() else values
        return values + noise.noise * spread * torch.randn(values.shape, generator=generator)

    def shown(shape: Sequence[int], dropout: float) -> Tensor:
        return torch.rand(tuple(shape), generator=generator) > dropout

    tokens_shown = shown(task.token_mask.shape, noise.token_dropout)
    tasks, places = task.token_mask.shape[0], task.token_mask.shape[1]
    places += task.example_mask.shape[1]
    words_shown = shown((tasks, places), noise.word_dropout)
    return replace(
        task,
        pooled=noisy(task.pooled),
        tokens=noisy(task.tokens) * tokens_shown[..., None],
        token_mask=task.token_mask & tokens_shown,
        word_mask=task.word_mask & words_shown.gather(1, task.word_places),
    )

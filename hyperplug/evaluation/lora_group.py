"""Trains the LoRAs of a group of tasks side by side, as one batch of independent ones.

No number of one task reaches another: rows are computed apart, gradients are clipped a
task at a time, and the optimizer works on each weight by itself.
"""

from __future__ import annotations

import math
import random
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hyperplug.entities import ModuleShape
from hyperplug.errors import TrainingError
from hyperplug.evaluation.lora_tasks import LoraTask
from hyperplug.hypernet.data import TokenSequence
from hyperplug.hypernet.losses import AnswerLoss
from hyperplug.hypernet.model import LoraBatch

_GRADIENT_NORM = 1.0
_WARMUP_STEPS = 5
_LOOKS = 6  # how often a run looks at the held-back examples
_PATIENCE = 3  # looks without progress in any task, after which the group ends


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraRecipe:
    """How each LoRA is trained; see `LoraOptions`."""

    rank: int
    scale: float
    steps: int
    sequences: int
    learning_rate: float
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupProgress:
    """Where a group in training stands.

    Attributes:
        loss: the last step's, mean over the tasks.
        tokens: how many the group has seen.
    """

    step: int
    loss: float
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedGroup:
    """The LoRAs of G tasks, each of its task's best step.

    Attributes:
        loras: one a slot, A (G, r, in) and B (G, out, r), scale folded in, on the CPU.
        before: held-back loss of the base model alone, a task; likewise `after`.
        steps: how many were run.
    """

    loras: tuple[LoraBatch, ...]
    before: tuple[float, ...]
    after: tuple[float, ...]
    best_steps: tuple[int, ...]
    steps: int
    tokens: int
    seconds: float


class LoraGroup:
    """G LoRAs in training.

    Args:
        shapes: the adapted projections, in model order.
        losses: the frozen base model with hooks on those projections.
        length: no longer sequences are trained on, unless a task has no shorter ones.
        fixed_length: pad to that length always, for a compiled base model.
        start: LoRAs of the tasks to go on from, one `LoraBatch` a slot; None for fresh ones.
    """

    def __init__(
        self,
        tasks: Sequence[LoraTask],
        *,
        shapes: Sequence[ModuleShape],
        recipe: LoraRecipe,
        losses: AnswerLoss,
        length: int,
        fixed_length: bool = False,
        device: torch.device | None = None,
        start: Sequence[LoraBatch] | None = None,
    ) -> None:
        self._tasks = tasks
        self._recipe = recipe
        self._losses = losses
        self._length = length if fixed_length else None
        self._draws = [draws(task, length=length, seed=recipe.seed) for task in tasks]
        self._a, self._b = _initial(tasks, shapes, recipe, device or torch.device("cpu"))
        if start is not None:
            self._take(start)
        self._parameters = [*self._a, *self._b]
        self._optimizer = torch.optim.AdamW(
            self._parameters, lr=recipe.learning_rate, betas=(0.9, 0.95), weight_decay=0, fused=True
        )
        self._best = [parameter.detach().clone() for parameter in self._parameters]
        self._best_loss = torch.full((len(tasks),), math.inf)
        self._best_step = torch.zeros(len(tasks), dtype=torch.long)

    def train(self, on_step: Callable[[GroupProgress], None] = lambda _: None) -> TrainedGroup:
        """Returns each task's best LoRA.

        Raises:
            TrainingError: if no task has a loss that is a number.
        """
        started, tokens = time.monotonic(), self._losses.tokens
        before = self._look(0)
        every = max(1, self._recipe.steps // _LOOKS)
        step, idle = 0, 0
        while step < self._recipe.steps and idle < _PATIENCE:
            loss = self._step(step)
            step += 1
            on_step(GroupProgress(step=step, loss=loss, tokens=self._losses.tokens - tokens))
            if step % every == 0 or step == self._recipe.steps:
                self._look(step)
                idle = 0 if step in self._best_step else idle + 1
        return TrainedGroup(
            loras=tuple(self._best_loras()),
            before=tuple(before.tolist()),
            after=tuple(self._best_loss.tolist()),
            best_steps=tuple(self._best_step.tolist()),
            steps=step,
            tokens=self._losses.tokens - tokens,
            seconds=time.monotonic() - started,
        )

    def _step(self, number: int) -> float:
        """Returns the step's loss, the mean over the tasks."""
        for group in self._optimizer.param_groups:
            group["lr"] = self._recipe.learning_rate * schedule(number, steps=self._recipe.steps)
        count = self._recipe.sequences
        sequences = [next(draws) for draws in self._draws for _ in range(count)]
        rows = self._losses(self._loras(), sequences, length=self._length)  # (G * count,)
        losses = rows.view(-1, count).mean(dim=1)  # (G,)
        self._optimizer.zero_grad(set_to_none=True)
        losses.sum().backward()  # type: ignore[no-untyped-call]
        _clip(self._parameters)
        self._optimizer.step()
        return float(losses.detach().mean())

    @torch.no_grad()
    def _take(self, start: Sequence[LoraBatch]) -> None:
        for a, b, lora in zip(self._a, self._b, start, strict=True):
            a.copy_(lora.a)
            b.copy_(lora.b / self._recipe.scale)

    @torch.no_grad()
    def _look(self, step: int) -> Tensor:
        """Returns the held-back loss of each task, (G,), and keeps what is best so far."""
        count = max(len(task.held_back) for task in self._tasks)
        sequences = [
            task.held_back[number % len(task.held_back)]
            for task in self._tasks
            for number in range(count)
        ]
        loss = self._losses(self._loras(), sequences).view(-1, count).mean(dim=1).cpu()  # (G,)
        if not loss.isfinite().any():
            raise TrainingError(
                f"the loss of every task is no number at step {step}",
                hint="lower --learning-rate",
            )
        better = loss < self._best_loss
        self._best_loss = torch.where(better, loss, self._best_loss)
        self._best_step = torch.where(better, step, self._best_step)
        for kept, parameter in zip(self._best, self._parameters, strict=True):
            kept[better] = parameter.detach()[better]
        return loss

    def _loras(self) -> list[LoraBatch]:
        scale = self._recipe.scale
        return [LoraBatch(a=a, b=b * scale) for a, b in zip(self._a, self._b, strict=True)]

    def _best_loras(self) -> Iterator[LoraBatch]:
        slots = len(self._a)
        for a, b in zip(self._best[:slots], self._best[slots:], strict=True):
            yield LoraBatch(a=a.cpu(), b=(b * self._recipe.scale).cpu())


def _initial(
    tasks: Sequence[LoraTask],
    shapes: Sequence[ModuleShape],
    recipe: LoraRecipe,
    device: torch.device,
) -> tuple[list[Tensor], list[Tensor]]:
    """Returns A and B of each slot: A normal with rows of length 1, B zero.

    A task's start depends on the seed and its id alone, not on the group that it is in.
    """
    generators = [
        torch.Generator().manual_seed(zlib.crc32(f"{recipe.seed}/{task.id}".encode()))
        for task in tasks
    ]
    a, b = [], []
    for shape in shapes:
        rows = [
            torch.randn(recipe.rank, shape.in_features, generator=generator)
            for generator in generators
        ]
        a.append((torch.stack(rows) / math.sqrt(shape.in_features)).to(device))  # (G, r, in)
        b.append(torch.zeros(len(tasks), shape.out_features, recipe.rank, device=device))
    return [x.requires_grad_() for x in a], [x.requires_grad_() for x in b]


def schedule(step: int, *, steps: int) -> float:
    """Returns the learning rate's factor: a short rise, then a cosine to zero."""
    return min(1.0, (step + 1) / _WARMUP_STEPS) * 0.5 * (1 + math.cos(math.pi * step / steps))


def draws(task: LoraTask, *, length: int, seed: int) -> Iterator[TokenSequence]:
    """Yields the task's short enough sequences for ever, in a new order each round."""
    rng = random.Random(f"{seed}/{task.id}/draws")
    pool = [sequence for sequence in task.train if len(sequence) <= length] or list(task.train)
    while True:
        yield from rng.sample(pool, len(pool))


def _clip(parameters: Sequence[Tensor]) -> None:
    """Scales each task's gradient, over all its factors, to a norm of 1 at most."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    squares = torch.stack([gradient.square().sum(dim=(1, 2)) for gradient in gradients])
    norms = squares.sum(dim=0).sqrt()  # (G,)
    factors = (_GRADIENT_NORM / norms.clamp(min=1e-12)).clamp(max=1.0)[:, None, None]
    for gradient in gradients:
        gradient.mul_(factors)

"""Trains a LoRA from which a few steps suffice, as rivals of a generated one.

First-order MAML (Finn et al. 2017): the start follows the gradient that a task's further
examples have after some steps on a few of them. Reptile (Nichol et al. 2018): it follows the
way that those steps went.
"""

from __future__ import annotations

import io
import math
import pickle
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import torch
from torch import Tensor

from hyperplug.basemodel import BaseModel, resolve_base
from hyperplug.config import Settings
from hyperplug.embedding import Embedder, load_embedder
from hyperplug.entities import ModuleShape
from hyperplug.errors import TrainingError
from hyperplug.evaluation.lora_tasks import (
    LoraOptions,
    LoraTask,
    check_lora_options,
    choose_lora_tasks,
)
from hyperplug.evaluation.loras import LoraBank, LoraRecord, save_loras
from hyperplug.evaluation.machine import hardware
from hyperplug.evaluation.train_loras import TaskGroup, grouped
from hyperplug.hypernet.checkpoint import write_atomically
from hyperplug.hypernet.data import TokenSequence
from hyperplug.hypernet.loading import load_frozen, load_tokenizer, pick_device, pick_dtype
from hyperplug.hypernet.losses import AnswerLoss
from hyperplug.hypernet.model import LoraBatch
from hyperplug.hypernet.options import unwritable
from hyperplug.hypernet.prepare import choose_modules
from hyperplug.hypernet.states import keep_states

_POOL = 64  # tasks of similar length that a step draws from
_GRADIENT_NORM = 1.0
_SAVE_EVERY = 20
_BETAS = (0.9, 0.95)


class Method(StrEnum):
    """How the start is trained."""

    MAML = "maml"
    REPTILE = "reptile"


@dataclass(frozen=True, slots=True, kw_only=True)
class MetaOptions:
    """What to train on, and how.

    Attributes:
        loras: the tasks, sequences and modules; `steps` counts updates of the start, each
            from `tasks_at_once` tasks, and `learning_rate` is theirs (of Reptile, the share
            of the way that is gone).
        inner_steps: how many steps a task takes from the start.
    """

    loras: LoraOptions
    method: Method
    inner_steps: int = 5
    inner_learning_rate: float = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class MetaReport:
    """Where a run stands; `loss` is after a step's tasks have taken theirs."""

    step: int
    steps: int
    loss: float
    seconds_left: float


def train_start(
    options: MetaOptions,
    *,
    settings: Settings,
    embedder: Embedder | None = None,
    say: Callable[[str], None] = lambda _: None,
    on_step: Callable[[MetaReport], None] = lambda _: None,
) -> LoraBank:
    """Returns the start as a bank of one LoRA, also written to the output file.

    An interrupted run is resumed.

    Raises:
        ConfigError: if an option makes no sense or the output cannot be written.
        InvalidTaskFileError: if there is no usable task.
        BaseModelError: if the base model cannot be had or adapted.
        TrainingError: if no task is left to train on, or a loss is no number.
    """
    check_lora_options(options.loras)
    base = resolve_base(settings.base, cache=settings.cache, progress=say)
    say("Loading the text encoder")
    embedder = embedder or load_embedder(settings.embedder)
    say("Choosing the tasks")
    chosen = choose_lora_tasks(options.loras, tokenizer=load_tokenizer(base), embedder=embedder)
    say(f"{len(chosen.tasks)} tasks")
    run = _Run(options, chosen.tasks, base=base)
    try:
        run.train(on_step)
        bank = run.bank(embedder_id=embedder.id, dimension=embedder.dimension)
        save_loras(options.loras.out, bank)
    except OSError as exc:
        raise unwritable(options.loras.out, exc) from exc
    run.state_file.unlink(missing_ok=True)
    return bank


class _Run:
    def __init__(self, options: MetaOptions, tasks: Sequence[LoraTask], *, base: BaseModel) -> None:
        self._options = options
        own = options.loras
        self._groups = list(grouped(tasks, size=_POOL))
        self._tasks = len(tasks)
        self._modules = choose_modules(
            base.spec, modules=own.modules, top_layers=own.top_layers or None
        )
        self._fingerprint = base.spec.fingerprint
        device = pick_device(own.device)
        frozen = load_frozen(
            base, self._modules, device=device, dtype=pick_dtype(own.dtype, device)
        )
        self._device = frozen.device
        self._losses = AnswerLoss(frozen, states=keep_states(frozen, gib=own.cache_gib))
        shapes = [base.spec.module_shapes[path] for path in self._modules]
        self._start = _initial(shapes, rank=own.rank, seed=own.seed, device=frozen.device)
        self._optimizer = torch.optim.Adam(self._start, lr=own.learning_rate, betas=_BETAS)
        self._step = 0
        self._earlier = 0.0
        self._loss = math.nan
        self.state_file = own.out.with_name(f".{own.out.name}.partial")

    def train(self, on_step: Callable[[MetaReport], None]) -> None:
        """Takes all steps that are left.

        Raises:
            TrainingError: if a loss is no number.
        """
        self._load()
        begun, first, steps = time.monotonic(), self._step, self._options.loras.steps
        while self._step < steps:
            self._loss = self._update()
            if not math.isfinite(self._loss):
                raise TrainingError(
                    f"the loss is no number at step {self._step}", hint="lower the learning rates"
                )
            self._step += 1
            elapsed = time.monotonic() - begun
            if self._step % _SAVE_EVERY == 0:
                self._save(self._earlier + elapsed)
            each = elapsed / (self._step - first)
            on_step(
                MetaReport(
                    step=self._step,
                    steps=steps,
                    loss=self._loss,
                    seconds_left=each * (steps - self._step),
                )
            )
        self._earlier += time.monotonic() - begun

    def bank(self, *, embedder_id: str, dimension: int) -> LoraBank:
        """Returns the start as it is."""
        own = self._options.loras
        method = self._options.method.value
        slots = len(self._modules)
        pairs = zip(self._start[:slots], self._start[slots:], strict=True)
        return LoraBank(
            records=(
                LoraRecord(
                    id=method,
                    family=method,
                    examples=0,
                    best_step=self._step,
                    before=math.nan,
                    after=round(self._loss, 4),
                ),
            ),
            stacked=tuple(LoraBatch(a=a.detach().cpu(), b=b.detach().cpu()) for a, b in pairs),
            embeddings=np.zeros((1, dimension), dtype=np.float32),
            base_fingerprint=self._fingerprint,
            embedder_id=embedder_id,
            target_modules=self._modules,
            training={
                "method": method,
                "tasks": self._tasks,
                "steps": own.steps,
                "inner_steps": self._options.inner_steps,
                "inner_learning_rate": self._options.inner_learning_rate,
                "learning_rate": own.learning_rate,
                "tasks_at_once": own.tasks_at_once,
                "sequences_per_task": own.sequences_per_task,
                "tokens": self._losses.tokens,
                "seconds": round(self._earlier, 1),
                "hardware": hardware(self._device),
                "seed": own.seed,
            },
        )

    def _update(self) -> float:
        """Moves the start by what some tasks say of it, and returns their loss after theirs."""
        options, own = self._options, self._options.loras
        rng = random.Random(f"{own.seed}/{self._step}")
        group = rng.choices(self._groups, [len(each.tasks) for each in self._groups])[0]
        tasks = rng.sample(group.tasks, min(own.tasks_at_once, len(group.tasks)))
        fast = [
            value.detach().expand(len(tasks), -1, -1).clone().requires_grad_()
            for value in self._start
        ]
        inner = torch.optim.Adam(fast, lr=options.inner_learning_rate, betas=_BETAS)
        for _ in range(options.inner_steps):
            self._backward(fast, tasks, group, rng)
            inner.step()
        loss = self._backward(fast, tasks, group, rng)
        if options.method is Method.MAML:
            for value, own_values in zip(self._start, fast, strict=True):
                assert own_values.grad is not None
                value.grad = own_values.grad.mean(dim=0, keepdim=True)
            torch.nn.utils.clip_grad_norm_(self._start, _GRADIENT_NORM)
            self._optimizer.step()
        else:
            share = own.learning_rate * (1 - self._step / own.steps)
            with torch.no_grad():
                for value, own_values in zip(self._start, fast, strict=True):
                    value.lerp_(own_values.mean(dim=0, keepdim=True), share)
        return loss

    def _backward(
        self,
        fast: list[Tensor],
        tasks: Sequence[LoraTask],
        group: TaskGroup,
        rng: random.Random,
    ) -> float:
        """Leaves the gradients of new examples of each task, and returns the mean loss."""
        slots = len(self._modules)
        loras = [LoraBatch(a=a, b=b) for a, b in zip(fast[:slots], fast[slots:], strict=True)]
        count = self._options.loras.sequences_per_task
        drawn = [s for task in tasks for s in _drawn(task, group.length, count, rng)]
        losses = self._losses(loras, drawn).view(len(tasks), count).mean(dim=1)  # (tasks,)
        for value in fast:
            value.grad = None
        losses.sum().backward()  # type: ignore[no-untyped-call]
        return float(losses.detach().mean())

    def _settings(self) -> str:
        return repr((self._options, self._fingerprint, self._modules, self._tasks))

    def _save(self, seconds: float) -> None:
        buffer = io.BytesIO()
        state = {
            "settings": self._settings(),
            "start": [value.detach() for value in self._start],
            "optimizer": self._optimizer.state_dict(),
            "step": self._step,
            "seconds": seconds,
        }
        torch.save(state, buffer)
        write_atomically(self.state_file, buffer.getvalue())

    def _load(self) -> None:
        """Goes on with the state of a run of the same settings, if there is one."""
        if not self.state_file.is_file():
            return
        try:
            state = torch.load(self.state_file, weights_only=True)
        except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError):
            return
        if state["settings"] != self._settings():
            return
        with torch.no_grad():
            for value, kept in zip(self._start, state["start"], strict=True):
                value.copy_(kept)
        self._optimizer.load_state_dict(state["optimizer"])
        self._step, self._earlier = state["step"], state["seconds"]


def _initial(
    shapes: Sequence[ModuleShape], *, rank: int, seed: int, device: torch.device
) -> list[Tensor]:
    """Returns A of every slot, then B: A normal with rows of length 1, B zero."""
    generator = torch.Generator().manual_seed(seed)
    a = [
        torch.randn(1, rank, shape.in_features, generator=generator) / math.sqrt(shape.in_features)
        for shape in shapes
    ]
    b = [torch.zeros(1, shape.out_features, rank) for shape in shapes]
    return [value.to(device).requires_grad_() for value in (*a, *b)]


def _drawn(task: LoraTask, length: int, count: int, rng: random.Random) -> list[TokenSequence]:
    every = (*task.train, *task.held_back)
    pool = [sequence for sequence in every if len(sequence) <= length] or every
    return rng.choices(pool, k=count)

"""Learners of a stream of tasks: what each changes when new tasks come, and what it serves.

One LoRA or the whole model trained on without care, a LoRA a task with retrieval, and the
hypernetwork, with and without what keeps it from forgetting.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from hyperplug.entities import ModuleShape
from hyperplug.evaluation.finetuning import WeightTrainer
from hyperplug.evaluation.lora_group import LoraGroup, LoraRecipe, draws
from hyperplug.evaluation.lora_tasks import LoraTask
from hyperplug.evaluation.stream_tasks import StreamTask, joined_task
from hyperplug.hypernet.batches import Sampling, few_sequences
from hyperplug.hypernet.checkpoint import load_checkpoint, write_atomically
from hyperplug.hypernet.encoding import EncodedDescription, EncodedExamples, collate
from hyperplug.hypernet.extension import extend
from hyperplug.hypernet.frozen import FrozenBase
from hyperplug.hypernet.losses import AnswerLoss
from hyperplug.hypernet.model import LoraBatch
from hyperplug.hypernet.states import LowerStates
from hyperplug.hypernet.train import TrainConfig, Trainer

_SEQUENCES_A_TASK = 2  # of a hypernetwork's step
_WARMUP = 0.1  # as `train-hypernet --extend` has it


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """How much a learner may train.

    Attributes:
        steps: for each task of a stage.
        rows: examples a step.
    """

    steps: int
    rows: int
    learning_rate: float
    seed: int


class Learner(Protocol):
    """Something that learns tasks stage by stage.

    Attributes:
        told: whether the description stands in its prompts.
        whole: whether the file of a stage says all; else the earlier ones are needed too.
        suffix: of the files in which it is kept.
    """

    told: bool
    whole: bool
    suffix: str

    def learn(self, tasks: Sequence[StreamTask], file: Path) -> None:
        """Learns the tasks of a stage, and writes to `file` what it has become."""
        ...

    def load(self, tasks: Sequence[StreamTask], file: Path) -> None:
        """Becomes what it was after the stage of these tasks."""
        ...

    def loras(self, task: StreamTask) -> list[LoraBatch] | None:
        """Returns the adapter with which it does a task; None for the model as it is."""
        ...

    def standing(self) -> list[LoraBatch] | None:
        """Returns the adapter under which it answers whatever is no task; None for none."""
        ...


class LoraTrainer:
    """Trains LoRAs, side by side or from where one stands."""

    def __init__(
        self,
        budget: Budget,
        *,
        rank: int,
        scale: float,
        shapes: Sequence[ModuleShape],
        losses: AnswerLoss,
    ) -> None:
        self.budget = budget
        self._rank, self._scale = rank, scale
        self._shapes, self._losses = shapes, losses

    def train(
        self, tasks: Sequence[LoraTask], *, steps: int, start: Sequence[LoraBatch] | None = None
    ) -> list[LoraBatch]:
        """Returns a LoRA for each task, one `LoraBatch` a slot."""
        recipe = LoraRecipe(
            rank=self._rank,
            scale=self._scale,
            steps=steps,
            sequences=self.budget.rows,
            learning_rate=self.budget.learning_rate,
            seed=self.budget.seed,
        )
        group = LoraGroup(
            tasks,
            shapes=self._shapes,
            recipe=recipe,
            losses=self._losses,
            length=_longest(tasks),
            start=start,
        )
        return list(group.train().loras)


class SequentialLora:
    """One LoRA for all tasks, trained on stage after stage."""

    told = True
    whole = True
    suffix = ".pt"

    def __init__(self, trainer: LoraTrainer) -> None:
        self._trainer = trainer
        self._loras: list[LoraBatch] | None = None

    def learn(self, tasks: Sequence[StreamTask], file: Path) -> None:
        """Trains the LoRA on the tasks' examples together."""
        joined = joined_task([task.told for task in tasks])
        steps = self._trainer.budget.steps * len(tasks)
        self._loras = self._trainer.train([joined], steps=steps, start=self._loras)
        _save(file, [(lora.a, lora.b) for lora in self._loras])

    def load(self, tasks: Sequence[StreamTask], file: Path) -> None:
        """Reads the LoRA."""
        self._loras = [LoraBatch(a=a, b=b) for a, b in torch.load(file, weights_only=True)]

    def loras(self, task: StreamTask) -> list[LoraBatch] | None:
        """Returns the LoRA, whatever the task."""
        return self._loras

    def standing(self) -> list[LoraBatch] | None:
        """Returns the LoRA: it is always there."""
        return self._loras


class RetrievedLoras:
    """A LoRA for each task, that of the nearest description served. None ever changes."""

    told = False
    whole = False
    suffix = ".pt"

    def __init__(self, trainer: LoraTrainer, *, trained: dict[str, list[LoraBatch]]) -> None:
        """Takes the LoRAs by task that other orders of the stream have trained: a task's LoRA
        is the same in all of them."""
        self._trainer = trainer
        self._trained = trained
        self._seen: list[StreamTask] = []

    def learn(self, tasks: Sequence[StreamTask], file: Path) -> None:
        """Trains a LoRA for each task, one after another."""
        steps = self._trainer.budget.steps
        for task in tasks:
            if task.id not in self._trained:
                self._trained[task.id] = self._trainer.train([task.lora], steps=steps)
        self._seen += tasks
        _save(file, [[(x.a, x.b) for x in self._trained[task.id]] for task in tasks])

    def load(self, tasks: Sequence[StreamTask], file: Path) -> None:
        """Reads the LoRAs of a stage; those of earlier ones have been read before."""
        for task, pairs in zip(tasks, torch.load(file, weights_only=True), strict=True):
            self._trained[task.id] = [LoraBatch(a=a, b=b) for a, b in pairs]
        self._seen += tasks

    def loras(self, task: StreamTask) -> list[LoraBatch] | None:
        """Returns the LoRA of the task whose description is nearest; None before the first."""
        if not self._seen:
            return None
        known = np.stack([seen.lora.embedding for seen in self._seen])  # (known, embedding)
        return self._trained[self._seen[int((known @ task.sentence).argmax())].id]

    def standing(self) -> list[LoraBatch] | None:
        """Returns None: adapters are for their tasks alone."""
        return None


class WholeModel:
    """The model itself, all its weights trained on stage after stage."""

    told = True
    whole = True
    suffix = ".pt"

    def __init__(self, base: FrozenBase, budget: Budget) -> None:
        """Takes a base model of its own: its weights change."""
        self._trainer, self._budget = WeightTrainer(base), budget

    def learn(self, tasks: Sequence[StreamTask], file: Path) -> None:
        """Trains all weights on the tasks' examples together."""
        budget = self._budget
        joined = joined_task([task.told for task in tasks])
        drawn = draws(joined, length=_longest([joined]), seed=budget.seed)
        self._trainer.train(
            ([next(drawn) for _ in range(budget.rows)] for _ in itertools.count()),
            steps=budget.steps * len(tasks),
            learning_rate=budget.learning_rate,
        )
        _save(file, self._trainer.state())

    def load(self, tasks: Sequence[StreamTask], file: Path) -> None:
        """Reads the weights."""
        self._trainer.load(torch.load(file, weights_only=True))

    def loras(self, task: StreamTask) -> list[LoraBatch] | None:
        """Returns None: there is no adapter."""
        return None

    def standing(self) -> list[LoraBatch] | None:
        """Returns None: there is no adapter."""
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What a hypernetwork is held to while it learns.

    Attributes:
        strength: weight of the penalty on what changes for kept descriptions; 0 for none.
        replay: how many examples of each earlier task of the stream are trained on again.
        kept: further descriptions that it knows, besides the checkpoint's sentence vectors
            and the earlier tasks of the stream.
    """

    strength: float = 0.0
    replay: int = 0
    kept: Sequence[EncodedDescription] = ()


class GrowingGenerator:
    """The hypernetwork, extended stage after stage; each task is done by what it generates."""

    told = False
    whole = False
    suffix = ".safetensors"

    def __init__(
        self,
        start: Path,
        budget: Budget,
        memory: Memory,
        *,
        base: FrozenBase,
        states: LowerStates | None,
    ) -> None:
        self._checkpoint = load_checkpoint(start)
        self._budget, self._memory = budget, memory
        self._base, self._states = base, states
        self._seen: list[StreamTask] = []

    def learn(self, tasks: Sequence[StreamTask], file: Path) -> None:
        """Extends the checkpoint of the stage before by the tasks."""
        memory, budget = self._memory, self._budget
        earlier = [task.prepared for task in self._seen]
        extension = extend(
            self._checkpoint,
            kept=[memory.kept, [d for task in earlier for d in task.descriptions]],
            strength=memory.strength,
            replayed=[few_sequences(task, memory.replay) for task in earlier if memory.replay],
            seed=budget.seed,
        )
        Trainer(
            config=TrainConfig(
                steps=budget.steps * len(tasks),
                learning_rate=budget.learning_rate,
                warmup=_WARMUP,
                seed=budget.seed,
                sampling=Sampling(
                    tasks=max(2, budget.rows // _SEQUENCES_A_TASK),
                    sequences=_SEQUENCES_A_TASK,
                    with_examples=0.0,
                ),
            ),
            network=extension.network.config,
            base=self._base,
            train=[task.prepared for task in tasks],
            validation=(),
            out=file,
            states=self._states,
            extension=extension,
        ).run()
        file.with_suffix(".state.pt").unlink(missing_ok=True)
        self.load(tasks, file)

    def load(self, tasks: Sequence[StreamTask], file: Path) -> None:
        """Reads the checkpoint of a stage."""
        self._checkpoint = load_checkpoint(file)
        self._seen += tasks

    @torch.no_grad()
    def loras(self, task: StreamTask) -> list[LoraBatch] | None:
        """Returns the adapter that it generates from the description."""
        network = self._checkpoint.network
        size = network.config.embedding_size
        encoded = collate([task.description], [EncodedExamples.none(size)], embedding_size=size)
        loras: list[LoraBatch] = network(encoded)
        return loras

    def standing(self) -> list[LoraBatch] | None:
        """Returns None: adapters are for their tasks alone."""
        return None


def _longest(tasks: Sequence[LoraTask]) -> int:
    return max(len(sequence) for task in tasks for sequence in task.train)


def _save(file: Path, content: Any) -> None:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_atomically(file, buffer.getvalue())

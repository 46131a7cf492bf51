"""Trains an ordinary LoRA for each of many tasks: the comparators of a generated one.

Tasks of similar length are trained side by side, a group at a time, through the frozen
base model and on stripped prompts, as the hypernetwork is.
"""

from __future__ import annotations

import hashlib
import math
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from hyperplug.basemodel import resolve_base
from hyperplug.config import Settings
from hyperplug.embedding import Embedder, load_embedder
from hyperplug.entities import BaseModelSpec
from hyperplug.evaluation.lora_group import GroupProgress, LoraGroup, LoraRecipe, TrainedGroup
from hyperplug.evaluation.lora_tasks import (
    LoraOptions,
    LoraTask,
    check_lora_options,
    choose_lora_tasks,
)
from hyperplug.evaluation.loras import LoraBank, LoraRecord, joined, load_loras, save_loras
from hyperplug.evaluation.machine import hardware
from hyperplug.hypernet.batches import padded_length
from hyperplug.hypernet.frozen import FrozenBase, can_compile
from hyperplug.hypernet.loading import load_frozen, load_tokenizer, pick_device, pick_dtype
from hyperplug.hypernet.losses import AnswerLoss
from hyperplug.hypernet.memory import keep_freed_memory
from hyperplug.hypernet.options import unwritable
from hyperplug.hypernet.prepare import choose_modules
from hyperplug.hypernet.states import keep_states

# A group is as long as this share of each task's sequences; padding to the longest of all
# would cost more than the few that are left out.
_LENGTH_SHARE = 0.8
# Compiling takes about a minute for each length; fewer steps are over before it has paid.
_WORTH_COMPILING_STEPS = 100
_SHOWN_REMARKS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraReport:
    """What the progress callback is given after a step.

    Attributes:
        done: share of the whole run, in 0…1.
        loss: the step's, mean over the group's tasks.
    """

    group: int
    groups: int
    step: int
    done: float
    loss: float
    tokens_per_second: float
    seconds_left: float


class LoraProgress:
    """Told how training goes; does nothing. Override what you want to show."""

    def say(self, line: str) -> None:
        """A step that takes more than a second begins, or something deserves notice."""

    def stepped(self, report: LoraReport) -> None:
        """An optimizer step of a group is done."""


def train_loras(
    options: LoraOptions,
    *,
    settings: Settings,
    embedder: Embedder | None = None,
    progress: LoraProgress | None = None,
) -> LoraBank:
    """Returns the tasks' LoRAs, which are also written to `options.out`.

    Args:
        settings: which base model and text encoder to use.
        embedder: used in place of the settings' text encoder.

    Raises:
        ConfigError: if an option makes no sense or the output cannot be written.
        InvalidTaskFileError: if there is no usable task.
        BaseModelError: if the base model cannot be had or adapted.
        TrainingError: if no task is left to train, or no loss is a number.
    """
    progress = progress or LoraProgress()
    check_lora_options(options)
    base = resolve_base(settings.base, cache=settings.cache, progress=progress.say)
    progress.say("Loading the text encoder")
    embedder = embedder or load_embedder(settings.embedder)
    progress.say("Choosing the tasks")
    chosen = choose_lora_tasks(options, tokenizer=load_tokenizer(base), embedder=embedder)
    _say(chosen.remarks, progress)
    modules = choose_modules(
        base.spec, modules=options.modules, top_layers=options.top_layers or None
    )
    device = pick_device(options.device)
    dtype = pick_dtype(options.dtype, device)
    progress.say(f"Loading base model {base.spec.id}")
    frozen = load_frozen(base, modules, device=device, dtype=dtype)
    run = _Run(options, base=base.spec, modules=modules, embedder_id=embedder.id, frozen=frozen)
    try:
        return run.train(chosen.tasks, progress)
    except OSError as exc:
        if exc.errno is None:
            raise
        raise unwritable(options.out, exc) from exc


class _Run:
    """Trains group after group; finished ones lie in a folder beside the output file."""

    def __init__(
        self,
        options: LoraOptions,
        *,
        base: BaseModelSpec,
        modules: tuple[str, ...],
        embedder_id: str,
        frozen: FrozenBase,
    ) -> None:
        self._options = options
        self._base = base
        self._modules = modules
        self._embedder_id = embedder_id
        self._frozen = frozen
        self._recipe = LoraRecipe(
            rank=options.rank,
            scale=options.scale,
            steps=options.steps,
            sequences=options.sequences_per_task,
            learning_rate=options.learning_rate,
            seed=options.seed,
        )
        self._partial = options.out.with_name(f".{options.out.name}.partial")
        self._losses = AnswerLoss(frozen, states=keep_states(frozen, gib=options.cache_gib))
        self._compiled = False

    def train(self, tasks: Sequence[LoraTask], progress: LoraProgress) -> LoraBank:
        """Returns the LoRAs of all tasks, written to the output file."""
        groups = list(grouped(tasks, size=self._options.tasks_at_once))
        files = [self._file(group) for group in groups]
        ready = [file.is_file() for file in files]
        progress.say(f"{len(tasks)} tasks in {len(groups)} groups")
        if any(ready):
            progress.say(f"Going on: {sum(ready)} of {len(groups)} groups are done")
        self._compile(missing=len(groups) - sum(ready))
        clock = _Clock(groups, ready, steps=self._recipe.steps, progress=progress)
        for number, (group, file) in enumerate(zip(groups, files, strict=True)):
            if not ready[number]:
                clock.begin(number)
                save_loras(file, self._trained(group, clock))
        banks = [load_loras(file) for file in files]
        bank = joined(banks, training=self._about(banks))
        save_loras(self._options.out, bank)
        shutil.rmtree(self._partial)
        return bank

    def _trained(self, group: TaskGroup, clock: _Clock) -> LoraBank:
        """Returns the LoRAs of a group's tasks, without those that only fill it up."""
        trained = LoraGroup(
            group.filled,
            shapes=[self._base.module_shapes[path] for path in self._modules],
            recipe=self._recipe,
            losses=self._losses,
            length=group.length,
            fixed_length=self._compiled,
            device=self._frozen.device,
        ).train(clock.stepped)
        count = len(group.tasks)
        return LoraBank(
            records=tuple(_records(group.tasks, trained)),
            stacked=tuple(replace(x, a=x.a[:count], b=x.b[:count]) for x in trained.loras),
            embeddings=np.stack([task.embedding for task in group.tasks]),
            base_fingerprint=self._base.fingerprint,
            embedder_id=self._embedder_id,
            target_modules=self._modules,
            training={
                "steps": trained.steps,
                "tokens": trained.tokens,
                "seconds": round(trained.seconds, 1),
            },
        )

    def _about(self, banks: Sequence[LoraBank]) -> dict[str, Any]:
        """Returns how all were trained, for the file."""
        options = self._options
        return {
            "steps": options.steps,
            "tokens": sum(bank.training["tokens"] for bank in banks),
            "seconds": round(sum(bank.training["seconds"] for bank in banks), 1),
            "hardware": hardware(self._frozen.device),
            "dtype": str(self._frozen.dtype).removeprefix("torch."),
            "rank": options.rank,
            "scale": options.scale,
            "learning_rate": options.learning_rate,
            "sequences_per_task": options.sequences_per_task,
            "tasks_at_once": options.tasks_at_once,
            "max_tokens": options.max_tokens,
            "max_answer_tokens": options.max_answer_tokens,
            "seed": options.seed,
            "hold_out": options.hold_out,
            "include_noncommercial": options.include_noncommercial,
        }

    def _compile(self, *, missing: int) -> None:
        wanted = self._options.compiled
        steps = missing * self._recipe.steps
        self._compiled = wanted == "on" or (
            wanted == "auto" and can_compile() and steps >= _WORTH_COMPILING_STEPS
        )
        if self._frozen.device.type == "cpu":
            keep_freed_memory()
        if self._compiled:
            self._frozen.compile()

    def _file(self, group: TaskGroup) -> Path:
        """Returns where a group is kept; another one for other tasks, examples or settings."""
        facts = (self._base.fingerprint, self._embedder_id, self._modules, self._recipe)
        hasher = hashlib.sha256(repr((*facts, str(self._frozen.dtype), group.length)).encode())
        for task in group.tasks:
            keys = [(s.prompt, s.answer) for s in (*task.train, *task.held_back)]
            hasher.update(repr((task.id, len(task.held_back), keys)).encode())
        return self._partial / f"{hasher.hexdigest()[:16]}.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskGroup:
    """Tasks to be trained side by side.

    Attributes:
        filled: the same with the last one repeated up to the size of the other groups: for
            another number of rows the base model would be compiled anew.
        length: of the sequences to train on.
    """

    tasks: tuple[LoraTask, ...]
    filled: tuple[LoraTask, ...]
    length: int


def grouped(tasks: Sequence[LoraTask], *, size: int) -> Iterator[TaskGroup]:
    """Yields groups of at most `size` tasks of similar length, as equal as can be."""
    lengths = {task.id: _usual_length(task) for task in tasks}
    order = sorted(tasks, key=lambda task: (lengths[task.id], task.id))
    size = math.ceil(len(order) / math.ceil(len(order) / size))
    for start in range(0, len(order), size):
        members = order[start : start + size]
        longest = max(lengths[task.id] for task in members)
        yield TaskGroup(
            tasks=tuple(members),
            filled=(*members, *members[-1:] * (size - len(members))),
            length=padded_length(longest),
        )


class _Clock:
    """Turns the steps of groups into shares of the whole run and the time left."""

    def __init__(
        self,
        groups: Sequence[TaskGroup],
        ready: Sequence[bool],
        *,
        steps: int,
        progress: LoraProgress,
    ) -> None:
        self._work = [group.length for group in groups]
        self._ready = [work for work, is_ready in zip(self._work, ready, strict=True) if is_ready]
        self._steps = steps
        self._progress = progress
        self._past = 0.0  # work of groups that this run has trained
        self._group = -1
        self._started = self._group_started = time.monotonic()

    def begin(self, group: int) -> None:
        """The group of that number begins."""
        if self._group >= 0:
            self._past += self._work[self._group]
        self._group, self._group_started = group, time.monotonic()

    def stepped(self, step: GroupProgress) -> None:
        """Reports a step of the present group."""
        now = time.monotonic()
        mine = self._past + self._work[self._group] * step.step / self._steps
        left = sum(self._work) - sum(self._ready) - mine
        self._progress.stepped(
            LoraReport(
                group=self._group + 1,
                groups=len(self._work),
                step=step.step,
                done=(sum(self._ready) + mine) / sum(self._work),
                loss=step.loss,
                tokens_per_second=step.tokens / (now - self._group_started),
                seconds_left=(now - self._started) / mine * left,
            )
        )


def _usual_length(task: LoraTask) -> int:
    lengths = sorted(len(sequence) for sequence in task.train)
    return lengths[math.ceil(_LENGTH_SHARE * len(lengths)) - 1]


def _records(tasks: Sequence[LoraTask], trained: TrainedGroup) -> Iterator[LoraRecord]:
    for row, task in enumerate(tasks):
        yield LoraRecord(
            id=task.id,
            family=task.family,
            examples=len(task.train),
            best_step=trained.best_steps[row],
            before=round(trained.before[row], 4),
            after=round(trained.after[row], 4),
        )


def _say(remarks: Sequence[str], progress: LoraProgress) -> None:
    for line in remarks[:_SHOWN_REMARKS]:
        progress.say(line)
    if len(remarks) > _SHOWN_REMARKS:
        progress.say(f"{len(remarks) - _SHOWN_REMARKS} more remarks of this kind")

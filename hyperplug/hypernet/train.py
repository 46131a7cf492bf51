"""Trains a hypernetwork end to end through the frozen base model.

The loss is the base model's own next-token loss on the answers, with the generated
adapter applied; the base has no gradient. The static part is trained along, and alone in
a share of the rows, so that it is a usable multi-task LoRA by itself.
"""

from __future__ import annotations

import csv
import ctypes
import io
import math
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hyperplug.errors import TrainingError
from hyperplug.hypernet.batches import PreparedTask, Sampler, Sampling, Step, TokenBatch, pad
from hyperplug.hypernet.checkpoint import Checkpoint, save_checkpoint, write_atomically
from hyperplug.hypernet.data import IGNORE, TokenSequence
from hyperplug.hypernet.encoding import collate
from hyperplug.hypernet.frozen import FrozenBase
from hyperplug.hypernet.model import Hypernet, HypernetConfig, LoraBatch, TaskInput
from hyperplug.hypernet.prepare import calibrate, support_vectors


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """How to train.

    Attributes:
        steps: end after so many optimizer steps ...
        minutes: ... or after so much training time, whichever is first; the learning
            rate follows the one that is further on. 0 for no limit of time.
        network_rate: learning rate of encoder, trunk and heads, as a share of that of atoms
            and static factors. A head sums 256 inputs, so that the same rate moves the
            adapter a hundred times as far in a step: task codes collapse.
        warmup: share of the run in which the learning rate rises.
        decay: share of the run, at its end, in which it falls to zero.
        ema: decay of the weight average that is shipped.
        noise: standard deviation of noise on encodings (relative) and on the task code.
        token_dropout: share of description tokens hidden from the hypernetwork.
        cache_gib: memory for the lower layers' output.
        evaluate_every: steps between looks at the validation tasks.
        save_every_seconds: a kill loses at most this much work.
    """

    steps: int = 10_000
    minutes: float = 0.0
    seed: int = 0
    learning_rate: float = 2e-3
    network_rate: float = 0.15
    weight_decay: float = 0.05
    warmup: float = 0.02
    decay: float = 0.4
    ema: float = 0.99
    gradient_norm: float = 1.0
    noise: float = 0.3
    token_dropout: float = 0.15
    sampling: Sampling = field(default_factory=Sampling)
    cache_gib: float = 4.0
    evaluate_every: int = 250
    save_every_seconds: float = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What the progress callback is given after a step."""

    step: int
    progress: float
    loss: float
    tokens_per_second: float
    seconds_left: float


class Trainer:
    """Owns a hypernetwork in training, and its state on disk beside the output file."""

    def __init__(
        self,
        *,
        config: TrainConfig,
        hypernet: HypernetConfig,
        base: FrozenBase,
        train: Sequence[PreparedTask],
        validation: Sequence[PreparedTask],
        out: Path,
    ) -> None:
        torch.manual_seed(config.seed)
        self.config = config
        self.base = base
        self.out = out
        self._train, self._validation = train, validation
        self._sampler = Sampler(train, sampling=config.sampling, seed=config.seed)
        self.hypernet = Hypernet(hypernet).to(base.device)
        self._average = Hypernet(hypernet).to(base.device).requires_grad_(False)
        self._average.load_state_dict(self.hypernet.state_dict())
        self._optimizer = torch.optim.AdamW(
            self._groups(), betas=(0.9, 0.95), weight_decay=config.weight_decay
        )
        self._cache: dict[str, Tensor] = {}
        self._cache_bytes = 0
        self.step = 0
        self.elapsed_seconds = 0.0
        self._tokens = 0
        self._log: list[dict[str, float]] = []
        self._state_file = out.with_suffix(".state.pt")

    # -- the run ------------------------------------------------------------------

    def run(self, on_step: Callable[[Report], None] = lambda _: None) -> None:
        """Trains to the end, resuming where an interrupted run stopped, and saves.

        Raises:
            TrainingError: if the loss stops being a number.
        """
        _keep_freed_memory()
        self._resume()
        saved, started = time.monotonic(), time.monotonic()
        before, begun = self.elapsed_seconds, self._tokens
        while self.progress() < 1:
            loss = self._train_step()
            if not math.isfinite(loss):
                raise TrainingError(
                    f"the loss is {loss} at step {self.step}",
                    hint="lower --learning-rate; the last saved state is kept",
                )
            now = time.monotonic()
            self.elapsed_seconds = before + now - started
            speed = (self._tokens - begun) / (now - started)
            on_step(self._report(loss, speed))
            if self.step % self.config.evaluate_every == 0:
                self._evaluate(loss, speed)
            if now - saved > self.config.save_every_seconds:
                self._save_state()
                saved = now
        self._evaluate(loss=math.nan, speed=math.nan)
        self._save_state()
        self.save()

    def progress(self) -> float:
        """Returns the share of the run that is done, in 0…1."""
        done = self.step / self.config.steps
        if self.config.minutes:
            done = max(done, self.elapsed_seconds / 60 / self.config.minutes)
        return min(1.0, done)

    def save(self) -> None:
        """Writes the averaged hypernetwork to the output file."""
        save_checkpoint(
            self.out,
            Checkpoint(
                hypernet=self._average,
                support=torch.from_numpy(support_vectors(self._train)),
                thresholds=calibrate(self._train, self._validation or self._train),
                training={
                    "steps": self.step,
                    "minutes": round(self.elapsed_seconds / 60, 1),
                    "tokens": self._tokens,
                    "tasks": len(self._train),
                    "families": len({task.family for task in self._train}),
                    "validation": _finite(self._log[-1]) if self._log else {},
                    "hardware": f"{torch.get_num_threads()} threads, {platform.machine()}"
                    if self.base.device.type == "cpu"
                    else torch.cuda.get_device_name(),
                    "recipe": asdict(self.config),
                },
            ),
        )

    # -- one step -----------------------------------------------------------------

    def _train_step(self) -> float:
        for group in self._optimizer.param_groups:
            group["lr"] = group["rate"] * self._schedule()
        step = self._sampler.step(self.step)
        task = self._task_input(step)
        generator = torch.Generator().manual_seed(hash((self.config.seed, self.step)) % 2**31)
        task = self._perturbed(task, generator)
        code = self.hypernet.encode(task)
        code = code + 0.3 * self.config.noise * torch.randn(code.shape, generator=generator).to(
            code
        )
        loss = self._loss(self.hypernet.decode(code, keep=step.keep.to(code)), step.sequences)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.hypernet.parameters(), self.config.gradient_norm)
        self._optimizer.step()
        self.step += 1
        self._update_average()
        return float(loss.detach())

    def _loss(self, loras: list[LoraBatch], sequences: Sequence[TokenSequence]) -> Tensor:
        """Returns the mean over sequences of the mean answer-token loss."""
        losses = self.sequence_losses(loras, sequences)
        return losses.mean()

    def sequence_losses(self, loras: list[LoraBatch], sequences: Sequence[TokenSequence]) -> Tensor:
        """Returns the mean answer-token loss of each sequence, (rows,)."""
        batch = pad(sequences)
        token_ids = batch.token_ids.to(self.base.device)
        self._tokens += sum(len(sequence) for sequence in sequences)
        if self.base.can_split and self.config.cache_gib > 0:
            states = self._lower_states(sequences, batch)
            with self.base.adapted(loras):
                hidden = self.base.upper(states)  # (rows, length, hidden)
        else:
            with self.base.adapted(loras):
                hidden = self.base.hidden(token_ids)  # (rows, length, hidden)
        targets = batch.targets.to(self.base.device)
        chosen = targets != IGNORE
        logits = self.base.logits(hidden[chosen]).float()  # (answer tokens, vocabulary)
        token_losses = torch.nn.functional.cross_entropy(logits, targets[chosen], reduction="none")
        rows = chosen.nonzero()[:, 0]  # (answer tokens,)
        counts = chosen.sum(dim=1)  # (rows,)
        sums = torch.zeros(len(sequences), device=self.base.device)
        return sums.index_add(0, rows, token_losses) / counts

    def _lower_states(self, sequences: Sequence[TokenSequence], batch: TokenBatch) -> Tensor:
        """Returns the input of the first adapted layer, from the cache where it is."""
        missing = [row for row, s in enumerate(sequences) if s.key not in self._cache]
        fresh: dict[int, Tensor] = {}
        if missing:
            states = self.base.lower(batch.token_ids[missing].to(self.base.device))
            for row, state in zip(missing, states, strict=True):
                fresh[row] = state[: len(sequences[row])].clone()
                self._remember(sequences[row].key, fresh[row])
        rows = [
            fresh[row] if row in fresh else self._cache[s.key] for row, s in enumerate(sequences)
        ]
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)  # (rows, length, hidden)

    def _remember(self, key: str, state: Tensor) -> None:
        size = state.numel() * state.element_size()
        if self._cache_bytes + size <= self.config.cache_gib * 2**30:
            self._cache[key] = state
            self._cache_bytes += size

    def _task_input(self, step: Step) -> TaskInput:
        size = self.hypernet.config.embedding_size
        batch = collate(step.descriptions, step.examples, embedding_size=size)
        return batch.to(self.base.device)

    def _perturbed(self, task: TaskInput, generator: torch.Generator) -> TaskInput:
        """Returns the batch with noise on its encodings and some tokens hidden."""

        def noisy(values: Tensor) -> Tensor:
            spread = values.std(dim=-1, keepdim=True) if values.numel() else values
            noise = torch.randn(values.shape, generator=generator).to(values)
            return values + self.config.noise * spread * noise

        shown = torch.rand(task.token_mask.shape, generator=generator) > self.config.token_dropout
        return replace(
            task,
            pooled=noisy(task.pooled),
            tokens=noisy(task.tokens),
            token_mask=task.token_mask & shown.to(task.token_mask.device),
        )

    def _groups(self) -> list[dict[str, Any]]:
        """Returns the parameters in two groups, each with its peak learning rate."""
        named = list(self.hypernet.named_parameters())
        factors = [p for name, p in named if name.startswith(("atoms", "static"))]
        network = [p for name, p in named if not name.startswith(("atoms", "static"))]
        rate = self.config.learning_rate
        return [
            {"params": factors, "rate": rate, "lr": rate},
            {"params": network, "rate": rate * self.config.network_rate, "lr": rate},
        ]

    def _schedule(self) -> float:
        """Returns the learning rate's factor: linear rise, plateau, linear fall."""
        done = self.progress()
        rise = min(1.0, (done + 1e-3) / self.config.warmup) if self.config.warmup else 1.0
        fall = (1 - done) / self.config.decay if self.config.decay else 1.0
        return max(0.0, min(rise, fall, 1.0))

    @torch.no_grad()
    def _update_average(self) -> None:
        decay = min(self.config.ema, (1 + self.step) / (10 + self.step))
        pairs = zip(self._average.parameters(), self.hypernet.parameters(), strict=True)
        for average, current in pairs:
            average.lerp_(current, 1 - decay)

    # -- validation ---------------------------------------------------------------

    @torch.no_grad()
    def validate(self, *, sequences: int = 4) -> dict[str, float]:
        """Returns mean validation losses: adapter from the task's own description
        (matched), from another task's (shuffled), and the static part (static)."""
        tasks = sorted(self._validation, key=lambda task: len(task.sequences[-1]))
        totals = {"matched": 0.0, "shuffled": 0.0, "static": 0.0}
        before = self._tokens
        for start in range(0, len(tasks), 8):
            group = tasks[start : start + 8]
            others = [tasks[(tasks.index(task) + len(tasks) // 2) % len(tasks)] for task in group]
            rows = [s for task in group for s in _last(task.sequences, sequences)]
            for arm, sources in (("matched", group), ("shuffled", others), ("static", group)):
                encoded = collate(
                    [task.descriptions[0] for task in sources],
                    [task.examples[:0] for task in sources],
                    embedding_size=self.hypernet.config.embedding_size,
                ).to(self.base.device)
                keep = torch.full((len(group),), float(arm != "static"), device=self.base.device)
                losses = self.sequence_losses(self._average(encoded, keep=keep), rows)
                totals[arm] += float(losses.sum()) / sequences
        self._tokens = before
        return {arm: total / max(1, len(tasks)) for arm, total in totals.items()}

    def _evaluate(self, loss: float, speed: float) -> None:
        row = {"step": float(self.step), "minutes": self.elapsed_seconds / 60, "train": loss}
        row |= {"tokens_per_second": speed}
        if self._validation:
            row |= self.validate()
        self._log.append(row)
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, fieldnames=list(self._log[0]))
        writer.writeheader()
        writer.writerows({k: f"{v:.4f}" for k, v in entry.items()} for entry in self._log)
        write_atomically(self.out.with_suffix(".csv"), buffer.getvalue().encode())

    # -- state --------------------------------------------------------------------

    def _save_state(self) -> None:
        buffer = io.BytesIO()
        torch.save(
            {
                "hypernet": self.hypernet.state_dict(),
                "average": self._average.state_dict(),
                "optimizer": self._optimizer.state_dict(),
                "step": self.step,
                "elapsed_seconds": self.elapsed_seconds,
                "tokens": self._tokens,
                "log": self._log,
                "shape": self.hypernet.config.as_dict(),
                "seed": self.config.seed,
            },
            buffer,
        )
        write_atomically(self._state_file, buffer.getvalue())

    def _resume(self) -> None:
        if not self._state_file.is_file():
            return
        state: dict[str, Any] = torch.load(self._state_file, weights_only=True)
        same = HypernetConfig.from_dict(state["shape"]) == self.hypernet.config
        if not same or state["seed"] != self.config.seed:
            raise TrainingError(
                f"{self._state_file} belongs to a run with other settings",
                hint="give the same settings to resume, another --out, or delete that file",
            )
        self.hypernet.load_state_dict(state["hypernet"])
        self._average.load_state_dict(state["average"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.step, self._tokens = state["step"], state["tokens"]
        self.elapsed_seconds, self._log = state["elapsed_seconds"], state["log"]

    def _report(self, loss: float, speed: float) -> Report:
        done = self.progress()
        left = self.elapsed_seconds * (1 - done) / done if done else math.inf
        return Report(
            step=self.step,
            progress=done,
            loss=loss,
            tokens_per_second=speed,
            seconds_left=left,
        )


def _finite(row: dict[str, float]) -> dict[str, float]:
    """Returns the entries that JSON can hold."""
    return {name: value for name, value in row.items() if math.isfinite(value)}


def _last(sequences: Sequence[TokenSequence], count: int) -> list[TokenSequence]:
    """Returns the last `count` sequences, repeating if there are fewer."""
    return [sequences[-1 - index % len(sequences)] for index in range(count)]


def _keep_freed_memory() -> None:
    """Tells glibc to keep freed memory: handing back and refaulting it costs up to half
    of a step's time. Does nothing elsewhere."""
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(-4, 0)  # M_MMAP_MAX
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
    except OSError:
        pass

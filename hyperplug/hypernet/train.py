"""Trains a hypernetwork end to end through the frozen base model.

The loss is the base model's own next-token loss on the answers, with the generated
adapter applied; the base has no gradient. The static part is trained along, and alone in
a share of the rows, so that it is a usable multi-task LoRA by itself.
"""

from __future__ import annotations

import copy
import math
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hyperplug.errors import TrainingError
from hyperplug.hypernet.batches import PreparedTask, Sampling, make_sampler
from hyperplug.hypernet.calibration import calibrate, support_vectors
from hyperplug.hypernet.checkpoint import Checkpoint, save_checkpoint
from hyperplug.hypernet.encoding import collate
from hyperplug.hypernet.extension import Extension
from hyperplug.hypernet.frozen import FrozenBase
from hyperplug.hypernet.losses import AnswerLoss
from hyperplug.hypernet.memory import keep_freed_memory
from hyperplug.hypernet.networks import NetworkConfig, build_network
from hyperplug.hypernet.noise import Noise, perturbed
from hyperplug.hypernet.runstate import RunState, data_digest, load_state, save_state, write_log
from hyperplug.hypernet.states import LowerStates
from hyperplug.hypernet.validation import validation_losses
from hyperplug.hypernet.workers import Workers

# Noise on the task code, as a share of that on the encodings.
_CODE_NOISE = 0.3


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
        word_dropout: likewise of its words in the base model's vocabulary.
        compiled: compile the base model; worth it from some hundred steps on.
        evaluate_every: steps between looks at the validation tasks; the weights with the
            lowest loss there are the ones that are shipped.
        save_every_seconds: a kill loses at most this much work.
    """

    steps: int = 10_000
    minutes: float = 0.0
    seed: int = 0
    learning_rate: float = 2e-3
    network_rate: float = 0.15
    weight_decay: float = 0.1
    warmup: float = 0.02
    decay: float = 0.6
    ema: float = 0.995
    gradient_norm: float = 1.0
    noise: float = 0.5
    token_dropout: float = 0.3
    word_dropout: float = 0.1
    sampling: Sampling = field(default_factory=Sampling)
    compiled: bool = False
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


def best_file(out: Path) -> Path:
    """Returns where the weights of the lowest validation loss go."""
    return out.with_name(f"{out.stem}-best{out.suffix}")


class Trainer:
    """Owns a network in training, and its state on disk beside the output file."""

    def __init__(
        self,
        *,
        config: TrainConfig,
        network: NetworkConfig,
        base: FrozenBase,
        train: Sequence[PreparedTask],
        validation: Sequence[PreparedTask],
        out: Path,
        states: LowerStates | None = None,
        workers: Workers | None = None,
        corpus: Mapping[str, Any] | None = None,
        extension: Extension | None = None,
    ) -> None:
        torch.manual_seed(config.seed)
        self.config = config
        self.base = base
        self.out = out
        self.shape = network
        self._train, self._validation = train, validation
        self._workers = workers or Workers()
        self._corpus = dict(corpus or {})
        self._extension = extension
        self._replayed = extension.replayed if extension else ()
        self.sampler = make_sampler(
            train,
            replayed=self._replayed,
            sampling=config.sampling,
            seed=config.seed,
        )
        self._noise = Noise(
            noise=config.noise,
            token_dropout=config.token_dropout,
            word_dropout=config.word_dropout,
        )
        self._losses = AnswerLoss(base, states=states)
        if config.compiled:
            base.compile()
        started = copy.deepcopy(extension.network) if extension else build_network(network)
        self.network = started.requires_grad_(True).train().to(base.device)
        self._average = copy.deepcopy(self.network).requires_grad_(False).eval()
        self._optimizer = torch.optim.AdamW(
            self._groups(), betas=(0.9, 0.95), weight_decay=config.weight_decay, fused=True
        )
        self._best: dict[str, Tensor] | None = None
        self.step = 0
        self.elapsed_seconds = 0.0
        self._log: list[dict[str, float]] = []
        self._state_file = out.with_suffix(".state.pt")

    # -- the run ------------------------------------------------------------------

    def run(self, on_step: Callable[[Report], None] = lambda _: None) -> None:
        """Trains to the end, resuming where an interrupted run stopped, and saves.

        Raises:
            TrainingError: if the loss stops being a number.
        """
        keep_freed_memory()
        self._resume()
        saved, started = time.monotonic(), time.monotonic()
        before, begun = self.elapsed_seconds, self._losses.tokens
        while self.progress() < 1:
            elapsed = before + time.monotonic() - started
            loss = self._train_step(elapsed)
            now = time.monotonic()
            tokens = self._workers.count * (self._losses.tokens - begun)
            speed = tokens / (now - started)
            on_step(self._report(loss, speed))
            if self.step % self.config.evaluate_every == 0:
                self._evaluate(loss, speed)
            if now - saved > self.config.save_every_seconds:
                self._save_state()
                saved = now
        self._evaluate(loss=math.nan, speed=math.nan)
        self._save_state()
        self.save()

    @property
    def tokens(self) -> int:
        """How many tokens this process has trained on."""
        return self._losses.tokens

    def run_step(self, number: int) -> float:
        """Runs one optimizer step on the data of that number, and returns its loss."""
        self.step = number
        return self._train_step(self.elapsed_seconds)

    def progress(self) -> float:
        """Returns the share of the run that is done, in 0…1."""
        done = self.step / self.config.steps
        if self.config.minutes:
            done = max(done, self.elapsed_seconds / 60 / self.config.minutes)
        return min(1.0, done)

    def save(self) -> None:
        """Writes the averaged network to the output file.

        That of the lowest validation loss goes to a file beside it, "…-best", unless it is
        the same. It is not the one to ship by itself: after the loss has begun to rise, more
        answers still become right.
        """
        if not self._workers.is_first:
            return
        network, extension = copy.deepcopy(self._average), self._extension
        vectors: Tensor = torch.from_numpy(support_vectors(self._train))
        checkpoint = Checkpoint(
            network=network,
            support=torch.cat([extension.support, vectors]) if extension else vectors,
            thresholds=(
                extension.thresholds
                if extension
                else calibrate(self._train, self._validation or self._train)
            ),
            training=self._about(),
        )
        save_checkpoint(self.out, checkpoint)
        if self._best is not None and self._best_row()["step"] != self.step:
            network.load_state_dict(self._best)
            save_checkpoint(best_file(self.out), checkpoint)

    def _about(self) -> dict[str, Any]:
        """Returns how the network was trained, for its checkpoint."""
        on_cpu = self.base.device.type == "cpu"
        threads = f"{torch.get_num_threads()} threads, {platform.machine()}"
        return {
            "steps": self.step,
            "minutes": round(self.elapsed_seconds / 60, 1),
            "tokens": self._workers.count * self._losses.tokens,
            "processes": self._workers.count,
            "tasks": len(self._train),
            "families": len({task.family for task in self._train}),
            "validation": _finite(self._best_row()),
            "hardware": threads if on_cpu else torch.cuda.get_device_name(),
            "recipe": asdict(self.config),
            "corpus": self._corpus,
            **self._extended(),
        }

    def _extended(self) -> dict[str, Any]:
        """Returns which checkpoint the run goes on from, if any."""
        return {"extends": dict(self._extension.about)} if self._extension else {}

    # -- one step -----------------------------------------------------------------

    def _train_step(self, elapsed_seconds: float) -> float:
        """Returns the step's loss, averaged over the processes."""
        for group in self._optimizer.param_groups:
            group["lr"] = group["rate"] * self._schedule()
        step = self.sampler.step(self.step)
        mine = self._workers.share(len(step.descriptions))
        seed = hash((self.config.seed, self.step)) % 2**31
        generator = torch.Generator().manual_seed(seed)
        torch.manual_seed(seed)  # for a network with dropout
        size = self.network.config.embedding_size
        batch = collate(step.descriptions, step.examples, embedding_size=size)
        task = perturbed(batch, self._noise, generator=generator).part(mine).to(self.base.device)
        code = self.network.encode(task)
        noise = torch.randn(len(step.descriptions), code.shape[1], generator=generator)
        code = code + _CODE_NOISE * self.config.noise * noise[mine].to(code)
        loras = self.network.decode(code, task=task, keep=step.keep[mine].to(code))
        sequences = step.sequences[self._workers.share(len(step.sequences))]
        length = step.length if self.config.compiled else None
        loss = self._losses(loras, sequences, length=length).mean()
        total = loss
        if self._extension and self._extension.keeper:
            total = loss + self._extension.keeper.penalty(self.network, step=self.step)
        self._optimizer.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        parameters = [p for p in self.network.parameters() if p.grad is not None]
        gradients = [p.grad for p in parameters if p.grad is not None]
        mean, self.elapsed_seconds = self._workers.average(
            gradients, float(loss.detach()), elapsed_seconds
        )
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.config.gradient_norm, foreach=True)
        if not math.isfinite(mean) or not torch.isfinite(norm):
            raise TrainingError(
                f"the loss is {mean}, its gradient {float(norm)}, at step {self.step}",
                hint="lower --learning-rate; the last saved state is kept",
            )
        self._optimizer.step()
        self.step += 1
        self._update_average()
        return mean

    def _groups(self) -> list[dict[str, Any]]:
        """Returns the parameters in two groups, each with its peak learning rate."""
        named = list(self.network.named_parameters())
        factors = [p for name, p in named if self.network.is_factor(name)]
        network = [p for name, p in named if not self.network.is_factor(name)]
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
        torch._foreach_lerp_(
            list(self._average.parameters()), list(self.network.parameters()), 1 - decay
        )

    # -- validation ---------------------------------------------------------------

    def validate(self, *, sequences: int = 4) -> dict[str, float]:
        """Returns mean validation losses of the averaged weights; see `validation_losses`."""
        tokens = self._losses.tokens
        losses = validation_losses(
            self._average, self._validation, losses=self._losses, sequences=sequences
        )
        self._losses.tokens = tokens
        return losses

    def _evaluate(self, loss: float, speed: float) -> None:
        if not self._workers.is_first:
            return
        row = {"step": float(self.step), "minutes": self.elapsed_seconds / 60, "train": loss}
        row |= {"tokens_per_second": speed}
        if self._validation:
            row |= self.validate()
            if row["matched"] <= min((r["matched"] for r in self._log), default=math.inf):
                self._best = copy.deepcopy(self._average.state_dict())
        if self._extension and self._extension.keeper:
            row["changed"] = self._extension.keeper.changed(self._average)
        self._log.append(row)
        write_log(self.out.with_suffix(".csv"), self._log)

    def _best_row(self) -> dict[str, float]:
        rows = [row for row in self._log if "matched" in row]
        return min(rows, key=lambda row: row["matched"]) if rows else {}

    # -- state --------------------------------------------------------------------

    def _save_state(self) -> None:
        if not self._workers.is_first:
            return
        save_state(
            self._state_file,
            RunState(
                network=self.network.state_dict(),
                average=self._average.state_dict(),
                best=self._best,
                optimizer=self._optimizer.state_dict(),
                step=self.step,
                elapsed_seconds=self.elapsed_seconds,
                tokens=self._losses.tokens,
                log=self._log,
                settings=self._settings(),
            ),
        )

    def _resume(self) -> None:
        state = load_state(self._state_file, settings=self._settings())
        if state is None:
            return
        self.network.load_state_dict(state.network)
        self._average.load_state_dict(state.average)
        self._optimizer.load_state_dict(state.optimizer)
        self._best, self._log = state.best, state.log
        self.step, self._losses.tokens = state.step, state.tokens
        self.elapsed_seconds = state.elapsed_seconds

    def _settings(self) -> dict[str, Any]:
        """Returns what must be equal for a run to be gone on with; its length may differ."""
        ignored = ("steps", "minutes", "compiled", "evaluate_every", "save_every_seconds")
        recipe = {k: v for k, v in asdict(self.config).items() if k not in ignored}
        return {
            "shape": self.shape.as_dict(),
            "recipe": recipe,
            "tasks": len(self._train),
            "data": data_digest(self._train, self._validation, self._replayed),
            "corpus": self._corpus,
            **self._extended(),
        }

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

"""A few gradient steps from an adapter, on a task's own examples, the base model frozen."""

from __future__ import annotations

import hashlib
import io
import math
import pickle
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hyperplug.adapters.peft_format import pack, unpack
from hyperplug.basemodel import BaseModel
from hyperplug.entities import AdapterWeights, Example, ModuleShape
from hyperplug.errors import ConfigError, TrainingError
from hyperplug.hypernet.checkpoint import write_atomically
from hyperplug.hypernet.data import CorpusTask, TokenSequence, tokenise
from hyperplug.hypernet.frozen import FrozenBase
from hyperplug.hypernet.generate import CodeDecoder
from hyperplug.hypernet.loading import load_frozen, load_tokenizer, pick_device, pick_dtype
from hyperplug.hypernet.losses import AnswerLoss
from hyperplug.hypernet.model import LoraBatch
from hyperplug.hypernet.states import LowerStates

MIN_EXAMPLES = 4
_MAX_TOKENS = 1_024
_HELD_BACK_SHARE = 0.25
_MAX_HELD_BACK = 32
_ROWS = 8
_LOOKS = 10
_WARMUP_STEPS = 3
_STATES_BYTES = 2**30
_SAVE_SECONDS = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RefineRecipe:
    """How an adapter is refined.

    Attributes:
        steps: at most so many.
        seconds: at most so long; None for no limit.
        learning_rate: of Adam; it falls to zero over the steps.
        seed: which examples are held back, and their order.
        patience: looks at the held-back examples without progress, after which the run ends.
    """

    steps: int = 40
    seconds: float | None = None
    learning_rate: float = 5e-4
    seed: int = 0
    patience: int = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class RefineProgress:
    """Where a run stands.

    Attributes:
        held_back_loss: the lowest so far.
        weights: returns the adapter as it stands.
    """

    step: int
    steps: int
    loss: float
    held_back_loss: float
    weights: Callable[[], AdapterWeights]


@dataclass(frozen=True, slots=True, kw_only=True)
class Refined:
    """What came of it: answer losses in nats a token, on held-back examples.

    Attributes:
        weights: those of the best step; None if no step was better than the start.
        base: loss of the base model alone; `before`, of the start; `after`, of the best step.
        held_back: how many examples that is.
        state: the file that the run kept; whoever has stored the result deletes it.
    """

    weights: AdapterWeights | None
    base: float
    before: float
    after: float
    best_step: int
    steps: int
    trained_on: int
    held_back: int
    seconds: float
    state: Path | None = None


def load_refiner(
    base: BaseModel,
    modules: Sequence[str],
    *,
    states: Path | None = None,
    device: str = "auto",
    dtype: str = "auto",
) -> Refiner:
    """Returns a refiner for adapters of these modules, the base model loaded.

    Raises:
        BaseModelError: if it cannot be loaded.
    """
    chosen = pick_device(device)
    frozen = load_frozen(base, modules, device=chosen, dtype=pick_dtype(dtype, chosen))
    shapes = {module: base.spec.module_shapes[module] for module in modules}
    return Refiner(frozen, load_tokenizer(base), shapes, states=states)


class Refiner:
    """The frozen base model with LoRA on the modules of the adapters to be refined."""

    def __init__(
        self,
        frozen: FrozenBase,
        tokenizer: Any,
        modules: Mapping[str, ModuleShape],
        *,
        states: Path | None = None,
    ) -> None:
        """Takes the base model.

        Args:
            modules: what `frozen` adapts, in its order.
            states: folder where a run keeps its state, so that the same call goes on with it
                after an interruption; None keeps nothing.
        """
        self._frozen = frozen
        self._tokenizer = tokenizer
        self._modules = dict(modules)
        self._states = states

    def refine(
        self,
        start: AdapterWeights,
        examples: Sequence[Example],
        *,
        recipe: RefineRecipe,
        on_step: Callable[[RefineProgress], None] = lambda _: None,
    ) -> Refined:
        """Returns what training all factors from an adapter brings.

        Raises:
            ConfigError: for too few usable examples.
            TrainingError: if a loss is no number.
        """
        return self.refine_loras(self._unpacked(start), examples, recipe=recipe, on_step=on_step)

    def refine_loras(
        self,
        start: Sequence[LoraBatch],
        examples: Sequence[Example],
        *,
        recipe: RefineRecipe,
        on_step: Callable[[RefineProgress], None] = lambda _: None,
    ) -> Refined:
        """Likewise from an adapter as tensors of a batch of one, one a module."""
        device = self._frozen.device
        factors = [
            LoraBatch(
                a=lora.a.detach().clone().to(device).requires_grad_(),
                b=lora.b.detach().clone().to(device).requires_grad_(),
            )
            for lora in start
        ]
        parameters = [*(lora.a for lora in factors), *(lora.b for lora in factors)]
        return self._train(parameters, lambda: factors, examples, recipe=recipe, on_step=on_step)

    def train(
        self,
        rank: int,
        examples: Sequence[Example],
        *,
        recipe: RefineRecipe,
        on_step: Callable[[RefineProgress], None] = lambda _: None,
    ) -> Refined:
        """Returns an ordinary LoRA of that rank, trained from scratch. Raises as `refine`."""
        generator = torch.Generator().manual_seed(recipe.seed)
        start = [
            LoraBatch(
                a=torch.randn(1, rank, shape.in_features, generator=generator)
                / math.sqrt(shape.in_features),
                b=torch.zeros(1, shape.out_features, rank),
            )
            for shape in self._modules.values()
        ]
        return self.refine_loras(start, examples, recipe=recipe, on_step=on_step)

    def refine_code(
        self,
        decoder: CodeDecoder,
        examples: Sequence[Example],
        *,
        recipe: RefineRecipe,
        on_step: Callable[[RefineProgress], None] = lambda _: None,
    ) -> Refined:
        """Returns what training the task code alone brings: some hundred numbers.

        Raises as `refine`.
        """
        code = decoder.code.clone().requires_grad_()

        def loras() -> list[LoraBatch]:
            device = self._frozen.device
            return [LoraBatch(a=x.a.to(device), b=x.b.to(device)) for x in decoder.decode(code)]

        return self._train([code], loras, examples, recipe=recipe, on_step=on_step)

    def loss(
        self, weights: AdapterWeights, examples: Sequence[Example], *, recipe: RefineRecipe
    ) -> float:
        """Returns an adapter's loss on the examples that `recipe` holds back.

        Raises:
            ConfigError: for too few usable examples.
        """
        _, held_back = split(self.sequences(examples), seed=recipe.seed)
        loras = self._unpacked(weights)
        return _mean(AnswerLoss(self._frozen, states=None), loras, held_back)

    def _train(
        self,
        parameters: list[Tensor],
        loras: Callable[[], list[LoraBatch]],
        examples: Sequence[Example],
        *,
        recipe: RefineRecipe,
        on_step: Callable[[RefineProgress], None],
    ) -> Refined:
        train, held_back = split(self.sequences(examples), seed=recipe.seed)
        losses = AnswerLoss(
            self._frozen, states=LowerStates(self._frozen, budget_bytes=_STATES_BYTES)
        )
        file = self._state_file(parameters, train, recipe)
        run = _Run(parameters, recipe, file=file)
        if run.step == 0:
            run.base = _mean(losses, None, held_back)
            run.before = run.best = _mean(losses, loras(), held_back)
        draws = _draws(train, seed=recipe.seed)
        for _ in range(run.step):  # those of before the interruption
            next(draws)
        every = max(1, recipe.steps // _LOOKS)
        while run.goes_on():
            loss = losses(loras(), next(draws)).mean()
            run.update(loss)
            if run.step % every == 0 or run.step == recipe.steps:
                run.look(_mean(losses, loras(), held_back))
            on_step(
                RefineProgress(
                    step=run.step,
                    steps=recipe.steps,
                    loss=float(loss.detach()),
                    held_back_loss=run.best,
                    weights=lambda: self._packed(loras()),
                )
            )
        run.restore_best()
        with torch.no_grad():
            weights = self._packed(loras()) if run.best_step else None
        return Refined(
            weights=weights,
            base=run.base,
            before=run.before,
            after=run.best,
            best_step=run.best_step,
            steps=run.step,
            trained_on=len(train),
            held_back=len(held_back),
            seconds=run.seconds,
            state=file,
        )

    def _state_file(
        self, start: Sequence[Tensor], train: Sequence[TokenSequence], recipe: RefineRecipe
    ) -> Path | None:
        """Returns a file whose name stands for all that decides how the run goes."""
        if self._states is None:
            return None
        digest = hashlib.sha256(repr((recipe, tuple(self._modules), train)).encode())
        for parameter in start:
            digest.update(parameter.detach().float().cpu().numpy().tobytes())
        return self._states / f"{digest.hexdigest()[:32]}.pt"

    def _unpacked(self, weights: AdapterWeights) -> list[LoraBatch]:
        factors = unpack(weights.data)
        scale = weights.alpha / weights.rank
        device = self._frozen.device
        return [
            LoraBatch(
                a=torch.tensor(factors[path][0], device=device)[None],
                b=torch.tensor(factors[path][1] * scale, device=device)[None],
            )
            for path in self._modules
        ]

    def _packed(self, loras: Sequence[LoraBatch]) -> AdapterWeights:
        pairs = {
            module: (
                lora.a[0].detach().float().cpu().numpy(),
                lora.b[0].detach().float().cpu().numpy(),
            )
            for module, lora in zip(self._modules, loras, strict=True)
        }
        return pack(pairs, alpha=float(loras[0].a.shape[1]))

    def sequences(self, examples: Sequence[Example]) -> list[TokenSequence]:
        """Returns the examples that are short enough to be trained on, as tokens."""
        task = CorpusTask(
            id="task",
            family="task",
            descriptions=("",),
            metric="exact_match",
            examples=tuple(examples),
        )
        return tokenise(
            self._tokenizer, task, max_tokens=_MAX_TOKENS, max_answer_tokens=_MAX_TOKENS
        )


def split(
    sequences: Sequence[TokenSequence], *, seed: int
) -> tuple[list[TokenSequence], list[TokenSequence]]:
    """Returns the sequences to train on, and those that are held back.

    Raises:
        ConfigError: for too few.
    """
    if len(sequences) < MIN_EXAMPLES:
        raise ConfigError(
            f"{len(sequences)} usable examples, {MIN_EXAMPLES} are needed",
            hint="give more examples, or shorter ones",
        )
    shuffled = random.Random(seed).sample(list(sequences), len(sequences))
    count = min(_MAX_HELD_BACK, max(1, round(_HELD_BACK_SHARE * len(shuffled))))
    return shuffled[count:], shuffled[:count]


class _Run:
    """Parameters under training, and the best values that they had."""

    def __init__(
        self, parameters: list[Tensor], recipe: RefineRecipe, *, file: Path | None
    ) -> None:
        self._parameters = parameters
        self._recipe = recipe
        self._file = file
        self._optimizer = torch.optim.Adam(parameters, lr=recipe.learning_rate, betas=(0.9, 0.95))
        self._kept = [parameter.detach().clone() for parameter in parameters]
        self._earlier = 0.0
        self._idle = 0
        self.step = 0
        self.base = self.before = self.best = math.nan
        self.best_step = 0
        self._load()
        self._started = self._saved = time.monotonic()

    @property
    def seconds(self) -> float:
        """Time spent, with that of before an interruption."""
        return self._earlier + time.monotonic() - self._started

    def goes_on(self) -> bool:
        """Returns whether another step is due."""
        late = self._recipe.seconds is not None and self.seconds > self._recipe.seconds
        return self.step < self._recipe.steps and self._idle < self._recipe.patience and not late

    def update(self, loss: Tensor) -> None:
        """Takes a step down the loss."""
        for group in self._optimizer.param_groups:
            group["lr"] = self._recipe.learning_rate * _schedule(self.step, self._recipe.steps)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._parameters, 1.0)
        self._optimizer.step()
        self.step += 1
        if time.monotonic() - self._saved > _SAVE_SECONDS:
            self.save()

    def look(self, loss: float) -> None:
        """Takes note of the loss on what is held back.

        Raises:
            TrainingError: if it is no number.
        """
        if not math.isfinite(loss):
            raise TrainingError(
                f"the loss is no number at step {self.step}", hint="lower the learning rate"
            )
        self._idle += 1
        if loss < self.best:
            self.best, self.best_step, self._idle = loss, self.step, 0
            self._kept = [parameter.detach().clone() for parameter in self._parameters]

    def restore_best(self) -> None:
        """Puts the best values back."""
        with torch.no_grad():
            for parameter, value in zip(self._parameters, self._kept, strict=True):
                parameter.copy_(value)

    def save(self) -> None:
        """Writes the state, by rename."""
        self._saved = time.monotonic()
        if self._file is None:
            return
        buffer = io.BytesIO()
        torch.save(self._state(), buffer)
        write_atomically(self._file, buffer.getvalue())

    def _state(self) -> dict[str, Any]:
        return {
            "parameters": [parameter.detach() for parameter in self._parameters],
            "kept": self._kept,
            "optimizer": self._optimizer.state_dict(),
            "counts": (self.step, self.best_step, self._idle),
            "losses": (self.base, self.before, self.best),
            "seconds": self.seconds,
        }

    def _load(self) -> None:
        if self._file is None or not self._file.is_file():
            return
        try:
            state = torch.load(self._file, weights_only=True)
        except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError):
            return  # from the start, then
        with torch.no_grad():
            for parameter, value in zip(self._parameters, state["parameters"], strict=True):
                parameter.copy_(value)
        self._kept = state["kept"]
        self._optimizer.load_state_dict(state["optimizer"])
        self.step, self.best_step, self._idle = state["counts"]
        self.base, self.before, self.best = state["losses"]
        self._earlier = state["seconds"]


@torch.no_grad()
def _mean(
    losses: AnswerLoss, loras: list[LoraBatch] | None, sequences: Sequence[TokenSequence]
) -> float:
    total = sum(
        float(losses(loras, sequences[start : start + _ROWS]).sum())
        for start in range(0, len(sequences), _ROWS)
    )
    return total / len(sequences)


def _draws(sequences: Sequence[TokenSequence], *, seed: int) -> Iterator[list[TokenSequence]]:
    """Yields batches for ever, in a new order each round."""
    chosen = random.Random(f"{seed}/draws")
    while True:
        order = chosen.sample(list(sequences), len(sequences))
        for start in range(0, len(order), _ROWS):
            yield order[start : start + _ROWS]


def _schedule(step: int, steps: int) -> float:
    """Returns the learning rate's factor: a short rise, then a cosine to zero."""
    return min(1.0, (step + 1) / _WARMUP_STEPS) * 0.5 * (1 + math.cos(math.pi * step / steps))

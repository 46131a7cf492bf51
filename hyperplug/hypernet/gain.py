"""Whether a generated adapter helps: answer loss on a task's own examples, with and without."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from hyperplug.basemodel import BaseModel
from hyperplug.entities import Example
from hyperplug.hypernet.data import CorpusTask, TokenSequence, tokenise
from hyperplug.hypernet.encoding import MAX_EXAMPLES
from hyperplug.hypernet.generate import Generator
from hyperplug.hypernet.loading import load_frozen, load_tokenizer, pick_device, pick_dtype
from hyperplug.hypernet.losses import AnswerLoss
from hyperplug.hypernet.model import LoraBatch
from hyperplug.hypernet.states import LowerStates
from hyperplug.policy import CHECKED_EXAMPLES, GAIN, LOSS_ADAPTER, LOSS_BASE

_MAX_CHECKED = 16
_MIN_HELD_BACK = 4
_MAX_TOKENS = 1_024
_MAX_TASK_TOKENS = 2_048
_ROWS_AT_ONCE = 8
_STATES_BYTES = 2**28


@dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """Mean answer losses in nats a token, over so many examples."""

    base: float
    adapter: float
    examples: int

    @property
    def metrics(self) -> dict[str, float]:
        """The figures by the names under which an adapter keeps them."""
        return {
            GAIN: self.base - self.adapter,
            LOSS_BASE: self.base,
            LOSS_ADAPTER: self.adapter,
            CHECKED_EXAMPLES: float(self.examples),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """Examples that the hypernetwork reads, and others to check its adapter on."""

    shown: tuple[Example, ...]
    checked: tuple[Example, ...]


class GainCheck:
    """Checks generated adapters against the base model alone. Safe for threads.

    The base model is loaded once, for all tasks.
    """

    def __init__(self, base: BaseModel, *, generator: Generator, device: str = "auto") -> None:
        """Loads the base model.

        Raises:
            BaseModelError: if it cannot be loaded.
        """
        chosen = pick_device(device)
        self._generator = generator
        self._tokenizer = load_tokenizer(base)
        self._frozen = load_frozen(
            base,
            generator.spec.target_modules,
            device=chosen,
            dtype=pick_dtype("auto", chosen),
        )
        self._lock = threading.Lock()  # the hooks hold one adapter at a time

    def measure(self, description: str, examples: Sequence[Example]) -> Gain | None:
        """Returns what the generated adapter gains on examples that it was not made from.

        The input is given alone, as it is served. None if every example is too long.
        """
        states = LowerStates(self._frozen, budget_bytes=_STATES_BYTES)
        losses = AnswerLoss(
            self._frozen, states=states if self._frozen.device.type == "cpu" else None
        )
        base, adapter = 0.0, 0.0
        count = 0
        for trial in trials(examples):
            sequences = self._sequences(description, trial.checked)
            if not sequences:
                continue
            loras = self._generator.loras(description, trial.shown)
            placed = [
                LoraBatch(a=x.a.to(self._frozen.device), b=x.b.to(self._frozen.device))
                for x in loras
            ]
            with self._lock:
                base += _total(losses, None, sequences)
                adapter += _total(losses, placed, sequences)
            count += len(sequences)
        return Gain(base=base / count, adapter=adapter / count, examples=count) if count else None

    def _sequences(self, description: str, examples: tuple[Example, ...]) -> list[TokenSequence]:
        """Returns the examples short enough for a check that takes seconds, shortest first."""
        task = CorpusTask(
            id="task",
            family="task",
            descriptions=(description,),
            metric="exact_match",
            examples=examples,
        )
        found = tokenise(
            self._tokenizer, task, max_tokens=_MAX_TOKENS, max_answer_tokens=_MAX_TOKENS
        )
        return list(_within(sorted(found, key=len), _MAX_TASK_TOKENS))


def trials(examples: Sequence[Example]) -> list[Trial]:
    """Returns how to check a task: never on an example that the hypernetwork reads.

    With enough examples beyond those it reads, the stored adapter itself is checked on
    them. With fewer, two adapters made of one half are each checked on the other: every
    second example, since files are often sorted by answer. A single example is checked
    with the adapter of the description alone.
    """
    read, rest = tuple(examples[:MAX_EXAMPLES]), tuple(examples[MAX_EXAMPLES:])
    if len(rest) >= _MIN_HELD_BACK:
        every = -(-len(rest) // _MAX_CHECKED)
        return [Trial(shown=read, checked=rest[::every])]
    if len(read) < 2:
        return [Trial(shown=(), checked=read)] if read else []
    first, second = read[::2], read[1::2]
    return [Trial(shown=first, checked=second), Trial(shown=second, checked=first)]


@torch.no_grad()
def _total(
    losses: AnswerLoss, loras: list[LoraBatch] | None, sequences: Sequence[TokenSequence]
) -> float:
    """Returns the sum of the sequences' losses with an adapter, or without."""
    return sum(
        float(losses(loras, sequences[start : start + _ROWS_AT_ONCE]).sum())
        for start in range(0, len(sequences), _ROWS_AT_ONCE)
    )


def _within(sequences: Sequence[TokenSequence], budget: int) -> Iterator[TokenSequence]:
    """Yields sequences as long as they fit into the budget of tokens; at least one."""
    for index, sequence in enumerate(sequences):
        budget -= len(sequence)
        if budget < 0 and index:
            return
        yield sequence

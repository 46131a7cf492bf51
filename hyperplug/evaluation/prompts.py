"""What the model is asked: the input, with or without description and worked examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hyperplug.embedding import Embedder
from hyperplug.entities import Example
from hyperplug.evaluation.adapters import Conditions
from hyperplug.evaluation.answers import Answerer
from hyperplug.evaluation.arms import Arm
from hyperplug.evaluation.decoding import Prompt
from hyperplug.hypernet.data import CorpusTask


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Regime:
    """What is in the prompt besides the input; arms of one regime ask the same prompts."""

    described: bool = False
    shots: int = 0
    retrieved: int = 0


def regime(arm: Arm) -> Regime:
    """Returns what an arm puts into the prompt."""
    return Regime(described=arm.described, shots=arm.shots, retrieved=arm.retrieved)


class PromptMaker:
    """Makes the prompts of tasks."""

    def __init__(
        self,
        answerer: Answerer,
        tokenizer: Any,
        *,
        conditions: Conditions,
        embedder: Embedder | None = None,
    ) -> None:
        """Takes what may be shown.

        Args:
            embedder: compares inputs with stored examples, for the arms that retrieve some.
        """
        self._answerer = answerer
        self._tokenizer = tokenizer
        self._conditions = conditions
        self._embedder = embedder

    def prompts(self, task: CorpusTask, *, wanted: Regime) -> list[Prompt]:
        """Returns a prompt for each of the task's examples.

        Worked examples that do not fit into the model's context are left out, the first
        ones first.
        """
        budget = self._answerer.new_tokens(task.examples)
        description = task.descriptions[0] if wanted.described else None
        return [
            self._prompt(example.input, description=description, shots=shots, budget=budget)
            for example, shots in zip(task.examples, self._shots(task, wanted), strict=True)
        ]

    def _shots(self, task: CorpusTask, wanted: Regime) -> list[tuple[Example, ...]]:
        """Returns the worked examples for each of the task's questions, the best last."""
        shown = tuple(self._conditions.shown.get(task.id, ()))[: wanted.shots]
        stored = self._conditions.stored.get(task.id, ())
        if not wanted.retrieved or not stored or self._embedder is None:
            return [shown] * len(task.examples)
        known = self._embedder.embed([example.input for example in stored])
        asked = self._embedder.embed([example.input for example in task.examples])
        nearest = np.argsort(asked @ known.T, axis=1, kind="stable")[:, -wanted.retrieved :]
        return [tuple(stored[column] for column in row) + shown for row in nearest]

    def plain(self, task: CorpusTask, *, max_new_tokens: int) -> list[Prompt]:
        """Returns each of the task's inputs alone, as a prompt."""
        return [
            self._prompt(example.input, description=None, shots=(), budget=max_new_tokens)
            for example in task.examples
        ]

    def _prompt(
        self, text: str, *, description: str | None, shots: Sequence[Example], budget: int
    ) -> Prompt:
        room = self._answerer.room(budget)
        for first in range(len(shots) + 1):
            whole = conversation(
                self._tokenizer, text, description=description, shots=shots[first:]
            )
            if first == len(shots) or self._length(whole) <= room:
                break
        return self._answerer.prompt(whole, max_new_tokens=budget)

    def _length(self, text: str) -> int:
        return len(self._tokenizer(text, add_special_tokens=False)["input_ids"])


def conversation(
    tokenizer: Any, text: str, *, description: str | None, shots: Sequence[Example] = ()
) -> str:
    """Returns the prompt of a chat in which worked examples are earlier turns.

    The description stands before the first input, as training has it.
    """
    inputs = [*(shot.input for shot in shots), text]
    if description is not None:
        inputs[0] = f"{description}\n\n{inputs[0]}"
    outputs = [shot.output.strip() for shot in shots]
    if getattr(tokenizer, "chat_template", None) is None:
        turns = [f"{i}\n{o}\n\n" for i, o in zip(inputs, outputs, strict=False)]
        return "".join(turns) + f"{inputs[-1]}\n"
    messages = [{"role": "user", "content": inputs[0]}]
    for output, following in zip(outputs, inputs[1:], strict=True):
        messages.append({"role": "assistant", "content": output})
        messages.append({"role": "user", "content": following})
    prompt: str = tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True
    )
    return prompt

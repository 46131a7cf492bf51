"""The models of a benchmark at work: a task in, its scores and answers by arm out."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import torch

from hyperplug.adapters.peft_format import unpack
from hyperplug.basemodel import BaseModel
from hyperplug.entities import AdapterWeights
from hyperplug.evaluation.answers import Answerer
from hyperplug.evaluation.arms import Arm
from hyperplug.evaluation.metrics import score
from hyperplug.evaluation.partial import FinishedTask
from hyperplug.evaluation.result import TaskScores
from hyperplug.hypernet.data import CorpusTask, chat_prompt
from hyperplug.hypernet.generate import Generator
from hyperplug.hypernet.loading import load_frozen, load_tokenizer
from hyperplug.hypernet.model import LoraBatch
from hyperplug.hypernet.prepare import choose_modules


class Bench:
    """A frozen base model and, for the arms with an adapter, the hypernetwork."""

    def __init__(
        self,
        base: BaseModel,
        *,
        generator: Generator | None,
        partners: Mapping[str, CorpusTask],
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        """Loads the base model.

        Args:
            generator: None if no arm applies an adapter.
            partners: by task id, whose description the shuffled arm gives it.

        Raises:
            BaseModelError: if it cannot be loaded.
        """
        self._modules = (
            generator.spec.target_modules if generator else choose_modules(base.spec, top_layers=1)
        )
        self._generator = generator
        self._partners = partners
        self._frozen = load_frozen(base, self._modules, device=device, dtype=dtype)
        self._tokenizer = load_tokenizer(base)
        self._answerer = Answerer(self._frozen.model, self._tokenizer)

    def measure(
        self, task: CorpusTask, *, arms: Sequence[Arm], on_arm: Callable[[], None]
    ) -> FinishedTask:
        """Returns the answers and scores of every arm on the task's examples.

        Args:
            on_arm: called after each arm.
        """
        started = time.monotonic()
        answers: dict[Arm, Sequence[str]] = {}
        for arm in arms:
            answers[arm] = self._answers(arm, task)
            on_arm()
        scores = TaskScores(
            id=task.id,
            family=task.family,
            metric=task.metric,
            examples=len(task.examples),
            scores={arm: _mean_score(task, given) for arm, given in answers.items()},
        )
        return FinishedTask(
            scores=scores,
            examples=task.examples,
            answers=answers,
            seconds=time.monotonic() - started,
        )

    def _answers(self, arm: Arm, task: CorpusTask) -> list[str]:
        description = task.descriptions[0] if arm is Arm.PROMPT else None
        prompts = [
            chat_prompt(self._tokenizer, example.input, description=description)
            for example in task.examples
        ]
        adapter = self._adapter(arm, task)
        applied = self._frozen.adapted(adapter) if adapter else contextlib.nullcontext()
        with applied:
            return self._answerer.answer(
                prompts, max_new_tokens=self._answerer.new_tokens(task.examples)
            )

    def _adapter(self, arm: Arm, task: CorpusTask) -> list[LoraBatch] | None:
        """Returns the arm's adapter as it would be served: rounded by its file format."""
        if not arm.needs_hypernet or self._generator is None:
            return None
        if arm is Arm.STATIC:
            return self._loras(self._generator.static())
        source = self._partners[task.id] if arm is Arm.SHUFFLED else task
        return self._loras(self._generator.generate(source.descriptions[0]))

    def _loras(self, weights: AdapterWeights) -> list[LoraBatch]:
        """Returns the factors of each module as a batch of one, alpha / rank folded in."""
        pairs = unpack(weights.data)
        multiplier = weights.alpha / weights.rank
        return [
            LoraBatch(
                a=torch.from_numpy(pairs[path][0])[None].to(self._frozen.device),
                b=torch.from_numpy(pairs[path][1] * multiplier)[None].to(self._frozen.device),
            )
            for path in self._modules
        ]


def _mean_score(task: CorpusTask, answers: Sequence[str]) -> float:
    return statistics.fmean(
        score(task.metric, answer=answer, expected=example.output)
        for answer, example in zip(answers, task.examples, strict=True)
    )

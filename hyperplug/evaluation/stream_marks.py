"""Marks of a learner on the tasks of a stream: the loss of the expected answers, and the score
of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from hyperplug.evaluation import unrelated
from hyperplug.evaluation.answers import Answerer
from hyperplug.evaluation.decoding import Reading
from hyperplug.evaluation.metrics import score
from hyperplug.evaluation.stream_learners import Learner
from hyperplug.evaluation.stream_tasks import StreamTask
from hyperplug.hypernet.data import CorpusTask, chat_prompt
from hyperplug.hypernet.frozen import FrozenBase
from hyperplug.hypernet.losses import AnswerLoss
from hyperplug.hypernet.model import LoraBatch


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """How a task is done: mean loss of the expected answers' tokens, mean score, 0 to 100."""

    loss: float
    score: float


class Examiner:
    """Asks tasks of a base model under the adapters of a learner.

    Args:
        changing: whether the base model's own weights change, so that nothing that was read
            with them can be kept.
    """

    def __init__(
        self, base: FrozenBase, tokenizer: Any, *, losses: AnswerLoss, changing: bool = False
    ) -> None:
        self._device = base.device
        self._tokenizer = tokenizer
        self._answerer = Answerer(base, tokenizer)
        self._losses = losses
        self._changing = changing
        self._readings: dict[tuple[str, bool], Reading] = {}

    @torch.no_grad()
    def mark(self, learner: Learner, task: StreamTask) -> Mark:
        """Returns how a learner does a task."""
        loras = self._here(learner.loras(task))
        questions = task.told_questions if learner.told else task.questions
        losses = self._losses(loras, questions)  # (questions,)
        answers = self._answerer.answer(self._reading(task, told=learner.told), loras)
        return Mark(loss=float(losses.mean()), score=_mean_score(task.asked, answers))

    @torch.no_grad()
    def own(self, learner: Learner) -> float:
        """Returns the score on simple questions that are no task's, 0 to 100."""
        asked = unrelated.asked_bare()
        budget = unrelated.MAX_NEW_TOKENS
        texts = [chat_prompt(self._tokenizer, example.input) for example in asked.examples]
        prompts = [self._answerer.prompt(text, max_new_tokens=budget) for text in texts]
        answers = self._answerer.answer(
            self._answerer.read(prompts), self._here(learner.standing())
        )
        return _mean_score(asked, answers)

    def _here(self, loras: list[LoraBatch] | None) -> list[LoraBatch] | None:
        if loras is None:
            return None
        return [LoraBatch(a=x.a.to(self._device), b=x.b.to(self._device)) for x in loras]

    def _reading(self, task: StreamTask, *, told: bool) -> Reading:
        key = (task.id, told)
        if key not in self._readings:
            description = task.wording if told else None
            budget = self._answerer.new_tokens(task.asked.examples)
            texts = [
                chat_prompt(self._tokenizer, example.input, description=description)
                for example in task.asked.examples
            ]
            prompts = [self._answerer.prompt(text, max_new_tokens=budget) for text in texts]
            reading = self._answerer.read(prompts)
            if self._changing:
                return reading
            self._readings[key] = reading
        return self._readings[key]


def _mean_score(task: CorpusTask, answers: Sequence[str]) -> float:
    pairs = zip(answers, task.examples, strict=True)
    scores = [score(task.metric, answer=answer, expected=e.output) for answer, e in pairs]
    return sum(scores) / len(scores)

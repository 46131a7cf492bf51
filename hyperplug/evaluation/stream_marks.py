"""Marks of a learner on the tasks of a stream: the loss of the expected answers, and the score
of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from hyperplug.evaluation.answers import Answerer
from hyperplug.evaluation.decoding import Reading
from hyperplug.evaluation.metrics import score
from hyperplug.evaluation.stream_learners import Learner
from hyperplug.evaluation.stream_tasks import StreamTask
from hyperplug.hypernet.data import chat_prompt
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
        loras = learner.loras(task)
        if loras is not None:
            loras = [LoraBatch(a=x.a.to(self._device), b=x.b.to(self._device)) for x in loras]
        questions = task.told_questions if learner.told else task.questions
        losses = self._losses(loras, questions)  # (questions,)
        answers = self._answerer.answer(self._reading(task, told=learner.told), loras)
        scores = [
            score(task.asked.metric, answer=answer, expected=example.output)
            for answer, example in zip(answers, task.asked.examples, strict=True)
        ]
        return Mark(loss=float(losses.mean()), score=sum(scores) / len(scores))

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

"""The tasks of a stream: what a learner may see of each, and what it is asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hyperplug.embedding import Embedder
from hyperplug.errors import TrainingError
from hyperplug.evaluation.lora_tasks import LoraTask, trainable_examples
from hyperplug.evaluation.selection import select_examples, select_tasks
from hyperplug.hypernet.batches import PreparedTask
from hyperplug.hypernet.data import CorpusTask, TokenSequence, read_corpus, tokenise
from hyperplug.hypernet.encoding import EncodedDescription, encode_descriptions
from hyperplug.hypernet.prepare import Preparation, example_index, prepare_tasks
from hyperplug.hypernet.words import Vocabulary

_MAX_ANSWER_TOKENS = 24
_MAX_DESCRIPTION_TOKENS = 192
_HELD_BACK = 4
_MIN_TRAINED = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamTask:
    """A task of a stream.

    Attributes:
        asked: the task with the examples that it is measured on.
        description: encoding of the wording that it is asked for by: another than those it
            is trained by, if it has several.
        sentence: sentence vector of that wording, (embedding,).
        prepared: its training examples and wordings, for a hypernetwork.
        lora: its training examples for a LoRA of its own; `embedding` is that of a wording
            that it is trained by.
        told: likewise with the description in the prompt, for a model that does all tasks.
        questions: what is asked, with the expected answers ...
        told_questions: ... and with the description in the prompt.
    """

    asked: CorpusTask
    description: EncodedDescription
    prepared: PreparedTask
    lora: LoraTask
    told: LoraTask
    questions: tuple[TokenSequence, ...]
    told_questions: tuple[TokenSequence, ...]

    @property
    def id(self) -> str:
        """The task's id."""
        return self.asked.id

    @property
    def wording(self) -> str:
        """The wording that it is asked for by."""
        return self.asked.descriptions[0]

    @property
    def sentence(self) -> NDArray[np.float32]:
        """Sentence vector of that wording, (embedding,)."""
        return self.description.pooled


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamLimits:
    """Which tasks a stream takes, and how much of each.

    Attributes:
        tasks: how many, one of each family before a second of any.
        trained: how many examples of each are trained on; `asked`, how many are asked.
        max_tokens: longer examples are left out.
    """

    tasks: int
    trained: int
    asked: int
    max_tokens: int
    seed: int


class StreamReader:
    """Makes stream tasks for a base model and a text encoder."""

    def __init__(
        self, tokenizer: Any, *, embedder: Embedder, vocabulary: Vocabulary | None
    ) -> None:
        self._tokenizer = tokenizer
        self._embedder = embedder
        self._vocabulary = vocabulary

    def read(self, path: Path, limits: StreamLimits) -> tuple[StreamTask, ...]:
        """Returns the classification tasks that a file gives.

        Raises:
            InvalidTaskFileError: if it holds no usable task.
            TrainingError: if it holds fewer with enough short examples.
        """
        found: list[StreamTask] = []
        choices = [task for task in read_corpus(path).tasks if task.labels]
        for task in select_tasks(choices, limit=None, seed=limits.seed):
            short = self._short(task, limits.max_tokens)
            if len(short.examples) >= limits.asked + _HELD_BACK + _MIN_TRAINED:
                found.append(self._task(short, limits))
            if len(found) == limits.tasks:
                return tuple(found)
        raise TrainingError(
            f"{path} has {len(found)} classification tasks with enough short examples, "
            f"not {limits.tasks}",
            hint="ask for fewer, or for longer examples",
        )

    def descriptions(self, path: Path, *, limit: int, seed: int) -> list[EncodedDescription]:
        """Returns the first wordings of some of a file's tasks, encoded."""
        tasks = select_tasks(read_corpus(path).tasks, limit=limit, seed=seed)
        return self._encoded([task.descriptions[0] for task in tasks])

    def _short(self, task: CorpusTask, max_tokens: int) -> CorpusTask:
        kept = [example_index(sequence) for sequence in self._tokenised(task, max_tokens)]
        return replace(task, examples=tuple(task.examples[index] for index in kept))

    def _task(self, task: CorpusTask, limits: StreamLimits) -> StreamTask:
        asked = select_examples(task, limit=limits.asked, seed=limits.seed)
        rest = trainable_examples(task, hold_out=limits.asked, seed=limits.seed)
        wordings = task.descriptions
        # The second wording: the first ones name the labels, later ones may not.
        question = wordings[1] if len(wordings) > 1 else wordings[0]
        trained = replace(
            rest,
            examples=rest.examples[: limits.trained],
            descriptions=tuple(w for w in wordings if w != question) or wordings,
        )
        asked = replace(asked, descriptions=(question,))
        (prepared,) = prepare_tasks(
            [trained],
            tokenizer=self._tokenizer,
            embedder=self._embedder,
            vocabulary=self._vocabulary,
            limits=Preparation(
                max_tokens=limits.max_tokens,
                max_answer_tokens=_MAX_ANSWER_TOKENS,
                examples_per_task=limits.trained,
                in_prompt=0.0,
                seed=limits.seed,
                conditioning=0,
                fewest=1,
            ),
        )
        longest = limits.max_tokens + _MAX_DESCRIPTION_TOKENS
        told = self._tokenised(trained, longest, description=trained.descriptions[0])
        return StreamTask(
            asked=asked,
            description=self._encoded([question])[0],
            prepared=prepared,
            lora=_lora_task(prepared, prepared.sequences),
            told=_lora_task(prepared, told),
            questions=tuple(self._tokenised(asked, limits.max_tokens)),
            told_questions=tuple(self._tokenised(asked, longest, description=question)),
        )

    def _tokenised(
        self, task: CorpusTask, max_tokens: int, *, description: str | None = None
    ) -> list[TokenSequence]:
        return tokenise(
            self._tokenizer,
            task,
            max_tokens=max_tokens,
            max_answer_tokens=_MAX_ANSWER_TOKENS,
            description=description,
        )

    def _encoded(self, texts: Sequence[str]) -> list[EncodedDescription]:
        return encode_descriptions(self._embedder, texts, vocabulary=self._vocabulary)


def joined_task(tasks: Sequence[LoraTask]) -> LoraTask:
    """Returns the examples of some tasks as those of one, for a LoRA that does them all."""
    return LoraTask(
        id="+".join(task.id for task in tasks),
        family="",
        embedding=tasks[0].embedding,
        train=tuple(sequence for task in tasks for sequence in task.train),
        held_back=tuple(sequence for task in tasks for sequence in task.held_back),
    )


def _lora_task(task: PreparedTask, sequences: Sequence[TokenSequence]) -> LoraTask:
    return LoraTask(
        id=task.id,
        family=task.family,
        embedding=task.descriptions[0].pooled,
        train=tuple(sequences[_HELD_BACK:]),
        held_back=tuple(sequences[:_HELD_BACK]),
    )

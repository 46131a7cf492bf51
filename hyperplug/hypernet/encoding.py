"""What the hypernetwork reads: frozen-encoder states of descriptions and examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from hyperplug.embedding import Embedder
from hyperplug.entities import Example
from hyperplug.hypernet.model import TaskInput
from hyperplug.hypernet.words import OF_EXAMPLES, EncodedWords, Vocabulary, no_words

MAX_TOKENS = 128
MAX_EXAMPLES = 16
_MAX_EXAMPLE_CHARACTERS = 1_000
_MAX_OUTPUT_CHARACTERS = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedDescription:
    """Encoder output of one description: pooled (embedding,), tokens (L, embedding); its
    words as the base model spells them, if that is wanted."""

    pooled: NDArray[np.float32]
    tokens: NDArray[np.float16]
    words: EncodedWords = field(default_factory=no_words)


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedExamples:
    """Encoder output of k examples.

    Attributes:
        pairs: embeddings of input and output side by side, (k, 2 * embedding).
        words: of each output, its first words; all at place 0.
    """

    pairs: NDArray[np.float32]
    words: tuple[EncodedWords, ...]

    def __len__(self) -> int:
        return len(self.pairs)

    def take(self, indices: Sequence[int]) -> EncodedExamples:
        """Returns the examples of these indices."""
        return EncodedExamples(
            pairs=self.pairs[list(indices)], words=tuple(self.words[index] for index in indices)
        )

    @classmethod
    def none(cls, embedding_size: int) -> EncodedExamples:
        """Returns no examples."""
        return cls(pairs=np.zeros((0, 2 * embedding_size), dtype=np.float32), words=())


def encode_descriptions(
    embedder: Embedder, texts: Sequence[str], *, vocabulary: Vocabulary | None = None
) -> list[EncodedDescription]:
    """Returns the encoder output of each description, at most 128 tokens of it."""
    encodings = embedder.encode(texts)
    offsets = [None if e.offsets is None else e.offsets[:MAX_TOKENS] for e in encodings]
    words = [no_words()] * len(texts) if vocabulary is None else vocabulary.encode(texts, offsets)
    return [
        EncodedDescription(
            pooled=encoding.vector,
            tokens=encoding.tokens[:MAX_TOKENS].astype(np.float16),
            words=spelled,
        )
        for encoding, spelled in zip(encodings, words, strict=True)
    ]


def encode_examples(
    embedder: Embedder, examples: Sequence[Example], *, vocabulary: Vocabulary | None = None
) -> EncodedExamples:
    """Returns the encoder output of examples."""
    if not examples:
        return EncodedExamples.none(embedder.dimension)
    texts = [e.input[:_MAX_EXAMPLE_CHARACTERS] for e in examples]
    texts += [e.output[:_MAX_EXAMPLE_CHARACTERS] for e in examples]
    rows = {text: row for row, text in enumerate(dict.fromkeys(texts))}
    vectors = embedder.embed(list(rows))[[rows[text] for text in texts]]  # (2k, embedding)
    outputs = [_beginning(e.output) for e in examples]
    return EncodedExamples(
        pairs=np.concatenate([vectors[: len(examples)], vectors[len(examples) :]], axis=1),
        words=tuple(
            [no_words()] * len(outputs)
            if vocabulary is None
            else vocabulary.encode(outputs, [None] * len(outputs))
        ),
    )


def collate(
    descriptions: Sequence[EncodedDescription | None],
    examples: Sequence[EncodedExamples],
    *,
    embedding_size: int,
) -> TaskInput:
    """Returns tasks as one padded batch; None stands for a task without a description."""
    tasks = len(descriptions)
    length = max((len(d.tokens) for d in descriptions if d is not None), default=0)
    count = max((len(e) for e in examples), default=0)
    spelled = [_spelled(*both, length=length) for both in zip(descriptions, examples, strict=True)]
    items = max((len(words) for _, words in spelled), default=0)
    word_size = max((words.shape[1] for _, words in spelled), default=0)
    tokens = torch.zeros(tasks, length, embedding_size)
    token_mask = torch.zeros(tasks, length, dtype=torch.bool)
    pooled = torch.zeros(tasks, embedding_size)
    example_rows = torch.zeros(tasks, count, 2 * embedding_size)
    example_mask = torch.zeros(tasks, count, dtype=torch.bool)
    words = torch.zeros(tasks, items, word_size)
    word_kinds = torch.zeros(tasks, items, dtype=torch.long)
    word_places = torch.zeros(tasks, items, dtype=torch.long)
    word_mask = torch.zeros(tasks, items, dtype=torch.bool)
    for row, (about, vectors) in enumerate(spelled):
        size = len(vectors)
        if size:
            words[row, :size] = torch.from_numpy(vectors)
            word_kinds[row, :size] = torch.from_numpy(about[0])
            word_places[row, :size] = torch.from_numpy(about[1])
            word_mask[row, :size] = True
    for row, (description, shown) in enumerate(zip(descriptions, examples, strict=True)):
        if description is not None:
            size = len(description.tokens)
            tokens[row, :size] = torch.from_numpy(description.tokens.astype(np.float32))
            token_mask[row, :size] = True
            pooled[row] = torch.tensor(description.pooled)
        if len(shown):
            example_rows[row, : len(shown)] = torch.from_numpy(shown.pairs)
            example_mask[row, : len(shown)] = True
    return TaskInput(
        tokens=tokens,
        token_mask=token_mask,
        pooled=pooled,
        has_description=torch.tensor([d is not None for d in descriptions]),
        examples=example_rows,
        example_mask=example_mask,
        words=words,
        word_kinds=word_kinds,
        word_places=word_places,
        word_mask=word_mask,
    )


def _beginning(output: str) -> str:
    """Returns the first words of an output, none of them cut."""
    if len(output) <= _MAX_OUTPUT_CHARACTERS:
        return output
    head, _, _ = output[: _MAX_OUTPUT_CHARACTERS + 1].rpartition(" ")
    return head


def _spelled(
    description: EncodedDescription | None, examples: EncodedExamples, *, length: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Returns the words of a description and of examples' outputs together: kinds and
    places (2, I), vectors (I, hidden).

    Args:
        length: the place of the first example.
    """
    parts = [] if description is None else [(description.words, 0, 0)]
    parts += [(w, OF_EXAMPLES, length + number) for number, w in enumerate(examples.words)]
    parts = [part for part in parts if len(part[0])]
    if not parts:
        return np.zeros((2, 0), dtype=np.int64), np.zeros((0, 0), dtype=np.float32)
    kinds = np.concatenate([words.kinds.astype(np.int64) + kind for words, kind, _ in parts])
    places = np.concatenate([words.places.astype(np.int64) + place for words, _, place in parts])
    return np.stack([kinds, places]), np.concatenate([words.vectors for words, _, _ in parts])

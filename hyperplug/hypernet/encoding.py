"""What the hypernetwork reads: frozen-encoder states of descriptions and examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from hyperplug.embedding import Embedder
from hyperplug.entities import Example
from hyperplug.hypernet.model import TaskInput

MAX_TOKENS = 128
MAX_EXAMPLES = 16
_MAX_EXAMPLE_CHARACTERS = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedDescription:
    """Encoder output of one description: pooled (embedding,), tokens (L, embedding)."""

    pooled: NDArray[np.float32]
    tokens: NDArray[np.float16]


def encode_descriptions(embedder: Embedder, texts: Sequence[str]) -> list[EncodedDescription]:
    """Returns the encoder output of each description, at most 128 tokens of it."""
    return [
        EncodedDescription(
            pooled=encoding.vector, tokens=encoding.tokens[:MAX_TOKENS].astype(np.float16)
        )
        for encoding in embedder.encode(texts)
    ]


def encode_examples(embedder: Embedder, examples: Sequence[Example]) -> NDArray[np.float32]:
    """Returns embeddings of input and output side by side, (k, 2 * embedding)."""
    if not examples:
        return np.zeros((0, 2 * embedder.dimension), dtype=np.float32)
    texts = [e.input[:_MAX_EXAMPLE_CHARACTERS] for e in examples]
    texts += [e.output[:_MAX_EXAMPLE_CHARACTERS] for e in examples]
    rows = {text: row for row, text in enumerate(dict.fromkeys(texts))}
    vectors = embedder.embed(list(rows))[[rows[text] for text in texts]]  # (2k, embedding)
    return np.concatenate([vectors[: len(examples)], vectors[len(examples) :]], axis=1)


def collate(
    descriptions: Sequence[EncodedDescription | None],
    examples: Sequence[NDArray[np.float32]],
    *,
    embedding_size: int,
) -> TaskInput:
    """Returns tasks as one padded batch; None stands for a task without a description."""
    tasks = len(descriptions)
    length = max((len(d.tokens) for d in descriptions if d is not None), default=0)
    count = max((len(e) for e in examples), default=0)
    tokens = torch.zeros(tasks, length, embedding_size)
    token_mask = torch.zeros(tasks, length, dtype=torch.bool)
    pooled = torch.zeros(tasks, embedding_size)
    example_rows = torch.zeros(tasks, count, 2 * embedding_size)
    example_mask = torch.zeros(tasks, count, dtype=torch.bool)
    for row, (description, pairs) in enumerate(zip(descriptions, examples, strict=True)):
        if description is not None:
            size = len(description.tokens)
            tokens[row, :size] = torch.from_numpy(description.tokens.astype(np.float32))
            token_mask[row, :size] = True
            pooled[row] = torch.from_numpy(description.pooled)
        if len(pairs):
            example_rows[row, : len(pairs)] = torch.from_numpy(pairs)
            example_mask[row, : len(pairs)] = True
    return TaskInput(
        tokens=tokens,
        token_mask=token_mask,
        pooled=pooled,
        has_description=torch.tensor([d is not None for d in descriptions]),
        examples=example_rows,
        example_mask=example_mask,
    )

"""The real text encoder: one pass gives what its parts give."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from hyperplug.embedding import Embedder, RememberingEmbedder, TextEncoding, load_embedder

TEXTS = ["Sort tickets.", "Translate the sentence into French, and keep every name as it is."]


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    pytest.importorskip("sentence_transformers")
    return load_embedder("all-MiniLM-L6-v2")


def test_vectors_of_both_ways_are_equal(embedder: Embedder) -> None:
    vectors = embedder.embed(TEXTS)
    assert np.allclose([e.vector for e in embedder.encode(TEXTS)], vectors, atol=1e-5)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_padding_is_not_among_the_tokens(embedder: Embedder) -> None:
    together = embedder.encode(TEXTS)
    alone = [embedder.encode([text])[0] for text in TEXTS]
    assert len(together[0].tokens) < len(together[1].tokens)
    for one, other in zip(together, alone, strict=True):
        assert one.tokens.shape == other.tokens.shape == (len(one.tokens), embedder.dimension)
        assert np.allclose(one.tokens, other.tokens, atol=1e-4)


def test_nothing_gives_nothing(embedder: Embedder) -> None:
    assert embedder.encode([]) == []
    assert embedder.embed([]).shape == (0, embedder.dimension)


def test_a_text_is_read_once_by_whoever_asks(embedder: Embedder) -> None:
    counted = Counting(embedder)
    remembering = RememberingEmbedder(counted)
    vector = remembering.embed(TEXTS[:1])
    vector[:] = 0  # the caller's own
    encoding = remembering.encode(TEXTS[:1])[0]
    again = remembering.embed(TEXTS[:1])
    assert counted.passes == 1
    assert np.allclose(again, embedder.embed(TEXTS[:1]), atol=1e-5)
    assert np.array_equal(again[0], encoding.vector)
    with pytest.raises(ValueError, match="read-only"):
        encoding.tokens[0] = 0


def test_what_was_read_long_ago_is_read_again(embedder: Embedder) -> None:
    counted = Counting(embedder)
    remembering = RememberingEmbedder(counted)
    remembering.embed(TEXTS[:1])
    assert remembering.remembers(TEXTS[0])
    for number in range(256):
        remembering.embed([str(number)])
    assert not remembering.remembers(TEXTS[0])
    remembering.embed(TEXTS[:1])
    assert counted.passes == 258


def test_many_texts_are_read_together_and_not_remembered(embedder: Embedder) -> None:
    counted = Counting(embedder)
    remembering = RememberingEmbedder(counted)
    assert remembering.embed(TEXTS).shape == (2, embedder.dimension)
    assert len(remembering.encode(TEXTS)) == 2
    assert counted.passes == 2
    assert remembering.embed([]).shape == (0, embedder.dimension)


class Counting:
    """An embedder that counts its passes."""

    def __init__(self, embedder: Embedder) -> None:
        self.id, self.dimension = embedder.id, embedder.dimension
        self._embedder = embedder
        self.passes = 0

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Passes on."""
        self.passes += 1
        return self._embedder.embed(texts)

    def encode(self, texts: Sequence[str]) -> list[TextEncoding]:
        """Passes on."""
        self.passes += 1
        return self._embedder.encode(texts)

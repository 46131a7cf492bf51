"""The real text encoder: one pass gives what its parts give."""

from __future__ import annotations

import numpy as np
import pytest

from hyperplug.embedding import Embedder, load_embedder

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

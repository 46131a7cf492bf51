"""Prepared tasks survive the disk, and bad files are told apart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from hyperplug.errors import InvalidTaskFileError
from hyperplug.hypernet.batches import PreparedTask
from hyperplug.hypernet.prepared import PreparedCorpus, load_prepared, save_prepared
from hyperplug.hypernet.words import EncodedWords
from tests.miniature import WordHashEmbedder


def same_words(one: EncodedWords, other: EncodedWords) -> None:
    assert len(one) > 0
    assert np.array_equal(one.vectors, other.vectors)
    assert np.array_equal(one.kinds, other.kinds)
    assert np.array_equal(one.places, other.places)


def test_a_prepared_corpus_is_read_as_it_was_written(
    prepared: Sequence[PreparedTask], tmp_path: Path
) -> None:
    file = tmp_path / "tasks.prepared"
    corpus = PreparedCorpus(
        train=tuple(prepared),
        validation=tuple(prepared[:1]),
        base_fingerprint="f" * 64,
        embedder_id="words",
        embedding_size=WordHashEmbedder.dimension,
        settings={"seed": 3},
    )
    save_prepared(file, corpus)
    found = load_prepared(file)
    assert [task.id for task in found.validation] == [prepared[0].id]
    assert (found.settings, found.embedder_id) == ({"seed": 3}, "words")
    for before, after in zip(corpus.train, found.train, strict=True):
        assert after.sequences == before.sequences
        assert (after.family, after.conditioning) == (before.family, before.conditioning)
        assert np.allclose(after.examples.pairs, before.examples.pairs, atol=1e-3)
        for old, new in zip(before.descriptions, after.descriptions, strict=True):
            assert np.array_equal(old.pooled, new.pooled)
            assert np.array_equal(old.tokens, new.tokens)
            same_words(old.words, new.words)
        for one, other in zip(before.examples.words, after.examples.words, strict=True):
            same_words(one, other)


@pytest.mark.parametrize("content", [b"", b"not safetensors", b"\x02\0\0\0\0\0\0\0{}"])
def test_another_file_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "tasks.prepared"
    file.write_bytes(content)
    with pytest.raises(InvalidTaskFileError, match="no file of prepared tasks"):
        load_prepared(file)

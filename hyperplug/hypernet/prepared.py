"""Prepared tasks on disk: a run elsewhere then needs neither the corpus nor the encoder."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hyperplug.errors import InvalidTaskFileError
from hyperplug.hypernet.batches import PreparedTask
from hyperplug.hypernet.checkpoint import write_atomically
from hyperplug.hypernet.data import TokenSequence
from hyperplug.hypernet.encoding import EncodedDescription, EncodedExamples
from hyperplug.hypernet.words import EncodedWords, merge_tables, no_words

FORMAT = "hyperplug-prepared-2"
SUFFIX = ".prepared"


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedCorpus:
    """Tasks ready for training, and for which base model and text encoder.

    Attributes:
        settings: how they were prepared, for the record.
    """

    train: tuple[PreparedTask, ...]
    validation: tuple[PreparedTask, ...]
    base_fingerprint: str
    embedder_id: str
    embedding_size: int
    settings: Mapping[str, Any]

    @property
    def word_size(self) -> int:
        """Length of the words' vectors; 0 if the words were left out."""
        tasks = itertools.chain(self.train, self.validation)
        words = (d.words for task in tasks for d in task.descriptions)
        return next((w.table.shape[1] for w in words if len(w)), 0)


def save_prepared(path: Path, corpus: PreparedCorpus) -> None:
    """Writes a corpus as one safetensors file, by rename."""
    from safetensors.numpy import save

    tasks = [*corpus.train, *corpus.validation]
    descriptions = [d for task in tasks for d in task.descriptions]
    sequences = [s for task in tasks for s in task.sequences]
    size = corpus.embedding_size
    tensors = {
        "pooled": _stack([d.pooled for d in descriptions], size),
        "tokens": _join([d.tokens for d in descriptions], np.float16, size),
        "token_counts": np.array([len(d.tokens) for d in descriptions], dtype=np.int32),
        "examples": _join([task.examples.pairs for task in tasks], np.float16, 2 * size),
        "ids": np.fromiter(_all_ids(sequences), dtype=np.int32),
        "prompt_sizes": np.array([len(s.prompt) for s in sequences], dtype=np.int32),
        "answer_sizes": np.array([len(s.answer) for s in sequences], dtype=np.int32),
    }
    tensors |= _word_tensors(
        [d.words for d in descriptions] + [w for task in tasks for w in task.examples.words]
    )
    about = {
        "base": corpus.base_fingerprint,
        "embedder": corpus.embedder_id,
        "embedding_size": size,
        "settings": dict(corpus.settings),
        "train": len(corpus.train),
        "tasks": [
            {
                "id": task.id,
                "family": task.family,
                "descriptions": len(task.descriptions),
                "examples": len(task.examples),
                "conditioning": task.conditioning,
                "keys": [s.key for s in task.sequences],
            }
            for task in tasks
        ],
    }
    write_atomically(path, save(tensors, metadata={FORMAT: json.dumps(about)}))


def load_prepared(path: Path) -> PreparedCorpus:
    """Returns the corpus in `path`.

    Raises:
        InvalidTaskFileError: if it is missing, damaged or no prepared corpus.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            about = json.loads((file.metadata() or {})[FORMAT])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        tasks = list(_tasks(about["tasks"], tensors))
        return PreparedCorpus(
            train=tuple(tasks[: about["train"]]),
            validation=tuple(tasks[about["train"] :]),
            base_fingerprint=about["base"],
            embedder_id=about["embedder"],
            embedding_size=about["embedding_size"],
            settings=about["settings"],
        )
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, StopIteration) as exc:
        raise InvalidTaskFileError(
            f"{path} is no file of prepared tasks: {type(exc).__name__}",
            hint="make one with: hyperplug prepare-tasks",
        ) from exc


def _tasks(
    rows: Sequence[Mapping[str, Any]], tensors: Mapping[str, NDArray[Any]]
) -> Iterator[PreparedTask]:
    ends = np.cumsum(tensors["token_counts"])[:-1]
    states = np.split(tensors["tokens"], ends)
    words = _words(tensors)
    descriptions = iter(
        [
            EncodedDescription(pooled=pooled, tokens=tokens, words=next(words))
            for pooled, tokens in zip(tensors["pooled"], states, strict=True)
        ]
    )
    examples = EncodedExamples(pairs=tensors["examples"].astype(np.float32), words=tuple(words))
    first = 0
    pieces = _pieces(tensors)
    for row in rows:
        yield PreparedTask(
            id=row["id"],
            family=row["family"],
            descriptions=tuple(itertools.islice(descriptions, row["descriptions"])),
            examples=examples.take(range(first, first + row["examples"])),
            conditioning=row["conditioning"],
            sequences=tuple(
                TokenSequence(key=key, prompt=prompt, answer=answer)
                for key, (prompt, answer) in zip(row["keys"], pieces, strict=False)
            ),
        )
        first += row["examples"]


def _word_tensors(words: Sequence[EncodedWords]) -> dict[str, NDArray[Any]]:
    merged = merge_tables(words)
    return {
        "word_table": merged[0].table if merged else no_words().table,
        "word_counts": np.array([len(w) for w in merged], dtype=np.int32),
        "word_rows": np.concatenate([no_words().rows, *(w.rows for w in merged)]),
        "word_kinds": np.concatenate([no_words().kinds, *(w.kinds for w in merged)]),
        "word_places": np.concatenate([no_words().places, *(w.places for w in merged)]),
    }


def _words(tensors: Mapping[str, NDArray[Any]]) -> Iterator[EncodedWords]:
    """Yields the words of each description, then those of each example's output."""
    table, ends = tensors["word_table"], np.cumsum(tensors["word_counts"])
    for begin, end in zip(ends - tensors["word_counts"], ends, strict=True):
        part = slice(int(begin), int(end))
        yield EncodedWords(
            table=table,
            rows=tensors["word_rows"][part],
            kinds=tensors["word_kinds"][part],
            places=tensors["word_places"][part],
        )


def _pieces(tensors: Mapping[str, NDArray[Any]]) -> Iterator[tuple[tuple[int, ...], ...]]:
    """Yields prompt and answer of each sequence."""
    ids, at = tensors["ids"].tolist(), 0
    for prompt, answer in zip(tensors["prompt_sizes"], tensors["answer_sizes"], strict=True):
        middle, end = at + int(prompt), at + int(prompt) + int(answer)
        yield tuple(ids[at:middle]), tuple(ids[middle:end])
        at = end


def _all_ids(sequences: Iterable[TokenSequence]) -> Iterator[int]:
    for sequence in sequences:
        yield from sequence.prompt
        yield from sequence.answer


def _stack(rows: Sequence[NDArray[Any]], size: int) -> NDArray[np.float32]:
    return np.stack(rows).astype(np.float32) if rows else np.zeros((0, size), dtype=np.float32)


def _join(parts: Sequence[NDArray[Any]], dtype: Any, size: int) -> NDArray[Any]:
    joined: NDArray[Any] = np.concatenate([np.zeros((0, size), dtype=dtype), *parts])
    return joined.astype(dtype)

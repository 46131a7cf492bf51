"""An approximate index by usearch for large registries, and its file, which is a cache."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from usearch.index import Index

Vector = NDArray[np.float32]

_log = logging.getLogger(__name__)

# Measured on text embeddings of 384 dimensions (benchmarks/registry.py): recall of the
# nearest over 0.99 at a million, once the candidates are compared exactly.
_CONNECTIVITY = 16
_EXPANSION_ADD = 128
_EXPANSION_SEARCH = 96
_MANY = 200_000
_EXPANSION_SEARCH_OF_MANY = 384
_FORMAT = 1
_FILE = re.compile(r"[0-9a-f]{16}-(?P<last_id>\d+)-(?P<last_removal>\d+)\.usearch\Z")


def available() -> bool:
    """Returns whether usearch is installed."""
    return importlib.util.find_spec("usearch") is not None


class HnswIndex:
    """Unit vectors by id, as bytes in a navigable graph: small and fast, nearly exact.

    A search gives candidates; the caller compares them exactly. Safe for threads.
    """

    def __init__(self, index: Index) -> None:
        self._index = index

    @classmethod
    def empty(cls, dimension: int) -> HnswIndex:
        """Returns an index without vectors."""
        from usearch.index import Index

        return cls(
            Index(
                ndim=dimension,
                metric="cos",
                dtype="i8",
                connectivity=_CONNECTIVITY,
                expansion_add=_EXPANSION_ADD,
                expansion_search=_EXPANSION_SEARCH,
            )
        )

    def __len__(self) -> int:
        return len(self._index)

    def add(self, ids: NDArray[np.int64], rows: Vector) -> None:
        """Takes in vectors; `rows` has shape (n, d)."""
        self._index.add(ids.astype(np.uint64), rows)
        self._look_far_enough()

    def remove(self, ids: NDArray[np.int64]) -> None:
        """Takes out those of the ids that are there."""
        for one in ids:
            if int(one) in self._index:
                self._index.remove(int(one))

    def _look_far_enough(self) -> None:
        if len(self._index) > _MANY:
            self._index.expansion_search = _EXPANSION_SEARCH_OF_MANY

    def candidates(self, query: Vector, *, count: int) -> list[int]:
        """Returns ids that are probably the nearest, nearest first."""
        return [int(key) for key in self._index.search(query, count).keys]


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedIndex:
    """An index and what it holds: all vectors up to `last_id`, less the removals."""

    index: HnswIndex
    last_id: int
    last_removal: int


class IndexFiles:
    """The index files of one registry: one for each embedder and namespace.

    What a file holds stands in its name, so that one rename publishes it.
    """

    def __init__(self, folder: Path, *, identity: str) -> None:
        self._folder = folder
        self._identity = identity

    def load(self, *, embedder_id: str, namespace: str, dimension: int) -> SavedIndex | None:
        """Returns the newest index that can be read; None if there is none."""
        stem = self._stem(embedder_id, namespace, dimension)
        for path, last_id, last_removal in sorted(self._files(stem), key=_place, reverse=True):
            index = HnswIndex.empty(dimension)
            try:
                index._index.load(str(path))
            except Exception as exc:  # whatever usearch says of a damaged file
                _log.warning("index file %s cannot be read and is made again: %s", path.name, exc)
                continue
            if index._index.ndim == dimension:
                index._look_far_enough()
                return SavedIndex(index=index, last_id=last_id, last_removal=last_removal)
        return None

    def save(self, saved: SavedIndex, *, embedder_id: str, namespace: str, dimension: int) -> None:
        """Writes an index, in place of an older one; without a writable disk, does nothing."""
        stem = self._stem(embedder_id, namespace, dimension)
        name = f"{stem}-{saved.last_id}-{saved.last_removal}.usearch"
        temporary = self._folder / f".tmp-{os.getpid()}-{name}"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            saved.index._index.save(str(temporary))
            temporary.replace(self._folder / name)
        except Exception as exc:
            _log.warning("the index of the registry cannot be kept: %s", exc)
            with contextlib.suppress(OSError):
                temporary.unlink()
            return
        for path, last_id, last_removal in self._files(stem):
            if (last_id, last_removal) < (saved.last_id, saved.last_removal):
                with contextlib.suppress(OSError):
                    path.unlink()

    def _stem(self, embedder_id: str, namespace: str, dimension: int) -> str:
        key = "\0".join((str(_FORMAT), self._identity, embedder_id, namespace, str(dimension)))
        return hashlib.sha256(key.encode()).hexdigest()[:16]

    def _files(self, stem: str) -> list[tuple[Path, int, int]]:
        found = []
        for path in self._folder.glob(f"{stem}-*.usearch"):
            match = _FILE.match(path.name)
            if match:
                found.append((path, int(match["last_id"]), int(match["last_removal"])))
        return found


def _place(file: tuple[Path, int, int]) -> tuple[int, int]:
    return file[1], file[2]

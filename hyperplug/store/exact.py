"""All vectors of one embedder and namespace as a matrix: exact search for small registries."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float32]

_MAX_TIES = 500


class ExactIndex:
    """Unit vectors by ascending id; a search computes every cosine."""

    def __init__(self, dimension: int) -> None:
        self._ids = np.empty(0, dtype=np.int64)
        self._rows = np.empty((0, dimension), dtype=np.float32)
        self._alive = np.empty(0, dtype=bool)
        self._count = 0

    def __len__(self) -> int:
        return int(self._alive[: self._count].sum())

    def add(self, ids: NDArray[np.int64], rows: Vector) -> None:
        """Takes in vectors whose ids are higher than all before; `rows` has shape (n, d)."""
        count = self._count + len(ids)
        if count > len(self._ids):
            self._grow(max(count, 2 * len(self._ids)))
        new = slice(self._count, count)
        self._ids[new], self._rows[new], self._alive[new] = ids, rows, True
        self._count = count

    def remove(self, ids: NDArray[np.int64]) -> None:
        """Takes out those of the ids that are there."""
        known = self._ids[: self._count]
        places = np.searchsorted(known, ids)
        inside = places[places < self._count]
        self._alive[inside[np.isin(known[inside], ids)]] = False

    def search(self, query: Vector, *, limit: int) -> list[tuple[int, float]]:
        """Returns (id, cosine) of the nearest, best first, and of those that tie with the last."""
        ids = self._ids[: self._count]
        scores = np.where(self._alive[: self._count], self._rows[: self._count] @ query, -np.inf)
        if limit < len(scores):
            border = np.partition(scores, -limit)[-limit]
            kept = np.flatnonzero((scores >= border) & np.isfinite(scores))
        else:
            kept = np.flatnonzero(np.isfinite(scores))
        order = np.lexsort((ids[kept], -scores[kept]))[: limit + _MAX_TIES]
        return [(int(ids[at]), float(scores[at])) for at in kept[order]]

    def vectors(self) -> tuple[NDArray[np.int64], Vector]:
        """Returns copies of ids (n,) and vectors (n, d)."""
        alive = self._alive[: self._count]
        return self._ids[: self._count][alive], self._rows[: self._count][alive]

    def _grow(self, capacity: int) -> None:
        extra = capacity - len(self._ids)
        self._ids = np.concatenate([self._ids, np.zeros(extra, dtype=np.int64)])
        self._alive = np.concatenate([self._alive, np.zeros(extra, dtype=bool)])
        width = self._rows.shape[1]
        self._rows = np.concatenate([self._rows, np.zeros((extra, width), dtype=np.float32)])

"""Nearest task embeddings: by pgvector on PostgreSQL, by a matrix in memory on SQLite."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sqlalchemy import Float, Select, bindparam, func, select
from sqlalchemy.orm import Session

from hyperplug.errors import RegistryError
from hyperplug.store.columns import Embedding
from hyperplug.store.tables import TaskEmbeddingRow

Vector = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """A task's id and its cosine similarity to what was asked for."""

    task_id: int
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Matrix:
    """All embeddings of one embedder in one namespace, as of `last_id` and the row count."""

    last_id: int
    task_ids: NDArray[np.int64]
    rows: Vector  # (n, d), unit rows


def unit_vector(embedding: ArrayLike) -> Vector:
    """Returns the embedding as a float32 vector of length one.

    Raises:
        RegistryError: when it is not a finite, non-zero vector.
    """
    vector = np.asarray(embedding, dtype=np.float32)
    if vector.ndim != 1 or not vector.size:
        raise RegistryError(
            f"an embedding of shape {vector.shape} is no vector", hint="check the embedder"
        )
    norm = float(np.linalg.norm(vector.astype(np.float64)))
    if not np.isfinite(norm) or norm == 0.0:
        raise RegistryError(
            "an embedding is zero or not finite", hint="check the embedder and the text"
        )
    return (vector / norm).astype(np.float32)


def check_dimension(session: Session, *, embedder_id: str, dimension: int) -> None:
    """Raises RegistryError if the embedder's stored vectors have another dimension."""
    query = select(TaskEmbeddingRow.dimension).where(TaskEmbeddingRow.embedder_id == embedder_id)
    stored = session.scalar(query.limit(1))
    if stored is not None and stored != dimension:
        raise RegistryError(
            f"embedder {embedder_id!r} gave {dimension} numbers, its stored vectors have {stored}",
            hint="use the embedder that the tasks were registered with",
        )


class VectorSearch:
    """Finds the nearest embeddings; keeps SQLite's in memory. Safe to share by threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._matrices: dict[tuple[str, str], _Matrix] = {}

    def nearest(
        self,
        session: Session,
        embedding: ArrayLike,
        *,
        embedder_id: str,
        namespace: str,
        limit: int,
    ) -> list[Hit]:
        """Returns the `limit` tasks of highest cosine, best first; of equals the oldest first."""
        query = unit_vector(embedding)
        if limit < 1:
            return []
        check_dimension(session, embedder_id=embedder_id, dimension=query.size)
        if session.get_bind().dialect.name == "postgresql":
            return _nearest_in_postgres(
                session, query, embedder_id=embedder_id, namespace=namespace, limit=limit
            )
        matrix = self._fresh_matrix(session, embedder_id=embedder_id, namespace=namespace)
        return _best(matrix, query, limit=limit)

    def _fresh_matrix(
        self, session: Session, *, embedder_id: str, namespace: str
    ) -> _Matrix | None:
        """Returns the matrix, read again as far as any process has changed its rows.

        Row ids only grow and rows are never updated. So the highest id and the number of
        rows tell whether nothing changed, rows were only added, or some were removed.
        """
        key = (embedder_id, namespace)
        of_key = (TaskEmbeddingRow.embedder_id == embedder_id) & (
            TaskEmbeddingRow.namespace == namespace
        )
        with self._lock:
            count, last_id = session.execute(
                select(func.count(), func.max(TaskEmbeddingRow.id)).where(of_key)
            ).one()
            if not count:
                self._matrices.pop(key, None)
                return None
            known = self._matrices.get(key)
            if known and known.last_id == last_id and len(known.task_ids) == count:
                return known
            query = _ordered().where(of_key)
            fresh = None
            if known and known.last_id < last_id and len(known.task_ids) < count:
                added = _load(session, query.where(TaskEmbeddingRow.id > known.last_id))
                if len(known.task_ids) + len(added.task_ids) == count:
                    fresh = _joined(known, added)
            self._matrices[key] = fresh or _load(session, query)
            return self._matrices[key]


def _ordered() -> Select[int, int, int, Vector]:
    row = TaskEmbeddingRow
    return select(row.id, row.task_id, row.dimension, row.embedding).order_by(row.id)


def _load(session: Session, query: Select[int, int, int, Vector]) -> _Matrix:
    found = session.execute(query).all()
    for _, task_id, dimension, embedding in found:
        if embedding.size != dimension:
            raise RegistryError(
                f"the stored embedding of task {task_id} is damaged",
                hint="restore the registry from a backup, or register that task again",
            )
    return _Matrix(
        last_id=found[-1][0],
        task_ids=np.array([task_id for _, task_id, _, _ in found], dtype=np.int64),
        rows=np.stack([embedding for _, _, _, embedding in found]),
    )


def _joined(known: _Matrix, added: _Matrix) -> _Matrix:
    return _Matrix(
        last_id=added.last_id,
        task_ids=np.concatenate([known.task_ids, added.task_ids]),
        rows=np.concatenate([known.rows, added.rows]),
    )


def _best(matrix: _Matrix | None, query: Vector, *, limit: int) -> list[Hit]:
    if matrix is None:
        return []
    scores = matrix.rows @ query  # (n,)
    if limit < len(scores):
        # Everything that ties with the last place stays in, so that ids decide about it.
        border = np.partition(scores, -limit)[-limit]
        kept = np.flatnonzero(scores >= border)
    else:
        kept = np.arange(len(scores))
    order = np.lexsort((matrix.task_ids[kept], -scores[kept]))[:limit]
    return _hits([(int(matrix.task_ids[index]), float(scores[index])) for index in kept[order]])


def _nearest_in_postgres(
    session: Session, query: Vector, *, embedder_id: str, namespace: str, limit: int
) -> list[Hit]:
    row = TaskEmbeddingRow
    wanted = bindparam("wanted", query, type_=Embedding())
    distance = row.embedding.op("<=>", return_type=Float())(wanted)
    statement = (
        select(row.task_id, distance)
        .where(row.embedder_id == embedder_id, row.namespace == namespace)
        .order_by(distance, row.task_id)
        .limit(limit)
    )
    return _hits([(task_id, 1.0 - far) for task_id, far in session.execute(statement)])


def _hits(found: Sequence[tuple[int, float]]) -> list[Hit]:
    """Returns hits with scores held to [-1, 1], which rounding may leave."""
    return [Hit(task_id=task_id, score=min(1.0, max(-1.0, score))) for task_id, score in found]

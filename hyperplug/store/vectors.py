"""Nearest task embeddings: by pgvector on PostgreSQL, in memory on SQLite."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from hyperplug.errors import RegistryError
from hyperplug.store import postgres
from hyperplug.store.exact import Vector
from hyperplug.store.memory import Key, MemorySearch, index_files, scan
from hyperplug.store.tables import RegistryRow, TaskEmbeddingRow

# For SQLite's driver itself: every lookup asks it.
_BY_ID = "SELECT task_id, embedding FROM task_embeddings WHERE id IN ({}) AND active"


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """A task's id and its cosine similarity to what was asked for."""

    task_id: int
    score: float


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


def check_dimension(session: Session, *, embedder_id: str, dimension: int) -> bool:
    """Returns whether vectors of the embedder are stored.

    Raises:
        RegistryError: when they have another dimension.
    """
    query = select(TaskEmbeddingRow.dimension).where(TaskEmbeddingRow.embedder_id == embedder_id)
    stored = session.scalar(query.limit(1))
    if stored is not None and stored != dimension:
        raise RegistryError(
            f"embedder {embedder_id!r} gave {dimension} numbers, its stored vectors have {stored}",
            hint="use the embedder that the tasks were registered with",
        )
    return stored is not None


def prepare_index(session: Session, *, embedder_id: str, dimension: int) -> None:
    """Makes what PostgreSQL needs to search the vectors of a new embedder."""
    if _on_postgres(session):
        postgres.create_index(session, embedder_id=embedder_id, dimension=dimension)


class VectorSearch:
    """Finds the nearest embeddings; searches SQLite's in memory. Safe to share by threads."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._searches: dict[Key, MemorySearch] = {}
        self._known: set[tuple[str, int]] = set()  # embedders whose vectors were looked at
        self._has_halfvec = False

    def nearest(
        self,
        session: Session,
        embedding: ArrayLike,
        *,
        embedder_id: str,
        namespace: str,
        limit: int,
        exact: bool = False,
    ) -> list[Hit]:
        """Returns the `limit` tasks of highest cosine, best first; of equals the oldest first.

        Args:
            exact: compare with every vector, whatever index there is.
        """
        query = unit_vector(embedding)
        if limit < 1:
            return []
        if _on_postgres(session):
            self._look(session, embedder_id=embedder_id, dimension=query.size)
            return _hits(
                postgres.nearest(
                    session,
                    query,
                    embedder_id=embedder_id,
                    namespace=namespace,
                    limit=limit,
                    exact=exact or not self._has_halfvec,
                )
            )
        key = Key(embedder_id, namespace, query.size)
        connection = session.connection()
        if exact:
            found = scan(connection, key, query, limit=limit)
        else:
            found = self._search(session, key).nearest(connection, query, limit=limit)
        return _ranked(session, found, query)[:limit]

    def wait(self) -> None:
        """Waits for indexes that are being built."""
        for search in list(self._searches.values()):
            search.wait()

    def close(self) -> None:
        """Keeps indexes in their files."""
        for search in list(self._searches.values()):
            search.close()

    def _look(self, session: Session, *, embedder_id: str, dimension: int) -> None:
        """Finds out what PostgreSQL has, once: each question costs a lookup a fifth of its time.

        Raises:
            RegistryError: when the embedder's stored vectors have another dimension.
        """
        known = (embedder_id, dimension)
        if known not in self._known:
            self._has_halfvec = postgres.has_halfvec(session)
            if check_dimension(session, embedder_id=embedder_id, dimension=dimension):
                self._known.add(known)

    def _search(self, session: Session, key: Key) -> MemorySearch:
        with self._lock:
            search = self._searches.get(key)
            if search is None:
                check_dimension(session, embedder_id=key.embedder_id, dimension=key.dimension)
                files = index_files(
                    Path(str(self._engine.url.database)),
                    identity=session.scalars(select(RegistryRow.identity)).one(),
                )
                search = MemorySearch(key, engine=self._engine, files=files)
                self._searches[key] = search
            return search


def _on_postgres(session: Session) -> bool:
    return session.get_bind().dialect.name == "postgresql"


def _ranked(session: Session, embedding_ids: Sequence[int], query: Vector) -> list[Hit]:
    """Returns the tasks of these embeddings by their exact cosine, best first."""
    marks = ",".join("?" * len(embedding_ids))
    found = session.connection().exec_driver_sql(_BY_ID.format(marks), tuple(embedding_ids)).all()
    if not found:
        return []
    task_ids = np.array([task_id for task_id, _ in found], dtype=np.int64)
    whole = np.frombuffer(b"".join(embedding for _, embedding in found), dtype="<f4")
    if whole.size != len(found) * query.size:
        raise RegistryError(
            "a stored embedding is damaged", hint="run: hyperplug doctor --deep --repair"
        )
    scores = whole.reshape(len(found), -1) @ query
    order = np.lexsort((task_ids, -scores))
    return _hits([(int(task_ids[at]), float(scores[at])) for at in order])


def _hits(found: Sequence[tuple[int, float]]) -> list[Hit]:
    """Returns hits with scores held to [-1, 1], which rounding may leave."""
    return [Hit(task_id=task_id, score=min(1.0, max(-1.0, score))) for task_id, score in found]

"""Writes task embeddings within an open session."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from sqlalchemy import ColumnElement, delete, insert, select, update
from sqlalchemy.orm import Session

from hyperplug.errors import RegistryError
from hyperplug.store.exact import Vector
from hyperplug.store.tables import EmbeddingRemovalRow, TaskEmbeddingRow, TaskRow
from hyperplug.store.vectors import check_dimension, prepare_index


def put(
    session: Session,
    rows: Sequence[tuple[TaskRow, Vector]],
    *,
    embedder_id: str,
    replace: bool,
) -> None:
    """Stores vectors of tasks; one that stands is kept, or with `replace` gives way."""
    vectors = {row.id: (row, vector) for row, vector in rows}
    if not vectors:
        return
    _check_dimensions(session, [vector for _, vector in rows], embedder_id=embedder_id)
    standing = (TaskEmbeddingRow.embedder_id == embedder_id) & TaskEmbeddingRow.task_id.in_(
        list(vectors)
    )
    if replace:
        _take_out(session, standing)
        session.execute(delete(TaskEmbeddingRow).where(standing), execution_options=_UNSEEN)
    else:
        for task_id in session.scalars(select(TaskEmbeddingRow.task_id).where(standing)):
            del vectors[task_id]
    values = [
        {
            "task_id": row.id,
            "namespace": row.namespace,
            "embedder_id": embedder_id,
            "dimension": vector.size,
            "embedding": vector,
            "active": row.deleted_at is None,
        }
        for row, vector in vectors.values()
    ]
    if values:
        session.execute(insert(TaskEmbeddingRow), values)


_UNSEEN: Mapping[str, bool] = {"synchronize_session": False}


def _check_dimensions(session: Session, vectors: Sequence[Vector], *, embedder_id: str) -> None:
    sizes = {vector.size for vector in vectors}
    if len(sizes) != 1:
        raise RegistryError(
            f"embedder {embedder_id!r} gave vectors of several lengths: {sorted(sizes)[:3]}",
            hint="check the embedder",
        )
    (size,) = sizes
    if not check_dimension(session, embedder_id=embedder_id, dimension=size):
        prepare_index(session, embedder_id=embedder_id, dimension=size)


def drop(session: Session, task_id: int) -> None:
    """Deletes all vectors of a task."""
    of_task = TaskEmbeddingRow.task_id == task_id
    _take_out(session, of_task)
    session.execute(delete(TaskEmbeddingRow).where(of_task), execution_options=_UNSEEN)


def drop_embedder(session: Session, *, embedder_id: str, namespace: str) -> int:
    """Deletes all vectors of an embedder in a namespace; returns how many.

    They are not noted one by one: whoever still uses that embedder finds tasks that are there.
    """
    row = TaskEmbeddingRow
    of_embedder = (row.embedder_id == embedder_id) & (row.namespace == namespace)
    done = session.execute(delete(row).where(of_embedder), execution_options=_UNSEEN)
    return int(getattr(done, "rowcount", 0))


def deactivate(session: Session, task_id: int) -> None:
    """Takes a task's vectors out of lookups."""
    of_task = (TaskEmbeddingRow.task_id == task_id) & TaskEmbeddingRow.active
    _take_out(session, of_task)
    session.execute(
        update(TaskEmbeddingRow).where(of_task).values(active=False), execution_options=_UNSEEN
    )


def activate(session: Session, task_id: int) -> None:
    """Puts them back, under new ids."""
    row = TaskEmbeddingRow
    of_task = (row.task_id == task_id) & ~row.active
    kept = select(row.task_id, row.namespace, row.embedder_id, row.dimension, row.embedding).where(
        of_task
    )
    values = [{**found, "active": True} for found in session.execute(kept).mappings()]
    session.execute(delete(row).where(of_task), execution_options=_UNSEEN)
    if values:
        session.execute(insert(row), values)


def _take_out(session: Session, rows: ColumnElement[bool]) -> None:
    """Notes rows that are about to leave lookups, for those who hold them in memory."""
    row = TaskEmbeddingRow
    found = session.execute(select(row.id, row.embedder_id, row.namespace).where(rows, row.active))
    values = [
        {
            "embedding_id": embedding_id,
            "embedder_id": embedder_id,
            "namespace": namespace,
            "removed_at": datetime.now(UTC),
        }
        for embedding_id, embedder_id, namespace in found
    ]
    if values:
        session.execute(insert(EmbeddingRemovalRow), values)

"""Reads and writes tasks within an open session."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from sqlalchemy import Select, delete, exists, func, select
from sqlalchemy.orm import Session

from hyperplug.entities import Example, NewTask, Task
from hyperplug.errors import DuplicateTaskError, TaskNotFoundError
from hyperplug.store.tables import AdapterRow, AliasRow, TaskEmbeddingRow, TaskRow, TaskTagRow
from hyperplug.store.vectors import Vector, check_dimension


def to_task(row: TaskRow) -> Task:
    """Returns the entity of a row."""
    return Task(
        id=row.id,
        namespace=row.namespace,
        name=row.name,
        description=row.description,
        examples=tuple(Example(input=given, output=wanted) for given, wanted in row.examples),
        tags=tuple(tag.tag for tag in row.tags),
        created_at=row.created_at,
    )


def find_row(session: Session, name: str, *, namespace: str) -> TaskRow | None:
    """Returns the row of that name, if any."""
    query = select(TaskRow).where(TaskRow.namespace == namespace, TaskRow.name == name)
    return session.scalar(query)


def require_row(session: Session, name: str, *, namespace: str) -> TaskRow:
    """Returns the row of that name.

    Raises:
        TaskNotFoundError: when there is none.
    """
    row = find_row(session, name, namespace=namespace)
    if row is None:
        raise TaskNotFoundError(
            f"no task {name!r} in namespace {namespace!r}", hint="run: hyperplug list-tasks"
        )
    return row


def find_by_text(session: Session, description_digest: str, *, namespace: str) -> TaskRow | None:
    """Returns the oldest row with that description, if any."""
    query = select(TaskRow).where(
        TaskRow.namespace == namespace, TaskRow.description_digest == description_digest
    )
    return session.scalar(query.order_by(TaskRow.id).limit(1))


def listing(*, namespace: str, tag: str | None, limit: int | None, offset: int) -> Select[TaskRow]:
    """Returns the query for a namespace's tasks in the order of their registration."""
    query = select(TaskRow).where(TaskRow.namespace == namespace)
    if tag is not None:
        query = query.where(exists().where(TaskTagRow.task_id == TaskRow.id, TaskTagRow.tag == tag))
    return query.order_by(TaskRow.id).limit(limit).offset(offset)


def count(session: Session, *, namespace: str) -> int:
    """Returns how many tasks a namespace has."""
    query = select(func.count()).select_from(TaskRow).where(TaskRow.namespace == namespace)
    return session.scalar(query) or 0


def by_id(session: Session, task_ids: Iterable[int]) -> dict[int, Task]:
    """Returns those tasks that exist, by id."""
    rows = session.scalars(select(TaskRow).where(TaskRow.id.in_(list(task_ids))))
    return {row.id: to_task(row) for row in rows}


def add(session: Session, task: NewTask) -> tuple[TaskRow, bool]:
    """Returns the row of a task, and whether this call made it.

    Raises:
        DuplicateTaskError: when the name stands for another description.
    """
    standing = find_row(session, task.name, namespace=task.namespace)
    if standing is None:
        row = _new_row(task)
        session.add(row)
        session.flush()
        return row, True
    if standing.description_digest != task.description_digest:
        raise DuplicateTaskError(
            f"task {task.name!r} is already registered with another description",
            hint=f"choose another name, or first run: hyperplug remove-task {task.name}",
        )
    return standing, False


def _new_row(task: NewTask) -> TaskRow:
    tags = dict.fromkeys(task.tags)
    return TaskRow(
        namespace=task.namespace,
        name=task.name,
        description=task.description,
        description_digest=task.description_digest,
        examples=[[example.input, example.output] for example in task.examples],
        tags=[TaskTagRow(tag=tag, position=position) for position, tag in enumerate(tags)],
        created_at=datetime.now(UTC),
    )


def put_embedding(
    session: Session, task: TaskRow, *, embedder_id: str, vector: Vector, replace: bool
) -> None:
    """Stores a task's vector; one that stands is kept, or with `replace` gives way."""
    check_dimension(session, embedder_id=embedder_id, dimension=vector.size)
    same = (TaskEmbeddingRow.task_id == task.id) & (TaskEmbeddingRow.embedder_id == embedder_id)
    if replace:
        session.execute(delete(TaskEmbeddingRow).where(same))
    elif session.scalar(select(TaskEmbeddingRow.id).where(same)) is not None:
        return
    session.add(
        TaskEmbeddingRow(
            task_id=task.id,
            namespace=task.namespace,
            embedder_id=embedder_id,
            dimension=vector.size,
            embedding=vector,
        )
    )


def remove(session: Session, task: TaskRow) -> None:
    """Deletes a task, and the adapters that no other task uses."""
    meant = select(AliasRow.adapter_id).where(AliasRow.task_id == task.id)
    meant_by_others = select(AliasRow.adapter_id).where(AliasRow.task_id != task.id)
    orphaned = AdapterRow.task_id.is_(None) & AdapterRow.id.in_(meant)
    session.execute(
        delete(AdapterRow)
        .where((AdapterRow.task_id == task.id) | orphaned)
        .where(AdapterRow.id.not_in(meant_by_others))
        .execution_options(synchronize_session=False)
    )
    session.execute(
        delete(TaskRow).where(TaskRow.id == task.id).execution_options(synchronize_session=False)
    )

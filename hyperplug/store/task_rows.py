"""Reads and writes tasks within an open session."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from sqlalchemy import BindParameter, Select, bindparam, delete, exists, func, or_, select
from sqlalchemy.orm import Session

from hyperplug.entities import Example, NewTask, Task, TaskChange, TaskRevision
from hyperplug.errors import DuplicateTaskError, RegistryError, TaskNotFoundError, no_such_task
from hyperplug.store import embedding_rows
from hyperplug.store.tables import (
    AdapterRow,
    AliasRow,
    TaskRevisionRow,
    TaskRow,
    TaskTagRow,
)

# Every lookup asks these: they are put together once, and read without the ORM.
_IDS: BindParameter[list[int]] = bindparam("ids", expanding=True)
# A row for each tag: one question takes less time than a second one for the tags.
_BY_ID = (
    select(TaskRow.__table__, TaskTagRow.tag)
    .outerjoin_from(TaskRow, TaskTagRow, TaskTagRow.task_id == TaskRow.id)
    .where(TaskRow.id.in_(_IDS), TaskRow.deleted_at.is_(None))
    .order_by(TaskTagRow.position)
)


def to_task(row: TaskRow) -> Task:
    """Returns the entity of a row."""
    return Task(
        id=row.id,
        namespace=row.namespace,
        name=row.name,
        description=row.description,
        examples=_examples(row.examples),
        tags=tuple(tag.tag for tag in row.tags),
        created_at=row.created_at,
        revision=row.revision,
        updated_at=row.updated_at,
        deleted_at=row.deleted_at,
    )


def _examples(pairs: Sequence[Sequence[str]]) -> tuple[Example, ...]:
    return tuple(Example(input=given, output=wanted) for given, wanted in pairs)


def _pairs(examples: Iterable[Example]) -> list[list[str]]:
    return [[example.input, example.output] for example in examples]


def find_row(session: Session, name: str, *, namespace: str) -> TaskRow | None:
    """Returns the row of that name, if any; not that of a removed task."""
    query = select(TaskRow).where(
        TaskRow.namespace == namespace, TaskRow.name == name, TaskRow.deleted_at.is_(None)
    )
    return session.scalar(query)


def require_row(session: Session, name: str, *, namespace: str) -> TaskRow:
    """Returns the row of that name.

    Raises:
        TaskNotFoundError: when there is none.
    """
    row = find_row(session, name, namespace=namespace)
    if row is None:
        raise no_such_task(name, namespace=namespace)
    return row


def require_removed(session: Session, name: str, *, namespace: str) -> TaskRow:
    """Returns the row of that name that was removed last.

    Raises:
        TaskNotFoundError: when there is none.
    """
    query = select(TaskRow).where(
        TaskRow.namespace == namespace, TaskRow.name == name, TaskRow.deleted_at.is_not(None)
    )
    row = session.scalar(query.order_by(TaskRow.deleted_at.desc(), TaskRow.id.desc()).limit(1))
    if row is None:
        raise TaskNotFoundError(
            f"no removed task {name!r} in namespace {namespace!r}",
            hint="run: hyperplug list-tasks --removed",
        )
    return row


def find_by_text(session: Session, description_digest: str, *, namespace: str) -> TaskRow | None:
    """Returns the oldest row with that description, if any."""
    query = select(TaskRow).where(
        TaskRow.namespace == namespace,
        TaskRow.description_digest == description_digest,
        TaskRow.deleted_at.is_(None),
    )
    return session.scalar(query.order_by(TaskRow.id).limit(1))


def listing(
    *,
    namespace: str,
    tag: str | None = None,
    search: str | None = None,
    removed: bool = False,
    after_id: int = 0,
    limit: int | None = None,
    offset: int = 0,
) -> Select[TaskRow]:
    """Returns the query for a namespace's tasks in the order of their registration."""
    gone = TaskRow.deleted_at.is_not(None) if removed else TaskRow.deleted_at.is_(None)
    query = select(TaskRow).where(TaskRow.namespace == namespace, gone)
    if after_id:
        query = query.where(TaskRow.id > after_id)
    if tag is not None:
        tagged = exists().where(TaskTagRow.task_id == TaskRow.id, TaskTagRow.tag == tag)
        query = query.where(tagged)
    if search is not None:
        query = query.where(
            or_(
                TaskRow.name.icontains(search, autoescape=True),
                TaskRow.description.icontains(search, autoescape=True),
            )
        )
    return query.order_by(TaskRow.id).limit(limit).offset(offset)


def count(session: Session, *, namespace: str) -> int:
    """Returns how many tasks the namespace has."""
    query = select(func.count()).where(TaskRow.namespace == namespace, TaskRow.deleted_at.is_(None))
    return session.scalar(query) or 0


def by_id(session: Session, task_ids: Sequence[int]) -> dict[int, Task]:
    """Returns those tasks that exist and are not removed, by id."""
    rows = session.connection().execute(_BY_ID, {"ids": list(task_ids)}).all()
    tags: dict[int, list[str]] = {}
    for row in rows:
        if row.tag is not None:
            tags.setdefault(row.id, []).append(row.tag)
    return {
        row.id: Task(
            id=row.id,
            namespace=row.namespace,
            name=row.name,
            description=row.description,
            examples=_examples(row.examples),
            tags=tuple(tags.get(row.id, ())),
            created_at=row.created_at,
            revision=row.revision,
            updated_at=row.updated_at,
            deleted_at=row.deleted_at,
        )
        for row in {row.id: row for row in rows}.values()
    }


def add(
    session: Session, tasks: Sequence[NewTask]
) -> list[tuple[TaskRow, bool] | DuplicateTaskError]:
    """Returns for each task its row and whether this call made it, or what is in the way.

    A task that is there with the same description is left as it is.
    """
    rows: dict[tuple[str, str], TaskRow] = {}
    for namespace in {task.namespace for task in tasks}:
        names = [task.name for task in tasks if task.namespace == namespace]
        query = select(TaskRow).where(
            TaskRow.namespace == namespace,
            TaskRow.name.in_(names),
            TaskRow.deleted_at.is_(None),
        )
        rows.update({(namespace, row.name): row for row in session.scalars(query)})
    outcomes: list[tuple[TaskRow, bool] | DuplicateTaskError] = []
    for task in tasks:
        key = (task.namespace, task.name)
        standing = rows.get(key)
        if standing is None:
            rows[key] = _new_row(task)
            session.add(rows[key])
            outcomes.append((rows[key], True))
        elif standing.description_digest == task.description_digest:
            outcomes.append((standing, False))
        else:
            outcomes.append(_duplicate(task.name))
    session.flush()
    return outcomes


def _duplicate(name: str) -> DuplicateTaskError:
    return DuplicateTaskError(
        f"task {name!r} is already registered with another description",
        hint=f"choose another name, or change it with: hyperplug update-task {name}",
    )


def _new_row(task: NewTask) -> TaskRow:
    return TaskRow(
        namespace=task.namespace,
        name=task.name,
        description=task.description,
        description_digest=task.description_digest,
        examples=_pairs(task.examples),
        tags=_tag_rows(task.tags),
        created_at=datetime.now(UTC),
        revision=1,
    )


def _tag_rows(tags: Iterable[str]) -> list[TaskTagRow]:
    return [TaskTagRow(tag=tag, position=at) for at, tag in enumerate(dict.fromkeys(tags))]


def change(session: Session, row: TaskRow, wanted: TaskChange, *, actor: str) -> bool:
    """Returns whether the task now says something else; what it said is kept as a revision."""
    if wanted.tags is not None and wanted.tags != tuple(tag.tag for tag in row.tags):
        row.tags = []
        session.flush()  # the old tags leave before equal ones come
        row.tags = _tag_rows(wanted.tags)
    description = row.description if wanted.description is None else wanted.description
    examples = row.examples if wanted.examples is None else _pairs(wanted.examples)
    if description == row.description and examples == row.examples:
        return False
    session.add(
        TaskRevisionRow(
            task_id=row.id,
            revision=row.revision,
            description=row.description,
            examples=row.examples,
            replaced_at=datetime.now(UTC),
            replaced_by=actor,
        )
    )
    row.description, row.examples = description, examples
    if wanted.description_digest is not None:
        row.description_digest = wanted.description_digest
    row.revision += 1
    row.updated_at = datetime.now(UTC)
    return True


def revisions(session: Session, task_id: int) -> list[TaskRevision]:
    """Returns what the task said before its changes, oldest first."""
    query = select(TaskRevisionRow).where(TaskRevisionRow.task_id == task_id)
    return [
        TaskRevision(
            revision=row.revision,
            description=row.description,
            examples=_examples(row.examples),
            replaced_at=row.replaced_at,
            replaced_by=row.replaced_by,
        )
        for row in session.scalars(query.order_by(TaskRevisionRow.revision))
    ]


def remove(session: Session, row: TaskRow) -> None:
    """Takes a task out of sight and out of lookups; nothing of it is deleted."""
    row.deleted_at = datetime.now(UTC)
    embedding_rows.deactivate(session, row.id)


def restore(session: Session, row: TaskRow) -> None:
    """Undoes `remove`.

    Raises:
        RegistryError: when another task has the name by now.
    """
    if find_row(session, row.name, namespace=row.namespace) is not None:
        raise DuplicateTaskError(
            f"another task is called {row.name!r} by now",
            hint=f"first run: hyperplug remove-task {row.name}",
        )
    row.deleted_at = None
    embedding_rows.activate(session, row.id)


def purge(session: Session, row: TaskRow) -> None:
    """Deletes a removed task, and the adapters that no other task uses and nobody pinned.

    Raises:
        RegistryError: when the task is not removed.
    """
    if row.deleted_at is None:
        raise RegistryError(
            f"task {row.name!r} is not removed", hint=f"first run: hyperplug remove-task {row.name}"
        )
    unseen = {"synchronize_session": False}
    meant = select(AliasRow.adapter_id).where(AliasRow.task_id == row.id)
    meant_by_others = select(AliasRow.adapter_id).where(AliasRow.task_id != row.id)
    orphaned = AdapterRow.task_id.is_(None) & AdapterRow.id.in_(meant)
    session.execute(
        delete(AdapterRow)
        .where((AdapterRow.task_id == row.id) | orphaned, AdapterRow.pinned.is_(False))
        .where(AdapterRow.id.not_in(meant_by_others)),
        execution_options=unseen,
    )
    session.execute(delete(TaskRow).where(TaskRow.id == row.id), execution_options=unseen)


def removed_before(session: Session, moment: datetime, *, limit: int) -> list[TaskRow]:
    """Returns tasks of all namespaces that were removed before then, the first removed first."""
    query = select(TaskRow).where(TaskRow.deleted_at < moment)
    return list(session.scalars(query.order_by(TaskRow.deleted_at).limit(limit)))

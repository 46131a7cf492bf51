"""Reads and writes aliases, and the record of their changes, within an open session.

An alias says which adapter a task means on one base model. Every change of one is an event;
a rollback goes back along the events that no rollback has undone yet.
"""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import select
from sqlalchemy.orm import Session, aliased

from hyperplug.entities import AdapterState, AliasChange
from hyperplug.errors import AdapterNotFoundError, CorruptAdapterError
from hyperplug.store.tables import AdapterRow, AliasEventRow, AliasRow, TaskRow


def find(session: Session, task_id: int, *, base_fingerprint: str, alias: str) -> AdapterRow | None:
    """Returns the adapter that an alias of a task leads to on a base model, if any."""
    query = (
        select(AdapterRow)
        .join(AliasRow, AliasRow.adapter_id == AdapterRow.id)
        .where(
            AliasRow.task_id == task_id,
            AliasRow.base_fingerprint == base_fingerprint,
            AliasRow.alias == alias,
        )
    )
    return session.scalar(query)


def listing(session: Session, task_id: int, *, base_fingerprint: str) -> dict[str, AdapterRow]:
    """Returns the adapters of a task's aliases on a base model, by alias."""
    query = (
        select(AliasRow.alias, AdapterRow)
        .join(AdapterRow, AliasRow.adapter_id == AdapterRow.id)
        .where(AliasRow.task_id == task_id, AliasRow.base_fingerprint == base_fingerprint)
        .order_by(AliasRow.alias)
    )
    return {alias: row for alias, row in session.execute(query)}  # noqa: C416


def put(session: Session, task: TaskRow, adapter: AdapterRow, *, alias: str, actor: str) -> None:
    """Lets an alias of a task lead to this adapter, on the adapter's base model.

    Raises:
        CorruptAdapterError: when the adapter is in quarantine.
    """
    if adapter.state != AdapterState.READY:
        raise CorruptAdapterError(
            f"adapter {adapter.name!r} is in quarantine: {adapter.state_reason}",
            hint=f"if it is in order, run: hyperplug approve-adapter {adapter.name}",
        )
    row = session.get(AliasRow, (task.id, adapter.base_fingerprint, alias))
    previous = row.adapter_id if row is not None else None
    if previous == adapter.id:
        return
    if row is None:
        session.add(
            AliasRow(
                task_id=task.id,
                base_fingerprint=adapter.base_fingerprint,
                alias=alias,
                adapter_id=adapter.id,
            )
        )
    else:
        row.adapter_id = adapter.id
    _note(session, task, adapter.base_fingerprint, alias, adapter.id, previous, actor=actor)


def take_away(
    session: Session, task: TaskRow, *, base_fingerprint: str, alias: str, actor: str
) -> None:
    """Takes an alias from a task.

    Raises:
        AdapterNotFoundError: when the task has none of that name.
    """
    row = session.get(AliasRow, (task.id, base_fingerprint, alias))
    if row is None:
        raise AdapterNotFoundError(
            f"task {task.name!r} has no alias {alias!r}",
            hint=f"see: hyperplug show-task {task.name}",
        )
    _note(session, task, base_fingerprint, alias, None, row.adapter_id, actor=actor)
    session.delete(row)


def roll_back(session: Session, task: TaskRow, *, base_fingerprint: str, alias: str) -> AdapterRow:
    """Returns the adapter that the alias led to before, and leads to again.

    Adapters that are gone or in quarantine by now are passed over.

    Raises:
        AdapterNotFoundError: when there is none to go back to.
    """
    query = select(AliasEventRow).where(
        AliasEventRow.task_id == task.id,
        AliasEventRow.base_fingerprint == base_fingerprint,
        AliasEventRow.alias == alias,
        AliasEventRow.undone.is_(False),
    )
    events = session.scalars(query.order_by(AliasEventRow.id.desc())).all()
    for number, event in enumerate(events):
        adapter = session.get(AdapterRow, event.previous_id) if event.previous_id else None
        if adapter is not None and adapter.state == AdapterState.READY:
            for undone in events[: number + 1]:
                undone.undone = True
            row = session.get(AliasRow, (task.id, base_fingerprint, alias))
            if row is None:
                row = AliasRow(task_id=task.id, base_fingerprint=base_fingerprint, alias=alias)
                session.add(row)
            row.adapter_id = adapter.id
            return adapter
    raise AdapterNotFoundError(
        f"alias {alias!r} of task {task.name!r} has no earlier adapter",
        hint=f"see: hyperplug list-adapters --task {task.name}",
    )


def history(session: Session, task: TaskRow, *, base_fingerprint: str) -> list[AliasChange]:
    """Returns the changes of a task's aliases on a base model, oldest first."""
    after, before = aliased(AdapterRow), aliased(AdapterRow)
    query = (
        select(AliasEventRow, after.name, before.name)
        .outerjoin(after, after.id == AliasEventRow.adapter_id)
        .outerjoin(before, before.id == AliasEventRow.previous_id)
        .where(
            AliasEventRow.task_id == task.id,
            AliasEventRow.base_fingerprint == base_fingerprint,
        )
        .order_by(AliasEventRow.id)
    )
    return [
        AliasChange(
            task_name=task.name,
            alias=event.alias,
            adapter=adapter,
            previous=previous,
            created_at=event.created_at,
            created_by=event.created_by,
            undone=event.undone,
        )
        for event, adapter, previous in session.execute(query)
    ]


def _note(
    session: Session,
    task: TaskRow,
    base_fingerprint: str,
    alias: str,
    adapter_id: int | None,
    previous_id: int | None,
    *,
    actor: str,
) -> None:
    session.add(
        AliasEventRow(
            task_id=task.id,
            base_fingerprint=base_fingerprint,
            alias=alias,
            adapter_id=adapter_id,
            previous_id=previous_id,
            undone=False,
            created_at=datetime.now(UTC),
            created_by=actor,
        )
    )

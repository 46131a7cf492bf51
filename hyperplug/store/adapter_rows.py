"""Reads and writes adapters and aliases within an open session."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from datetime import UTC, datetime

from sqlalchemy import ColumnElement, Select, exists, func, or_, select
from sqlalchemy.orm import Session

from hyperplug.entities import Adapter, AdapterState, NewAdapter, Origin
from hyperplug.errors import (
    AdapterNotFoundError,
    CorruptAdapterError,
    RegistryError,
    TaskNotFoundError,
)
from hyperplug.naming import adapter_name
from hyperplug.store.tables import AdapterRow, AliasRow, TaskRow


def to_adapter(row: AdapterRow) -> Adapter:
    """Returns the entity of a row, without its bytes."""
    return Adapter(
        id=row.id,
        namespace=row.namespace,
        name=row.name,
        task_name=row.task_name,
        digest=row.digest,
        rank=row.rank,
        alpha=row.alpha,
        target_modules=tuple(row.target_modules),
        origin=Origin(row.origin),
        base_fingerprint=row.base_fingerprint,
        hypernet_fingerprint=row.hypernet_fingerprint,
        size_bytes=row.size_bytes,
        metrics=dict(row.metrics),
        created_at=row.created_at,
        version=row.version,
        task_revision=row.task_revision,
        parent=row.parent,
        embedder_id=row.embedder_id,
        seed=row.seed,
        created_by=row.created_by,
        state=AdapterState(row.state),
        state_reason=row.state_reason,
        pinned=row.pinned,
    )


def _visible() -> ColumnElement[bool]:
    """Adapters that a task has which is not removed, be it as its own or by an alias."""
    live = TaskRow.deleted_at.is_(None)
    own = exists().where(TaskRow.id == AdapterRow.task_id, live)
    meant = exists().where(
        AliasRow.adapter_id == AdapterRow.id, AliasRow.task_id == TaskRow.id, live
    )
    return or_(own, meant)


def find_row(session: Session, name: str, *, namespace: str) -> AdapterRow | None:
    """Returns the row of that immutable name, if any; not if all its tasks are removed."""
    query = select(AdapterRow).where(AdapterRow.namespace == namespace, AdapterRow.name == name)
    return session.scalar(query.where(_visible()))


def find_generated(session: Session, generation_key: str, *, namespace: str) -> AdapterRow | None:
    """Returns the row generated under that key, if any, even for a removed task."""
    query = select(AdapterRow).where(
        AdapterRow.namespace == namespace, AdapterRow.generation_key == generation_key
    )
    return session.scalar(query)


def listing(
    *,
    namespace: str,
    task_name: str | None = None,
    base_fingerprint: str | None = None,
    after_id: int = 0,
    limit: int | None = None,
) -> Select[AdapterRow]:
    """Returns the query for rows oldest first; for a task, those made for it and those it shares.

    Those of removed tasks are left out.
    """
    query = select(AdapterRow).where(AdapterRow.namespace == namespace, _visible())
    if after_id:
        query = query.where(AdapterRow.id > after_id)
    if base_fingerprint is not None:
        query = query.where(AdapterRow.base_fingerprint == base_fingerprint)
    if task_name is not None:
        live = select(TaskRow.id).where(
            TaskRow.namespace == namespace,
            TaskRow.name == task_name,
            TaskRow.deleted_at.is_(None),
        )
        meant = select(AliasRow.adapter_id).where(AliasRow.task_id.in_(live))
        query = query.where(or_(AdapterRow.task_id.in_(live), AdapterRow.id.in_(meant)))
    return query.order_by(AdapterRow.id).limit(limit)


def put(session: Session, adapter: NewAdapter, *, actor: str) -> AdapterRow:
    """Returns the row of an adapter: one that stands under its key or name, or a new one.

    Raises:
        TaskNotFoundError: when its task is not (or no longer) there.
        RegistryError: when its name stands for other weights.
    """
    task = session.get(TaskRow, adapter.task_id)
    if task is None or task.namespace != adapter.namespace or task.deleted_at is not None:
        raise TaskNotFoundError(
            f"task {adapter.task_name!r} was removed before its adapter could be stored",
            hint="register the task again",
        )
    standing = _standing(session, adapter)
    if standing is not None:
        return standing
    row = _new_row(adapter, task=task, actor=actor)
    row.version = 1 + (
        session.scalar(select(func.max(AdapterRow.version)).where(AdapterRow.task_id == task.id))
        or 0
    )
    session.add(row)
    session.flush()
    return row


def _standing(session: Session, adapter: NewAdapter) -> AdapterRow | None:
    key = adapter.generation_key
    if key is not None:
        generated = find_generated(session, key, namespace=adapter.namespace)
        if generated is not None:
            return generated
    name = adapter_name(adapter.task_name, adapter.weights.digest)
    named = session.scalar(
        select(AdapterRow).where(AdapterRow.namespace == adapter.namespace, AdapterRow.name == name)
    )
    if named is None:
        return None
    same = (named.digest, named.base_fingerprint) == (
        adapter.weights.digest,
        adapter.base_fingerprint,
    )
    if not same:
        raise RegistryError(
            f"adapter name {name!r} already stands for other weights or another base model",
            hint="register the task under another name",
        )
    if named.generation_key is None and key is not None:
        # An export came back by import before it was generated here: the next look by key
        # must find it.
        named.generation_key = key
    return named


def _new_row(adapter: NewAdapter, *, task: TaskRow, actor: str) -> AdapterRow:
    weights = adapter.weights
    check_bytes(weights.data, digest=weights.digest, name=adapter.task_name)
    return AdapterRow(
        namespace=adapter.namespace,
        name=adapter_name(adapter.task_name, weights.digest),
        task_id=adapter.task_id,
        task_name=adapter.task_name,
        digest=weights.digest,
        rank=weights.rank,
        alpha=weights.alpha,
        target_modules=list(weights.target_modules),
        origin=adapter.origin.value,
        base_fingerprint=adapter.base_fingerprint,
        hypernet_fingerprint=adapter.hypernet_fingerprint,
        generation_key=adapter.generation_key,
        size_bytes=len(weights.data),
        metrics=finite(adapter.metrics),
        created_at=datetime.now(UTC),
        data=weights.data,
        task_revision=adapter.task_revision or task.revision,
        parent=adapter.parent,
        embedder_id=adapter.embedder_id,
        seed=adapter.seed,
        created_by=actor,
        state=adapter.state.value,
        state_reason=adapter.state_reason,
    )


def require_row(session: Session, adapter_id: int) -> AdapterRow:
    """Returns the row of that id.

    Raises:
        AdapterNotFoundError: when there is none.
    """
    row = session.get(AdapterRow, adapter_id)
    if row is None:
        raise AdapterNotFoundError(
            f"no adapter with id {adapter_id}", hint="run: hyperplug list-adapters"
        )
    return row


def check_bytes(data: bytes, *, digest: str, name: str) -> bytes:
    """Returns the bytes if they match their digest.

    Raises:
        CorruptAdapterError: when they do not.
    """
    found = hashlib.sha256(data).hexdigest()
    if found != digest:
        raise CorruptAdapterError(
            f"the bytes of adapter {name!r} do not match their digest "
            f"({len(data):,} bytes, {found[:8]} instead of {digest[:8]})",
            hint="generate or import it again, or restore the registry from a backup",
        )
    return data


def finite(metrics: Mapping[str, float]) -> dict[str, float]:
    """Returns the metrics as plain numbers.

    Raises:
        RegistryError: when one is not finite, which JSON cannot say.
    """
    for name, value in metrics.items():
        if not math.isfinite(value):
            raise RegistryError(f"metric {name!r} is {value}", hint="store finite numbers only")
    return {name: float(value) for name, value in metrics.items()}

"""Reads and writes adapters and aliases within an open session."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from datetime import UTC, datetime

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from hyperplug.entities import (
    Adapter,
    NewAdapter,
    Origin,
)
from hyperplug.errors import (
    AdapterNotFoundError,
    CorruptAdapterError,
    RegistryError,
    TaskNotFoundError,
)
from hyperplug.naming import adapter_name
from hyperplug.store.tables import (
    CURRENT,
    AdapterRow,
    AliasRow,
    TaskRow,
)


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
    )


def find_row(session: Session, name: str, *, namespace: str) -> AdapterRow | None:
    """Returns the row of that immutable name, if any."""
    query = select(AdapterRow).where(AdapterRow.namespace == namespace, AdapterRow.name == name)
    return session.scalar(query)


def find_generated(session: Session, generation_key: str, *, namespace: str) -> AdapterRow | None:
    """Returns the row generated under that key, if any."""
    query = select(AdapterRow).where(
        AdapterRow.namespace == namespace, AdapterRow.generation_key == generation_key
    )
    return session.scalar(query)


def find_current(session: Session, task_id: int, *, base_fingerprint: str) -> AdapterRow | None:
    """Returns the row that a task means on a base model, if any."""
    query = (
        select(AdapterRow)
        .join(AliasRow, AliasRow.adapter_id == AdapterRow.id)
        .where(
            AliasRow.task_id == task_id,
            AliasRow.base_fingerprint == base_fingerprint,
            AliasRow.alias == CURRENT,
        )
    )
    return session.scalar(query)


def listing(session: Session, *, namespace: str, task_name: str | None) -> list[AdapterRow]:
    """Returns rows oldest first; for a task, those made for it and those it shares."""
    query = select(AdapterRow).where(AdapterRow.namespace == namespace)
    if task_name is not None:
        shared = (
            select(AliasRow.adapter_id)
            .join(TaskRow, TaskRow.id == AliasRow.task_id)
            .where(TaskRow.namespace == namespace, TaskRow.name == task_name)
        )
        query = query.where(or_(AdapterRow.task_name == task_name, AdapterRow.id.in_(shared)))
    return list(session.scalars(query.order_by(AdapterRow.id)))


def put(session: Session, adapter: NewAdapter) -> AdapterRow:
    """Returns the row of an adapter: one that stands under its key or name, or a new one.

    Raises:
        TaskNotFoundError: when its task is not (or no longer) there.
        RegistryError: when its name stands for other weights.
    """
    task = session.get(TaskRow, adapter.task_id)
    if task is None or task.namespace != adapter.namespace:
        raise TaskNotFoundError(
            f"task {adapter.task_name!r} was removed before its adapter could be stored",
            hint="register the task again",
        )
    standing = _standing(session, adapter)
    if standing is not None:
        return standing
    row = _new_row(adapter)
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
    named = find_row(session, name, namespace=adapter.namespace)
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


def _new_row(adapter: NewAdapter) -> AdapterRow:
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
    )


def set_current(session: Session, task_id: int, *, adapter: AdapterRow) -> None:
    """Lets a task mean this adapter on the adapter's base model."""
    key = (task_id, adapter.base_fingerprint, CURRENT)
    alias = session.get(AliasRow, key)
    if alias is None:
        session.add(
            AliasRow(
                task_id=task_id,
                base_fingerprint=adapter.base_fingerprint,
                alias=CURRENT,
                adapter_id=adapter.id,
            )
        )
    else:
        alias.adapter_id = adapter.id


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

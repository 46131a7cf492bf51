"""The rows of the registry. They never leave this package."""

from __future__ import annotations

from datetime import datetime

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import (
    JSON,
    CheckConstraint,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Sequence,
    String,
    Text,
    UniqueConstraint,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from hyperplug.store.columns import Embedding, UtcDateTime

FIRST_ADAPTER_ID = 2**20
"""Smaller ids are left to vLLM's own counter."""
LAST_ADAPTER_ID = 2**31 - 1
"""vLLM's GPU runner keeps ids as int32."""

CURRENT = "current"
"""The alias under which a task's name leads to an adapter."""

_NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "pk": "pk_%(table_name)s",
}


class Row(DeclarativeBase):
    """Base of all rows; it names constraints, so that migrations can address them."""

    metadata = MetaData(naming_convention=_NAMING)


class TaskRow(Row):
    """A registered task; `examples` is a list of [input, output] pairs."""

    __tablename__ = "tasks"
    __table_args__ = (
        UniqueConstraint("namespace", "name"),
        Index(None, "namespace", "description_digest"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    namespace: Mapped[str] = mapped_column(String(63))
    name: Mapped[str] = mapped_column(String(63))
    description: Mapped[str] = mapped_column(Text)
    description_digest: Mapped[str] = mapped_column(String(64))
    examples: Mapped[list[list[str]]] = mapped_column(JSON)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)

    tags: Mapped[list[TaskTagRow]] = relationship(
        order_by="TaskTagRow.position",
        cascade="all, delete-orphan",
        lazy="selectin",
        passive_deletes=True,
    )


class TaskTagRow(Row):
    """One tag of a task; `position` keeps the order in which they were given."""

    __tablename__ = "task_tags"
    __table_args__ = (Index(None, "tag"),)

    task_id: Mapped[int] = mapped_column(
        ForeignKey("tasks.id", ondelete="CASCADE"), primary_key=True
    )
    tag: Mapped[str] = mapped_column(String(255), primary_key=True)
    position: Mapped[int]


class TaskEmbeddingRow(Row):
    """A task's unit vector as one embedder sees it.

    Rows are inserted and deleted, never updated: SQLite's in-memory matrix tells from the
    ids alone what has changed. `namespace` repeats the task's, to search without a join.
    """

    __tablename__ = "task_embeddings"
    __table_args__ = (
        UniqueConstraint("task_id", "embedder_id"),
        Index(None, "embedder_id", "namespace", "id"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    task_id: Mapped[int] = mapped_column(ForeignKey("tasks.id", ondelete="CASCADE"))
    namespace: Mapped[str] = mapped_column(String(63))
    embedder_id: Mapped[str] = mapped_column(String(255))
    dimension: Mapped[int]
    embedding: Mapped[NDArray[np.float32]] = mapped_column(Embedding)


class BaseModelRow(Row):
    """A base model; `module_shapes` is a list of [path, in, out] in model order."""

    __tablename__ = "base_models"

    fingerprint: Mapped[str] = mapped_column(String(128), primary_key=True)
    model_id: Mapped[str] = mapped_column(Text)
    revision: Mapped[str] = mapped_column(String(255))
    architecture: Mapped[str] = mapped_column(String(255))
    module_shapes: Mapped[list[tuple[str, int, int]]] = mapped_column(JSON)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)


class HypernetRow(Row):
    """A hypernetwork checkpoint."""

    __tablename__ = "hypernets"

    fingerprint: Mapped[str] = mapped_column(String(128), primary_key=True)
    base_fingerprint: Mapped[str] = mapped_column(ForeignKey("base_models.fingerprint"))
    embedder_id: Mapped[str] = mapped_column(String(255))
    rank: Mapped[int]
    target_modules: Mapped[list[str]] = mapped_column(JSON)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)


class AdapterRow(Row):
    """An adapter with its bytes.

    `task_id` is the task it was made for, none once that is removed while another task
    still uses the adapter. `data` is last, so that SQLite lists rows without reading it.
    """

    __tablename__ = "adapters"
    __table_args__ = (
        UniqueConstraint("namespace", "name"),
        UniqueConstraint("namespace", "generation_key"),
        Index(None, "task_id"),
        CheckConstraint(f"id BETWEEN {FIRST_ADAPTER_ID} AND {LAST_ADAPTER_ID}", name="id_range"),
        CheckConstraint("rank > 0", name="rank_positive"),
        CheckConstraint("size_bytes > 0", name="size_positive"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(
        Integer,
        Sequence("adapter_ids", start=FIRST_ADAPTER_ID, data_type=Integer),
        primary_key=True,
    )
    namespace: Mapped[str] = mapped_column(String(63))
    name: Mapped[str] = mapped_column(String(80))
    task_id: Mapped[int | None] = mapped_column(ForeignKey("tasks.id", ondelete="SET NULL"))
    task_name: Mapped[str] = mapped_column(String(63))
    digest: Mapped[str] = mapped_column(String(64))
    rank: Mapped[int]
    alpha: Mapped[float] = mapped_column(Float(53))
    target_modules: Mapped[list[str]] = mapped_column(JSON)
    origin: Mapped[str] = mapped_column(String(16))
    base_fingerprint: Mapped[str] = mapped_column(ForeignKey("base_models.fingerprint"))
    hypernet_fingerprint: Mapped[str | None] = mapped_column(ForeignKey("hypernets.fingerprint"))
    generation_key: Mapped[str | None] = mapped_column(String(64))
    size_bytes: Mapped[int]
    metrics: Mapped[dict[str, float]] = mapped_column(JSON)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    data: Mapped[bytes] = mapped_column(LargeBinary, deferred=True, deferred_raiseload=True)


class AliasRow(Row):
    """Which adapter a task means on one base model."""

    __tablename__ = "aliases"
    __table_args__ = (Index(None, "adapter_id"),)

    task_id: Mapped[int] = mapped_column(
        ForeignKey("tasks.id", ondelete="CASCADE"), primary_key=True
    )
    base_fingerprint: Mapped[str] = mapped_column(
        ForeignKey("base_models.fingerprint"), primary_key=True
    )
    alias: Mapped[str] = mapped_column(String(63), primary_key=True, default=CURRENT)
    adapter_id: Mapped[int] = mapped_column(ForeignKey("adapters.id", ondelete="CASCADE"))

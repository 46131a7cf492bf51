"""The rows of the registry. They never leave this package."""

from __future__ import annotations

from datetime import datetime

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
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
    false,
    text,
    true,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from hyperplug.naming import CURRENT
from hyperplug.store.columns import Embedding, UtcDateTime

FIRST_ADAPTER_ID = 2**20
"""Smaller ids are left to vLLM's own counter."""
LAST_ADAPTER_ID = 2**31 - 1
"""vLLM's GPU runner keeps ids as int32."""

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


_LIVE = text("deleted_at IS NULL")


class TaskRow(Row):
    """A registered task; `examples` is a list of [input, output] pairs.

    A removed task keeps its row, with `deleted_at`, until it is purged; its name is free.
    `revision` counts the changes of description and examples, from 1.
    """

    __tablename__ = "tasks"
    __table_args__ = (
        Index(
            "uq_tasks_live_name",
            "namespace",
            "name",
            unique=True,
            sqlite_where=_LIVE,
            postgresql_where=_LIVE,
        ),
        Index("ix_tasks_live", "namespace", "id", sqlite_where=_LIVE, postgresql_where=_LIVE),
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
    revision: Mapped[int] = mapped_column(default=1, server_default=text("1"))
    updated_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    deleted_at: Mapped[datetime | None] = mapped_column(UtcDateTime)

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


class TaskRevisionRow(Row):
    """What a task said before it was changed."""

    __tablename__ = "task_revisions"

    task_id: Mapped[int] = mapped_column(
        ForeignKey("tasks.id", ondelete="CASCADE"), primary_key=True
    )
    revision: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    description: Mapped[str] = mapped_column(Text)
    examples: Mapped[list[list[str]]] = mapped_column(JSON)
    replaced_at: Mapped[datetime] = mapped_column(UtcDateTime)
    replaced_by: Mapped[str] = mapped_column(String(255))


class TaskEmbeddingRow(Row):
    """A task's unit vector as one embedder sees it.

    A vector never changes under its id, and ids only grow: what searches in memory reads
    rows with higher ids, and takes out those named by `EmbeddingRemovalRow`. Vectors of
    removed tasks stay, not `active`. `namespace` repeats the task's, to search without a
    join.
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
    active: Mapped[bool] = mapped_column(Boolean, default=True, server_default=true())


class EmbeddingRemovalRow(Row):
    """One vector that was taken out of lookups, for those who hold it in memory."""

    __tablename__ = "embedding_removals"
    __table_args__ = (
        Index(None, "embedder_id", "namespace", "id"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    embedder_id: Mapped[str] = mapped_column(String(255))
    namespace: Mapped[str] = mapped_column(String(63))
    embedding_id: Mapped[int]
    removed_at: Mapped[datetime] = mapped_column(UtcDateTime)


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

    `task_id` is the task it was made for, none once that is purged while another task
    still uses the adapter. `task_revision` is what it was made from, `version` its number
    among the task's adapters, `parent` the name of the one it came after.
    """

    __tablename__ = "adapters"
    __table_args__ = (
        UniqueConstraint("namespace", "name"),
        UniqueConstraint("namespace", "generation_key"),
        Index("uq_adapters_task_version", "task_id", "version", unique=True),
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
    version: Mapped[int] = mapped_column(server_default=text("1"))
    task_revision: Mapped[int] = mapped_column(server_default=text("1"))
    parent: Mapped[str | None] = mapped_column(String(80))
    embedder_id: Mapped[str | None] = mapped_column(String(255))
    seed: Mapped[int | None] = mapped_column(BigInteger)
    created_by: Mapped[str] = mapped_column(String(255), server_default="")
    state: Mapped[str] = mapped_column(String(16), server_default="ready")
    state_reason: Mapped[str] = mapped_column(Text, server_default="")
    pinned: Mapped[bool] = mapped_column(Boolean, default=False, server_default=false())


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


class AliasEventRow(Row):
    """One change of an alias; `undone` once a rollback has taken it back."""

    __tablename__ = "alias_events"
    __table_args__ = (
        Index(None, "task_id", "base_fingerprint", "alias", "id"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    task_id: Mapped[int] = mapped_column(ForeignKey("tasks.id", ondelete="CASCADE"))
    base_fingerprint: Mapped[str] = mapped_column(String(128))
    alias: Mapped[str] = mapped_column(String(63))
    adapter_id: Mapped[int | None] = mapped_column(
        ForeignKey("adapters.id", ondelete="SET NULL"), index=True
    )
    previous_id: Mapped[int | None] = mapped_column(
        ForeignKey("adapters.id", ondelete="SET NULL"), index=True
    )
    undone: Mapped[bool] = mapped_column(Boolean, default=False)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    created_by: Mapped[str] = mapped_column(String(255))


class RegistryRow(Row):
    """The registry itself, in one row: its identity, and a count of what was written."""

    __tablename__ = "registry"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    identity: Mapped[str] = mapped_column(String(32))
    changes: Mapped[int] = mapped_column(BigInteger)

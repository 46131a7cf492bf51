"""Revisions, versions, aliases that roll back, soft removal, and a count of changes."""

from __future__ import annotations

import uuid
from typing import Any

import sqlalchemy as sa
from alembic import op

from hyperplug.store.columns import UtcDateTime

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_LIVE = sa.text("deleted_at IS NULL")


def upgrade() -> None:
    """Adds columns and tables; rows that stand get version numbers in the order of their ids."""
    _alter_tasks()
    _alter_adapters()
    _create_tables()
    op.bulk_insert(
        sa.table("registry", sa.column("id"), sa.column("identity"), sa.column("changes")),
        [{"id": 1, "identity": uuid.uuid4().hex, "changes": 0}],
    )


def downgrade() -> None:
    """Takes them away; removed tasks go for good, with what only they use."""
    op.execute(
        "DELETE FROM adapters WHERE task_id IN (SELECT id FROM tasks WHERE deleted_at IS NOT NULL)"
        " AND id NOT IN (SELECT adapter_id FROM aliases JOIN tasks ON tasks.id = aliases.task_id"
        " WHERE deleted_at IS NULL)"
    )
    # Foreign keys are off on SQLite while migrations run: nothing cascades by itself.
    for table in ("task_tags", "task_embeddings", "aliases", "alias_events", "task_revisions"):
        op.execute(
            f"DELETE FROM {table} WHERE task_id IN"
            " (SELECT id FROM tasks WHERE deleted_at IS NOT NULL)"
        )
    op.execute(
        "UPDATE adapters SET task_id = NULL WHERE task_id IN"
        " (SELECT id FROM tasks WHERE deleted_at IS NOT NULL)"
    )
    op.execute("DELETE FROM tasks WHERE deleted_at IS NOT NULL")
    op.execute("DELETE FROM aliases WHERE alias <> 'current'")
    for table in ("registry", "alias_events", "embedding_removals", "task_revisions"):
        op.drop_table(table)
    op.drop_index("uq_adapters_task_version", "adapters")
    op.create_index("ix_adapters_task_id", "adapters", ["task_id"])
    _drop_columns(
        "adapters",
        "version",
        "task_revision",
        "parent",
        "embedder_id",
        "seed",
        "created_by",
        "state",
        "state_reason",
        "pinned",
    )
    _drop_columns("task_embeddings", "active")
    op.drop_index("ix_tasks_live", "tasks")
    op.drop_index("uq_tasks_live_name", "tasks")
    _drop_columns("tasks", "revision", "updated_at", "deleted_at")
    with _keeping_ids(), op.batch_alter_table("tasks", **_AUTOINCREMENT) as tasks:
        tasks.create_unique_constraint("uq_tasks_namespace_name", ["namespace", "name"])


# SQLite makes the table anew to change a constraint.
_AUTOINCREMENT: dict[str, Any] = {"table_kwargs": {"sqlite_autoincrement": True}}


def _on_sqlite() -> bool:
    return bool(op.get_bind().dialect.name == "sqlite")


class _keeping_ids:
    """Lets SQLite go on counting tasks where it was, though the table is made anew."""

    def __enter__(self) -> None:
        self._last = None
        if _on_sqlite():
            query = sa.text("SELECT seq FROM sqlite_sequence WHERE name = 'tasks'")
            self._last = op.get_bind().execute(query).scalar()

    def __exit__(self, *_: object) -> None:
        if self._last is not None:
            op.execute("DELETE FROM sqlite_sequence WHERE name LIKE '%tasks'")
            op.execute(f"INSERT INTO sqlite_sequence (name, seq) VALUES ('tasks', {self._last})")


def _drop_columns(table: str, *names: str) -> None:
    for name in names:
        op.drop_column(table, name)


def _alter_tasks() -> None:
    with _keeping_ids(), op.batch_alter_table("tasks", **_AUTOINCREMENT) as tasks:
        tasks.drop_constraint("uq_tasks_namespace_name", type_="unique")
        tasks.add_column(
            sa.Column("revision", sa.Integer(), nullable=False, server_default=sa.text("1"))
        )
        tasks.add_column(sa.Column("updated_at", UtcDateTime()))
        tasks.add_column(sa.Column("deleted_at", UtcDateTime()))
    where: dict[str, Any] = {"sqlite_where": _LIVE, "postgresql_where": _LIVE}
    op.create_index("uq_tasks_live_name", "tasks", ["namespace", "name"], unique=True, **where)
    op.create_index("ix_tasks_live", "tasks", ["namespace", "id"], **where)
    op.add_column(
        "task_embeddings",
        sa.Column("active", sa.Boolean(), nullable=False, server_default=sa.true()),
    )


def _alter_adapters() -> None:
    for column in (
        sa.Column("version", sa.Integer(), nullable=False, server_default=sa.text("1")),
        sa.Column("task_revision", sa.Integer(), nullable=False, server_default=sa.text("1")),
        sa.Column("parent", sa.String(80)),
        sa.Column("embedder_id", sa.String(255)),
        sa.Column("seed", sa.BigInteger()),
        sa.Column("created_by", sa.String(255), nullable=False, server_default=""),
        sa.Column("state", sa.String(16), nullable=False, server_default="ready"),
        sa.Column("state_reason", sa.Text(), nullable=False, server_default=""),
        sa.Column("pinned", sa.Boolean(), nullable=False, server_default=sa.false()),
    ):
        op.add_column("adapters", column)
    op.execute(
        "UPDATE adapters SET version = (SELECT count(*) FROM adapters AS older"
        " WHERE older.task_id = adapters.task_id AND older.id <= adapters.id)"
        " WHERE task_id IS NOT NULL"
    )
    op.execute(
        "UPDATE adapters SET embedder_id = (SELECT embedder_id FROM hypernets"
        " WHERE hypernets.fingerprint = adapters.hypernet_fingerprint)"
    )
    op.drop_index("ix_adapters_task_id", "adapters")
    op.create_index("uq_adapters_task_version", "adapters", ["task_id", "version"], unique=True)


def _create_tables() -> None:
    op.create_table(
        "task_revisions",
        _task_id(primary_key=True),
        sa.Column("revision", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("examples", sa.JSON(), nullable=False),
        sa.Column("replaced_at", UtcDateTime(), nullable=False),
        sa.Column("replaced_by", sa.String(255), nullable=False),
    )
    op.create_table(
        "embedding_removals",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("embedder_id", sa.String(255), nullable=False),
        sa.Column("namespace", sa.String(63), nullable=False),
        sa.Column("embedding_id", sa.Integer(), nullable=False),
        sa.Column("removed_at", UtcDateTime(), nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "ix_embedding_removals_embedder_id_namespace_id",
        "embedding_removals",
        ["embedder_id", "namespace", "id"],
    )
    op.create_table(
        "alias_events",
        sa.Column("id", sa.Integer(), primary_key=True),
        _task_id(primary_key=False),
        sa.Column("base_fingerprint", sa.String(128), nullable=False),
        sa.Column("alias", sa.String(63), nullable=False),
        _adapter_id("adapter_id"),
        _adapter_id("previous_id"),
        sa.Column("undone", sa.Boolean(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("created_by", sa.String(255), nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "ix_alias_events_task_id_base_fingerprint_alias_id",
        "alias_events",
        ["task_id", "base_fingerprint", "alias", "id"],
    )
    for name in ("adapter_id", "previous_id"):
        op.create_index(f"ix_alias_events_{name}", "alias_events", [name])
    op.create_table(
        "registry",
        sa.Column("id", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("identity", sa.String(32), nullable=False),
        sa.Column("changes", sa.BigInteger(), nullable=False),
    )


def _task_id(*, primary_key: bool) -> sa.Column[int]:
    reference = sa.ForeignKey("tasks.id", ondelete="CASCADE")
    return sa.Column("task_id", sa.Integer(), reference, primary_key=primary_key, nullable=False)


def _adapter_id(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.Integer(), sa.ForeignKey("adapters.id", ondelete="SET NULL"))

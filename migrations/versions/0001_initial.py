"""The first schema.

Written out in full rather than from `hyperplug.store.tables`, which later revisions change.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

from hyperplug.store.columns import Embedding, UtcDateTime

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

FIRST_ADAPTER_ID = 2**20
LAST_ADAPTER_ID = 2**31 - 1


def upgrade() -> None:
    """Makes all tables in an empty database."""
    if _on_postgres():
        op.execute("CREATE EXTENSION IF NOT EXISTS vector")
    _create_tasks()
    _create_identities()
    _create_adapters()


def downgrade() -> None:
    """Drops all tables; the extension stays, since others may use it."""
    for table in (
        "aliases",
        "adapters",
        "hypernets",
        "base_models",
        "task_embeddings",
        "task_tags",
        "tasks",
    ):
        op.drop_table(table)
    if _on_postgres():
        op.execute("DROP SEQUENCE adapter_ids")


def _on_postgres() -> bool:
    return bool(op.get_bind().dialect.name == "postgresql")


def _text(name: str, length: int, **options: Any) -> sa.Column[str]:
    return sa.Column(name, sa.String(length), nullable=False, **options)


def _created_at() -> sa.Column[Any]:
    return sa.Column("created_at", UtcDateTime(), nullable=False)


def _task_id(*, primary_key: bool) -> sa.Column[int]:
    reference = sa.ForeignKey("tasks.id", ondelete="CASCADE")
    return sa.Column("task_id", sa.Integer(), reference, primary_key=primary_key, nullable=False)


def _create_tasks() -> None:
    op.create_table(
        "tasks",
        sa.Column("id", sa.Integer(), primary_key=True),
        _text("namespace", 63),
        _text("name", 63),
        sa.Column("description", sa.Text(), nullable=False),
        _text("description_digest", 64),
        sa.Column("examples", sa.JSON(), nullable=False),
        _created_at(),
        sa.UniqueConstraint("namespace", "name"),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "ix_tasks_namespace_description_digest", "tasks", ["namespace", "description_digest"]
    )
    op.create_table(
        "task_tags",
        _task_id(primary_key=True),
        _text("tag", 255, primary_key=True),
        sa.Column("position", sa.Integer(), nullable=False),
    )
    op.create_index("ix_task_tags_tag", "task_tags", ["tag"])
    op.create_table(
        "task_embeddings",
        sa.Column("id", sa.Integer(), primary_key=True),
        _task_id(primary_key=False),
        _text("namespace", 63),
        _text("embedder_id", 255),
        sa.Column("dimension", sa.Integer(), nullable=False),
        sa.Column("embedding", Embedding(), nullable=False),
        sa.UniqueConstraint("task_id", "embedder_id"),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "ix_task_embeddings_embedder_id_namespace_id",
        "task_embeddings",
        ["embedder_id", "namespace", "id"],
    )


def _create_identities() -> None:
    op.create_table(
        "base_models",
        _text("fingerprint", 128, primary_key=True),
        sa.Column("model_id", sa.Text(), nullable=False),
        _text("revision", 255),
        _text("architecture", 255),
        sa.Column("module_shapes", sa.JSON(), nullable=False),
        _created_at(),
    )
    op.create_table(
        "hypernets",
        _text("fingerprint", 128, primary_key=True),
        sa.Column(
            "base_fingerprint",
            sa.String(128),
            sa.ForeignKey("base_models.fingerprint"),
            nullable=False,
        ),
        _text("embedder_id", 255),
        sa.Column("rank", sa.Integer(), nullable=False),
        sa.Column("target_modules", sa.JSON(), nullable=False),
        _created_at(),
    )


def _create_adapters() -> None:
    op.create_table(
        "adapters",
        _adapter_id(),
        _text("namespace", 63),
        _text("name", 80),
        sa.Column("task_id", sa.Integer(), sa.ForeignKey("tasks.id", ondelete="SET NULL")),
        _text("task_name", 63),
        _text("digest", 64),
        sa.Column("rank", sa.Integer(), nullable=False),
        sa.Column("alpha", sa.Float(53), nullable=False),
        sa.Column("target_modules", sa.JSON(), nullable=False),
        _text("origin", 16),
        sa.Column(
            "base_fingerprint",
            sa.String(128),
            sa.ForeignKey("base_models.fingerprint"),
            nullable=False,
        ),
        sa.Column("hypernet_fingerprint", sa.String(128), sa.ForeignKey("hypernets.fingerprint")),
        sa.Column("generation_key", sa.String(64)),
        sa.Column("size_bytes", sa.Integer(), nullable=False),
        sa.Column("metrics", sa.JSON(), nullable=False),
        _created_at(),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.UniqueConstraint("namespace", "name"),
        sa.UniqueConstraint("namespace", "generation_key"),
        sa.CheckConstraint(f"id BETWEEN {FIRST_ADAPTER_ID} AND {LAST_ADAPTER_ID}", name="id_range"),
        sa.CheckConstraint("rank > 0", name="rank_positive"),
        sa.CheckConstraint("size_bytes > 0", name="size_positive"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_adapters_task_id", "adapters", ["task_id"])
    if not _on_postgres():
        # AUTOINCREMENT goes on after the number written here, and uses none twice.
        op.execute(
            f"INSERT INTO sqlite_sequence (name, seq) VALUES ('adapters', {FIRST_ADAPTER_ID - 1})"
        )
    op.create_table(
        "aliases",
        _task_id(primary_key=True),
        sa.Column(
            "base_fingerprint",
            sa.String(128),
            sa.ForeignKey("base_models.fingerprint"),
            primary_key=True,
            nullable=False,
        ),
        _text("alias", 63, primary_key=True),
        sa.Column(
            "adapter_id",
            sa.Integer(),
            sa.ForeignKey("adapters.id", ondelete="CASCADE"),
            nullable=False,
        ),
    )
    op.create_index("ix_aliases_adapter_id", "aliases", ["adapter_id"])


def _adapter_id() -> sa.Column[int]:
    """Returns the id column, on PostgreSQL fed by a sequence that ends at int32's end."""
    if not _on_postgres():
        return sa.Column("id", sa.Integer(), primary_key=True)
    op.execute(
        f"CREATE SEQUENCE adapter_ids AS integer START {FIRST_ADAPTER_ID} "
        f"MINVALUE {FIRST_ADAPTER_ID} MAXVALUE {LAST_ADAPTER_ID} NO CYCLE"
    )
    default = sa.text("nextval('adapter_ids')")
    return sa.Column(
        "id", sa.Integer(), primary_key=True, autoincrement=False, server_default=default
    )

"""Runs the migrations in the transaction that `hyperplug.store.schema` has begun."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection

from hyperplug.store.schema import VERSION_TABLE
from hyperplug.store.tables import Row


def run(connection: Connection) -> None:
    """Applies what is to be applied; the caller commits all of it or nothing."""
    context.configure(
        connection=connection,
        target_metadata=Row.metadata,
        version_table=VERSION_TABLE,
        transactional_ddl=True,
        # SQLite alters a table by making another one.
        render_as_batch=connection.dialect.name == "sqlite",
    )
    with context.begin_transaction():
        context.run_migrations()


run(context.config.attributes["connection"])

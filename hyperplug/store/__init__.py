"""What the registry keeps, in SQLite or PostgreSQL, behind one object."""

from __future__ import annotations

from hyperplug.store.engine import open_engine, parse_url
from hyperplug.store.schema import prepare_engine
from hyperplug.store.sql import Store

__all__ = ["Store", "open_store"]


def open_store(url: str, *, create: bool = True, actor: str = "") -> Store:
    """Returns the store at a SQLAlchemy URL of SQLite or PostgreSQL.

    Args:
        url: `sqlite:///path` or `postgresql+psycopg://user:password@host/database`.
        create: make the file, and the tables in an empty database.
        actor: who writes, for the record.

    Raises:
        ConfigError: when the URL is malformed or of another kind of database.
        SchemaVersionError: when the schema is older or newer than this code.
        RegistryError: when the database cannot be reached or belongs to something else.
        MissingExtraError: when the PostgreSQL driver is not installed.
    """
    engine = open_engine(parse_url(url), create=create)
    try:
        prepare_engine(engine, create=create)
    except BaseException:
        engine.dispose()
        raise
    return Store(engine, actor=actor)

"""Copies a whole registry from one database to another, whatever kind they are."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from sqlalchemy import Connection, Engine, Table, func, insert, select, text

from hyperplug.errors import RegistryError
from hyperplug.store import postgres, schema
from hyperplug.store.engine import migrating, open_engine, parse_url, reading
from hyperplug.store.failures import masked
from hyperplug.store.tables import FIRST_ADAPTER_ID, AdapterRow, RegistryRow, Row

_PAGE = 1000
_ADAPTER_PAGE = 32
_ONE = RegistryRow.__tablename__

Told = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Copied:
    """How many rows of each table were copied."""

    rows: dict[str, int]


def copy(source: str, target: str, *, progress: Told = lambda done, total: None) -> Copied:
    """Copies everything from the registry at one URL to an empty database at another.

    It is one transaction on both sides: what was there at one moment arrives, or nothing.
    Others may go on writing to the source. What arrived is read back and compared, adapters
    by their digests.

    Args:
        progress: is told how many rows are copied, and how many there are.

    Raises:
        RegistryError: when the target is not empty, or what arrived differs.
        SchemaVersionError: when the source's schema is not this code's.
    """
    if parse_url(source) == parse_url(target):
        raise RegistryError("source and target are the same registry", hint="name another target")
    schema.check(source)
    schema.upgrade(target)
    from_engine = open_engine(parse_url(source), create=False)
    to_engine = open_engine(parse_url(target), create=False)
    try:
        with reading(_one_state(from_engine)) as session, migrating(to_engine) as to:
            came_from = session.connection()
            _refuse_filled(to)
            tables = Row.metadata.sorted_tables
            total = sum(_count(came_from, table) for table in tables)
            rows: dict[str, int] = {}
            for table in tables:
                done = sum(rows.values())
                rows[table.name] = 0
                for sent in _copy_table(came_from, to, table):
                    rows[table.name] = sent
                    progress(done + sent, total)
            _go_on_counting(came_from, to)
            _index(to)
            return Copied(rows=rows)
    finally:
        from_engine.dispose()
        to_engine.dispose()


def _one_state(engine: Engine) -> Engine:
    """Returns the engine such that all statements of a transaction see the same state."""
    if engine.dialect.name == "postgresql":
        return engine.execution_options(isolation_level="REPEATABLE READ")
    return engine


def _refuse_filled(to: Connection) -> None:
    for table in Row.metadata.sorted_tables:
        if table.name != _ONE and _count(to, table):
            raise RegistryError(
                f"registry {masked(to.engine.url)} is not empty: it has rows in {table.name}",
                hint="copy into a new database",
            )


def _count(connection: Connection, table: Table) -> int:
    return connection.scalar(select(func.count()).select_from(table)) or 0


def _copy_table(came_from: Connection, to: Connection, table: Table) -> Iterator[int]:
    """Copies a table, yielding how many rows are there; at the end compares them."""
    if table.name == _ONE:
        to.execute(table.delete())
    sent, done = hashlib.sha256(), 0
    for page in _pages(came_from, table):
        to.execute(insert(table), page)
        for row in page:
            sent.update(_fingerprint(row))
        done += len(page)
        yield done
    arrived = hashlib.sha256()
    for page in _pages(to, table):
        for row in page:
            arrived.update(_fingerprint(row))
    if sent.digest() != arrived.digest():
        raise RegistryError(
            f"table {table.name} arrived with other content than it has",
            hint="check the disks of both databases, and copy again",
        )


def _pages(connection: Connection, table: Table) -> Iterator[list[dict[str, Any]]]:
    """Yields the rows of a table in the order of its primary key."""
    keys = list(table.primary_key.columns)
    size = _ADAPTER_PAGE if table.name == AdapterRow.__tablename__ else _PAGE
    query = select(table).order_by(*keys).execution_options(yield_per=size)
    result = connection.execute(query)
    for page in result.mappings().partitions(size):
        yield [_checked(table, dict(row)) for row in page]


def _checked(table: Table, row: dict[str, Any]) -> dict[str, Any]:
    if table.name == AdapterRow.__tablename__:
        found = hashlib.sha256(row["data"]).hexdigest()
        if found != row["digest"] and row["state"] == "ready":
            raise RegistryError(
                f"the bytes of adapter {row['name']!r} do not match their digest",
                hint="first run: hyperplug doctor --deep --repair",
            )
    return row


def _fingerprint(row: dict[str, Any]) -> bytes:
    """Returns the digest of a row; equal rows of both databases have equal ones."""
    hasher = hashlib.sha256()
    for name in sorted(row):
        value = row[name]
        if isinstance(value, np.ndarray):
            value = value.astype("<f4").tobytes()
        hasher.update(name.encode() + b"=")
        hasher.update(
            bytes(value) if isinstance(value, bytes | memoryview) else repr(value).encode()
        )
    return hasher.digest()


def _go_on_counting(came_from: Connection, to: Connection) -> None:
    """Lets ids in the target go on after the source's last, even if its last rows are gone."""
    for table in Row.metadata.sorted_tables:
        keys = list(table.primary_key.columns)
        if len(keys) != 1 or keys[0].name != "id" or table.name == _ONE:
            continue
        last = _last_id(came_from, table)
        if last < (FIRST_ADAPTER_ID if table.name == AdapterRow.__tablename__ else 1):
            continue  # none was given out
        if to.dialect.name == "postgresql":
            to.execute(
                text("SELECT setval(:name, :last)"), {"name": _sequence(table), "last": last}
            )
        else:
            to.execute(text("DELETE FROM sqlite_sequence WHERE name = :name"), {"name": table.name})
            to.execute(
                text("INSERT INTO sqlite_sequence (name, seq) VALUES (:name, :last)"),
                {"name": table.name, "last": last},
            )


def _last_id(connection: Connection, table: Table) -> int:
    """Returns the highest id that was ever given out; 0 if none was."""
    if connection.dialect.name == "postgresql":
        query = text(
            f"SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM {_sequence(table)}"
        )
        return int(connection.scalar(query) or 0)
    query = text("SELECT seq FROM sqlite_sequence WHERE name = :name")
    return int(connection.scalar(query, {"name": table.name}) or 0)


def _sequence(table: Table) -> str:
    return "adapter_ids" if table.name == AdapterRow.__tablename__ else f"{table.name}_id_seq"


def _index(to: Connection) -> None:
    """Makes PostgreSQL's indexes of vectors, now that the vectors are there."""
    if to.dialect.name != "postgresql":
        return
    kinds = to.execute(text("SELECT DISTINCT embedder_id, dimension FROM task_embeddings")).all()
    for embedder_id, dimension in kinds:
        postgres.create_index(to, embedder_id=embedder_id, dimension=dimension)

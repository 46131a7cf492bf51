"""The store: what the registry keeps, in SQLite or PostgreSQL."""

from __future__ import annotations

from sqlalchemy import Engine, select, text

from hyperplug.entities import BaseModelSpec, HypernetSpec
from hyperplug.store import identity_rows, schema
from hyperplug.store.adapters import AdapterStore
from hyperplug.store.changes import ChangeFeed
from hyperplug.store.database import retried
from hyperplug.store.engine import reading, writing
from hyperplug.store.failures import reported
from hyperplug.store.tables import BaseModelRow, HypernetRow, RegistryRow
from hyperplug.store.tasks import TaskStore
from hyperplug.store.vectors import VectorSearch


class Store(TaskStore, AdapterStore):
    """Tasks, embeddings, base models, hypernetworks and adapters. Safe to share by threads.

    Every call is one transaction. Whatever the database says leaves as RegistryError.
    """

    def __init__(self, engine: Engine, *, actor: str = "") -> None:
        super().__init__(engine, actor=actor)
        self._vectors = VectorSearch(engine)

    def close(self) -> None:
        """Closes all connections; a later call opens new ones."""
        with reported(self._engine.url):
            self._vectors.close()
            self._engine.dispose()

    def wait_for_indexes(self) -> None:
        """Waits for indexes that are being built in the background."""
        self._vectors.wait()

    @retried
    def schema_revision(self) -> str:
        """Returns the revision that the database is marked with."""
        with reading(self._engine) as session:
            return schema.revision(session.connection()) or ""

    @retried
    def identity(self) -> str:
        """Returns what tells this registry from every other."""
        with reading(self._engine) as session:
            return session.scalars(select(RegistryRow.identity)).one()

    def watch(self) -> ChangeFeed:
        """Returns what tells of writes by any process; close it when done."""
        return ChangeFeed(self._engine)

    @retried
    def integrity(self) -> list[str]:
        """Returns what SQLite finds wrong with its file; PostgreSQL looks after its own."""
        with reading(self._engine) as session:
            if session.get_bind().dialect.name != "sqlite":
                return []
            found = session.execute(text("PRAGMA integrity_check")).scalars().all()
            broken = session.execute(text("PRAGMA foreign_key_check")).all()
        lines = [str(line) for line in found if line != "ok"]
        return lines + [f"a row of {row[0]} refers to one that is not there" for row in broken]

    @retried
    def changes(self) -> int:
        """Returns how many transactions have written, by any process; it only grows."""
        with reading(self._engine) as session:
            return session.scalars(select(RegistryRow.changes)).one()

    @retried
    def put_base_model(self, spec: BaseModelSpec) -> None:
        """Stores a base model unless its fingerprint is known."""
        if self.get_base_model(spec.fingerprint) is None:
            with writing(self._engine) as session:
                identity_rows.put_base_model(session, spec)

    @retried
    def get_base_model(self, fingerprint: str) -> BaseModelSpec | None:
        """Returns the base model of that fingerprint, if any."""
        with reading(self._engine) as session:
            row = session.get(BaseModelRow, fingerprint)
            return identity_rows.to_base_model(row) if row else None

    @retried
    def put_hypernet(self, spec: HypernetSpec) -> None:
        """Stores a hypernetwork unless its fingerprint is known; its base goes before it."""
        with reading(self._engine) as session:
            known = session.get(HypernetRow, spec.fingerprint) is not None
        if not known:
            with writing(self._engine) as session:
                identity_rows.put_hypernet(session, spec)

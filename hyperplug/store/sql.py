"""The store: what the registry keeps, in SQLite or PostgreSQL."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Engine, select, update

from hyperplug.entities import (
    Adapter,
    BaseModelSpec,
    HypernetSpec,
    Match,
    NewAdapter,
    NewTask,
    Task,
)
from hyperplug.errors import AdapterNotFoundError, RegistryError, TaskNotFoundError
from hyperplug.store import adapter_rows, identity_rows, schema, task_rows
from hyperplug.store.engine import reading, writing
from hyperplug.store.failures import masked, reported
from hyperplug.store.tables import AdapterRow, BaseModelRow, HypernetRow, TaskRow
from hyperplug.store.vectors import VectorSearch, unit_vector


class Store:
    """Tasks, embeddings, base models, hypernetworks and adapters. Safe to share by threads.

    Every call is one transaction. Whatever the database says leaves as RegistryError.

    Attributes:
        url: where it is, with the password masked.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._vectors = VectorSearch()
        self.url = masked(engine.url)

    def close(self) -> None:
        """Closes all connections; a later call opens new ones."""
        with reported(self._engine.url):
            self._engine.dispose()

    def schema_revision(self) -> str:
        """Returns the revision that the database is marked with."""
        with reading(self._engine) as session:
            return schema.revision(session.connection()) or ""

    # Tasks

    def add_task(
        self, task: NewTask, *, embedder_id: str, embedding: NDArray[np.float32]
    ) -> tuple[Task, bool]:
        """Returns the task, and whether this call registered it.

        Raises:
            DuplicateTaskError: when the name stands for another description.
        """
        vector = unit_vector(embedding)
        with writing(self._engine) as session:
            row, created = task_rows.add(session, task)
            task_rows.put_embedding(
                session, row, embedder_id=embedder_id, vector=vector, replace=False
            )
            return task_rows.to_task(row), created

    def get_task(self, name: str, *, namespace: str) -> Task | None:
        """Returns the task of that name, if any."""
        with reading(self._engine) as session:
            row = task_rows.find_row(session, name, namespace=namespace)
            return task_rows.to_task(row) if row else None

    def find_task_by_text(self, description_digest: str, *, namespace: str) -> Task | None:
        """Returns the oldest task with that description, if any."""
        with reading(self._engine) as session:
            row = task_rows.find_by_text(session, description_digest, namespace=namespace)
            return task_rows.to_task(row) if row else None

    def list_tasks(
        self, *, namespace: str, tag: str | None = None, limit: int | None = None, offset: int = 0
    ) -> list[Task]:
        """Returns tasks in the order of their registration."""
        query = task_rows.listing(namespace=namespace, tag=tag, limit=limit, offset=offset)
        with reading(self._engine) as session:
            return [task_rows.to_task(row) for row in session.scalars(query)]

    def count_tasks(self, *, namespace: str) -> int:
        """Returns how many tasks the namespace has."""
        with reading(self._engine) as session:
            return task_rows.count(session, namespace=namespace)

    def remove_task(self, name: str, *, namespace: str) -> None:
        """Removes a task, and the adapters that no other task uses.

        Raises:
            TaskNotFoundError: when there is none of that name.
        """
        with writing(self._engine) as session:
            task_rows.remove(session, task_rows.require_row(session, name, namespace=namespace))

    def put_embedding(
        self, task_id: int, *, embedder_id: str, embedding: NDArray[np.float32]
    ) -> None:
        """Stores a task's vector by one more embedder, or in place of the one that stands.

        Raises:
            TaskNotFoundError: when there is no such task.
        """
        vector = unit_vector(embedding)
        with writing(self._engine) as session:
            row = session.get(TaskRow, task_id)
            if row is None:
                raise TaskNotFoundError(f"no task with id {task_id}")
            task_rows.put_embedding(
                session, row, embedder_id=embedder_id, vector=vector, replace=True
            )

    def nearest(
        self, embedding: NDArray[np.float32], *, embedder_id: str, namespace: str, limit: int
    ) -> list[Match]:
        """Returns the tasks of highest cosine, best first, as seen by that embedder."""
        with reading(self._engine) as session:
            hits = self._vectors.nearest(
                session, embedding, embedder_id=embedder_id, namespace=namespace, limit=limit
            )
            tasks = task_rows.by_id(session, [hit.task_id for hit in hits])
        return [
            Match(task=tasks[hit.task_id], score=hit.score) for hit in hits if hit.task_id in tasks
        ]

    # Identities

    def put_base_model(self, spec: BaseModelSpec) -> None:
        """Stores a base model unless its fingerprint is known."""
        if self.get_base_model(spec.fingerprint) is None:
            with writing(self._engine) as session:
                identity_rows.put_base_model(session, spec)

    def get_base_model(self, fingerprint: str) -> BaseModelSpec | None:
        """Returns the base model of that fingerprint, if any."""
        with reading(self._engine) as session:
            row = session.get(BaseModelRow, fingerprint)
            return identity_rows.to_base_model(row) if row else None

    def put_hypernet(self, spec: HypernetSpec) -> None:
        """Stores a hypernetwork unless its fingerprint is known; its base goes before it."""
        with reading(self._engine) as session:
            known = session.get(HypernetRow, spec.fingerprint) is not None
        if not known:
            with writing(self._engine) as session:
                identity_rows.put_hypernet(session, spec)

    # Adapters

    def put_adapter(self, adapter: NewAdapter, *, make_current: bool = True) -> Adapter:
        """Returns the stored adapter; of two under one generation key the first one stands.

        Its base model and hypernetwork must be stored before.

        Raises:
            TaskNotFoundError: when its task is not there.
            CorruptAdapterError: when its bytes do not match its digest.
        """
        with writing(self._engine) as session:
            row = adapter_rows.put(session, adapter)
            if make_current:
                adapter_rows.set_current(session, adapter.task_id, adapter=row)
            return adapter_rows.to_adapter(row)

    def get_adapter(self, name: str, *, namespace: str) -> Adapter | None:
        """Returns the adapter of that immutable name, if any."""
        with reading(self._engine) as session:
            row = adapter_rows.find_row(session, name, namespace=namespace)
            return adapter_rows.to_adapter(row) if row else None

    def find_generated(self, generation_key: str, *, namespace: str) -> Adapter | None:
        """Returns the adapter generated under that key, if any."""
        with reading(self._engine) as session:
            row = adapter_rows.find_generated(session, generation_key, namespace=namespace)
            return adapter_rows.to_adapter(row) if row else None

    def current_adapter(self, task_id: int, *, base_fingerprint: str) -> Adapter | None:
        """Returns the adapter that the task means on that base model, if any."""
        with reading(self._engine) as session:
            row = adapter_rows.find_current(session, task_id, base_fingerprint=base_fingerprint)
            return adapter_rows.to_adapter(row) if row else None

    def set_current(self, task_id: int, *, adapter_id: int) -> None:
        """Lets the task mean that adapter, on the adapter's base model.

        Raises:
            AdapterNotFoundError: when there is no such adapter.
            TaskNotFoundError: when the adapter's namespace has no such task.
        """
        with writing(self._engine) as session:
            adapter = adapter_rows.require_row(session, adapter_id)
            task = session.get(TaskRow, task_id)
            if task is None or task.namespace != adapter.namespace:
                raise TaskNotFoundError(f"no task with id {task_id} in {adapter.namespace!r}")
            adapter_rows.set_current(session, task_id, adapter=adapter)

    def list_adapters(self, *, namespace: str, task_name: str | None = None) -> list[Adapter]:
        """Returns adapters oldest first; for a task, those made for it and those it shares."""
        with reading(self._engine) as session:
            rows = adapter_rows.listing(session, namespace=namespace, task_name=task_name)
            return [adapter_rows.to_adapter(row) for row in rows]

    def adapter_bytes(self, adapter: Adapter) -> bytes:
        """Returns the adapter's safetensors bytes.

        Raises:
            AdapterNotFoundError: when it was removed meanwhile.
            CorruptAdapterError: when they no longer match its digest.
        """
        with reading(self._engine) as session:
            data = session.scalar(select(AdapterRow.data).where(AdapterRow.id == adapter.id))
        if data is None:
            raise AdapterNotFoundError(
                f"adapter {adapter.name!r} is no longer stored", hint="generate it again"
            )
        return adapter_rows.check_bytes(data, digest=adapter.digest, name=adapter.name)

    def replace_adapter_bytes(self, adapter: Adapter, data: bytes) -> None:
        """Repairs a damaged row with bytes of the same digest.

        Raises:
            AdapterNotFoundError: when there is no such adapter.
            CorruptAdapterError: when the bytes have another digest.
        """
        adapter_rows.check_bytes(data, digest=adapter.digest, name=adapter.name)
        with writing(self._engine) as session:
            row = adapter_rows.require_row(session, adapter.id)
            if row.digest != adapter.digest:
                raise RegistryError(f"adapter id {adapter.id} stands for other weights")
            session.execute(update(AdapterRow).where(AdapterRow.id == adapter.id).values(data=data))

    def set_metrics(self, adapter_id: int, metrics: Mapping[str, float]) -> None:
        """Adds figures to an adapter's, in place of those of the same name.

        Raises:
            AdapterNotFoundError: when there is no such adapter.
        """
        with writing(self._engine) as session:
            row = adapter_rows.require_row(session, adapter_id)
            row.metrics = {**row.metrics, **adapter_rows.finite(metrics)}

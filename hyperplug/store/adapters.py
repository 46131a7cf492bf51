"""The store's calls on adapters, their bytes and their aliases."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime

from sqlalchemy import delete, exists, func, select, update
from sqlalchemy.orm import Session, aliased

from hyperplug.entities import Adapter, AdapterState, AliasChange, NewAdapter
from hyperplug.errors import AdapterNotFoundError, RegistryError, TaskNotFoundError
from hyperplug.naming import CURRENT
from hyperplug.store import adapter_rows, alias_rows
from hyperplug.store.database import Database, retried
from hyperplug.store.engine import reading, writing
from hyperplug.store.tables import AdapterRow, AliasEventRow, AliasRow, TaskRow

_PAGE = 500


class AdapterStore(Database):
    """Adapters with their bytes, and the aliases that lead to them."""

    @retried
    def put_adapter(self, adapter: NewAdapter, *, alias: str | None = CURRENT) -> Adapter:
        """Returns the stored adapter; of two under one generation key the first one stands.

        Its base model and hypernetwork must be stored before.

        Args:
            alias: which alias of its task leads to it from now on; None for none.

        Raises:
            TaskNotFoundError: when its task is not there.
            CorruptAdapterError: when its bytes do not match its digest.
        """
        with writing(self._engine) as session:
            row = adapter_rows.put(session, adapter, actor=self.actor)
            if alias is not None:
                task = _require_task(session, adapter.task_id, namespace=adapter.namespace)
                alias_rows.put(session, task, row, alias=alias, actor=self.actor)
            return adapter_rows.to_adapter(row)

    @retried
    def get_adapter(self, name: str, *, namespace: str) -> Adapter | None:
        """Returns the adapter of that immutable name, if any; not if its tasks are removed."""
        with reading(self._engine) as session:
            row = adapter_rows.find_row(session, name, namespace=namespace)
            return adapter_rows.to_adapter(row) if row else None

    @retried
    def find_generated(self, generation_key: str, *, namespace: str) -> Adapter | None:
        """Returns the adapter generated under that key, if any."""
        with reading(self._engine) as session:
            row = adapter_rows.find_generated(session, generation_key, namespace=namespace)
            return adapter_rows.to_adapter(row) if row else None

    def list_adapters(
        self,
        *,
        namespace: str,
        task_name: str | None = None,
        after_id: int = 0,
        limit: int | None = None,
    ) -> list[Adapter]:
        """Returns adapters oldest first; for a task, those made for it and those it shares."""
        return list(
            self.iterate_adapters(
                namespace=namespace, task_name=task_name, after_id=after_id, limit=limit
            )
        )

    def iterate_adapters(
        self,
        *,
        namespace: str,
        task_name: str | None = None,
        base_fingerprint: str | None = None,
        after_id: int = 0,
        limit: int | None = None,
    ) -> Iterator[Adapter]:
        """Yields what `list_adapters` returns, read page by page."""
        while limit is None or limit > 0:
            size = _PAGE if limit is None else min(limit, _PAGE)
            page = self._adapter_page(namespace, task_name, base_fingerprint, after_id, size)
            yield from page
            if len(page) < size:
                return
            after_id = page[-1].id
            limit = None if limit is None else limit - size

    @retried
    def _adapter_page(
        self,
        namespace: str,
        task_name: str | None,
        base_fingerprint: str | None,
        after_id: int,
        size: int,
    ) -> list[Adapter]:
        query = adapter_rows.listing(
            namespace=namespace,
            task_name=task_name,
            base_fingerprint=base_fingerprint,
            after_id=after_id,
            limit=size,
        )
        with reading(self._engine) as session:
            return [adapter_rows.to_adapter(row) for row in session.scalars(query)]

    @retried
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

    @retried
    def replace_adapter_bytes(self, adapter: Adapter, data: bytes) -> None:
        """Repairs a damaged row with bytes of the same digest, and ends its quarantine.

        Raises:
            AdapterNotFoundError: when there is no such adapter.
            CorruptAdapterError: when the bytes have another digest.
        """
        adapter_rows.check_bytes(data, digest=adapter.digest, name=adapter.name)
        with writing(self._engine) as session:
            row = adapter_rows.require_row(session, adapter.id)
            if row.digest != adapter.digest:
                raise RegistryError(f"adapter id {adapter.id} stands for other weights")
            row.state, row.state_reason = AdapterState.READY.value, ""
            session.execute(update(AdapterRow).where(AdapterRow.id == adapter.id).values(data=data))

    @retried
    def set_adapter_state(
        self, adapter_id: int, state: AdapterState, *, reason: str = ""
    ) -> Adapter:
        """Puts an adapter in quarantine, or ends it; returns it.

        Raises:
            AdapterNotFoundError: when there is no such adapter.
        """
        with writing(self._engine) as session:
            row = adapter_rows.require_row(session, adapter_id)
            row.state, row.state_reason = state.value, reason
            return adapter_rows.to_adapter(row)

    @retried
    def pin_adapter(self, adapter_id: int, *, pinned: bool = True) -> Adapter:
        """Keeps an adapter whatever is collected, or no longer; returns it.

        Raises:
            AdapterNotFoundError: when there is no such adapter.
        """
        with writing(self._engine) as session:
            row = adapter_rows.require_row(session, adapter_id)
            row.pinned = pinned
            return adapter_rows.to_adapter(row)

    @retried
    def set_metrics(self, adapter_id: int, metrics: Mapping[str, float]) -> None:
        """Adds figures to an adapter's, in place of those of the same name.

        Raises:
            AdapterNotFoundError: when there is no such adapter.
        """
        with writing(self._engine) as session:
            row = adapter_rows.require_row(session, adapter_id)
            row.metrics = {**row.metrics, **adapter_rows.finite(metrics)}

    @retried
    def unknown_adapters(self, names: Sequence[str], *, namespace: str) -> set[str]:
        """Returns those of the names that no stored adapter has, be its task removed or not."""
        query = select(AdapterRow.name).where(
            AdapterRow.namespace == namespace, AdapterRow.name.in_(names)
        )
        with reading(self._engine) as session:
            return set(names) - set(session.scalars(query))

    @retried
    def drop_old_versions(
        self, *, keep: int, before: datetime, limit: int = 100, dry_run: bool = False
    ) -> list[Adapter]:
        """Returns some adapters, now deleted, that nothing leads to.

        They were stored before then, and no alias was moved off them since: servers hold on to
        what they have. They are not pinned, and at least `keep` of their task are newer.
        """
        newer = aliased(AdapterRow)
        followers = (
            select(func.count())
            .where(newer.task_id == AdapterRow.task_id, newer.version > AdapterRow.version)
            .scalar_subquery()
        )
        left_lately = exists().where(
            AliasEventRow.previous_id == AdapterRow.id, AliasEventRow.created_at >= before
        )
        query = select(AdapterRow).where(
            AdapterRow.created_at < before,
            ~left_lately,
            AdapterRow.pinned.is_(False),
            AdapterRow.id.not_in(select(AliasRow.adapter_id)),
            followers >= keep,
        )
        with writing(self._engine) as session:
            rows = session.scalars(query.order_by(AdapterRow.id).limit(limit)).all()
            adapters = [adapter_rows.to_adapter(row) for row in rows]
            if not dry_run:
                session.execute(
                    delete(AdapterRow).where(AdapterRow.id.in_([row.id for row in rows])),
                    execution_options={"synchronize_session": False},
                )
            return adapters

    # Aliases

    def current_adapter(self, task_id: int, *, base_fingerprint: str) -> Adapter | None:
        """Returns the adapter that the task means on that base model, if any."""
        return self.aliased_adapter(task_id, base_fingerprint=base_fingerprint, alias=CURRENT)

    @retried
    def aliased_adapter(self, task_id: int, *, base_fingerprint: str, alias: str) -> Adapter | None:
        """Returns the adapter that an alias of a task leads to on that base model, if any."""
        with reading(self._engine) as session:
            row = alias_rows.find(session, task_id, base_fingerprint=base_fingerprint, alias=alias)
            return adapter_rows.to_adapter(row) if row else None

    @retried
    def aliases(self, task_id: int, *, base_fingerprint: str) -> dict[str, Adapter]:
        """Returns the adapters of a task's aliases on that base model, by alias."""
        with reading(self._engine) as session:
            rows = alias_rows.listing(session, task_id, base_fingerprint=base_fingerprint)
            return {alias: adapter_rows.to_adapter(row) for alias, row in rows.items()}

    @retried
    def all_aliases(self, task_id: int) -> list[tuple[str, str, str]]:
        """Returns (alias, adapter name, base fingerprint) of a task on every base model."""
        query = (
            select(AliasRow.alias, AdapterRow.name, AliasRow.base_fingerprint)
            .join(AdapterRow, AdapterRow.id == AliasRow.adapter_id)
            .where(AliasRow.task_id == task_id)
            .order_by(AliasRow.base_fingerprint, AliasRow.alias)
        )
        with reading(self._engine) as session:
            return [(alias, name, base) for alias, name, base in session.execute(query)]

    @retried
    def set_alias(self, task_id: int, *, adapter_id: int, alias: str = CURRENT) -> None:
        """Lets an alias of a task lead to that adapter, on the adapter's base model.

        Raises:
            AdapterNotFoundError: when there is no such adapter.
            TaskNotFoundError: when the adapter's namespace has no such task.
            CorruptAdapterError: when the adapter is in quarantine.
        """
        with writing(self._engine) as session:
            adapter = adapter_rows.require_row(session, adapter_id)
            task = _require_task(session, task_id, namespace=adapter.namespace)
            alias_rows.put(session, task, adapter, alias=alias, actor=self.actor)

    @retried
    def remove_alias(self, task_id: int, *, base_fingerprint: str, alias: str) -> None:
        """Takes an alias from a task.

        Raises:
            AdapterNotFoundError: when the task has none of that name.
        """
        with writing(self._engine) as session:
            task = _require_task(session, task_id)
            alias_rows.take_away(
                session, task, base_fingerprint=base_fingerprint, alias=alias, actor=self.actor
            )

    @retried
    def roll_back(self, task_id: int, *, base_fingerprint: str, alias: str = CURRENT) -> Adapter:
        """Returns the adapter that the alias led to before, and leads to again.

        Raises:
            AdapterNotFoundError: when there is none to go back to.
        """
        with writing(self._engine) as session:
            task = _require_task(session, task_id)
            row = alias_rows.roll_back(
                session, task, base_fingerprint=base_fingerprint, alias=alias
            )
            return adapter_rows.to_adapter(row)

    @retried
    def alias_history(self, task_id: int, *, base_fingerprint: str) -> list[AliasChange]:
        """Returns the changes of a task's aliases on that base model, oldest first."""
        with reading(self._engine) as session:
            task = _require_task(session, task_id)
            return alias_rows.history(session, task, base_fingerprint=base_fingerprint)


def _require_task(session: Session, task_id: int, *, namespace: str | None = None) -> TaskRow:
    task = session.get(TaskRow, task_id)
    gone = task is None or task.deleted_at is not None
    if task is None or gone or (namespace is not None and task.namespace != namespace):
        where = f" in {namespace!r}" if namespace is not None else ""
        raise TaskNotFoundError(f"no task with id {task_id}{where}")
    return task

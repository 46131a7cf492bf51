"""Examining a registry in depth: every row and file, and what can be made again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from hyperplug.adapters.validate import validate_bytes
from hyperplug.entities import Adapter, AdapterState
from hyperplug.errors import HyperplugError
from hyperplug.registry.upkeep import UpkeepCalls

_BATCH = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """Something that is not as it should be.

    Attributes:
        what: the row, folder or database concerned.
        repaired: whether it is in order now.
    """

    what: str
    detail: str
    repaired: bool = False


class ExamineCalls(UpkeepCalls):
    """Looks at everything that a registry keeps."""

    def examine(self, *, repair: bool = False) -> Iterator[Damage | None]:
        """Yields, for each thing looked at, its damage, or None if there is none.

        Looked at are the database file, every adapter of the namespace with its published
        folder, and the vector of every task.

        Args:
            repair: make again what can be made again: folders and adapters whose hypernetwork
                is at hand, and vectors. Adapters that cannot are put in quarantine.
        """
        for line in self.store.integrity():
            yield Damage(what="database", detail=line)
        for adapter in self.store.iterate_adapters(namespace=self._namespace):
            yield self._examine_adapter(adapter, repair=repair)
            yield self._examine_folder(adapter, repair=repair)
        yield from self._examine_vectors(repair=repair)

    def _examine_adapter(self, adapter: Adapter, *, repair: bool) -> Damage | None:
        what = f"adapter {adapter.name}"
        try:
            data = self.store.adapter_bytes(adapter)
            base = self.store.get_base_model(adapter.base_fingerprint)
            validate_bytes(data, base=base, max_rank=adapter.rank, alpha=adapter.alpha)
        except HyperplugError as exc:
            return Damage(
                what=what,
                detail=exc.message,
                repaired=repair and self._is_repaired(adapter),
            )
        if adapter.state is AdapterState.DAMAGED:
            if repair:
                self.store.set_adapter_state(adapter.id, AdapterState.READY)
            return Damage(what=what, detail="in quarantine, but whole", repaired=repair)
        return None

    def _is_repaired(self, adapter: Adapter) -> bool:
        try:
            self._supply.content(adapter)
        except HyperplugError:
            return False
        return True

    def _examine_folder(self, adapter: Adapter, *, repair: bool) -> Damage | None:
        if not self.library.is_there(adapter) or self.library.path(adapter) is not None:
            return None
        what, detail = f"folder {adapter.namespace}/{adapter.name}", "does not hold its adapter"
        if not repair:
            return Damage(what=what, detail=detail)
        try:
            self.published(adapter)
        except HyperplugError as exc:
            return Damage(what=what, detail=exc.message)
        return Damage(what=what, detail=detail, repaired=True)

    def _examine_vectors(self, *, repair: bool) -> Iterator[Damage | None]:
        embedder = self.embedder
        after = 0
        while tasks := self.store.list_tasks(
            namespace=self._namespace, after_id=after, limit=_BATCH
        ):
            damage = self.store.damaged_embeddings(
                [task.id for task in tasks], embedder_id=embedder.id, dimension=embedder.dimension
            )
            broken = [task for task in tasks if task.id in damage]
            if repair and broken:
                vectors = embedder.embed([task.description for task in broken])
                self.store.put_embeddings(
                    [(task.id, vector) for task, vector in zip(broken, vectors, strict=True)],
                    embedder_id=embedder.id,
                )
            for task in tasks:
                detail = damage.get(task.id)
                if detail is None:
                    yield None
                else:
                    yield Damage(what=f"task {task.name}", detail=detail, repaired=repair)
            after = tasks[-1].id

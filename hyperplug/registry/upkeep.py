"""Looking after a registry: new embedders and hypernetworks for all tasks, and garbage."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from hyperplug.entities import Adapter, Origin, Task
from hyperplug.errors import HyperplugError, RegistryError
from hyperplug.naming import CURRENT, check_alias
from hyperplug.registry.adapters import AdapterCalls
from hyperplug.resolver import AUTO_TAG

_BATCH = 64
_PAGE = 500
_REMOVALS_KEPT = timedelta(days=30)


@dataclass(frozen=True, slots=True, kw_only=True)
class Regenerated:
    """What became of one task; `adapter` is None if it needed nothing.

    Attributes:
        done: how many tasks were looked at, of `total`.
    """

    task: Task
    adapter: Adapter | None = None
    error: HyperplugError | None = None
    done: int
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Garbage:
    """What was collected, or would be: names of tasks and adapters, and numbers."""

    tasks: tuple[str, ...]
    adapters: tuple[str, ...]
    folders: tuple[str, ...]
    leftovers: int
    removals: int


class UpkeepCalls(AdapterCalls):
    """Work on many tasks at once. All of it can be interrupted, and goes on when called again."""

    def reembed(self) -> Iterator[tuple[int, int]]:
        """Embeds the tasks that the present embedder has not seen; yields (done, total).

        Vectors of other embedders stay: servers that use them go on finding tasks.
        """
        seen = self.store.embedding_counts(namespace=self._namespace).get(self.embedder.id, 0)
        total = self.store.count_tasks(namespace=self._namespace) - seen
        done, after = 0, 0
        while tasks := self.store.tasks_without_embedding(
            embedder_id=self.embedder.id, namespace=self._namespace, limit=_BATCH, after_id=after
        ):
            vectors = self.embedder.embed([task.description for task in tasks])
            self.store.put_embeddings(
                [(task.id, vector) for task, vector in zip(tasks, vectors, strict=True)],
                embedder_id=self.embedder.id,
                replace=False,
            )
            done, after = done + len(tasks), tasks[-1].id
            yield done, max(total, done)

    def drop_embeddings(self, embedder_id: str) -> int:
        """Deletes the vectors of an embedder that nobody uses any more; returns how many.

        Raises:
            RegistryError: if it is the one in use.
        """
        if embedder_id == self.embedder.id:
            raise RegistryError(
                f"embedder {embedder_id!r} is in use", hint="name the one that was used before"
            )
        return self.store.drop_embeddings(embedder_id=embedder_id, namespace=self._namespace)

    def regenerate(self, *, alias: str = CURRENT, check: bool = True) -> Iterator[Regenerated]:
        """Generates a new version for each task whose adapter another hypernetwork made.

        The old version serves until the new one is stored, and stays. Trained, refined and
        imported adapters are left alone.

        Args:
            alias: which alias leads to the new versions, for example "candidate".
            check: if a task has examples, measure whether its adapter helps.
        """
        check_alias(alias)
        spec = self.generator.spec
        total = self.store.count_tasks(namespace=self._namespace)
        for done, task in enumerate(self._all_tasks(), start=1):
            standing = self.store.aliased_adapter(
                task.id, base_fingerprint=self._base_fingerprint, alias=alias
            ) or self._supply.current(task)
            wanted = standing is None or standing.origin is Origin.GENERATED
            present = standing is not None and standing.hypernet_fingerprint == spec.fingerprint
            adapter, error = None, None
            if wanted and not present:
                try:
                    adapter = self._supply.generate(task, alias=alias)
                    if check:
                        adapter = self._supply.checked(adapter, task=task)
                except HyperplugError as exc:
                    error = exc
            yield Regenerated(
                task=task, adapter=adapter, error=error, done=done, total=max(total, done)
            )

    def collect_garbage(
        self,
        *,
        grace: timedelta = timedelta(days=30),
        keep_versions: int | None = None,
        auto_unused: timedelta | None = None,
        dry_run: bool = False,
    ) -> Garbage:
        """Deletes what nobody needs any more, in all namespaces; pinned adapters stay.

        Removed tasks, folders of adapters that are no longer stored, leftovers of killed
        processes. Folders that a server has leased stay.

        Args:
            grace: how long removed tasks and orphaned folders are kept.
            keep_versions: delete older adapters that no alias leads to, but for so many of
                each task; None keeps all.
            auto_unused: remove tasks of this namespace that came without a name, if they
                were registered longer ago.
            dry_run: only say what would go.
        """
        now = datetime.now(UTC)
        if auto_unused is not None and not dry_run:
            self._remove_auto_tasks(now - auto_unused)
        tasks = self._removed_tasks(now - grace, dry_run=dry_run)
        adapters = self._old_versions(keep_versions, now - grace, dry_run=dry_run)
        folders = self._orphaned_folders(grace, dry_run=dry_run)
        return Garbage(
            tasks=tuple(task.name for task in tasks),
            adapters=tuple(adapter.name for adapter in adapters),
            folders=tuple(folders),
            leftovers=0 if dry_run else self.library.collect_leftovers(),
            removals=0 if dry_run else self.store.forget_removals(now - _REMOVALS_KEPT),
        )

    def _all_tasks(self) -> Iterator[Task]:
        after = 0
        while page := self.store.list_tasks(namespace=self._namespace, after_id=after, limit=_PAGE):
            yield from page
            after = page[-1].id

    def _remove_auto_tasks(self, before: datetime) -> None:
        for task in self.store.list_tasks(namespace=self._namespace, tag=AUTO_TAG):
            if task.created_at < before:
                self.store.remove_task(task.name, namespace=self._namespace)

    def _removed_tasks(self, before: datetime, *, dry_run: bool) -> list[Task]:
        if dry_run:
            return self.store.removed_tasks(before)
        purged: list[Task] = []
        while some := self.store.purge_removed(before):
            purged += some
        return purged

    def _old_versions(self, keep: int | None, before: datetime, *, dry_run: bool) -> list[Adapter]:
        if keep is None:
            return []
        if dry_run:
            return self.store.drop_old_versions(keep=keep, before=before, limit=_PAGE, dry_run=True)
        dropped: list[Adapter] = []
        while some := self.store.drop_old_versions(keep=keep, before=before):
            dropped += some
        return dropped

    def _orphaned_folders(self, grace: timedelta, *, dry_run: bool) -> Iterator[str]:
        """Yields folders of the library whose adapters are not stored, deleting them."""
        limit = time.time() - grace.total_seconds()
        in_use = self.library.in_use()
        for namespace, name, path in list(self.library.folders()):
            try:
                old = path.stat().st_mtime < limit
            except OSError:
                continue
            if (
                old
                and self.library.key(path) not in in_use
                and self.store.unknown_adapters([name], namespace=namespace)
            ):
                if not dry_run:
                    self.library.discard(path)
                yield f"{namespace}/{name}"

"""A registry's calls on adapters, their versions and aliases."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from hyperplug.adapters.export import open_target
from hyperplug.adapters.library import adapter_files
from hyperplug.adapters.peft_format import CONFIG_FILE
from hyperplug.adapters.validate import named_task
from hyperplug.entities import Adapter, AdapterState, AliasChange, Example
from hyperplug.errors import AdapterNotFoundError, HyperplugError
from hyperplug.naming import CURRENT, check_alias, split_adapter_name, split_alias_name
from hyperplug.registry.tasks import TaskCalls

_PAGE = 500


class AdapterCalls(TaskCalls):
    """Generates, imports, exports and publishes adapters, and says which one a task means."""

    def generate(self, task_name: str, *, check: bool = True, force: bool = False) -> Adapter:
        """Returns the task's adapter from the present hypernetwork, made if need be.

        `check` and `force` are those of `register_task`.
        """
        task = self.get_task(task_name)
        return self._finished(self._supply.generate(task), task, check=check, force=force)

    def generate_for(
        self,
        description: str,
        *,
        examples: Sequence[Example] = (),
        check: bool = True,
        force: bool = False,
    ) -> Adapter:
        """Returns the adapter for a description, registered under a name made from it."""
        task = self._resolver.auto_task(description, examples)
        return self._finished(self._supply.generate(task), task, check=check, force=force)

    def get_adapter(self, name: str) -> Adapter:
        """Returns an adapter by its own name, by "task@alias", or a task's current one.

        Raises:
            AdapterNotFoundError: if there is none.
            TaskNotFoundError: if there is no such task.
        """
        adapter: Adapter | None
        if split_adapter_name(name):
            adapter = self.store.get_adapter(name, namespace=self._namespace)
        elif pair := split_alias_name(name):
            adapter = self._supply.aliased(self.get_task(pair[0]), pair[1])
        else:
            adapter = self._supply.current(self.get_task(name))
        if adapter is None:
            raise AdapterNotFoundError(
                f"no adapter {name!r} in namespace {self._namespace!r}",
                hint="see: hyperplug list-adapters; make one with: hyperplug generate-adapter",
            )
        return adapter

    def list_adapters(self, *, task_name: str | None = None) -> list[Adapter]:
        """Returns adapters, newest last."""
        return self.store.list_adapters(namespace=self._namespace, task_name=task_name)

    def iterate_adapters(
        self, *, task_name: str | None = None, after: str | None = None, limit: int | None = None
    ) -> Iterator[Adapter]:
        """Yields adapters, newest last, read page by page.

        Args:
            after: only those stored after the adapter of this name.
        """
        return self.store.iterate_adapters(
            namespace=self._namespace,
            task_name=task_name,
            after_id=self.get_adapter(after).id if after is not None else 0,
            limit=limit,
        )

    def export(self, name: str, folder: Path) -> Path:
        """Writes an adapter as a plain PEFT folder and returns the folder."""
        return self._supply.export(self.get_adapter(name), folder)

    def export_many(
        self, adapters: Iterable[Adapter], target: str, *, by_task: bool = False
    ) -> Iterator[tuple[Adapter, bool]]:
        """Writes adapters as PEFT folders; yields each, and whether it had to be written.

        Those that are there already are left alone, so that a second call writes the news.

        Args:
            target: a folder, or a URL that fsspec knows, such as "s3://bucket/adapters".
            by_task: name the folders by task, "faq", in place of by adapter, "faq@1c0ffee2";
                a folder then changes when another adapter is promoted and exported.

        Raises:
            RegistryError: if it cannot be written.
        """
        there = open_target(target)
        for adapter in adapters:
            name = adapter.task_name if by_task else adapter.name
            if there.digest(name) == adapter.digest:
                yield adapter, False
                continue
            data, base_id = self._supply.content(adapter)
            there.write(name, adapter_files(adapter, data, base_id))
            yield adapter, True

    def current_adapters(self) -> Iterator[Adapter]:
        """Yields the current adapter of every task that has one, on the base in use."""
        after = 0
        while tasks := self.store.list_tasks(
            namespace=self._namespace, after_id=after, limit=_PAGE
        ):
            for task in tasks:
                adapter = self._supply.current(task)
                if adapter is not None:
                    yield adapter
            after = tasks[-1].id

    def import_many(
        self, folder: Path, *, max_rank: int = 64, hold: bool = False
    ) -> Iterator[tuple[Path, Adapter | HyperplugError]]:
        """Imports every PEFT folder below a folder; yields each, and what became of it.

        A folder is imported for the task that its hyperplug.json names, else for the task
        of its own name, up to an "@". Bad ones stop nothing.
        """
        for config in sorted(folder.glob(f"**/{CONFIG_FILE}")):
            one = config.parent
            try:
                name = named_task(one) or one.name.partition("@")[0]
                yield one, self.import_(one, task_name=name, max_rank=max_rank, hold=hold)
            except HyperplugError as exc:
                yield one, exc

    def import_(
        self, folder: Path, *, task_name: str, max_rank: int = 64, hold: bool = False
    ) -> Adapter:
        """Stores a PEFT folder as the current adapter of a registered task.

        With `hold` it is kept in quarantine, and serves only after `approve`.

        Raises:
            InvalidAdapterError: with everything that is wrong with the folder.
            BaseMismatchError: if it was made for another base model.
        """
        task = self.get_task(task_name)
        adapter = self._supply.import_(folder, task=task, max_rank=max_rank, hold=hold)
        return adapter if hold else self.published(adapter)

    def approve(self, name: str) -> Adapter:
        """Ends the quarantine of an adapter; it serves once it is promoted.

        Raises:
            CorruptAdapterError: if its bytes are damaged.
        """
        adapter = self.get_adapter(name)
        self._supply.content(adapter)
        return self.store.set_adapter_state(adapter.id, AdapterState.READY)

    def pin(self, name: str, *, pinned: bool = True) -> Adapter:
        """Keeps an adapter whatever is collected, or no longer; returns it."""
        return self.store.pin_adapter(self.get_adapter(name).id, pinned=pinned)

    def promote(
        self, adapter_name: str, *, alias: str = CURRENT, task_name: str | None = None
    ) -> Adapter:
        """Lets an alias of a task lead to this adapter, at once for everybody; returns it.

        Args:
            adapter_name: its own name, or "task@alias".
            task_name: the task; by default the one that the adapter was made for.

        Raises:
            AdapterNotFoundError, TaskNotFoundError: if there is none.
            CorruptAdapterError: if the adapter is in quarantine.
        """
        adapter = self.get_adapter(adapter_name)
        task = self.get_task(task_name or adapter.task_name)
        self.store.set_alias(task.id, adapter_id=adapter.id, alias=check_alias(alias))
        return adapter

    def rollback(self, task_name: str, *, alias: str = CURRENT) -> Adapter:
        """Returns the adapter that the alias led to before, and leads to again.

        Raises:
            AdapterNotFoundError: if there is none to go back to.
        """
        return self.store.roll_back(
            self.get_task(task_name).id, base_fingerprint=self._base_fingerprint, alias=alias
        )

    def aliases(self, task_name: str) -> dict[str, Adapter]:
        """Returns the adapters of a task's aliases on the base in use, by alias."""
        return self.store.aliases(
            self.get_task(task_name).id, base_fingerprint=self._base_fingerprint
        )

    def remove_alias(self, task_name: str, alias: str) -> None:
        """Takes an alias from a task. Raises AdapterNotFoundError if it has none of that name."""
        self.store.remove_alias(
            self.get_task(task_name).id, base_fingerprint=self._base_fingerprint, alias=alias
        )

    def alias_history(self, task_name: str) -> list[AliasChange]:
        """Returns the changes of a task's aliases on the base in use, oldest first."""
        return self.store.alias_history(
            self.get_task(task_name).id, base_fingerprint=self._base_fingerprint
        )

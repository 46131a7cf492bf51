"""The registry: the one object that users hold."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from hyperplug.adapters.library import Library
from hyperplug.basemodel import BaseModel
from hyperplug.config import Settings, load_settings
from hyperplug.drafts import check_draft
from hyperplug.entities import (
    Adapter,
    Example,
    Match,
    NewTask,
    OnNovel,
    Resolution,
    Task,
    TaskDraft,
    Thresholds,
)
from hyperplug.errors import (
    AdapterNotFoundError,
    HyperplugError,
    TaskNotFoundError,
)
from hyperplug.models import Models
from hyperplug.naming import (
    split_adapter_name,
)
from hyperplug.resolver import Resolver
from hyperplug.store import Store, open_store
from hyperplug.supply import AdapterSupply

if TYPE_CHECKING:
    from hyperplug.embedding import Embedder
    from hyperplug.hypernet.generate import Generator

_BULK_SIZE = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Registered:
    """What became of one task of a bulk registration; `error` is None if all went well.

    Attributes:
        index: its position in the input, from 0.
        created: False if the same task was there already.
    """

    index: int
    draft: TaskDraft
    task: Task | None = None
    adapter: Adapter | None = None
    created: bool = False
    error: HyperplugError | None = None


def open_registry(url: str | None = None, *, settings: Settings | None = None) -> Registry:
    """Returns the registry at an SQLAlchemy URL; a new SQLite file is created.

    Args:
        url: overrides the URL in the settings.
        settings: all settings; by default from the environment.

    Raises:
        ConfigError: for a URL that is none.
        RegistryError: if it cannot be opened.
        SchemaVersionError: if its schema is older or newer than this code.
    """
    chosen = settings or load_settings(registry_url=url)
    if url is not None:
        chosen = replace(chosen, registry_url=url)
    return Registry(open_store(chosen.registry_url), settings=chosen)


class Registry:
    """Tasks, their embeddings and adapters; finds, generates and publishes.

    Safe for use by several threads. Encoder, base model and hypernetwork are loaded when
    they are first needed.

    Attributes:
        library: the adapter folders on disk, a cache of the store.
    """

    def __init__(self, store: Store, *, settings: Settings) -> None:
        self.store = store
        self.settings = settings
        self.library = Library(settings.library)
        self.library.collect_leftovers()
        self._namespace = settings.namespace
        self._models = Models(settings, store)
        self._supply = AdapterSupply(
            store=store, library=self.library, models=self._models, namespace=self._namespace
        )
        self._resolver = Resolver(
            store=store, models=self._models, supply=self._supply, namespace=self._namespace
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Releases the connection to the store."""
        self.store.close()

    # -- parts that are loaded on demand --------------------------------------------

    @property
    def base(self) -> BaseModel:
        """The frozen base model. Raises BaseModelError if it is not at hand."""
        return self._models.base

    @property
    def embedder(self) -> Embedder:
        """The text encoder. Raises ConfigError if it is not at hand."""
        return self._models.embedder

    @property
    def generator(self) -> Generator:
        """The hypernetwork. Raises CheckpointError or BaseMismatchError if none fits."""
        return self._models.generator

    def warm_up(self) -> None:
        """Loads encoder, base identity and hypernetwork, so that no request waits for it."""
        self.generator.generate("warm up")

    # -- tasks ----------------------------------------------------------------------

    def register_task(
        self,
        name: str,
        description: str,
        *,
        examples: Sequence[Example] = (),
        tags: Sequence[str] = (),
        generate: bool = True,
        check: bool = True,
        force: bool = False,
    ) -> tuple[Task, Adapter | None]:
        """Registers a task and generates its adapter; the same task again is no error.

        Args:
            check: if there are examples, measure on them whether the adapter helps; it
                takes seconds, and loads the base model once. One that harms is marked, and
                `resolve` gives the base model in its place.
            force: use the adapter even so.

        Raises:
            InvalidNameError, InvalidDescriptionError: for bad input.
            DuplicateTaskError: if the name is taken by another description.
        """
        draft = TaskDraft(
            name=name, description=description, examples=tuple(examples), tags=tuple(tags)
        )
        check_draft(draft, namespace=self._namespace)  # before models are loaded for nothing
        (outcome,) = self.register_tasks([draft], generate=generate, check=check, force=force)
        if outcome.error is not None:
            raise outcome.error
        assert outcome.task is not None  # no error: there is a task
        return outcome.task, outcome.adapter

    def register_tasks(
        self,
        drafts: Iterable[TaskDraft],
        *,
        generate: bool = True,
        check: bool = True,
        force: bool = False,
    ) -> Iterator[Registered]:
        """Registers tasks one by one, yielding what became of each; bad ones stop nothing.

        `check` and `force` are those of `register_task`.
        Errors that concern every task (no connection, no hypernetwork) are raised.
        """
        if generate:
            _ = self.generator  # before anything is written

        def make(task: Task) -> Adapter | None:
            if not generate:
                return None
            return self._finished(self._supply.ensure(task), task, check=check, force=force)

        batch: list[tuple[int, TaskDraft, NewTask]] = []
        for index, draft in enumerate(drafts):
            try:
                batch.append((index, draft, check_draft(draft, namespace=self._namespace)))
            except HyperplugError as exc:
                yield Registered(index=index, draft=draft, error=exc)
            if len(batch) == _BULK_SIZE:
                yield from self._register_batch(batch, make)
                batch = []
        yield from self._register_batch(batch, make)

    def get_task(self, name: str) -> Task:
        """Returns the task of that name. Raises TaskNotFoundError."""
        task = self.store.get_task(name, namespace=self._namespace)
        if task is None:
            raise TaskNotFoundError(
                f"no task {name!r} in namespace {self._namespace!r}",
                hint="see: hyperplug list-tasks",
            )
        return task

    def list_tasks(
        self, *, tag: str | None = None, limit: int | None = None, offset: int = 0
    ) -> list[Task]:
        """Returns tasks, the first registered first."""
        return self.store.list_tasks(namespace=self._namespace, tag=tag, limit=limit, offset=offset)

    def remove_task(self, name: str) -> None:
        """Removes a task with its embedding and the adapters that only it uses.

        Published folders stay: a server may hold them. Raises TaskNotFoundError.
        """
        self.store.remove_task(name, namespace=self._namespace)

    # -- lookup ---------------------------------------------------------------------

    def find(self, text: str, *, limit: int = 5) -> list[Match]:
        """Returns the registered tasks nearest to a description, best first."""
        return self._resolver.find(text, limit=limit)

    def resolve(
        self,
        name_or_text: str,
        *,
        on_novel: OnNovel | str = OnNovel.GENERATE,
        examples: Sequence[Example] = (),
        min_score: float | None = None,
        force: bool = False,
    ) -> Resolution:
        """Returns what serves a task name, an adapter name or a free description.

        Args:
            on_novel: what to do if no registered task is near.
            examples: condition the adapter of a novel description.
            min_score: overrides the calibrated border of NEAREST.
            force: use an adapter even if it was found to harm.

        Raises:
            AdapterNotFoundError: for an adapter name that does not exist.
            InvalidDescriptionError: for text that can be no description.
            NovelTaskError: if nothing is near and `on_novel` is "error".
        """
        return self._resolver.resolve(
            name_or_text, on_novel=on_novel, examples=examples, min_score=min_score, force=force
        )

    def thresholds(self) -> Thresholds:
        """Returns the borders of the lookup policy: calibrated ones, if a hypernetwork is there."""
        return self._resolver.thresholds()

    # -- adapters -------------------------------------------------------------------

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
        """Returns an adapter by its own name, or a task's current one by the task's name.

        Raises:
            AdapterNotFoundError: if there is none.
        """
        if split_adapter_name(name):
            adapter = self.store.get_adapter(name, namespace=self._namespace)
        else:
            task = self.get_task(name)
            adapter = self._supply.current(task)
        if adapter is None:
            raise AdapterNotFoundError(
                f"no adapter {name!r} in namespace {self._namespace!r}",
                hint="see: hyperplug list-adapters; make one with: hyperplug generate-adapter",
            )
        return adapter

    def list_adapters(self, *, task_name: str | None = None) -> list[Adapter]:
        """Returns adapters, newest last."""
        return self.store.list_adapters(namespace=self._namespace, task_name=task_name)

    def published(self, adapter: Adapter) -> Adapter:
        """Returns the adapter with the path of its folder, rebuilt from the store if need be."""
        return self._supply.published(adapter)

    def export(self, name: str, folder: Path) -> Path:
        """Writes an adapter as a plain PEFT folder and returns the folder."""
        return self._supply.export(self.get_adapter(name), folder)

    def import_(self, folder: Path, *, task_name: str, max_rank: int = 64) -> Adapter:
        """Stores a PEFT folder as the current adapter of a registered task.

        Raises:
            InvalidAdapterError: with everything that is wrong with the folder.
            BaseMismatchError: if it was made for another base model.
        """
        task = self.get_task(task_name)
        adapter = self._supply.import_(folder, task=task, max_rank=max_rank)
        return self.published(adapter)

    # -- inner steps ----------------------------------------------------------------

    def _finished(self, adapter: Adapter, task: Task, *, check: bool, force: bool) -> Adapter:
        """Returns a generated adapter published, and checked if that is wanted."""
        if check:
            adapter = self._supply.checked(adapter, task=task)
        if force:
            adapter = self._supply.forced(adapter)
        return self.published(adapter)

    def _register_batch(
        self,
        batch: Sequence[tuple[int, TaskDraft, NewTask]],
        make: Callable[[Task], Adapter | None],
    ) -> Iterator[Registered]:
        if not batch:
            return
        vectors = self.embedder.embed([new.description for _, _, new in batch])
        for (index, draft, new), vector in zip(batch, vectors, strict=True):
            try:
                task, created = self.store.add_task(
                    new, embedder_id=self.embedder.id, embedding=vector
                )
                adapter = make(task)
            except HyperplugError as exc:
                yield Registered(index=index, draft=draft, error=exc)
            else:
                yield Registered(
                    index=index, draft=draft, task=task, adapter=adapter, created=created
                )

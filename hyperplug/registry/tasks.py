"""A registry's calls on tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from hyperplug.drafts import check_draft, check_examples, check_tags
from hyperplug.entities import (
    Adapter,
    Example,
    NewTask,
    Task,
    TaskChange,
    TaskDraft,
    TaskRevision,
)
from hyperplug.errors import DuplicateTaskError, HyperplugError, InvalidNameError, no_such_task
from hyperplug.naming import check_description, description_digest
from hyperplug.registry.base import RegistryBase

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


class TaskCalls(RegistryBase):
    """Registers, changes, lists and removes tasks."""

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
        self._new_task(draft)  # before models are loaded for nothing
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
                batch.append((index, draft, self._new_task(draft)))
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
            raise no_such_task(name, namespace=self._namespace)
        return task

    def list_tasks(
        self,
        *,
        tag: str | None = None,
        search: str | None = None,
        removed: bool = False,
        after: str | None = None,
        limit: int | None = None,
        offset: int = 0,
    ) -> list[Task]:
        """Returns tasks, the first registered first.

        Args:
            search: only those whose name or description holds this, in any case.
            removed: only removed ones, in place of those that serve.
            after: only those registered after the task of this name.
        """
        return self.store.list_tasks(
            namespace=self._namespace,
            tag=tag,
            search=search,
            removed=removed,
            after_id=self.get_task(after).id if after is not None else 0,
            limit=limit,
            offset=offset,
        )

    def update_task(
        self,
        name: str,
        *,
        description: str | None = None,
        examples: Sequence[Example] | None = None,
        tags: Sequence[str] | None = None,
        generate: bool = True,
        check: bool = True,
        force: bool = False,
    ) -> tuple[Task, Adapter | None]:
        """Changes a task, and generates a new version of its adapter if it says something else.

        What it said is kept as a revision, and its adapters stay. Parts that are None stay
        as they are. `generate`, `check` and `force` are those of `register_task`.

        Raises:
            TaskNotFoundError: if there is no such task.
            InvalidNameError, InvalidDescriptionError: for bad input.
        """
        before = self.get_task(name)
        text = None if description is None else check_description(description)
        digest = None if text is None else description_digest(text)
        wanted = TaskChange(
            description=text,
            description_digest=digest,
            examples=None if examples is None else check_examples(examples),
            tags=None if tags is None else check_tags(tags),
        )
        new_text = text is not None and digest != description_digest(before.description)
        if generate:
            _ = self.generator  # before anything is written
        task = self.store.change_task(
            name,
            wanted,
            namespace=self._namespace,
            embedder_id=self.embedder.id,
            embedding=self.embedder.embed([text])[0] if new_text and text else None,
        )
        if not generate or task.revision == before.revision:
            return task, self._supply.current(task)
        adapter = self._supply.generate(task)
        return task, self._finished(adapter, task, check=check, force=force)

    def task_revisions(self, name: str) -> list[TaskRevision]:
        """Returns what a task said before its changes, oldest first. Raises TaskNotFoundError."""
        return self.store.task_revisions(self.get_task(name).id)

    def remove_task(self, name: str) -> Task:
        """Takes a task and its adapters out of sight and frees its name; returns it.

        `restore_task` undoes it, until `purge_task` or the collection of garbage deletes the
        task. Published folders stay: a server may hold them. Raises TaskNotFoundError.
        """
        return self.store.remove_task(name, namespace=self._namespace)

    def restore_task(self, name: str) -> Task:
        """Returns the task of that name that was removed last, which serves again.

        Raises:
            TaskNotFoundError: if none of that name was removed.
            DuplicateTaskError: if another task has its name by now.
        """
        return self.store.restore_task(name, namespace=self._namespace)

    def purge_task(self, name: str) -> None:
        """Deletes a removed task for good, with the adapters that only it uses.

        Pinned adapters stay. Raises TaskNotFoundError.
        """
        self.store.purge_task(name, namespace=self._namespace)

    def _new_task(self, draft: TaskDraft) -> NewTask:
        """Returns the task in normal form; a server knows the base model's name as the base's."""
        new = check_draft(draft, namespace=self._namespace)
        if new.name == self.settings.base:
            raise InvalidNameError(
                f"task name {new.name!r} is the name of the base model",
                hint="choose another: under this one the base model would answer",
            )
        return new

    def _register_batch(
        self,
        batch: Sequence[tuple[int, TaskDraft, NewTask]],
        make: Callable[[Task], Adapter | None],
    ) -> Iterator[Registered]:
        if not batch:
            return
        vectors = self.embedder.embed([new.description for _, _, new in batch])
        outcomes = self.store.add_tasks(
            [new for _, _, new in batch], embedder_id=self.embedder.id, embeddings=list(vectors)
        )
        for (index, draft, _), outcome in zip(batch, outcomes, strict=True):
            if isinstance(outcome, DuplicateTaskError):
                yield Registered(index=index, draft=draft, error=outcome)
                continue
            task, created = outcome
            try:
                adapter = make(task)
            except HyperplugError as exc:
                yield Registered(index=index, draft=draft, error=exc)
            else:
                yield Registered(
                    index=index, draft=draft, task=task, adapter=adapter, created=created
                )

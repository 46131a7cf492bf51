"""Lookup in action: a name or free text in, decision, task and adapter out."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from hyperplug.drafts import check_draft, check_examples
from hyperplug.entities import (
    Adapter,
    Decision,
    Example,
    Match,
    OnNovel,
    Resolution,
    Task,
    TaskDraft,
    Thresholds,
    Timings,
)
from hyperplug.errors import (
    AdapterNotFoundError,
    BaseMismatchError,
    CheckpointError,
    ConfigError,
    TaskNotFoundError,
    no_such_task,
)
from hyperplug.models import Models
from hyperplug.naming import (
    auto_task_name,
    check_description,
    description_digest,
    is_name,
    split_adapter_name,
    split_alias_name,
)
from hyperplug.policy import decide, harm
from hyperplug.store import Store
from hyperplug.supply import AdapterSupply

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

AUTO_TAG = "auto"
# In force where no hypernetwork is at hand to bring calibrated ones.
_FALLBACK_THRESHOLDS = Thresholds(near=0.7, support=1.0)


class Resolver:
    """Matches names and descriptions to the tasks of one namespace. Safe for threads."""

    def __init__(
        self, *, store: Store, models: Models, supply: AdapterSupply, namespace: str
    ) -> None:
        self._store = store
        self._models = models
        self._supply = supply
        self._namespace = namespace
        self.admit_novel: Callable[[], None] = lambda: None
        self.admit_text: Callable[[], None] = lambda: None

    def find(self, text: str, *, limit: int, exact: bool = False) -> list[Match]:
        """Returns the registered tasks nearest to a description, best first."""
        if limit < 1:
            raise ConfigError(f"limit is {limit}", hint="ask for at least 1 task")
        embedder = self._models.embedder
        return self._store.nearest(
            self._vector(text),
            embedder_id=embedder.id,
            namespace=self._namespace,
            limit=limit,
            exact=exact,
        )

    def thresholds(self) -> Thresholds:
        """Returns the borders of the lookup policy: calibrated ones, if a hypernetwork is there."""
        return self._thresholds(OnNovel.NEAREST)

    def resolve(
        self,
        name_or_text: str,
        *,
        on_novel: OnNovel | str,
        examples: Sequence[Example],
        min_score: float | None,
        force: bool,
        names_only: bool,
    ) -> Resolution:
        """Returns what serves a task name, an adapter name or a free description."""
        policy = _on_novel(on_novel)
        started = time.perf_counter()
        exact = self._named(name_or_text)
        if exact is None:
            if names_only:
                raise self._unknown(name_or_text)
            exact = self._word_for_word(name_or_text)
        lookup_ms = _since(started)
        if exact is not None:
            task, adapter = exact
            return self._serve(
                name_or_text,
                decision=Decision.EXACT,
                score=1.0,
                task=task,
                adapter=adapter,
                timings=Timings(lookup_ms=lookup_ms),
                force=force,
            )
        return self._resolve_text(
            name_or_text,
            on_novel=policy,
            examples=check_examples(examples),
            min_score=min_score,
            lookup_ms=lookup_ms,
            force=force,
        )

    def _named_adapter(self, name: str) -> Adapter:
        """Returns the adapter of that immutable name, if it fits the base in use."""
        adapter = self._store.get_adapter(name, namespace=self._namespace)
        if adapter is None:
            raise AdapterNotFoundError(
                f"no adapter {name!r} in namespace {self._namespace!r}",
                hint="see: hyperplug list-adapters",
            )
        base = self._models.base.spec
        if adapter.base_fingerprint != base.fingerprint:
            raise BaseMismatchError(
                f"adapter {name!r} was made for another base model than {base.id}",
                hint=f"generate one for this base: hyperplug generate-adapter {adapter.task_name}",
            )
        return adapter

    def _named(self, text: str) -> tuple[Task | None, Adapter | None] | None:
        """Returns the task (and adapter) that a name means."""
        if isinstance(text, str) and split_adapter_name(text):
            adapter = self._named_adapter(text)
            return self._store.get_task(adapter.task_name, namespace=self._namespace), adapter
        if isinstance(text, str) and (pair := split_alias_name(text)):
            task = self._store.get_task(pair[0], namespace=self._namespace)
            if task is not None:
                return task, self._supply.aliased(task, pair[1])
        if isinstance(text, str) and is_name(text):
            task = self._store.get_task(text, namespace=self._namespace)
            if task is not None:
                return task, None
        return None

    def _unknown(self, name: str) -> TaskNotFoundError:
        pair = split_alias_name(name)
        return no_such_task(pair[0] if pair else name, namespace=self._namespace)

    def _word_for_word(self, text: str) -> tuple[Task, None] | None:
        """Returns the task whose description is that text."""
        digest = description_digest(check_description(text))
        task = self._store.find_task_by_text(digest, namespace=self._namespace)
        return None if task is None else (task, None)

    def _resolve_text(
        self,
        text: str,
        *,
        on_novel: OnNovel,
        examples: tuple[Example, ...],
        min_score: float | None,
        lookup_ms: float,
        force: bool,
    ) -> Resolution:
        thresholds = self._thresholds(on_novel)
        if min_score is not None:
            thresholds = replace(thresholds, near=min_score)
        started = time.perf_counter()
        vector = self._vector(text)
        embed_ms = _since(started)
        started = time.perf_counter()
        matches = self._store.nearest(
            vector,
            embedder_id=self._models.embedder.id,
            namespace=self._namespace,
            limit=1,
        )
        lookup_ms += _since(started)
        score = matches[0].score if matches else None
        support = self._models.generator.support(vector) if on_novel is OnNovel.GENERATE else None
        decision = decide(nearest=score, support=support, thresholds=thresholds, on_novel=on_novel)
        task: Task | None = None
        register_ms = 0.0
        if decision is Decision.NEAREST:
            task = matches[0].task
        elif decision is Decision.NOVEL:
            self.admit_novel()
            started = time.perf_counter()
            task = self.auto_task(text, examples)
            register_ms = _since(started)
        return self._serve(
            text,
            decision=decision,
            score=score or 0.0,
            support=support,
            task=task,
            timings=Timings(embed_ms=embed_ms, lookup_ms=lookup_ms, generate_ms=register_ms),
            force=force,
        )

    def _serve(
        self,
        text: str,
        *,
        decision: Decision,
        score: float,
        task: Task | None,
        timings: Timings,
        force: bool,
        adapter: Adapter | None = None,
        support: float | None = None,
    ) -> Resolution:
        """Returns the resolution, with the task's adapter generated and published.

        The base model answers in place of an adapter that harms, unless it is asked for by
        its own name.
        """
        started = time.perf_counter()
        reason = ""
        if adapter is None and task is not None:
            adapter = self._supply.ensure(task)
            reason = "" if force else harm(adapter)
        if reason:
            decision, task, adapter = Decision.BASE, None, None
        generate_ms = timings.generate_ms + _since(started)
        started = time.perf_counter()
        if adapter is not None:
            adapter = self._supply.published(adapter)
        return Resolution(
            text=text,
            decision=decision,
            score=score,
            support=support,
            task=task,
            adapter=adapter,
            timings=replace(timings, generate_ms=generate_ms, publish_ms=_since(started)),
            reason=reason,
        )

    def auto_task(self, description: str, examples: Sequence[Example]) -> Task:
        """Returns the task of a description that came without a name, registering it."""
        new = check_draft(
            TaskDraft(
                name=auto_task_name(description),
                description=description,
                examples=tuple(examples),
                tags=(AUTO_TAG,),
            ),
            namespace=self._namespace,
        )
        standing = self._store.find_task_by_text(new.description_digest, namespace=self._namespace)
        if standing is not None:
            return standing
        embedder = self._models.embedder
        vector = embedder.embed([new.description])[0]
        task, _ = self._store.add_task(new, embedder_id=embedder.id, embedding=vector)
        return task

    def _vector(self, text: str) -> NDArray[np.float32]:
        """Returns the embedding of a description, (embedding,)."""
        embedder, text = self._models.embedder, check_description(text)
        if not embedder.remembers(text):
            self.admit_text()
        vector: NDArray[np.float32] = embedder.embed([text])[0]
        return vector

    def _thresholds(self, on_novel: OnNovel) -> Thresholds:
        try:
            return self._models.generator.thresholds
        except (CheckpointError, BaseMismatchError):
            if on_novel is OnNovel.GENERATE:
                raise
            return _FALLBACK_THRESHOLDS


def _on_novel(value: OnNovel | str) -> OnNovel:
    try:
        return OnNovel(value)
    except ValueError as exc:
        raise ConfigError(
            f"on_novel is {value!r}", hint=f"use one of: {', '.join(OnNovel)}"
        ) from exc


def _since(started: float) -> float:
    return (time.perf_counter() - started) * 1000

"""The registry: the one object that users hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hyperplug.config import Settings, load_settings
from hyperplug.entities import Example, Match, OnNovel, Resolution, Thresholds
from hyperplug.registry.learning import LearningCalls
from hyperplug.registry.tasks import Registered
from hyperplug.store import open_store

__all__ = ["Registered", "Registry", "open_registry"]


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
    return Registry(open_store(chosen.registry_url, actor=chosen.actor), settings=chosen)


class Registry(LearningCalls):
    """Tasks, their embeddings and adapters; finds, generates and publishes.

    Safe for use by several threads. Encoder, base model and hypernetwork are loaded when
    they are first needed.

    Attributes:
        library: the adapter folders on disk, a cache of the store.
    """

    def find(self, text: str, *, limit: int = 5, exact: bool = False) -> list[Match]:
        """Returns the registered tasks nearest to a description, best first.

        With `exact`, it is compared with every task, whatever index there is.
        """
        return self._resolver.find(text, limit=limit, exact=exact)

    def resolve(
        self,
        name_or_text: str,
        *,
        on_novel: OnNovel | str = OnNovel.GENERATE,
        examples: Sequence[Example] = (),
        min_score: float | None = None,
        force: bool = False,
        names_only: bool = False,
    ) -> Resolution:
        """Returns what serves a task name, "task@alias", an adapter name or a free description.

        Args:
            on_novel: what to do if no registered task is near.
            examples: condition the adapter of a novel description.
            min_score: overrides the calibrated border of NEAREST.
            force: use an adapter even if it was found to harm.
            names_only: an unknown name is an error, not a description.

        Raises:
            TaskNotFoundError: with `names_only`, for what is no task's name.
            AdapterNotFoundError: for an adapter name that does not exist.
            InvalidDescriptionError: for text that can be no description.
            NovelTaskError: if nothing is near and `on_novel` is "error".
        """
        return self._resolver.resolve(
            name_or_text,
            on_novel=on_novel,
            examples=examples,
            min_score=min_score,
            force=force,
            names_only=names_only,
        )

    def thresholds(self) -> Thresholds:
        """Returns the borders of the lookup policy: calibrated ones, if a hypernetwork is there."""
        return self._resolver.thresholds()

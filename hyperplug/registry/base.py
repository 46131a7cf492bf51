"""What the parts of a registry share: the store, the models, the library and the tenant."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Self

from hyperplug.adapters.library import Library
from hyperplug.basemodel import BaseModel
from hyperplug.config import Settings
from hyperplug.entities import Adapter, Task
from hyperplug.models import Models
from hyperplug.naming import check_name
from hyperplug.resolver import Resolver
from hyperplug.store import Store
from hyperplug.supply import AdapterSupply

if TYPE_CHECKING:
    from hyperplug.embedding import Embedder
    from hyperplug.hypernet.generate import Generator


class RegistryBase:
    """Tasks, their embeddings and adapters; finds, generates and publishes.

    Safe for use by several threads. Encoder, base model and hypernetwork are loaded when
    they are first needed.

    Attributes:
        library: the adapter folders on disk, a cache of the store.
    """

    def __init__(
        self,
        store: Store,
        *,
        settings: Settings,
        library: Library | None = None,
        models: Models | None = None,
    ) -> None:
        self.store = store
        self.settings = settings
        self.library = library or Library(settings.library)
        if library is None:
            self.library.collect_leftovers()
        self._namespace = settings.namespace
        self._models = models or Models(settings, store)
        self._supply = AdapterSupply(
            store=store, library=self.library, models=self._models, namespace=self._namespace
        )
        self._resolver = Resolver(
            store=store, models=self._models, supply=self._supply, namespace=self._namespace
        )

    def for_namespace(self, namespace: str) -> Self:
        """Returns the same registry as another tenant sees it; the models are loaded once.

        Raises:
            InvalidNameError: for an illegal namespace.
        """
        settings = replace(self.settings, namespace=check_name(namespace, kind="namespace"))
        return type(self)(
            self.store, settings=settings, library=self.library, models=self._models.apart()
        )

    @property
    def namespace(self) -> str:
        """The tenant whose tasks this registry holds."""
        return self._namespace

    def admit_novel(self, admit: Callable[[], None]) -> None:
        """Has `admit` called before an adapter is generated for a novel description.

        What it raises leaves through `resolve`, and nothing is registered or generated.
        """
        self._resolver.admit_novel = admit

    def admit_text(self, admit: Callable[[], None]) -> None:
        """Has `admit` called before the text encoder reads a description that is to be looked up.

        What it raises leaves through `resolve` and `find`. Descriptions that were read lately
        are not read again.
        """
        self._resolver.admit_text = admit

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

    def published(self, adapter: Adapter) -> Adapter:
        """Returns the adapter with the path of its folder, rebuilt from the store if need be."""
        return self._supply.published(adapter)

    @property
    def _base_fingerprint(self) -> str:
        return self.base.spec.fingerprint

    def _finished(self, adapter: Adapter, task: Task, *, check: bool, force: bool) -> Adapter:
        """Returns a generated adapter published, and checked if that is wanted."""
        if check:
            adapter = self._supply.checked(adapter, task=task)
        if force:
            adapter = self._supply.forced(adapter)
        return self.published(adapter)

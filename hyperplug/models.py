"""The frozen models a registry works with, each loaded when it is first needed."""

from __future__ import annotations

import functools
import threading
from typing import TYPE_CHECKING

from hyperplug.basemodel import BaseModel, resolve_base
from hyperplug.config import Settings
from hyperplug.errors import MissingExtraError
from hyperplug.store import Store

if TYPE_CHECKING:
    from hyperplug.embedding import Embedder, RememberingEmbedder
    from hyperplug.hypernet.gain import GainCheck
    from hyperplug.hypernet.generate import Generator


class Models:
    """Base model, text encoder and hypernetwork of one registry. Safe for threads.

    Their identities are written to the store when they are loaded.

    Args:
        origin: whose models to use, in place of loading them again. What was made of texts is
            remembered apart: one tenant must not learn from the clock what another asks.
    """

    def __init__(self, settings: Settings, store: Store, *, origin: Models | None = None) -> None:
        self._settings = settings
        self._store = store
        self._origin = origin
        self._lock = threading.RLock()

    def apart(self) -> Models:
        """Returns the same models for another tenant."""
        return Models(self._settings, self._store, origin=self._origin or self)

    @property
    def base(self) -> BaseModel:
        """The frozen base model. Raises BaseModelError if it is not at hand."""
        with self._lock:
            return self._base

    @property
    def embedder(self) -> RememberingEmbedder:
        """The text encoder. Raises ConfigError if it is not at hand."""
        with self._lock:
            return self._embedder

    @property
    def encoder(self) -> Embedder:
        """The text encoder itself, which remembers nothing."""
        with self._lock:
            return self._encoder

    @property
    def generator(self) -> Generator:
        """The hypernetwork. Raises CheckpointError or BaseMismatchError if none fits."""
        with self._lock:
            return self._generator

    @property
    def gain_check(self) -> GainCheck:
        """The base model in memory, for checking adapters. Raises BaseModelError."""
        with self._lock:
            return self._gain_check

    @functools.cached_property
    def _base(self) -> BaseModel:
        if self._origin is not None:
            return self._origin.base
        base = resolve_base(self._settings.base, cache=self._settings.cache)
        self._store.put_base_model(base.spec)
        return base

    @functools.cached_property
    def _encoder(self) -> Embedder:
        from hyperplug.embedding import load_embedder

        if self._origin is not None:
            return self._origin.encoder
        return load_embedder(self._settings.embedder)

    @functools.cached_property
    def _embedder(self) -> RememberingEmbedder:
        from hyperplug.embedding import RememberingEmbedder

        return RememberingEmbedder(self._encoder)

    @functools.cached_property
    def _generator(self) -> Generator:
        if self._origin is not None:
            return self._origin.generator.reading_with(self._embedder)
        try:
            from hyperplug.hypernet.generate import load_generator
        except ModuleNotFoundError as exc:
            raise MissingExtraError(exc.name or "torch", extra="local") from exc
        generator = load_generator(
            self._settings.hypernet, embedder=self._embedder, base=self._base
        )
        self._store.put_hypernet(generator.spec)
        return generator

    @functools.cached_property
    def _gain_check(self) -> GainCheck:
        if self._origin is not None:
            return self._origin.gain_check
        try:
            from hyperplug.hypernet.gain import GainCheck

            return GainCheck(self._base, generator=self._generator)
        except ModuleNotFoundError as exc:
            raise MissingExtraError(exc.name or "transformers", extra="local") from exc

"""A registry on the real base model, encoder and shipped hypernetwork."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from hyperplug.config import Settings, load_settings
from hyperplug.models import Models
from hyperplug.registry import Registry, open_registry

OpenWith = Callable[..., Registry]

os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session")
def loaded_models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Models]:
    """The real models, loaded once for all tests."""
    settings = load_settings(home=tmp_path_factory.mktemp("models"))
    with open_registry(settings=settings) as registry:
        models = Models(settings, registry.store)
        models.generator.generate("warm up")
        yield models


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings with an empty home of their own."""
    return load_settings(home=tmp_path / "home")


@pytest.fixture
def registry(settings: Settings, loaded_models: Models) -> Iterator[Registry]:
    """An empty registry whose models are loaded already."""
    with _opened(settings, loaded_models) as opened:
        yield opened


@pytest.fixture
def other_tenant(
    registry: Registry, settings: Settings, loaded_models: Models
) -> Iterator[Registry]:
    """The same registry in another namespace."""
    with _opened(replace(settings, namespace="other"), loaded_models) as opened:
        yield opened


@pytest.fixture
def open_with(tmp_path: Path) -> OpenWith:
    """Opens an empty registry with some settings changed, and no model loaded."""

    def open_(**changes: str) -> Registry:
        return open_registry(settings=load_settings(home=tmp_path / "changed", **changes))

    return open_


def _opened(settings: Settings, models: Models) -> Registry:
    registry = open_registry(settings=settings)
    registry.store.put_base_model(models.base.spec)
    registry.store.put_hypernet(models.generator.spec)
    for part in ("_base", "_encoder", "_generator"):  # cached properties: share what is loaded
        registry._models.__dict__[part] = getattr(models, part)
    return registry

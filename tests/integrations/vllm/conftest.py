"""A registry on the real base model, encoder and hypernetwork, shared by these tests."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from hyperplug.config import Settings, load_settings
from hyperplug.registry import Registry, open_registry

os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session")
def serving_home(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Settings whose registry and library are this session's own."""
    return load_settings(home=tmp_path_factory.mktemp("serving"), registry_url=None)


@pytest.fixture(scope="session")
def warm_registry(serving_home: Settings) -> Iterator[Registry]:
    """A registry with two tasks and all models loaded."""
    with open_registry(settings=serving_home) as registry:
        registry.warm_up()
        registry.register_task(SENTIMENT, SENTIMENT_TEXT)
        registry.register_task("capital", "Name the capital city of the country.")
        yield registry


@pytest.fixture
def serve(warm_registry: Registry) -> Iterator[Callable[..., None]]:
    """Runs a check against a server on the shared registry."""
    from tests.integrations.vllm.front import front_end

    def run(check: Callable[[Any], Awaitable[None]], **flags: Any) -> None:
        async def inner() -> None:
            async with front_end(warm_registry, **flags) as server:
                await check(server)

        asyncio.run(inner())

    yield run


SENTIMENT = "sentiment"
SENTIMENT_TEXT = (
    "Decide whether a movie review is positive or negative. "
    "Answer with the single word positive or negative."
)
PARAPHRASE = SENTIMENT_TEXT.replace("a movie review", "the movie review")
# Near to what the hypernetwork knows, and far from the two tasks.
NOVEL = "Given a tweet, decide whether it is ironic. Answer yes or no."
FOREIGN = "zxcv qwer 0x00 asdf"

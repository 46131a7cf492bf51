"""A real registry on a tiny base model, with stand-ins for encoder and hypernetwork.

What is tested is what the registry does with what those two give; loading real ones takes
seconds.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hyperplug.basemodel import BaseModel
from hyperplug.config import load_settings
from hyperplug.embedding import Embedder, TextEncoding
from hyperplug.entities import AdapterWeights, Example, HypernetSpec, Promise, Thresholds
from hyperplug.registry import Registry, open_registry
from tests.adapters.samples import BASE, MODULES, weights

OpenRegistry = Callable[..., Registry]
# Runs a check, which gets a server, against one on the registry; options as `front_end` has them.
Serve = Callable[..., None]


class LetterEmbedder:
    """A text encoder that counts letters."""

    id = "letters"
    dimension = 26

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Returns unit vectors, (texts, dimension)."""
        counts = [
            [text.lower().count(letter) for letter in map(chr, range(97, 123))] for text in texts
        ]
        rows = np.array(counts, dtype=np.float32) + np.float32(1e-3)
        return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)

    def encode(self, texts: Sequence[str]) -> list[TextEncoding]:
        """Returns the vectors; it knows no tokens."""
        none = np.zeros((0, self.dimension), dtype=np.float32)
        return [
            TextEncoding(vector=vector, tokens=none.copy(), offsets=None)
            for vector in self.embed(texts)
        ]


class SeededGenerator:
    """A hypernetwork that draws an adapter with the description as seed.

    Attributes:
        made: the descriptions that it was asked for.
    """

    def __init__(self) -> None:
        self.thresholds = Thresholds(near=0.9, support=0.5)
        self.made: list[str] = []
        self.spec = HypernetSpec(
            fingerprint="e" * 64,
            base_fingerprint=BASE.fingerprint,
            embedder_id=LetterEmbedder.id,
            rank=4,
            target_modules=MODULES,
        )

    def reading_with(self, embedder: Embedder) -> SeededGenerator:
        """Returns itself: it reads no tokens."""
        return self

    def support(self, embedding: NDArray[np.float32]) -> float:
        """Returns the nearness to what it was trained on: always near."""
        return 1.0

    def promise(self, support: float) -> Promise | None:
        """Returns None: it was never calibrated."""
        return None

    def generate(self, description: str, examples: Sequence[Example] = ()) -> AdapterWeights:
        """Returns weights that depend on itself and the text."""
        self.made.append(description)
        text = self.spec.fingerprint + description
        return weights(int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big"))


@pytest.fixture
def open_tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenRegistry]:
    """Opens a registry on the tiny base model; several in one test share their home."""
    for name in [name for name in os.environ if name.startswith("HYPERPLUG_")]:
        monkeypatch.delenv(name)
    opened: list[Registry] = []

    def open_(**changes: Any) -> Registry:
        registry = open_registry(settings=load_settings(**{"home": tmp_path / "home"} | changes))
        opened.append(registry)
        generator = SeededGenerator()
        registry.store.put_base_model(BASE)
        registry.store.put_hypernet(generator.spec)
        registry._models.__dict__.update(
            _base=BaseModel(folder=tmp_path, spec=BASE),
            _encoder=LetterEmbedder(),
            _generator=generator,
        )
        return registry

    yield open_
    for registry in opened:
        registry.close()


@pytest.fixture
def registry(open_tiny: OpenRegistry) -> Registry:
    """An empty registry."""
    return open_tiny()


@pytest.fixture
def serve(registry: Registry) -> Serve:
    """Serves the registry by the real middleware, on an engine that keeps vLLM's rules."""
    from tests.edge_cases.engine import VllmRules
    from tests.integrations.vllm.front import front_end

    def run(check: Callable[[Any], Awaitable[None]], **options: Any) -> None:
        async def inner() -> None:
            client = options.pop("client", None) or VllmRules()
            async with front_end(registry, client=client, **options) as server:
                await check(server)
            assert not client.taken_away

        asyncio.run(inner())

    return run

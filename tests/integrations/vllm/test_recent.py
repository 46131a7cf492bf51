"""What was resolved holds until something is written."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest
from hyperplug_vllm.recent import RecentResolutions

from hyperplug.registry import Registry
from hyperplug.store.changes import ChangeFeed
from tests.integrations.vllm.conftest import PARAPHRASE, SENTIMENT
from tests.integrations.vllm.front import Server

pytest.importorskip("vllm")


def steps(response: Any) -> dict[str, float]:
    """Returns the milliseconds of each step."""
    told = response.headers["x-hyperplug-timing"].split(", ")
    return {name: float(value) for name, _, value in (step.partition(";dur=") for step in told)}


def test_the_second_time_nothing_is_looked_up(serve: Any, warm_registry: Registry) -> None:
    async def check(server: Server) -> None:
        for model in (SENTIMENT, f"hyperplug:{PARAPHRASE}"):
            first = await server.ask(model)
            second = await server.ask(model)
            for header in ("x-hyperplug-decision", "x-hyperplug-score", "x-hyperplug-adapter"):
                assert first.headers[header] == second.headers[header]
            assert set(steps(second).values()) == {0.0}

    serve(check)


def test_a_promotion_counts_within_two_seconds(serve: Any, warm_registry: Registry) -> None:
    """The version that was promoted serves, and the one before after a rollback."""
    registry = warm_registry
    registry.register_task("versions", "Say whether the text is in French or in German.")
    first = registry.get_adapter("versions")
    registry.update_task("versions", description="Say whether the text is in Dutch or Danish.")
    second = registry.get_adapter("versions")
    registry.promote(first.name)

    async def check(server: Server) -> None:
        async def served() -> str:
            return str((await server.ask("versions")).headers["x-hyperplug-adapter"])

        assert await served() == first.name
        assert await served() == first.name
        for expected, change in (
            (second.name, lambda: registry.promote(second.name)),
            (first.name, lambda: registry.rollback("versions")),
        ):
            await asyncio.to_thread(change)
            began = time.monotonic()
            while await served() != expected:
                assert time.monotonic() - began < 2
                await asyncio.sleep(0.02)

    serve(check)


def test_what_was_begun_before_a_write_is_not_kept(warm_registry: Registry) -> None:
    recent = RecentResolutions(warm_registry.store)
    resolution = warm_registry.resolve(SENTIMENT)
    epoch = recent.epoch
    recent.put("a", resolution, epoch=epoch)
    assert recent.get("a") == resolution
    recent.forget()
    assert recent.get("a") is None
    recent.put("a", resolution, epoch=epoch)
    assert recent.get("a") is None
    recent.close()


def test_nothing_is_kept_when_writes_are_no_longer_learned_of(
    warm_registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever ends the thread that watches: what is promoted later has to serve."""

    class Breaking(ChangeFeed):
        def wait(self, seconds: float) -> bool:
            time.sleep(0.1)
            raise ZeroDivisionError

    store = warm_registry.store
    monkeypatch.setattr(store, "watch", lambda: Breaking(store._engine))
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    recent = RecentResolutions(store)
    resolution = warm_registry.resolve(SENTIMENT)
    recent.put("a", resolution, epoch=recent.epoch)
    recent._thread.join(timeout=10)
    assert not recent._thread.is_alive()
    assert recent.get("a") is None
    recent.put("a", resolution, epoch=recent.epoch)
    assert recent.get("a") is None

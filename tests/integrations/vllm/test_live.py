"""The adapters a server holds."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hyperplug_vllm.answers import LoadError
from hyperplug_vllm.live import LiveAdapters

from hyperplug.entities import Adapter, Origin
from tests.integrations.vllm.engine import make_engine

pytest.importorskip("vllm")


def adapter(number: int) -> Adapter:
    """An adapter as the registry would publish it."""
    digest = f"{number:064x}"
    return Adapter(
        id=2**20 + number,
        namespace="default",
        name=f"task{number}@{digest[:8]}",
        task_name=f"task{number}",
        digest=digest,
        rank=8,
        alpha=8.0,
        target_modules=(),
        origin=Origin.GENERATED,
        base_fingerprint="b",
        hypernet_fingerprint=None,
        size_bytes=1,
        metrics={},
        created_at=datetime.now(UTC),
        path=Path("/library") / str(number),
    )


ONE, TWO, THREE = adapter(1), adapter(2), adapter(3)


def test_loaded_once_and_listed() -> None:
    async def run() -> None:
        engine, client, models = make_engine()
        live = LiveAdapters(engine, limit=2)
        first, second = await asyncio.gather(live.acquire(ONE), live.acquire(ONE))
        assert first > 0 and second > 0  # both waited for the one load
        assert await live.acquire(ONE) == 0.0
        assert client.calls == [("add", ONE.id)]
        request = models.lora_requests[ONE.name]
        assert (request.lora_int_id, request.lora_path) == (ONE.id, "/library/1")
        assert not request.load_inplace

    asyncio.run(run())


def test_the_least_recently_used_makes_room() -> None:
    async def run() -> None:
        engine, client, models = make_engine()
        live = LiveAdapters(engine, limit=2)
        for each in (ONE, TWO, ONE, THREE):
            await live.acquire(each)
            live.release(each)
        assert client.loaded == [ONE.id, THREE.id]
        assert set(models.lora_requests) == {"static-one", ONE.name, THREE.name}

    asyncio.run(run())


def test_what_is_in_use_stays() -> None:
    async def run() -> None:
        engine, client, _ = make_engine()
        live = LiveAdapters(engine, limit=1)
        await live.acquire(ONE)
        await live.acquire(TWO)  # over the limit rather than under a running request
        assert client.loaded == [ONE.id, TWO.id]
        live.release(ONE)
        live.release(TWO)
        await live.acquire(THREE)
        assert client.loaded == [THREE.id]

    asyncio.run(run())


def test_a_failed_load_leaves_nothing() -> None:
    async def run() -> None:
        engine, client, models = make_engine()
        live = LiveAdapters(engine, limit=2)
        client.fail.add(ONE.id)
        with pytest.raises(LoadError, match="could not be loaded"):
            await live.acquire(ONE)
        assert client.loaded == []
        assert ONE.name not in models.lora_requests
        assert len(live) == 0
        client.fail.clear()
        assert await live.acquire(ONE) > 0
        assert client.loaded == [ONE.id]

    asyncio.run(run())


def test_a_client_that_leaves_does_not_stop_the_load_for_others() -> None:
    async def run() -> None:
        engine, client, _ = make_engine()
        live = LiveAdapters(engine, limit=1)
        client.pause.clear()
        leaving = asyncio.create_task(live.acquire(ONE))
        staying = asyncio.create_task(live.acquire(ONE))
        await asyncio.sleep(0.01)
        leaving.cancel()
        await asyncio.sleep(0.01)
        client.pause.set()
        assert await staying > 0
        assert client.calls == [("add", ONE.id)]
        live.release(ONE)
        await live.acquire(TWO)  # the one that left is counted no more
        assert client.loaded == [TWO.id]

    asyncio.run(run())


def test_an_adapter_that_comes_back_while_it_goes() -> None:
    async def run() -> None:
        engine, client, models = make_engine()
        live = LiveAdapters(engine, limit=1)
        for _ in range(3):
            await asyncio.gather(*(_use(live, each) for each in (ONE, TWO, THREE, ONE)))
            assert sorted(client.loaded) == sorted(
                models.lora_requests[name].lora_int_id
                for name in models.lora_requests
                if name != "static-one"
            )
            assert len(set(client.loaded)) == len(client.loaded)

    asyncio.run(run())


async def _use(live: LiveAdapters, each: Adapter) -> None:
    await live.acquire(each)
    await asyncio.sleep(0.002)
    live.release(each)

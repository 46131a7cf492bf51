"""The adapters a server holds: loaded on demand, bounded, never dropped while in use."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from dataclasses import dataclass

from hyperplug.entities import Adapter
from hyperplug_vllm.answers import LoadError
from hyperplug_vllm.compat import LOGGER_NAME, Engine
from hyperplug_vllm.metrics import metrics

_log = logging.getLogger(LOGGER_NAME)


@dataclass(slots=True)
class _Entry:
    adapter: Adapter
    users: int = 0
    loading: asyncio.Task[None] | None = None
    loaded: bool = False


class LiveAdapters:
    """Which adapters are loaded, least recently used first, and how many requests use each.

    The limit is exceeded only while more adapters than that are in use. Everything that
    changes the engine waits for the one before, so that an adapter that comes back is
    loaded after its removal, not before, and many cold ones do not hold up the engine at once.
    """

    def __init__(self, engine: Engine, *, limit: int) -> None:
        self.limit = limit
        self._engine = engine
        self._entries: OrderedDict[int, _Entry] = OrderedDict()
        self._gate = asyncio.Lock()
        self._half_loaded: set[int] = set()
        self._trimming: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._entries)

    def holds(self, adapter: Adapter | None) -> bool:
        """Returns whether nothing is left to load for a request: it is loaded, or there is none."""
        entry = self._entries.get(adapter.id) if adapter is not None else None
        return adapter is None or (entry is not None and entry.loaded)

    def owner(self, name: str) -> str | None:
        """Returns the namespace of a loaded adapter by the name that vLLM knows, if it is one."""
        for entry in self._entries.values():
            if self._engine.served_name(entry.adapter) == name:
                return entry.adapter.namespace
        return None

    def folders(self) -> list[str]:
        """Returns the folders in use, "namespace/adapter" each."""
        return [f"{e.adapter.namespace}/{e.adapter.name}" for e in self._entries.values()]

    async def acquire(self, adapter: Adapter) -> float:
        """Returns the milliseconds it took to load the adapter, 0 if it was loaded.

        The caller must `release` it when its request is done.

        Raises:
            LoadError: if the engine refuses it; nothing of it stays behind.
        """
        entry = self._entries.setdefault(adapter.id, _Entry(adapter))
        self._entries.move_to_end(adapter.id)
        metrics().live(len(self._entries))
        if entry.loaded:
            self._engine.list_again(entry.adapter)
            entry.users += 1
            return 0.0
        if entry.loading is None:
            entry.loading = asyncio.create_task(self._load(entry))
            entry.loading.add_done_callback(_seen)
        entry.users += 1
        started = time.perf_counter()
        try:
            await asyncio.shield(entry.loading)  # a client that leaves ends no load
        except BaseException:
            entry.users -= 1
            raise
        return (time.perf_counter() - started) * 1000

    def release(self, adapter: Adapter) -> None:
        """Says that one request is done with the adapter."""
        entry = self._entries.get(adapter.id)
        if entry is not None:
            entry.users -= 1
        if len(self._entries) > self.limit and (self._trimming is None or self._trimming.done()):
            self._trimming = asyncio.create_task(self._trim())

    async def _trim(self) -> None:
        async with self._gate:
            await self._make_room()

    async def _load(self, entry: _Entry) -> None:
        async with self._gate:
            await self._make_room()
            started = time.perf_counter()
            try:
                await self._clear(entry.adapter)
                await self._engine.add(entry.adapter)
            except BaseException as exc:
                # A failed load leaves its id registered, and the next load of that id
                # would "succeed" with half-written weights.
                self._entries.pop(entry.adapter.id, None)
                metrics().live(len(self._entries))
                self._half_loaded.add(entry.adapter.id)
                if await self._engine.remove(entry.adapter):
                    self._half_loaded.discard(entry.adapter.id)
                _log.error("adapter %s did not load: %s", _shown(entry.adapter), exc)
                raise LoadError(
                    f"adapter {entry.adapter.name} could not be loaded by vLLM",
                    hint="see the server's log; the base model is unaffected",
                ) from exc
            entry.loaded = True
            metrics().loaded(time.perf_counter() - started)
            _log.info("loaded adapter %s", _shown(entry.adapter))

    async def _clear(self, adapter: Adapter) -> None:
        """Takes away what a failed load left behind when the engine did not answer."""
        if adapter.id in self._half_loaded:
            if not await self._engine.remove(adapter):
                raise RuntimeError("what is left of its last load cannot be removed")
            self._half_loaded.discard(adapter.id)

    async def _make_room(self) -> None:
        while len(self._entries) > self.limit:
            idle = next((e for e in self._entries.values() if e.loaded and not e.users), None)
            if idle is None:
                return
            del self._entries[idle.adapter.id]
            metrics().evicted()
            metrics().live(len(self._entries))
            await self._engine.remove(idle.adapter)
            _log.info("unloaded adapter %s", _shown(idle.adapter))


def _shown(adapter: Adapter) -> str:
    """Returns what may stand in a log: names can hold words of a request's text."""
    return f"id {adapter.id} digest {adapter.digest[:8]}"


def _seen(task: asyncio.Task[None]) -> None:
    if not task.cancelled():
        task.exception()  # seen, even if every waiter has left

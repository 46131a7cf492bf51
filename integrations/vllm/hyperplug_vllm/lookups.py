"""The registry for asyncio: lookups in threads, one at a time for each text."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar

from hyperplug.adapters.library import Library
from hyperplug.entities import Decision, OnNovel, Resolution, Timings
from hyperplug.errors import NotFoundError, RegistryError
from hyperplug.registry import Registry
from hyperplug_vllm.answers import BusyError
from hyperplug_vllm.limits import Allowance
from hyperplug_vllm.metrics import metrics
from hyperplug_vllm.recent import RecentResolutions
from hyperplug_vllm.request_options import RequestOptions
from hyperplug_vllm.targets import Target, TargetKind

T = TypeVar("T")

_Key = tuple[TargetKind, str]
_Flight = tuple[_Key, RequestOptions]
_MAX_REMEMBERED = 1024
_PATIENCE_SECONDS = 0.5
# A database that hangs, or a network that swallows what is sent, says nothing for minutes.
_SLOW_SECONDS = 5.0


class SlowError(BusyError):
    """A lookup took too long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A resolution; `stale` if the registry could not be asked and this is remembered."""

    resolution: Resolution
    stale: bool = False


class Lookups:
    """Asks the registry without blocking the event loop.

    Names have threads of their own: they never queue behind texts, which may need a
    generation.
    """

    def __init__(
        self,
        registry: Registry,
        *,
        on_novel: OnNovel,
        min_score: float | None,
        novel_per_minute: int = 60,
        texts_per_minute: int = 1200,
        max_waiting: int = 256,
        timeout_seconds: float = 120.0,
    ) -> None:
        self._registry = registry
        self.allowance = Allowance(novel_per_minute)
        registry.admit_novel(self.allowance.take)
        registry.admit_text(Allowance(texts_per_minute, of="new descriptions").take)
        # What is remembered answers sooner than a database that is away for longer.
        registry.store.patience_seconds = _PATIENCE_SECONDS
        self._on_novel = on_novel
        self._min_score = min_score
        self._max_waiting = max_waiting
        self._timeout_seconds = timeout_seconds
        self._names = ThreadPoolExecutor(2, thread_name_prefix="hyperplug-names")
        self._texts = ThreadPoolExecutor(2, thread_name_prefix="hyperplug-texts")
        self._working = 0
        self._flights: dict[_Flight, asyncio.Future[Resolution]] = {}
        self._remembered: OrderedDict[_Key, Resolution] = OrderedDict()
        self._recent = RecentResolutions(registry.store)

    @property
    def library(self) -> Library:
        """The published folders."""
        return self._registry.library

    def recent(self, target: Target) -> Found | None:
        """Returns what serves a target, if it was asked for and nothing was written since."""
        resolution = self._recent.get((_key(target), target.options))
        if resolution is None:
            return None
        return Found(resolution=resolution, stale=self._recent.away)

    async def resolve(self, target: Target) -> Found:
        """Returns what serves a target, or what last did if the registry is down or hangs.

        A text that it was never asked for gets the base model then, if `on_novel` is "base".

        Raises:
            TaskNotFoundError: for a task name that is not registered.
            HyperplugError: whatever else `Registry.resolve` raises.
        """
        self._recent.check_known(_key(target))
        remembered = self._remembered.get(_key(target))
        patience = self._timeout_seconds if remembered is None else _SLOW_SECONDS
        try:
            resolution = await self._once(target, timeout_seconds=patience)
        except (RegistryError, SlowError):
            instead = remembered or self._base_for(target)
            if instead is None:
                raise
            return Found(resolution=instead, stale=True)
        self._remember(target, resolution)
        return Found(resolution=resolution)

    async def call(self, function: Callable[[Registry], T]) -> T:
        """Returns `function(registry)`, run in one of the threads for names."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._names, function, self._registry)

    async def work(self, function: Callable[[Registry], T], *, writes: bool = False) -> T:
        """Returns `function(registry)`, run in one of the threads for texts.

        Args:
            writes: whether it writes, so that what it wrote has to be seen at once.

        Raises:
            BusyError: if too many lookups are waiting.
        """
        if self._working >= self._max_waiting:
            raise BusyError("too many lookups are waiting", hint="try again in a moment")
        self._working += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._texts, function, self._registry)
        finally:
            self._working -= 1
            if writes:
                self._recent.forget()

    def close(self) -> None:
        """Ends the threads once they are idle, and the connection to the store."""
        self._names.shutdown(wait=False, cancel_futures=True)
        self._texts.shutdown(wait=False, cancel_futures=True)
        self._recent.close()
        self._registry.close()

    async def _once(self, target: Target, *, timeout_seconds: float) -> Resolution:
        """Joins the lookup of the same target under way, or starts it."""
        key = _key(target), target.options
        flight = self._flights.get(key)
        if flight is None:
            if len(self._flights) >= self._max_waiting:
                raise BusyError("too many lookups are waiting", hint="try again in a moment")
            pool = self._texts if target.kind is TargetKind.TEXT else self._names
            loop = asyncio.get_running_loop()
            flight = loop.run_in_executor(pool, self._resolve, target)
            self._flights[key] = flight
            metrics().lookup_began()
            flight.add_done_callback(lambda done: self._land(key, done))
        # Shielded: one client that leaves must not end the lookup others wait for.
        try:
            return await asyncio.wait_for(asyncio.shield(flight), timeout_seconds)
        except TimeoutError as exc:
            raise SlowError(
                f"the lookup took over {timeout_seconds:.0f} seconds", hint="try again later"
            ) from exc

    def _resolve(self, target: Target) -> Resolution:
        epoch = self._recent.epoch
        try:
            resolution = self._looked_up(target)
        except NotFoundError as exc:
            if target.kind is not TargetKind.TEXT:
                self._recent.put_unknown(_key(target), exc, epoch=epoch)
            raise
        if resolution.decision is not Decision.NOVEL:  # the next time it is none
            kept = replace(resolution, timings=Timings())
            self._recent.put((_key(target), target.options), kept, epoch=epoch)
        return resolution

    def _looked_up(self, target: Target) -> Resolution:
        options = target.options
        return self._registry.resolve(
            target.text,
            on_novel=options.on_novel or self._on_novel,
            min_score=self._min_score if options.min_score is None else options.min_score,
            examples=options.examples,
            names_only=target.kind is not TargetKind.TEXT,
        )

    def _land(self, key: _Flight, flight: asyncio.Future[Resolution]) -> None:
        self._flights.pop(key, None)
        metrics().lookup_ended()
        # The exception is seen, even if every waiter has left.
        if not flight.cancelled() and flight.exception() is None:
            metrics().looked_up(flight.result().timings)

    def _base_for(self, target: Target) -> Resolution | None:
        """Returns the base model for a text whose sender would rather have that than an error."""
        wanted = target.options.on_novel or self._on_novel
        if target.kind is not TargetKind.TEXT or wanted is not OnNovel.BASE:
            return None
        return Resolution(
            text=target.text,
            decision=Decision.BASE,
            score=0.0,
            support=None,
            task=None,
            adapter=None,
            timings=Timings(),
        )

    def _remember(self, target: Target, resolution: Resolution) -> None:
        self._remembered[_key(target)] = resolution
        self._remembered.move_to_end(_key(target))
        if resolution.adapter is not None:
            name = resolution.adapter.name
            named = replace(resolution, text=name, decision=Decision.EXACT, score=1.0)
            self._remembered[TargetKind.ADAPTER, name] = named
            self._remembered.move_to_end((TargetKind.ADAPTER, name))
        while len(self._remembered) > _MAX_REMEMBERED:
            self._remembered.popitem(last=False)


def _key(target: Target) -> _Key:
    return target.kind, target.text

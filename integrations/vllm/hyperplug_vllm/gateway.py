"""From what a request names to a model that vLLM serves."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

from hyperplug.entities import BaseModelSpec
from hyperplug.errors import BaseMismatchError, RegistryError, ServerError, TaskNotFoundError
from hyperplug_vllm.answers import LoadError, response_headers
from hyperplug_vllm.compat import LOGGER_NAME, Engine, ServerFlags
from hyperplug_vllm.live import LiveAdapters
from hyperplug_vllm.lookups import Found, Lookups
from hyperplug_vllm.settings import ServingSettings
from hyperplug_vllm.targets import Target, TargetKind, header_target, model_target

_log = logging.getLogger(LOGGER_NAME)


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What a request gets: the model to ask, and the headers that tell the client."""

    model: str
    headers: list[tuple[bytes, bytes]]


class Gateway:
    """Looks up, loads and counts the adapters of one server."""

    def __init__(
        self, lookups: Lookups, *, flags: ServerFlags, serving: ServingSettings, base: BaseModelSpec
    ) -> None:
        self.lookups = lookups
        self.serving = serving
        self.base = base
        self._flags = flags
        self._engine: Engine | None = None
        self._live: LiveAdapters | None = None

    def connect(self, engine: Engine) -> None:
        """Takes the running engine; until then no request is served."""
        room = self._flags.max_cpu_loras - engine.static_count
        self._live = LiveAdapters(engine, limit=max(1, self.serving.max_live or room))
        self._engine = engine

    @property
    def engine(self) -> Engine:
        """The running engine. Raises ServerError before `connect`."""
        if self._engine is None:
            raise ServerError("the server is still starting", hint="try again in a moment")
        return self._engine

    @property
    def live(self) -> LiveAdapters:
        """The loaded adapters. Raises ServerError before `connect`."""
        if self._live is None:
            raise ServerError("the server is still starting", hint="try again in a moment")
        return self._live

    def target(self, header: bytes | None, model: object) -> Target | None:
        """Returns what a request names, or None if it is for vLLM alone. The header wins."""
        if header is not None:
            target = header_target(header)
            is_base = target.kind is not TargetKind.TEXT and self.engine.serves(target.text)
            return None if is_base else target
        if isinstance(model, str) and self.engine.serves(model):
            return None
        return model_target(model)

    @contextlib.asynccontextmanager
    async def serving_target(self, target: Target) -> AsyncIterator[Served | None]:
        """Holds what serves a target for as long as its request runs.

        Yields None for a `model` that is no task: vLLM answers for that.

        Raises:
            HyperplugError: if the target cannot be served.
        """
        found = await self._find(target)
        if found is None:
            yield None
            return
        adapter = found.resolution.adapter
        if adapter is None:
            headers = response_headers(found.resolution, load_ms=0.0, stale=found.stale)
            yield Served(model=self.engine.base_name, headers=headers)
            return
        if adapter.base_fingerprint != self.base.fingerprint:
            raise BaseMismatchError(
                f"adapter {adapter.name} was made for another base model than this server's"
            )
        if adapter.rank > self._flags.max_lora_rank:
            raise LoadError(
                f"adapter {adapter.name} has rank {adapter.rank}, over this server's maximum of "
                f"{self._flags.max_lora_rank}",
                hint=f"start it with --max-lora-rank {adapter.rank} or more",
            )
        load_ms = await self.live.acquire(adapter)
        try:
            headers = response_headers(found.resolution, load_ms=load_ms, stale=found.stale)
            yield Served(model=adapter.name, headers=headers)
        finally:
            self.live.release(adapter)

    async def _find(self, target: Target) -> Found | None:
        started = time.perf_counter()
        try:
            found = await self.lookups.resolve(target)
        except TaskNotFoundError:
            if target.from_header or target.kind is not TargetKind.TASK:
                raise
            return None
        except RegistryError as exc:
            _log.error("the registry failed: %s", exc)
            raise
        if found.stale:
            _log.warning("the registry is out of reach: serving what it last said")
        milliseconds = (time.perf_counter() - started) * 1000
        decision = found.resolution.decision
        _log.debug("%s by %s in %.1f ms", decision.value, target.kind.value, milliseconds)
        return found

"""From what a request names to a model that vLLM serves."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from hyperplug.entities import BaseModelSpec, OnNovel
from hyperplug.errors import (
    BaseMismatchError,
    ConfigError,
    RegistryError,
    ServerError,
    TaskNotFoundError,
)
from hyperplug_vllm.answers import LoadError, response_headers
from hyperplug_vllm.compat import LOGGER_NAME, Engine, ServerFlags
from hyperplug_vllm.live import LiveAdapters
from hyperplug_vllm.lookups import Found, Lookups
from hyperplug_vllm.settings import ServingSettings
from hyperplug_vllm.targets import (
    AUTO,
    Target,
    TargetKind,
    header_target,
    model_target,
    named_target,
    system_target,
)
from hyperplug_vllm.wishes import read_wish

_log = logging.getLogger(LOGGER_NAME)


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What a request gets: the model to ask, and the headers that tell the client."""

    model: str
    headers: list[tuple[bytes, bytes]]
    has_adapter: bool


# What a request may ask for under each of the server's own settings: never more.
_ALLOWED = {
    OnNovel.GENERATE: frozenset(OnNovel),
    OnNovel.NEAREST: frozenset({OnNovel.NEAREST, OnNovel.BASE, OnNovel.ERROR}),
    OnNovel.BASE: frozenset({OnNovel.BASE, OnNovel.ERROR}),
    OnNovel.ERROR: frozenset({OnNovel.BASE, OnNovel.ERROR}),
}


class Gateway:
    """Looks up, loads and counts the adapters of one server."""

    def __init__(
        self,
        lookups: Lookups,
        *,
        flags: ServerFlags,
        serving: ServingSettings,
        base: BaseModelSpec,
        count_tokens: Callable[[str], int] | None = None,
    ) -> None:
        self.lookups = lookups
        self.count_tokens = count_tokens
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

    def target(self, header: bytes | None, content: Mapping[str, Any]) -> Target | None:
        """Returns what a request names, or None if it is for vLLM alone.

        The header beats the body's object "hyperplug", which beats `model`.

        Raises:
            ConfigError, InvalidDescriptionError: for a wish that makes no sense here.
        """
        wish = read_wish(content)
        if wish.on_novel is not None and wish.on_novel not in _ALLOWED[self.serving.on_novel]:
            raise ConfigError(
                f"this server does not take on_novel={wish.on_novel.value!r} from requests",
                hint=f"it is set to {self.serving.on_novel.value!r}",
            )
        model = content.get("model")
        target: Target | None
        if header is not None:
            target = header_target(header)
        elif wish.task is not None:
            target = named_target(wish.task)
        elif isinstance(model, str) and self.engine.serves(model):
            return None
        elif model == AUTO:
            target = system_target(content)
        else:
            target = model_target(model)
        if target is None:
            return None
        names_base = target.kind is not TargetKind.TEXT and self.engine.serves(target.text)
        return None if target.explicit and names_base else replace(target, wish=wish)

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
            yield Served(model=self.engine.base_name, headers=headers, has_adapter=False)
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
            yield Served(model=adapter.name, headers=headers, has_adapter=True)
        finally:
            self.live.release(adapter)

    async def _find(self, target: Target) -> Found | None:
        started = time.perf_counter()
        try:
            found = await self.lookups.resolve(target)
        except TaskNotFoundError:
            if target.explicit or target.kind is not TargetKind.TASK:
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

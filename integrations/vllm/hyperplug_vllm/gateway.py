"""From what a request names to a model that vLLM serves."""

from __future__ import annotations

import contextlib
import logging
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
from hyperplug_vllm.asgi import Send
from hyperplug_vllm.compat import LOGGER_NAME, Engine, ServerFlags
from hyperplug_vllm.listing import listing
from hyperplug_vllm.live import LiveAdapters
from hyperplug_vllm.lookups import Found, Lookups
from hyperplug_vllm.metrics import Outcome, metrics
from hyperplug_vllm.observation import Observation
from hyperplug_vllm.request_options import read_options
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
from hyperplug_vllm.tenants import Keys

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
    """Looks up, loads and counts the adapters of one server.

    Attributes:
        lookups: those of the server's own namespace.
        keys: which API keys open which namespaces; None if there is one tenant.
    """

    def __init__(
        self,
        lookups: Lookups,
        *,
        flags: ServerFlags,
        serving: ServingSettings,
        base: BaseModelSpec,
        count_tokens: Callable[[str], int] | None = None,
        keys: Keys | None = None,
        others: Mapping[str, Lookups] | None = None,
    ) -> None:
        self.lookups = lookups
        self.keys = keys
        self._others = dict(others or {})
        self.count_tokens = count_tokens
        self.serving = serving
        self.base = base
        self._flags = flags
        self._engine: Engine | None = None
        self._live: LiveAdapters | None = None

    def connect(self, engine: Engine) -> None:
        """Takes the running engine; until then no request is served."""
        metrics()  # from now on, all of them are there
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

    def lookups_of(self, namespace: str | None) -> Lookups:
        """Returns the lookups of a tenant; None means the server's own."""
        if namespace is None or namespace == self.serving.settings.namespace:
            return self.lookups
        return self._others[namespace]

    def listing_only(self, namespace: str | None, send: Send) -> Send:
        """Returns a `send` that leaves other tenants' adapters out of vLLM's list of models."""

        def allowed(name: str) -> bool:
            owner = self.live.owner(name)
            return owner is None or owner == namespace

        return listing(send, allowed)

    def target(self, header: bytes | None, content: Mapping[str, Any]) -> Target | None:
        """Returns what a request names, or None if it is for vLLM alone.

        The header beats the body's object "hyperplug", which beats `model`.

        Raises:
            ConfigError, InvalidDescriptionError: for options that make no sense here.
        """
        options = read_options(content)
        if options.on_novel is not None and options.on_novel not in _ALLOWED[self.serving.on_novel]:
            raise ConfigError(
                f"this server does not take on_novel={options.on_novel.value!r} from requests",
                hint=f"it is set to {self.serving.on_novel.value!r}",
            )
        model = content.get("model")
        target: Target | None
        if header is not None:
            target = header_target(header)
        elif options.task is not None:
            target = named_target(options.task)
        elif isinstance(model, str) and self.engine.serves(model):
            return None
        elif model == AUTO:
            target = system_target(content)
        else:
            target = model_target(model)
        if target is None:
            if self.keys is not None and model is not None:
                raise unknown_model(model)
            return None
        names_base = target.kind is not TargetKind.TEXT and self.engine.serves(target.text)
        return None if target.explicit and names_base else replace(target, options=options)

    @contextlib.asynccontextmanager
    async def serving_target(
        self, target: Target, *, namespace: str | None = None, observation: Observation
    ) -> AsyncIterator[Served | None]:
        """Holds what serves a target for as long as its request runs.

        Yields None for a `model` that is no task: vLLM answers for that.

        Args:
            namespace: the tenant who asks; None for the server's own.
            observation: is told what was decided and loaded.

        Raises:
            HyperplugError: if the target cannot be served.
        """
        observation.named_by = target.kind
        found = await self._find(target, self.lookups_of(namespace))
        if found is None:
            observation.outcome = Outcome.PASSED
            yield None
            return
        observation.found(found)
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
        observation.load_ms = load_ms
        if load_ms:
            self.lookups.library.used(adapter)
        try:
            headers = response_headers(found.resolution, load_ms=load_ms, stale=found.stale)
            name = self.engine.served_name(adapter)
            yield Served(model=name, headers=headers, has_adapter=True)
        finally:
            self.live.release(adapter)

    async def _find(self, target: Target, lookups: Lookups) -> Found | None:
        recent = lookups.recent(target)
        # What is not loaded may have lost its folder: the registry looks, unless it is away.
        if recent is not None and (recent.stale or self.live.holds(recent.resolution.adapter)):
            return recent
        try:
            found = await lookups.resolve(target)
        except TaskNotFoundError:
            # With several tenants, a name that vLLM knows may be another's.
            if self.keys is not None or target.explicit or target.kind is not TargetKind.TASK:
                raise
            return None
        except RegistryError as exc:
            _log.error("the registry failed: %s", exc)
            raise
        if found.stale:
            _log.warning("the registry is out of reach: serving what it last said")
        return found


def unknown_model(model: object) -> TaskNotFoundError:
    """Returns the error for a `model` that this tenant cannot ask for."""
    return TaskNotFoundError(
        f"no model or task {str(model)[:80]!r}", hint="see /v1/models and /v1/hyperplug/tasks"
    )

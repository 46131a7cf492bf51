"""The endpoint plugin that vLLM loads when `VLLM_PLUGINS` names hyperplug."""

from __future__ import annotations

import asyncio
import atexit
import logging
from typing import Any

from hyperplug.basemodel import BaseModel
from hyperplug.entities import OnNovel
from hyperplug.errors import BaseMismatchError, CheckpointError, ConfigError, HyperplugError
from hyperplug.registry import Registry, open_registry
from hyperplug_vllm import compat
from hyperplug_vllm.contract import LORA_RANKS, PLUGIN_NAME
from hyperplug_vllm.gateway import Gateway
from hyperplug_vllm.keeping import keep_house
from hyperplug_vllm.lookups import Lookups
from hyperplug_vllm.settings import FLAG, ServingSettings, read_settings
from hyperplug_vllm.tenants import read_keys

_log = logging.getLogger(compat.LOGGER_NAME)


class HyperplugPlugin:
    """Satisfies vLLM's `EndpointPlugin` protocol: routes first, the engine later."""

    name = PLUGIN_NAME
    required_tasks = ("generate",)

    def __init__(self) -> None:
        self._gateway: Gateway | None = None
        self._keeping: asyncio.Task[None] | None = None

    def attach_router(self, app: Any) -> None:
        """Adds middleware and routes; ends the server with one line if it cannot work.

        Middleware that is added here runs inside vLLM's own, hence behind its API key.
        """
        from hyperplug_vllm.middleware import TaskMiddleware
        from hyperplug_vllm.routes import add_routes
        from hyperplug_vllm.tenants import TenantMiddleware

        compat.init_logging()
        try:
            self._gateway = prepare(compat.server_flags(app.state.args))
        except HyperplugError as exc:
            _log.error("hyperplug cannot start: %s", exc)
            raise SystemExit(exc.exit_code) from None
        app.add_middleware(TaskMiddleware, gateway=self._gateway)
        if self._gateway.keys is not None:  # what is added later is outside
            app.add_middleware(TenantMiddleware, keys=self._gateway.keys)
        add_routes(app, self._gateway)

    async def init_state(self, engine_client: Any, state: Any, args: Any) -> None:
        """Connects to the engine, which vLLM hands over when it is ready."""
        if self._gateway is not None and engine_client is not None:
            self._keeping = begin(self._gateway, engine_client, state)


def begin(gateway: Gateway, engine_client: Any, state: Any) -> asyncio.Task[None]:
    """Connects a gateway to the engine that is ready now, and returns what keeps its house."""
    serving = gateway.serving
    gateway.connect(compat.connect(engine_client, state, namespace=serving.settings.namespace))
    _log.info("serving tasks (live adapters: at most %d)", gateway.live.limit)
    return asyncio.create_task(
        keep_house(gateway.live, gateway.lookups.library, max_folders=serving.max_folders)
    )


def prepare(flags: compat.ServerFlags) -> Gateway:
    """Returns the gateway of a server started with these flags, all models loaded.

    Raises:
        ConfigError: for a vLLM or for flags with which no adapter could be served.
        BaseMismatchError: if the hypernetwork was trained for another base model.
        HyperplugError: if the registry cannot be opened.
    """
    compat.require_supported()
    if not flags.enable_lora:
        raise ConfigError("vLLM runs without LoRA", hint="add the flag: --enable-lora")
    _warn(flags)
    folder = compat.served_folder(flags.model, revision=flags.revision)
    serving = read_settings(flags.additional, base=str(folder))
    _warn_of_room(flags, serving)
    keys = read_keys(serving.keys) if serving.keys is not None else None
    registry = open_registry(settings=serving.settings)
    try:
        base = _warm_up(registry, serving, flags)
    except BaseException:
        registry.close()
        raise
    lookups = _lookups(registry, serving)
    return Gateway(
        lookups,
        flags=flags,
        serving=serving,
        base=base.spec,
        count_tokens=compat.token_counter(folder),
        keys=keys,
        others={
            namespace: _lookups(registry.for_namespace(namespace), serving)
            for namespace in (keys.namespaces if keys is not None else ())
            if namespace != registry.namespace
        },
    )


def prepare_named(flags: compat.ServerFlags) -> Gateway:
    """Returns the gateway of an engine that is asked for adapters by their names alone.

    It loads neither text encoder nor hypernetwork: descriptions are resolved elsewhere.

    Raises:
        ConfigError: for an unsupported vLLM, or unusable settings.
        HyperplugError: if the registry cannot be opened, or the base model's files are not there.
    """
    compat.require_supported()
    folder = compat.served_folder(flags.model, revision=flags.revision)
    serving = read_settings(flags.additional, base=str(folder))
    registry = open_registry(settings=serving.settings)
    try:
        base = registry.base
    except BaseException:
        registry.close()
        raise
    return Gateway(_lookups(registry, serving), flags=flags, serving=serving, base=base.spec)


def _lookups(registry: Registry, serving: ServingSettings) -> Lookups:
    lookups = Lookups(
        registry,
        on_novel=serving.on_novel,
        min_score=serving.min_score,
        novel_per_minute=serving.novel_per_minute,
        texts_per_minute=serving.texts_per_minute,
    )
    atexit.register(lookups.close)
    return lookups


def _warm_up(registry: Registry, serving: ServingSettings, flags: compat.ServerFlags) -> BaseModel:
    """Loads what requests will need, and checks that it fits the server."""
    base = registry.base
    registry.embedder.embed(["warm up"])
    try:
        registry.warm_up()
        rank = registry.generator.spec.rank
    except (BaseMismatchError, CheckpointError) as exc:
        if serving.on_novel is OnNovel.GENERATE:
            raise
        _log.info("no hypernetwork, so no task without an adapter can be served: %s", exc)
        return base
    if rank > flags.max_lora_rank:
        enough = min((r for r in LORA_RANKS if r >= rank), default=rank)
        raise ConfigError(
            f"generated adapters have rank {rank}, over the server's {flags.max_lora_rank}",
            hint=f"add the flag: --max-lora-rank {enough}",
        )
    return base


def _warn_of_room(flags: compat.ServerFlags, serving: ServingSettings) -> None:
    if (serving.max_live or 0) > flags.max_cpu_loras:
        _log.warning(
            "max_live is %d, but vLLM holds %d adapters and reads the others from the disk while "
            "it serves (better: --max-cpu-loras %d)",
            serving.max_live,
            flags.max_cpu_loras,
            serving.max_live,
        )


def _warn(flags: compat.ServerFlags) -> None:
    if flags.max_loras == 1:
        _log.warning(
            "one adapter slot: requests for two tasks take turns and re-read the disk at each "
            "(better: --max-loras 4 --max-cpu-loras 16)"
        )
    if flags.runtime_updating:
        _log.warning(
            "VLLM_ALLOW_RUNTIME_LORA_UPDATING lets any client load any folder; "
            "hyperplug does not need it: unset it"
        )
    url = flags.additional.get("registry")
    if isinstance(url, str) and "@" in url:
        _log.warning(
            "vLLM logs its flags: give a registry URL with a password as HYPERPLUG_REGISTRY, "
            "not as %sregistry",
            FLAG,
        )

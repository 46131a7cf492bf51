"""One replica: Ray's vLLM engine, with the adapters that requests name loaded into it."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from hyperplug_vllm.answers import failure
from hyperplug_vllm.compat import ServerFlags
from hyperplug_vllm.contract import PLUGIN_NAME
from hyperplug_vllm.gateway import Gateway
from hyperplug_vllm.observation import Observation
from hyperplug_vllm.plugin import begin, prepare_named
from ray import serve
from ray.serve.llm.deployment import LLMServer

from hyperplug.errors import HyperplugError
from hyperplug_ray import compat
from hyperplug_ray.names import routed_target


class TaskServer(LLMServer):  # type: ignore[misc]
    """A replica. It needs neither text encoder nor hypernetwork: the ingress has resolved tasks."""

    async def __init__(  # type: ignore[misc]  # Ray waits for it
        self, llm_config: Any, **given: Any
    ) -> None:
        """Opens the registry, then starts the engine.

        Raises:
            HyperplugError: if registry and base model do not fit; the replica does not start.
        """
        _let_plugin_in()
        self._base_name: str = llm_config.model_id
        flags: ServerFlags = compat.server_flags(llm_config)
        self._gateway: Gateway = await asyncio.to_thread(prepare_named, flags)
        await super().__init__(llm_config, **given)

    async def start(self) -> None:
        """Starts the engine and connects the registry to it."""
        await super().start()
        self._keeping = begin(self._gateway, *compat.vllm_parts(self.engine))

        async def load(model: str) -> None:
            async with self._held(model):
                pass

        # What is loaded through it is told to the routers: requests for it come here.
        most = self._gateway.live.limit
        self._announce = serve.multiplexed(max_num_models_per_replica=most)(load)

    async def chat(self, request: Any, raw_request_info: Any = None) -> AsyncIterator[Any]:
        """Answers a chat, through the adapter that its `model` names."""
        async for part in self._answered(super().chat, request, raw_request_info):
            yield part

    async def completions(self, request: Any, raw_request_info: Any = None) -> AsyncIterator[Any]:
        """Answers a completion, through the adapter that its `model` names."""
        async for part in self._answered(super().completions, request, raw_request_info):
            yield part

    async def _answered(
        self, ask: Callable[..., Awaitable[AsyncIterator[Any]]], request: Any, info: Any
    ) -> AsyncIterator[Any]:
        try:
            if routed_target(self._base_name, request.model) is not None:
                await self._announce(request.model)
            async with self._held(request.model) as name:
                request.model = name
                async for part in await ask(request, info):
                    yield part
        except HyperplugError as exc:
            told = failure(exc)
            yield compat.answer_in_error(told.status, type(exc).__name__, told.message)

    @contextlib.asynccontextmanager
    async def _held(self, model: str) -> AsyncIterator[str]:
        """Yields vLLM's name for a model, whose adapter stays loaded meanwhile."""
        target = routed_target(self._base_name, model)
        if target is None:
            yield model
            return
        observation = Observation({"headers": []})
        async with self._gateway.serving_target(target, observation=observation) as served:
            yield served.model if served is not None else model

    async def _maybe_resolve_lora_from_multiplex(self) -> None:
        """Leaves out Ray's own loading: from buckets, under ids that each replica counts."""


def _let_plugin_in() -> None:
    """Puts hyperplug on vLLM's list of plugins if there is one: it mends the engine's processes."""
    listed = os.environ.get("VLLM_PLUGINS")
    if listed is not None and PLUGIN_NAME not in listed.split(","):
        os.environ["VLLM_PLUGINS"] = ",".join(filter(None, (listed, PLUGIN_NAME)))

"""The ingress: Ray's OpenAI routes, behind the middleware and routes of hyperplug."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from hyperplug_vllm.asgi import App, Receive, Scope, Send, respond
from hyperplug_vllm.compat import ServerFlags, api_keys
from hyperplug_vllm.gateway import Gateway
from hyperplug_vllm.keeping import keep_house
from hyperplug_vllm.keys import ApiKeys
from hyperplug_vllm.middleware import TaskMiddleware
from hyperplug_vllm.plugin import prepare
from hyperplug_vllm.routes import add_routes
from ray.serve.llm.ingress import OpenAiIngress, make_fastapi_ingress

from hyperplug.errors import ConfigError
from hyperplug_ray.routed import RoutedEngine

# How many adapters the ingress knows to be in use; replicas have limits of their own.
_ROUTED = 1000
# Routes that load adapters without a request, which Ray would not bring to their replica.
_OF_ONE_ENGINE = ("warm-up",)


def routing(flags: ServerFlags) -> ServerFlags:
    """Returns the flags of an engine as large as all replicas together."""
    additional = {key: value for key, value in flags.additional.items() if key != "max_live"}
    return replace(flags, max_cpu_loras=_ROUTED, additional=additional)


class KeyMiddleware:
    """Lets in whoever has the API key; Ray Serve LLM asks for none."""

    def __init__(self, app: App, *, keys: ApiKeys) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, or answers 401."""
        if scope["type"] != "http" or self._keys.admit(scope):
            await self._app(scope, receive, send)
        else:
            await respond(send, 401, b'{"error": "Unauthorized"}')


class TaskIngress(make_fastapi_ingress(OpenAiIngress)):  # type: ignore[misc]
    """Resolves tasks, and sends each request where its adapter is.

    Attributes:
        gateway: looks tasks up; the engine that it knows are all replicas.
    """

    async def __init__(  # type: ignore[misc]  # Ray waits for it
        self, *, flags: ServerFlags, **given: Any
    ) -> None:
        """Loads text encoder and hypernetwork.

        Raises:
            ConfigError: for a file of several tenants' keys.
            HyperplugError: if registry, hypernetwork and base model do not fit.
        """
        await super().__init__(**given)
        (base_name,) = given["llm_deployments"]
        self.gateway: Gateway = await asyncio.to_thread(prepare, routing(flags))
        if self.gateway.keys is not None:
            raise ConfigError(
                "several tenants cannot be served through Ray",
                hint="unset HYPERPLUG_KEYS, and make one application for each namespace",
            )
        serving = self.gateway.serving
        namespace = serving.settings.namespace
        self.gateway.connect(RoutedEngine(base_name=base_name, namespace=namespace))
        self._keeping = asyncio.create_task(
            keep_house(
                self.gateway.live, self.gateway.lookups.library, max_folders=serving.max_folders
            )
        )
        # The one that is added last is the outermost: nothing is looked up for strangers.
        self.app.add_middleware(TaskMiddleware, gateway=self.gateway)
        self.app.add_middleware(KeyMiddleware, keys=ApiKeys(api_keys(None)))
        add_routes(self.app, self.gateway, without=_OF_ONE_ENGINE)

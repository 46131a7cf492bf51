"""hyperplug as middleware, for releases of vLLM that have no endpoint plugins.

    --middleware hyperplug_vllm.standalone.HyperplugMiddleware

vLLM runs what comes by this flag before it checks the API key, so the key is checked here first.
"""

from __future__ import annotations

import asyncio
import logging

from hyperplug.errors import ConfigError, HyperplugError
from hyperplug_vllm import compat
from hyperplug_vllm.asgi import App, Receive, Scope, Send, respond
from hyperplug_vllm.contract import PLUGIN_NAME, Way
from hyperplug_vllm.keys import ApiKeys
from hyperplug_vllm.middleware import TaskMiddleware
from hyperplug_vllm.plugin import begin, prepare
from hyperplug_vllm.routes import add_routes
from hyperplug_vllm.tenants import TenantMiddleware

_log = logging.getLogger(compat.LOGGER_NAME)


class HyperplugMiddleware:
    """Does what the endpoint plugin does: tasks and routes, for those who have the API key."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._keys: ApiKeys | None = None
        self._tasks: App | None = None
        self._keeping: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request, or the server's start."""
        if scope["type"] == "lifespan":
            await self._lifespan(scope, receive, send)
        elif scope["type"] != "http":
            await (self._tasks or self._app)(scope, receive, send)
        elif self._keys is None or self._tasks is None:  # no start, so nobody can be let in
            await respond(send, 503, b'{"error": "Service Unavailable"}')
        elif not self._keys.admit(scope):
            await respond(send, 401, b'{"error": "Unauthorized"}')
        else:
            await self._tasks(scope, receive, send)

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Prepares everything, or ends the server with one line; the engine is ready by now."""
        compat.init_logging()
        try:
            self._start(scope["app"])
        except HyperplugError as exc:
            _log.error("hyperplug cannot start: %s", exc)
        except Exception:  # a server that lost it would take it for "no lifespan" and go on
            _log.exception("hyperplug cannot start: unexpected error")
        else:
            await self._app(scope, receive, send)
            return
        await receive()
        await send({"type": "lifespan.startup.failed", "message": ""})

    def _start(self, server: App) -> None:
        state = server.state  # type: ignore[attr-defined]
        if compat.require_supported() is Way.PLUGIN:
            raise ConfigError(
                "this vLLM has endpoint plugins",
                hint=f"set VLLM_PLUGINS={PLUGIN_NAME} and leave out --middleware",
            )
        if state.engine_client is None:
            raise ConfigError("this server has no engine", hint="start one that generates text")
        keys = ApiKeys(compat.api_keys(state.args))
        gateway = prepare(compat.server_flags(state.args))
        self._keeping = begin(gateway, state.engine_client, state)
        add_routes(server, gateway)
        tasks: App = TaskMiddleware(self._app, gateway=gateway)
        if gateway.keys is not None:
            tasks = TenantMiddleware(tasks, keys=gateway.keys)
        self._keys, self._tasks = keys, tasks

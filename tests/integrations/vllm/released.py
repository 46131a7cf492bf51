"""A program: builds a vLLM release's own server with hyperplug in it, and asks it as a stranger.

    PYTHONPATH=RELEASE:. python -m tests.integrations.vllm.released MODEL HOME

Application, flags, key check and plugin hooks are the release's own; only the engine is not there.
Prints what was seen as one line of JSON; ends with status 77 if the release cannot be imported
where it was not installed with all that it needs.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import inspect
import json
import os
import sys
from collections.abc import AsyncIterator
from typing import Any

import httpx

from tests.integrations.vllm.asgi import started
from tests.integrations.vllm.conftest import NOVEL
from tests.integrations.vllm.engine import Client, serving_models

KEY = "a-key-of-this-test"
NOT_IMPORTABLE = 77
_PARSERS = ("common", "launchers", "openai")


class _Chat:
    """Stands for the release's `OpenAIServingChat`: keeps which models it was asked for."""

    def __init__(self) -> None:
        self.models: list[str] = []

    async def create_chat_completion(self, request: Any, raw_request: Any) -> AsyncIterator[str]:
        self.models.append(request.model)

        async def answer() -> AsyncIterator[str]:
            yield "data: [DONE]\n\n"

        return answer()


def _parsed(arguments: list[str]) -> Any:
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    for package in _PARSERS:
        try:
            module = importlib.import_module(f"vllm.entrypoints.{package}.cli_args")
            return module.make_arg_parser(FlexibleArgumentParser()).parse_args(arguments)
        except ModuleNotFoundError as exc:
            if not (exc.name or "").startswith("vllm.entrypoints"):
                raise
    raise SystemExit("no parser of launch flags was found")


def _built(args: Any) -> Any:
    from vllm.entrypoints.openai.api_server import build_app

    takes = inspect.signature(build_app).parameters
    return build_app(args, ("generate",)) if "supported_tasks" in takes else build_app(args)


async def _plugins(app: Any, args: Any) -> None:
    """Hands the engine over, as the release does at the end of `init_app_state`."""
    for name in ("vllm.plugins.endpoint_plugins.interface", "vllm.entrypoints.openai.api_server"):
        with contextlib.suppress(ModuleNotFoundError):
            module = importlib.import_module(name)
            for function in ("init_endpoint_plugins_state", "_init_endpoint_plugins_state"):
                hook = getattr(module, function, None)
                if hook is not None:
                    await hook(app.state.engine_client, app.state, args)
                    return


async def _seen(model: str, home: str) -> dict[str, Any]:
    import vllm
    from hyperplug_vllm import compat
    from hyperplug_vllm.contract import MIDDLEWARE, Way
    from hyperplug_vllm.lookups import Lookups

    way = compat.require_supported()
    arguments = ["--model", model, "--enable-lora", "--max-lora-rank", "16", "--api-key", KEY]
    arguments += ["--max-loras", "2", "--max-cpu-loras", "4"]
    arguments += ["--additional-config.hyperplug.home", home]
    arguments += ["--additional-config.hyperplug.on_novel", "base"]
    if way is Way.MIDDLEWARE:
        arguments = ["--middleware", MIDDLEWARE, *arguments]
    try:
        args = _parsed(arguments)
        app = _built(args)
    except (ImportError, RuntimeError) as exc:
        print(f"{type(exc).__name__}: {exc}")
        raise SystemExit(NOT_IMPORTABLE) from exc
    app.state.args = args
    app.state.engine_client = Client()
    app.state.openai_serving_models = serving_models()
    app.state.openai_serving_chat = chat = _Chat()
    app.state.log_stats = False
    app.state.enable_server_load_tracking = False
    await _plugins(app, args)

    done: list[str] = []
    resolve = Lookups.resolve

    async def resolving(self: Lookups, target: Any) -> Any:
        done.append(target.text)
        return await resolve(self, target)

    Lookups.resolve = resolving  # type: ignore[method-assign]
    statuses: dict[str, int] = {}
    facts: dict[str, object] = {}
    async with started(app) as answered:
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
            asked = {"model": f"hyperplug:{NOVEL}", "messages": [{"role": "user", "content": "a"}]}
            for name, path, body in (
                ("chat", "/v1/chat/completions", asked),
                ("resolve", "/v1/hyperplug/resolve", {"text": NOVEL}),
            ):
                answered_before = len(chat.models)
                for key in ("", "wrong", KEY):
                    headers = {"Authorization": f"Bearer {key}"} if key else {}
                    response = await http.post(path, json=body, headers=headers)
                    statuses[f"{name} {key}".strip()] = response.status_code
                    if key != KEY and (done or len(chat.models) > answered_before):
                        raise SystemExit(f"a stranger got {done or chat.models}")
                    if response.status_code == 200 and name == "chat":
                        facts["decision"] = response.headers.get("x-hyperplug-decision")
                looked_up, done[:] = list(done), []
                statuses[f"{name} lookups"] = len(looked_up)
    return {
        "version": vllm.__version__,
        "way": way.value,
        "started": answered,
        "models": chat.models,
        **facts,
        **statuses,
    }


if __name__ == "__main__":
    os.environ["VLLM_PLUGINS"] = "hyperplug"
    print(json.dumps(asyncio.run(_seen(*sys.argv[1:]))))

"""hyperplug as middleware: nothing is done for those who have no key."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from argparse import Namespace
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from hyperplug_vllm import compat
from hyperplug_vllm.contract import (
    COMMAND_MODULE,
    FIRST_WITH_PLUGINS,
    MIDDLEWARE,
    NEWEST,
    OLDEST,
    SERVER_MODULE,
)
from hyperplug_vllm.keys import ApiKeys
from hyperplug_vllm.lookups import Lookups
from hyperplug_vllm.middleware import PATHS
from hyperplug_vllm.standalone import HyperplugMiddleware

from hyperplug.config import Settings
from hyperplug.errors import ConfigError
from hyperplug.registry import Registry
from tests.integrations.vllm.asgi import started
from tests.integrations.vllm.conftest import NOVEL, SENTIMENT
from tests.integrations.vllm.engine import Client, serving_models

pytest.importorskip("vllm")

CHAT = "/v1/chat/completions"
KEYS = ["first key", "zweiter-schlüssel"]
WRONG: tuple[dict[str, str], ...] = (
    {},
    {"Authorization": ""},
    {"Authorization": "Bearer"},
    {"Authorization": "Bearer "},
    {"Authorization": "Bearer wrong"},
    {"Authorization": "Bearer first key "},
    {"Authorization": "Bearer  first key"},
    {"Authorization": "Bearer first"},
    {"Authorization": "Basic first key"},
    {"Authorization": "first key"},
    {"X-Api-Key": "first key"},
)


@pytest.fixture
def args(
    warm_registry: Registry, serving_home: Settings, monkeypatch: pytest.MonkeyPatch
) -> Namespace:
    """The flags of a server of a release without endpoint plugins."""
    monkeypatch.setattr(compat, "installed_release", lambda: OLDEST)
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    own = {"registry": serving_home.registry_url, "home": str(serving_home.home)}
    return Namespace(
        model=str(warm_registry.base.folder),
        revision=None,
        enable_lora=True,
        max_loras=4,
        max_cpu_loras=8,
        max_lora_rank=16,
        additional_config={"hyperplug": own},
        api_key=KEYS,
    )


@pytest.fixture
def lookups(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What was looked up, or asked of the registry, in the course of the test."""
    done: list[str] = []
    resolve, call = Lookups.resolve, Lookups.call

    async def resolving(self: Lookups, target: Any) -> Any:
        done.append(target.text)
        return await resolve(self, target)

    async def calling(self: Lookups, function: Any) -> Any:
        done.append("call")
        return await call(self, function)

    monkeypatch.setattr(Lookups, "resolve", resolving)
    monkeypatch.setattr(Lookups, "call", calling)
    yield done


class Server:
    """An application as vLLM builds it, except that it has no check of its own."""

    def __init__(self, args: Namespace, *, root_path: str = "") -> None:
        self.client = Client()
        self.reached: list[str] = []
        self.app = app = FastAPI()
        app.root_path = root_path
        app.state.args = args
        app.state.engine_client = self.client
        app.state.openai_serving_models = serving_models()

        async def answer(request: Request) -> dict[str, object]:
            self.reached.append(request.url.path)
            return {"model": (await request.json()).get("model")}

        for path in (CHAT, "/elsewhere"):
            app.add_api_route(path, answer, methods=["POST"])
        app.add_middleware(HyperplugMiddleware)

    def run(self, check: Callable[[httpx.AsyncClient], Awaitable[None]]) -> None:
        async def inner() -> None:
            async with started(self.app) as answered:
                assert answered == "lifespan.startup.complete"
                transport = httpx.ASGITransport(app=self.app)
                async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
                    await check(http)

        asyncio.run(inner())

    def refusal(self, caplog: pytest.LogCaptureFixture) -> str:
        """Returns the one line with which the server does not start."""

        async def inner() -> str:
            async with started(self.app) as answered:
                return answered

        logger = logging.getLogger(compat.LOGGER_NAME)
        logger.addHandler(caplog.handler)
        try:
            assert asyncio.run(inner()) == "lifespan.startup.failed"
        finally:
            logger.removeHandler(caplog.handler)
        (line,) = {record.getMessage() for record in caplog.records if record.levelname == "ERROR"}
        return line


def test_strangers_get_nothing_done(args: Namespace, lookups: list[str]) -> None:
    server = Server(args)

    async def check(http: httpx.AsyncClient) -> None:
        body = {"model": f"hyperplug:{NOVEL}", "messages": [], "text": NOVEL}
        for path in sorted(PATHS | {"/v1/hyperplug/resolve", "/v1/anything"}):
            for headers in WRONG:
                named = {**headers, "X-Hyperplug-Task": SENTIMENT}
                for sent in (headers, named):
                    response = await http.post(path, json=body, headers=sent)
                    assert response.status_code == 401, (path, sent)
                    assert response.json() == {"error": "Unauthorized"}
        for path in ("/v1/hyperplug/tasks", "/v1/hyperplug/health", "/v1/models"):
            assert (await http.get(path)).status_code == 401
        assert not lookups
        assert not server.client.calls
        assert not server.reached

    server.run(check)


def test_those_with_a_key_are_served(args: Namespace, lookups: list[str]) -> None:
    server = Server(args)

    async def check(http: httpx.AsyncClient) -> None:
        for authorization in (f"Bearer {KEYS[0]}", f"bearer {KEYS[0]}", f"BEARER {KEYS[1]}"):
            headers = {b"authorization": authorization.encode("latin-1")}
            body = {"model": SENTIMENT, "messages": []}
            response = await http.post(CHAT, json=body, headers=headers)
            assert response.status_code == 200
            assert response.headers["x-hyperplug-task"] == SENTIMENT
            assert response.json()["model"] == response.headers["x-hyperplug-adapter"]
            tasks = await http.get("/v1/hyperplug/tasks", headers=headers)
            assert SENTIMENT in {task["id"] for task in tasks.json()["data"]}
        assert lookups.count(SENTIMENT) == 1  # it holds until something is written
        assert len(server.client.calls) == 1
        # As with vLLM itself: no key is asked for outside of /v1, nor for a preflight.
        assert (await http.post("/elsewhere", json={})).status_code == 200
        assert (await http.options(CHAT)).status_code == 405

    server.run(check)


def test_the_root_path_is_no_way_around(args: Namespace, lookups: list[str]) -> None:
    server = Server(args, root_path="/behind")

    async def check(http: httpx.AsyncClient) -> None:
        for path in (CHAT, f"/behind{CHAT}"):
            body = {"model": SENTIMENT, "messages": []}
            assert (await http.post(path, json=body)).status_code == 401
        assert not lookups

    server.run(check)


def test_a_server_without_keys_asks_for_none(args: Namespace, lookups: list[str]) -> None:
    args.api_key = None
    server = Server(args)

    async def check(http: httpx.AsyncClient) -> None:
        body = {"model": SENTIMENT, "messages": []}
        assert (await http.post(CHAT, json=body)).headers["x-hyperplug-task"] == SENTIMENT

    server.run(check)


def test_tenants_have_keys_of_their_own(
    args: Namespace, lookups: list[str], tmp_path: Path
) -> None:
    file = tmp_path / "keys.json"
    theirs, others = "key-of-default-tenant", "key-of-another-tenant"
    file.write_text(json.dumps({"default": [theirs], "other": [others]}))
    file.chmod(0o600)
    args.additional_config["hyperplug"]["keys"] = str(file)
    args.api_key = None
    server = Server(args)

    async def check(http: httpx.AsyncClient) -> None:
        body = {"model": SENTIMENT, "messages": []}
        assert (await http.post(CHAT, json=body)).status_code == 401
        assert not lookups
        found = await http.post(CHAT, json=body, headers={"Authorization": f"Bearer {theirs}"})
        assert found.headers["x-hyperplug-task"] == SENTIMENT
        headers = {"Authorization": f"Bearer {others}"}
        assert (await http.post(CHAT, json=body, headers=headers)).status_code == 404

    server.run(check)


def test_nobody_is_served_before_the_start(args: Namespace, lookups: list[str]) -> None:
    server = Server(args)

    async def ask() -> int:
        transport = httpx.ASGITransport(app=server.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
            headers = {"Authorization": f"Bearer {KEYS[0]}"}
            return (await http.post(CHAT, json={"model": SENTIMENT}, headers=headers)).status_code

    assert asyncio.run(ask()) == 503
    assert not lookups
    assert not server.reached


@pytest.mark.parametrize("headers", [*WRONG, {"Authorization": f"bEARER {KEYS[0]}"}])
def test_the_rules_are_vllms_own(headers: dict[str, str]) -> None:
    from starlette.datastructures import Headers
    from vllm.entrypoints.serve.middleware.authenticate import AuthenticationMiddleware

    theirs = AuthenticationMiddleware(FastAPI(), tokens=KEYS)
    raw = [(k.lower().encode(), v.encode("latin-1")) for k, v in headers.items()]
    scope = {"type": "http", "method": "POST", "path": CHAT, "headers": raw}
    assert ApiKeys(KEYS).admit(scope) is theirs.verify_token(Headers(scope=scope))


def test_the_first_of_two_headers_counts() -> None:
    good, bad = (b"authorization", b"Bearer first key"), (b"authorization", b"Bearer no")
    scope: dict[str, Any] = {"type": "http", "method": "POST", "path": CHAT}
    assert ApiKeys(KEYS).admit({**scope, "headers": [good, bad]})
    assert not ApiKeys(KEYS).admit({**scope, "headers": [bad, good]})


@pytest.mark.parametrize(
    ("flag", "variable", "keys"),
    [
        (None, None, ()),
        (None, "from-variable", ("from-variable",)),
        (["a", "b"], "from-variable", ("a", "b")),
        (["a", ""], None, ("a",)),
        ("only", None, ("only",)),
        ([], "from-variable", ("from-variable",)),
    ],
)
def test_which_keys_there_are(
    flag: Any, variable: str | None, keys: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    if variable is not None:
        monkeypatch.setenv("VLLM_API_KEY", variable)
    assert compat.api_keys(Namespace(api_key=flag)) == keys


def test_a_release_with_endpoint_plugins_needs_no_middleware(
    args: Namespace, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(compat, "installed_release", lambda: FIRST_WITH_PLUGINS)
    line = Server(args).refusal(caplog)
    assert line.startswith("hyperplug cannot start:")
    assert "VLLM_PLUGINS=hyperplug" in line


def test_a_server_without_lora_does_not_start(
    args: Namespace, caplog: pytest.LogCaptureFixture
) -> None:
    args.enable_lora = False
    assert "--enable-lora" in Server(args).refusal(caplog)


def test_what_nobody_foresaw_does_not_start_either(
    args: Namespace, caplog: pytest.LogCaptureFixture
) -> None:
    server = Server(args)
    del server.app.state.engine_client
    assert "hyperplug cannot start:" in server.refusal(caplog)


OUTSIDE = [(0, 1), (OLDEST[0], OLDEST[1] - 1), (NEWEST[0], NEWEST[1] + 1), (1, 0), None]


@pytest.mark.parametrize("release", OUTSIDE)
def test_a_release_outside_of_the_range_is_refused_in_one_line(
    release: tuple[int, int] | None, args: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hyperplug_vllm.plugin import prepare
    from hyperplug_vllm.serve import plan

    from hyperplug.config import load_settings

    monkeypatch.setattr(compat, "installed_release", lambda: release)
    for start in (
        lambda: prepare(compat.server_flags(args)),
        lambda: plan(None, settings=load_settings()),
    ):
        with pytest.raises(ConfigError) as caught:
            start()
        line = str(caught.value)
        assert "\n" not in line
        assert f"{OLDEST[0]}.{OLDEST[1]} to {NEWEST[0]}.{NEWEST[1]}" in line
        assert "pip install" in line
        assert (f"vLLM {release[0]}.{release[1]} " if release else "unknown version") in line


@pytest.mark.parametrize(
    ("plugins", "release", "argv", "status", "words"),
    [
        ("hyperplug", (0, 1), [], 2, "is not supported"),
        ("mine,hyperplug", OLDEST, [], None, f"--middleware {MIDDLEWARE}"),
        ("hyperplug", OLDEST, ["--middleware", MIDDLEWARE], None, None),
        ("hyperplug", NEWEST, [], None, None),
        ("mine", (0, 1), [], None, None),  # someone else's vLLM
        (None, (0, 1), [], None, None),
    ],
)
def test_plain_flags_that_would_leave_hyperplug_out_are_told(
    plugins: str | None,
    release: tuple[int, int],
    argv: list[str],
    status: int | None,
    words: str | None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    from hyperplug_vllm.lifetime import end_with_parent

    monkeypatch.setattr(compat, "installed_release", lambda: release)
    monkeypatch.setattr("sys.argv", ["vllm", *argv])
    monkeypatch.delenv("VLLM_PLUGINS", raising=False)
    if plugins is not None:
        monkeypatch.setenv("VLLM_PLUGINS", plugins)
    logger = logging.getLogger(compat.LOGGER_NAME)
    logger.addHandler(caplog.handler)
    try:
        with pytest.raises(SystemExit) if status else contextlib.nullcontext() as ended:
            end_with_parent()
    finally:
        logger.removeHandler(caplog.handler)
    assert ended is None or ended.value.code == status
    lines = {record.getMessage() for record in caplog.records}
    assert len(lines) == (0 if words is None else 1)
    assert words is None or words in lines.pop()


def test_the_installed_release_is_supported() -> None:
    assert OLDEST <= (compat.installed_release() or (0, 0)) <= NEWEST
    compat.require_supported()


def test_serve_names_the_middleware_where_it_is_needed(
    warm_registry: Registry, serving_home: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hyperplug_vllm.serve import plan

    base = str(warm_registry.base.folder)
    assert f"{HyperplugMiddleware.__module__}.{HyperplugMiddleware.__name__}" == MIDDLEWARE
    own = ["--middleware", "their.own"]
    assert MIDDLEWARE not in plan(base, own, settings=serving_home).command
    monkeypatch.setattr(compat, "installed_release", lambda: OLDEST)
    command = plan(base, own, settings=serving_home).command
    places = [index for index, part in enumerate(command) if part == "--middleware"]
    assert [command[place + 1] for place in places] == [MIDDLEWARE, "their.own"]


def test_serve_starts_vllms_command_where_several_servers_are_wanted(
    warm_registry: Registry, serving_home: Settings
) -> None:
    """vLLM's module would start one and say nothing."""
    from hyperplug_vllm.serve import plan

    base = str(warm_registry.base.folder)
    assert SERVER_MODULE in plan(base, settings=serving_home).command
    command = plan(base, ["--api-server-count", "2"], settings=serving_home).command
    assert COMMAND_MODULE in command and SERVER_MODULE not in command

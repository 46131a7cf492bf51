"""Edge cases of names under a server: ids, strangers' names, lists and answers."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from typing import Any
from urllib.parse import quote

import pytest
from hyperplug_vllm.compat import LOGGER_NAME
from hyperplug_vllm.recent import _MAX_UNKNOWN, RecentResolutions
from hyperplug_vllm.tenants import Keys

from hyperplug.errors import TaskNotFoundError
from hyperplug.registry import Registry
from tests.edge_cases.conftest import OpenRegistry, Serve
from tests.edge_cases.engine import VllmRules
from tests.integrations.vllm.engine import BASE
from tests.integrations.vllm.front import Server, front_end

pytest.importorskip("vllm")

SUMS, OTHER = "Add two numbers", "Why just fly by my gym?"
OURS, THEIRS = "key-of-our-tenant-01234", "key-of-their-tenant-0123"


def test_edge_02_every_server_gives_vllm_the_registrys_ids(open_tiny: OpenRegistry) -> None:
    ours, theirs = open_tiny(), open_tiny()
    ours.register_task("sums", SUMS)
    ours.register_task("gyms", OTHER)
    ids = {name: ours.get_adapter(name).id for name in ("sums", "gyms")}

    async def given(registry: Registry, names: list[str]) -> list[tuple[str, int]]:
        async with front_end(registry, client=VllmRules()) as server:
            for name in names:
                assert (await server.ask(name)).status_code == 200
            return server.client.calls

    for registry, names in ((ours, ["sums", "gyms"]), (theirs, ["gyms", "sums"])):
        calls = asyncio.run(given(registry, names))
        assert calls == [("add", ids[name]) for name in names]


def test_edge_08_names_that_nobody_registered_cost_one_look_and_no_memory(
    registry: Registry,
    serve: Serve,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    registry.register_task("sums", SUMS)
    looks = counted(monkeypatch, registry.store, "get_task")
    logger = logging.getLogger(LOGGER_NAME)
    monkeypatch.setattr(logger, "handlers", [*logger.handlers, caplog.handler])

    async def check(server: Server) -> None:
        recent = server.gateway.lookups._recent
        await server.ask("sums")
        looks.clear()
        for model in ("nobody", "nobody@00000000", "nobody@current"):
            for _ in range(20):
                assert (await server.ask(model)).status_code == 404
            named = await server.ask(BASE, headers={"x-hyperplug-task": model})
            assert named.status_code == 404
        assert len(looks) <= 3
        for number in range(_MAX_UNKNOWN + 50):
            assert (await server.ask(f"nobody-{number}")).status_code == 404
        assert len(recent._unknown) == _MAX_UNKNOWN
        assert len(looks) <= 3 + _MAX_UNKNOWN + 50
        looks.clear()
        assert (await server.ask("sums")).headers["x-hyperplug-decision"] == "exact"
        assert not looks
        assert len(server.client.calls) == 1
        assert len(caplog.records) <= 1

    serve(check)


def test_edge_08_a_name_is_known_as_soon_as_it_is_registered(
    open_tiny: OpenRegistry, registry: Registry, serve: Serve
) -> None:
    elsewhere = open_tiny()

    async def check(server: Server) -> None:
        for name in ("here", "there"):
            assert (await server.ask(name)).status_code == 404
        body = {"name": "here", "description": SUMS}
        told = await server.http.post("/v1/hyperplug/tasks", json=body)
        assert told.status_code == 200
        assert (await server.ask("here")).status_code == 200  # on this server: at once
        assert (await server.ask("there")).status_code == 404
        await asyncio.to_thread(elsewhere.register_task, "there", OTHER)
        assert await comes(server, "there", 200)  # by another process: within a second or two

    serve(check)


def test_edge_08_an_unknown_name_is_forgotten_after_seconds(registry: Registry) -> None:
    now = 0.0
    recent = RecentResolutions(registry.store, clock=lambda: now)
    recent.put_unknown("a", TaskNotFoundError("no task 'a'", hint="see"), epoch=recent.epoch)
    with pytest.raises(TaskNotFoundError, match="no task 'a'"):
        recent.check_known("a")
    recent.put_unknown("b", TaskNotFoundError("b"), epoch=recent.epoch - 1)
    recent.check_known("b")  # something was written while it was looked up
    now = 6.0
    recent.check_known("a")
    recent.close()


async def comes(server: Server, model: str, status: int) -> bool:
    """Returns whether answers come to have that status within some seconds."""
    for _ in range(200):
        if (await server.ask(model)).status_code == status:
            return True
        await asyncio.sleep(0.02)
    return False


def counted(monkeypatch: pytest.MonkeyPatch, owner: Any, method: str) -> list[Any]:
    """Returns a list of the first arguments that a method gets from now on."""
    given: list[Any] = []
    own = getattr(owner, method)

    def counting(first: Any, *args: Any, **named: Any) -> Any:
        given.append(first)
        return own(first, *args, **named)

    monkeypatch.setattr(owner, method, counting)
    return given


def test_edge_11_the_list_of_models_has_the_tenants_own_only(registry: Registry) -> None:
    their_registry = registry.for_namespace("theirs")
    registry.register_task("sums", SUMS)
    their_registry.register_task("gyms", OTHER)
    ours, theirs = registry.get_adapter("sums").name, their_registry.get_adapter("gyms").name
    digests = {OURS: "default", THEIRS: "theirs"}
    keys = Keys({hashlib.sha256(key.encode()).digest(): name for key, name in digests.items()})

    async def run() -> None:
        async with front_end(registry, keys=keys, client=VllmRules()) as server:
            for key, task in ((OURS, "sums"), (THEIRS, "gyms")):
                headers = {"authorization": f"Bearer {key}"}
                assert (await server.ask(task, headers=headers)).status_code == 200
            seen = {}
            for key in (OURS, THEIRS):
                headers = {"authorization": f"Bearer {key}"}
                listed = (await server.http.get("/v1/models", headers=headers)).json()["data"]
                seen[key] = {model["id"] for model in listed} - {"static-one"}
                hidden = f"theirs/{theirs}" if key == OURS else ours
                one = await server.http.get(f"/v1/models/{hidden}", headers=headers)
                assert one.status_code == 404
            assert seen == {OURS: {BASE, ours}, THEIRS: {BASE, f"theirs/{theirs}"}}

    asyncio.run(run())


@pytest.mark.parametrize(
    "name",
    [
        "../../etc/passwd",
        "/etc/passwd",
        "default/sums",
        "sums@../../../etc",
        "..",
        "sums@00000000/../../x",
        "C:\\windows",
        "sums\x00",
    ],
)
def test_edge_53_no_name_leads_out_of_the_library(
    registry: Registry, serve: Serve, name: str
) -> None:
    registry.register_task("sums", SUMS)
    library, client = registry.library.root, VllmRules()

    async def check(server: Server) -> None:
        assert (await server.ask(name)).status_code == 404
        assert client.calls == []
        # Given on purpose it may be read as words that describe a task, never as a path.
        answer = await server.ask(BASE, headers={"x-hyperplug-task": quote(name)})
        assert answer.status_code in (200, 400, 404)
        adapters = {str(library / "default" / each.name) for each in registry.list_adapters()}
        assert {request.lora_path for request in client.requests} <= adapters

    serve(check, client=client)
    assert {path.parent for path in library.glob("**/*@*")} <= {library / "default"}


def test_edge_62_the_answer_names_a_model_that_can_be_asked_again(
    registry: Registry, serve: Serve
) -> None:
    registry.register_task("sums", SUMS)
    first = registry.get_adapter("sums")

    async def check(server: Server) -> None:
        async def served(model: str, **options: Any) -> tuple[str, str]:
            answer = await server.ask(model, **options)
            named = answer.json()["model"]
            assert named == answer.headers["x-hyperplug-adapter"]
            return named, answer.json()["weights"]

        asked = await served("sums")
        assert asked == (first.name, first.digest)
        assert await served(BASE, headers={"x-hyperplug-task": "sums"}) == asked
        await asyncio.to_thread(registry.update_task, "sums", description="Add three numbers")
        second = registry.get_adapter("sums")
        for _ in range(100):
            if (await served("sums"))[0] != first.name:
                break
            await asyncio.sleep(0.02)
        assert await served("sums") == (second.name, second.digest)
        assert await served(first.name) == asked  # what it named still means the same

    serve(check)

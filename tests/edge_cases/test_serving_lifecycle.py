"""Edge cases of loading and unloading under a server, and of lookups that go wrong."""

from __future__ import annotations

import asyncio
import logging
import shutil
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from hyperplug_vllm.compat import LOGGER_NAME

from hyperplug.entities import AdapterWeights
from hyperplug.errors import CheckpointError, CorruptAdapterError, RegistryError
from hyperplug.registry import Registry
from tests.edge_cases.conftest import LetterEmbedder, OpenRegistry, SeededGenerator, Serve
from tests.edge_cases.engine import VllmRules
from tests.integrations.vllm.engine import BASE
from tests.integrations.vllm.front import CHAT, Server, error_of, front_end

pytest.importorskip("vllm")

SUMS, MOTTO = "Add two numbers", "Why just fly by my gym?"


async def until(condition: Callable[[], object]) -> None:
    """Waits until a condition holds; fails if it does not come to."""
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it never came to that")


def test_edge_05_after_a_load_that_broke_off_the_next_one_reads_it_anew(
    registry: Registry, serve: Serve
) -> None:
    registry.register_task("sums", SUMS)
    adapter, client = registry.get_adapter("sums"), VllmRules()
    (rank,) = client.ranks

    async def check(server: Server) -> None:
        rank.fail.add(adapter.id)
        assert (await server.ask("sums")).status_code == 500
        assert rank.held == {} and adapter.name not in str(await server.http.get("/v1/models"))
        rank.fail.clear()
        assert (await server.ask("sums")).json()["weights"] == adapter.digest
        assert rank.read == [adapter.id, adapter.id]

    serve(check, client=client)


def test_edge_05_what_an_engine_does_not_let_go_of_is_not_served(
    registry: Registry, serve: Serve
) -> None:
    """The id of half-written weights stays in the engine, and loading it again would "succeed"."""
    registry.register_task("sums", SUMS)
    adapter, client = registry.get_adapter("sums"), VllmRules()
    (rank,) = client.ranks

    async def check(server: Server) -> None:
        rank.fail.add(adapter.id)
        rank.stuck = True
        assert (await server.ask("sums")).status_code == 500
        rank.fail.clear()
        assert (await server.ask("sums")).status_code == 500
        assert (await server.ask(adapter.name)).status_code == 500
        assert (await server.ask(BASE)).status_code == 200
        rank.stuck = False
        assert (await server.ask("sums")).json()["weights"] == adapter.digest

    serve(check, client=client)


def test_edge_30_a_client_that_leaves_ends_nothing_for_the_others(
    registry: Registry, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither while its adapter is generated, nor while that is loaded, nor while it answers."""
    entered, go_on = threading.Event(), threading.Event()
    generate = SeededGenerator.generate

    def slow(self: SeededGenerator, *args: Any) -> AdapterWeights:
        entered.set()
        assert go_on.wait(20)
        return generate(self, *args)

    monkeypatch.setattr(SeededGenerator, "generate", slow)
    client = VllmRules()

    async def check(server: Server) -> None:
        async def leave(condition: Callable[[], object]) -> httpx.Response:
            """Two ask; the first leaves when the condition holds, and what waits goes on."""
            leaving, staying = (asyncio.create_task(server.ask(f"hyperplug:{SUMS}")) for _ in "ab")
            await until(condition)
            leaving.cancel()
            await asyncio.gather(leaving, return_exceptions=True)
            go_on.set()
            client.pause.set()
            client.go_on.set()
            return await staying

        client.pause.clear()
        assert (await leave(entered.is_set)).status_code == 200
        assert len(registry.list_adapters()) == 1
        (adapter,) = registry.list_adapters()
        await server.gateway.engine.remove(adapter)
        server.gateway.live._entries.clear()

        client.calls.clear()
        client.pause.clear()
        answer = await leave(lambda: client.calls)
        assert answer.json()["weights"] == adapter.digest
        assert client.calls == [("add", adapter.id)]

        client.go_on.clear()
        answer = await leave(lambda: client.ranks[0].running[adapter.id] == 2)
        assert answer.json()["weights"] == adapter.digest
        assert not server.gateway.live._entries[adapter.id].users

    serve(check, client=client)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (CheckpointError("the hypernetwork at /secret/place is damaged"), 500),
        (CorruptAdapterError("the bytes are damaged"), 500),
        (RegistryError("cannot reach postgresql://db.internal/x"), 503),
        (RuntimeError(f"could not read {SUMS!r} at /secret/place"), 500),
        (MemoryError(), 500),
    ],
)
def test_edge_31_a_lookup_that_fails_is_told_in_the_clients_form_and_nothing_else(
    registry: Registry,
    serve: Serve,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    status: int,
) -> None:
    registry.register_task("motto", MOTTO)
    logger = logging.getLogger(LOGGER_NAME)
    monkeypatch.setattr(logger, "handlers", [*logger.handlers, caplog.handler])

    async def check(server: Server) -> None:
        with monkeypatch.context() as patch:

            def failing(*_: Any) -> AdapterWeights:
                raise error

            patch.setattr(SeededGenerator, "generate", failing)
            for path in (CHAT, "/v1/messages"):
                told = await server.ask(f"hyperplug:{SUMS}", path=path)
                assert told.status_code == status
                assert error_of(told)["message"]
                for secret in ("/secret", "internal", SUMS):
                    assert secret not in told.text
            assert (await server.ask("motto")).status_code == 200
            assert (await server.ask(BASE)).status_code == 200
        assert (await server.ask(f"hyperplug:{SUMS}")).status_code == 200

    serve(check)
    assert type(error).__name__ in caplog.text
    assert SUMS not in caplog.text


def test_edge_32_slow_lookups_hold_up_neither_the_base_nor_known_names(
    registry: Registry, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The text encoder hangs in as many threads as there are for texts, and more wait."""
    registry.register_task("sums", SUMS)
    registry.register_task("motto", MOTTO)
    go_on = threading.Event()
    embed = LetterEmbedder.embed

    def slow(self: LetterEmbedder, texts: Any) -> Any:
        assert go_on.wait(20)
        return embed(self, texts)

    monkeypatch.setattr(LetterEmbedder, "embed", slow)

    async def check(server: Server) -> None:
        texts = [f"Say the number {number} in French" for number in range(6)]
        waiting = [asyncio.create_task(server.ask(f"hyperplug:{text}")) for text in texts]
        for model in (BASE, "sums", "motto", registry.get_adapter("sums").name):
            assert (await asyncio.wait_for(server.ask(model), 10)).status_code == 200
        assert not any(each.done() for each in waiting)
        go_on.set()
        assert {each.status_code for each in await asyncio.gather(*waiting)} == {200}

    serve(check)


def test_edge_33_what_one_of_several_engines_did_not_take_is_taken_from_all(
    registry: Registry, serve: Serve
) -> None:
    registry.register_task("sums", SUMS)
    adapter, client = registry.get_adapter("sums"), VllmRules(ranks=3)

    async def check(server: Server) -> None:
        client.ranks[1].fail.add(adapter.id)
        assert (await server.ask("sums")).status_code == 500
        assert [rank.held for rank in client.ranks] == [{}, {}, {}]
        client.ranks[1].fail.clear()
        answers = [await server.ask("sums") for _ in range(6)]
        assert {answer.json()["weights"] for answer in answers} == {adapter.digest}
        assert all(rank.held == {adapter.id: adapter.digest} for rank in client.ranks)

    serve(check, client=client)


def test_edge_34_no_adapter_goes_while_a_request_is_answered_with_it(
    registry: Registry, serve: Serve
) -> None:
    """Streams too hold theirs to the end, and what was over the limit goes then."""
    names = ["sums", "motto", "third"]
    for name, text in zip(names, (SUMS, MOTTO, "Say it in French"), strict=True):
        registry.register_task(name, text)
    ids = [registry.get_adapter(name).id for name in names]
    client = VllmRules()

    async def check(server: Server) -> None:
        client.go_on.clear()
        asked = [
            asyncio.create_task(server.ask("sums")),
            asyncio.create_task(server.http.post(CHAT, json={"model": "motto", "stream": True})),
        ]
        await until(lambda: all(client.ranks[0].running[number] for number in ids[:2]))
        third = asyncio.create_task(server.ask("third"))
        await until(lambda: client.ranks[0].running[ids[2]])
        assert ("remove", ids[0]) not in client.calls and ("remove", ids[1]) not in client.calls
        client.go_on.set()
        answers = await asyncio.gather(*asked, third)
        assert [answer.status_code for answer in answers] == [200] * 3
        await until(lambda: len(server.gateway.live) == 1)
        await until(lambda: set(client.ranks[0].held) == set(server.gateway.live._entries))

    serve(check, client=client, max_cpu_loras=2)  # one of them is for an adapter of the flags


@pytest.mark.parametrize("ranks", [1, 2])
def test_edge_35_an_engine_that_lost_its_adapters_gets_them_again(
    registry: Registry, serve: Serve, ranks: int
) -> None:
    """As after `sleep`, new weights or a new engine: it reads what a request needs."""
    for name, text in (("sums", SUMS), ("motto", MOTTO)):
        registry.register_task(name, text)
    adapter, client = registry.get_adapter("sums"), VllmRules(ranks=ranks)

    async def check(server: Server) -> None:
        assert (await server.ask("sums")).status_code == 200
        for rank in client.ranks:
            rank.held.clear()
        for _ in range(2 * ranks):
            assert (await server.ask("sums")).json()["weights"] == adapter.digest
        # What it lacks and is to let go of is no error either.
        client.ranks[0].held.clear()
        assert (await server.ask("motto")).status_code == 200
        assert (await server.ask("sums")).json()["weights"] == adapter.digest

    serve(check, client=client, max_cpu_loras=2)


def test_edge_35_what_the_front_end_forgot_is_listed_again(
    registry: Registry, serve: Serve
) -> None:
    """A client may unload an adapter where vLLM's own routes are open."""
    registry.register_task("sums", SUMS)
    adapter = registry.get_adapter("sums")

    async def check(server: Server) -> None:
        assert (await server.ask("sums")).status_code == 200
        server.gateway.engine.forget(adapter)
        assert (await server.ask("sums")).json()["weights"] == adapter.digest

    serve(check)


def test_edge_36_workers_are_given_one_absolute_path_by_every_server(
    open_tiny: OpenRegistry,
) -> None:
    """Servers that share a library name the same folder, whoever wrote it."""

    async def run() -> None:
        paths = []
        for registry in (open_tiny(), open_tiny()):
            registry.register_task("sums", SUMS)
            client = VllmRules()
            async with front_end(registry, client=client) as server:
                assert (await server.ask("sums")).status_code == 200
            paths += [request.lora_path for request in client.requests]
        assert len(paths) == 2 and len(set(paths)) == 1
        assert Path(paths[0]).is_absolute()
        assert registry.library.root in Path(paths[0]).parents

    asyncio.run(run())


def test_edge_36_a_server_with_a_disk_of_its_own_writes_its_own_folders(
    open_tiny: OpenRegistry, tmp_path: Path
) -> None:
    first = open_tiny()
    url = first.settings.registry_url
    first.register_task("sums", SUMS)
    second = open_tiny(home=tmp_path / "another", registry_url=url)
    client = VllmRules()

    async def run() -> None:
        async with front_end(second, client=client) as server:
            answer = await server.ask("sums")
            assert answer.json()["weights"] == first.get_adapter("sums").digest
        assert str(tmp_path / "another") in client.requests[0].lora_path

    asyncio.run(run())


def test_edge_36_a_worker_that_does_not_see_the_folder_fails_alone(
    registry: Registry, serve: Serve
) -> None:
    """Its machine lacks the share: the request is told, and nothing half-loaded stays."""
    for name, text in (("sums", SUMS), ("motto", MOTTO)):
        registry.register_task(name, text)
    adapter, client = registry.get_adapter("sums"), VllmRules(ranks=2)

    async def check(server: Server) -> None:
        async with _blind(client, 1, registry.library.root):
            told = await server.ask("sums")
            assert told.status_code == 500
            assert "could not be loaded" in error_of(told)["message"]
            assert str(registry.library.root) not in told.text
            assert [rank.held for rank in client.ranks] == [{}, {}]
            assert (await server.ask(BASE)).status_code == 200
        assert (await server.ask("sums")).json()["weights"] == adapter.digest

    serve(check, client=client)


@asynccontextmanager
async def _blind(client: VllmRules, number: int, root: Path) -> AsyncIterator[None]:
    """Has one engine look for the library where it is not."""
    rank, add = client.ranks[number], client.ranks[number].add

    async def elsewhere(request: Any) -> bool:
        path = request.lora_path.replace(str(root), str(root.parent / "not-mounted"))
        return await add(type(request)(request.lora_name, request.lora_int_id, path))

    rank.add = elsewhere  # type: ignore[method-assign]
    try:
        yield
    finally:
        rank.add = add  # type: ignore[method-assign]


def test_edge_27_a_folder_that_vanished_is_written_again_before_it_is_loaded(
    registry: Registry, serve: Serve
) -> None:
    registry.register_task("sums", SUMS)
    adapter = registry.get_adapter("sums")

    async def check(server: Server) -> None:
        for _ in range(2):
            shutil.rmtree(registry.library.root)
            assert (await server.ask("sums")).json()["weights"] == adapter.digest
            await server.gateway.engine.remove(adapter)
            server.gateway.live._entries.clear()

    serve(check)


def test_edge_31_our_routes_tell_errors_in_that_form_too(registry: Registry, serve: Serve) -> None:
    async def check(server: Server) -> None:
        for path, body, status in (
            ("resolve", {"text": ""}, 400),
            ("resolve", {}, 400),
            ("find", {"text": "a", "limit": 0}, 400),
            ("tasks", {"name": "No Name", "description": SUMS}, 400),
            ("warm-up", {"tasks": ["nobody"]}, 404),
        ):
            told = await server.http.post(f"/v1/hyperplug/{path}", json=body)
            assert told.status_code == status, path
            assert error_of(told)["code"] == status

    serve(check)

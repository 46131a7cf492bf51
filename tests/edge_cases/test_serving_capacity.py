"""Edge cases of how many adapters a server holds, loads and remembers."""

from __future__ import annotations

import asyncio
import logging
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
from hyperplug_vllm import compat
from hyperplug_vllm.flags import Wish, value_of, vllm_arguments
from hyperplug_vllm.plugin import prepare

from hyperplug.errors import HyperplugError
from hyperplug.registry import Registry
from tests.adapters.samples import foreign, weights
from tests.edge_cases.conftest import Serve
from tests.edge_cases.engine import VllmRules
from tests.edge_cases.test_serving_lifecycle import until
from tests.integrations.vllm.engine import BASE
from tests.integrations.vllm.front import Server, error_of

pytest.importorskip("vllm")


def register(registry: Registry, count: int) -> dict[str, str]:
    """Registers tasks, and returns the digests of their adapters."""
    for number in range(count):
        registry.register_task(f"task-{number}", f"Do the work of number {number}")
    names = [f"task-{number}" for number in range(count)]
    return {name: registry.get_adapter(name).digest for name in names}


def launched(*own: str) -> tuple[int, int]:
    """Returns how many adapters a server with these flags has slots for, and how many it holds."""
    wish = Wish(folder=Path("/models/tiny"), base_name=BASE, rank=4, accelerated=False)
    arguments = vllm_arguments(wish, own)
    slots, held = value_of("--max-loras", arguments), value_of("--max-cpu-loras", arguments)
    assert slots is not None and held is not None
    return int(slots), int(held)


def test_edge_44_two_tasks_in_turn_are_read_once_each_with_the_flags_of_our_launcher(
    registry: Registry, serve: Serve
) -> None:
    register(registry, 2)
    slots, held = launched()
    client = VllmRules(room=held)

    async def check(server: Server) -> None:
        for number in range(10):
            assert (await server.ask(f"task-{number % 2}")).status_code == 200
        assert len(client.ranks[0].read) == 2

    assert slots > 1
    serve(check, client=client, max_loras=slots, max_cpu_loras=held)


@pytest.mark.parametrize(
    ("flags", "own", "words"),
    [
        ({"max_loras": 1}, {}, "--max-loras 4 --max-cpu-loras 16"),
        ({"max_cpu_loras": 8}, {"max_live": 9}, "--max-cpu-loras 9"),
        ({"max_cpu_loras": 8}, {"max_live": 8}, None),
    ],
)
def test_edge_44_flags_that_make_it_read_the_disk_are_warned_of(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    flags: dict[str, int],
    own: dict[str, object],
    words: str | None,
) -> None:
    logger = logging.getLogger(compat.LOGGER_NAME)
    monkeypatch.setattr(logger, "handlers", [*logger.handlers, caplog.handler])
    # The start ends at the registry, which comes after the warnings.
    own = {**own, "registry": "postgresql://127.0.0.1:1/none"}
    given = {"model": str(tmp_path), "enable_lora": True, "max_loras": 4, "max_cpu_loras": 16}
    args = Namespace(**{**given, "additional_config": {"hyperplug": own}, **flags})
    with pytest.raises(HyperplugError):
        prepare(compat.server_flags(args))
    warned = [record.getMessage() for record in caplog.records]
    assert any(words in line for line in warned) if words else not warned


def test_edge_45_more_tasks_in_use_than_the_engine_holds_are_answered_each_with_its_own(
    registry: Registry, serve: Serve
) -> None:
    digests = register(registry, 8)
    client = VllmRules(room=2)

    async def check(server: Server) -> None:
        client.go_on.clear()
        asked = [asyncio.create_task(server.ask(name)) for name in digests for _ in range(3)]
        await until(lambda: sum(client.ranks[0].running.values()) == len(asked))
        assert len(server.gateway.live) == 8  # all in use
        client.go_on.set()
        answers = await asyncio.gather(*asked)
        expected = [digest for digest in digests.values() for _ in range(3)]
        assert [answer.json()["weights"] for answer in answers] == expected
        await until(lambda: len(server.gateway.live) == 2)

    serve(check, client=client, max_cpu_loras=3)  # one of them is for an adapter of the flags


def test_edge_46_cold_adapters_are_loaded_one_by_one_and_hold_up_no_one_else(
    registry: Registry, serve: Serve
) -> None:
    digests = register(registry, 9)
    warm, *cold = digests
    client = VllmRules()

    async def check(server: Server) -> None:
        assert (await server.ask(warm)).status_code == 200
        client.pause.clear()
        asked = [asyncio.create_task(server.ask(name)) for name in cold]
        await until(lambda: len(server.gateway.live) == 9)
        assert len(client.calls) == 2
        for model in (BASE, warm):
            assert (await asyncio.wait_for(server.ask(model), 10)).status_code == 200
        client.pause.set()
        answers = await asyncio.gather(*asked)
        assert [answer.json()["weights"] for answer in answers] == [digests[name] for name in cold]
        assert client.most_loads == 1

    serve(check, client=client, max_cpu_loras=16)


def test_edge_47_what_is_kept_for_adapters_is_bounded_and_goes_everywhere_at_once(
    registry: Registry, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hyperplug_vllm.recent._MAX_KEPT", 10)
    monkeypatch.setattr("hyperplug_vllm.lookups._MAX_REMEMBERED", 10)
    digests = register(registry, 30)
    client = VllmRules()

    async def check(server: Server) -> None:
        for name, digest in digests.items():
            answer = await server.ask(name)
            assert answer.json()["weights"] == digest
            listed = (await server.http.get("/v1/models")).json()["data"]
            assert len(listed) <= 2 + 4  # the base, the adapter of the flags, and ours
        held = {f"task-{number}" for number in range(26, 30)}
        assert {row["id"].partition("@")[0] for row in listed} == {BASE, "static-one", *held}
        assert set(client.ranks[0].held) == set(server.gateway.live._entries)
        lookups = server.gateway.lookups
        assert len(server.gateway.live) == 4
        assert len(lookups._recent._kept) == len(lookups._remembered) == 10
        assert not lookups._flights

    serve(check, client=client, max_cpu_loras=5)


def test_edge_49_generated_adapters_have_one_rank_and_a_larger_one_is_refused(
    registry: Registry, serve: Serve, tmp_path: Path
) -> None:
    register(registry, 3)
    rank = registry.generator.spec.rank
    registry.register_task("large", "Why just fly by my gym?", generate=False)
    registry.import_(foreign(tmp_path / "peft", weights(rank=2 * rank)), task_name="large")
    client = VllmRules()

    async def check(server: Server) -> None:
        for model in ("task-0", "task-1", "hyperplug:zzz", "hyperplug:qqq"):
            assert (await server.ask(model)).status_code == 200
        generated = [one for one in registry.list_adapters() if one.task_name != "large"]
        assert len(generated) == 5 and {one.rank for one in generated} == {rank}
        calls = list(client.calls)
        told = await server.ask("large")
        assert told.status_code == 500
        assert f"--max-lora-rank {2 * rank}" in error_of(told)["message"]
        assert client.calls == calls

    serve(check, client=client, max_lora_rank=rank)


def test_edge_47_nothing_is_left_of_requests_that_failed(registry: Registry, serve: Serve) -> None:
    digests = register(registry, 6)
    client = VllmRules()

    async def check(server: Server) -> None:
        ids = {registry.get_adapter(name).id for name in digests}
        client.ranks[0].fail |= ids
        answers: list[Any] = await asyncio.gather(*(server.ask(name) for name in digests))
        assert {answer.status_code for answer in answers} == {500}
        assert len(server.gateway.live) == 0 and client.ranks[0].held == {}
        assert len((await server.http.get("/v1/models")).json()["data"]) == 2
        assert not server.gateway.live._half_loaded

    serve(check, client=client)

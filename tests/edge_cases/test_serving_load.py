"""Many clients at once, masses of texts, and a registry that goes away while it is asked."""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from hyperplug_vllm.keeping import _once

from hyperplug.adapters.leases import Lease
from hyperplug.entities import OnNovel
from hyperplug.registry import Registry
from tests.edge_cases.conftest import OpenRegistry
from tests.edge_cases.engine import VllmRules
from tests.edge_cases.test_serving_lifecycle import until
from tests.edge_cases.test_serving_names import counted
from tests.integrations.vllm.engine import BASE
from tests.integrations.vllm.front import CHAT, Server, error_of, front_end

pytest.importorskip("vllm")

CLIENTS, ROUNDS, TASKS, VERSIONS, PLACES = 32, 12, 5, 6, 4


def versions_of(registry: Registry) -> dict[str, list[str]]:
    """Registers tasks of several versions, the first one serving; returns the digests of each."""
    found = {}
    for number in range(TASKS):
        name = f"task-{number}"
        registry.register_task(name, f"Do the work of number {number}")
        names = [registry.get_adapter(name).name]
        for version in range(1, VERSIONS):
            text = f"Do the work of number {number} in the way {'abcdefgh'[version] * 9}"
            registry.update_task(name, description=text)
            names.append(registry.get_adapter(name).name)
        registry.promote(names[0])
        found[name] = [registry.get_adapter(each).digest for each in names]
        assert len(set(found[name])) == VERSIONS
    return found


class Watched:
    """What clients were told: no version comes before its promotion, and none comes back.

    That is so for each name: `task` and `task@current` may learn of a promotion one after the
    other, within a second.
    """

    def __init__(self, server: Server, digests: dict[str, list[str]]) -> None:
        self.server = server
        self.digests = digests
        self.promoted = dict.fromkeys(digests, 0)
        self.seen: Counter[str] = Counter()
        self.texts: dict[str, str] = {}
        self.decisions: Counter[str] = Counter()
        self.most_live = 0

    async def known(self, name: str, *, alias: str = "", header: bool = False) -> None:
        """Asks for a task by its name, in the header or as the model."""
        asked = name + alias
        floor = self.seen[asked]
        headers = {"x-hyperplug-task": asked} if header else {}
        answer = await self.server.ask(BASE if header else asked, headers=headers)
        assert answer.status_code == 200, answer.text
        version = self.digests[name].index(answer.json()["weights"])
        assert floor <= version <= self.promoted[name]
        self.seen[asked] = max(self.seen[asked], version)
        assert answer.headers["x-hyperplug-task"] == name
        self.note(answer)

    async def novel(self, text: str) -> None:
        """Asks for what is registered by no one; the same text gets the same adapter."""
        options = {"task": text, "min_score": 1.0}
        body = {"model": BASE, "messages": [], "hyperplug": options}
        answer = await self.server.http.post(CHAT, json=body)
        assert answer.status_code == 200, answer.text
        weights = answer.json()["weights"]
        assert self.texts.setdefault(text, weights) == weights
        assert weights not in [each for one in self.digests.values() for each in one]
        self.note(answer)

    async def base(self) -> None:
        """Asks for the base model."""
        answer = await self.server.ask(BASE)
        assert (answer.status_code, answer.json()["weights"]) == (200, None)
        assert "x-hyperplug-decision" not in answer.headers
        self.decisions["none"] += 1

    def note(self, answer: httpx.Response) -> None:
        """Counts an answer, whose headers and body have to name one adapter."""
        self.decisions[answer.headers["x-hyperplug-decision"]] += 1
        adapter = answer.headers["x-hyperplug-adapter"]
        assert answer.json()["model"] == adapter
        assert adapter.endswith(f"@{answer.json()['weights'][:8]}")
        self.most_live = max(self.most_live, len(self.server.gateway.live))


def test_edge_45_thirty_two_clients_get_what_their_tasks_mean_while_versions_are_promoted(
    registry: Registry,
) -> None:
    digests = versions_of(registry)
    client = VllmRules(ranks=2, room=PLACES)

    async def run() -> None:
        async with front_end(registry, client=client, max_cpu_loras=PLACES + 1) as server:
            watched = Watched(server, digests)

            async def one(number: int) -> None:
                dice = random.Random(number)
                for _ in range(ROUNDS):
                    name = dice.choice(list(digests))
                    kind = dice.randrange(6)
                    if kind == 0:
                        await watched.base()
                    elif kind == 1:
                        await watched.novel(f"Say {dice.choice('abcdef') * 20} backwards")
                    elif kind == 2:
                        await watched.known(name, header=True)
                    elif kind == 3:
                        await watched.known(name, alias="@current")
                    else:
                        await watched.known(name)

            async def promote() -> None:
                for version in range(1, VERSIONS):
                    for name, all_of_it in digests.items():
                        watched.promoted[name] = version  # from here on it may be seen
                        adapter = f"{name}@{all_of_it[version][:8]}"
                        await asyncio.to_thread(registry.promote, adapter)
                    await asyncio.sleep(0.1)

            await asyncio.gather(promote(), *(one(number) for number in range(CLIENTS)))
            assert sum(watched.decisions.values()) == CLIENTS * ROUNDS
            assert set(watched.decisions) == {"none", "novel", "exact"}
            assert watched.most_live <= PLACES + CLIENTS
            await until(lambda: len(server.gateway.live) <= PLACES)
            assert not client.taken_away and client.most_loads == 1
            for name, all_of_it in digests.items():  # what was promoted last comes to serve
                for _ in range(200):
                    weights = (await server.ask(name)).json()["weights"]
                    if weights == all_of_it[-1]:
                        break
                    await asyncio.sleep(0.02)
                assert weights == all_of_it[-1]

    asyncio.run(run())


def test_edge_55_two_thousand_texts_stay_within_all_bounds_and_known_tasks_go_on(
    registry: Registry,
) -> None:
    registry.register_task("sums", "Add two numbers")
    digest = registry.get_adapter("sums").digest
    client, per_minute, folders = VllmRules(room=PLACES), 60, 8
    statuses: Counter[int] = Counter()

    async def run() -> None:
        async with front_end(
            registry, client=client, novel_per_minute=per_minute, max_cpu_loras=PLACES + 1
        ) as server:

            async def one(first: int) -> None:
                for number in range(first, 2000, CLIENTS):
                    options = {"task": text_of(number), "min_score": 1.0}
                    body = {"model": BASE, "messages": [], "hyperplug": options}
                    answer = await server.http.post(CHAT, json=body)
                    statuses[answer.status_code] += 1
                    if answer.status_code == 429:
                        assert 1 <= int(answer.headers["retry-after"]) <= 60
                        assert error_of(answer)["type"] == "RateLimitError"
                    assert len(server.gateway.live) <= PLACES + CLIENTS
                    if number % 20 == 0:
                        assert (await server.ask("sums")).json()["weights"] == digest
                        assert (await server.ask(BASE)).status_code == 200

            await asyncio.gather(*(one(first) for first in range(CLIENTS)))
            live = server.gateway.live
            await until(lambda: len(live) <= PLACES)
            listed = (await server.http.get("/v1/models")).json()["data"]
            assert len(listed) <= PLACES + 2
            library = registry.library
            for _, _, path in library.folders():  # as if an hour had passed
                os.utime(path, (0, 0))
            await _once(live, library, Lease(library.root), max_folders=folders)
            left = {library.key(path) for _, _, path in library.folders()}
            assert len(left) == folders and set(live.folders()) <= left
            assert (await server.ask("sums")).json()["weights"] == digest

    asyncio.run(run())
    assert set(statuses) == {200, 429} and sum(statuses.values()) == 2000
    # Those of the first moment, and what comes to be allowed while it runs.
    assert per_minute // 6 <= statuses[200] <= per_minute * 4
    assert len(registry.list_adapters()) == statuses[200] + 1
    assert not client.taken_away


def text_of(number: int) -> str:
    """Returns a text of its own for each number, also for an encoder that counts letters."""
    letters = (chr(97 + number // 26**place % 26) for place in range(3))
    return "Say " + " ".join(letter * 4**place for place, letter in enumerate(letters))


@contextmanager
def gone(registry: Registry, folder: Path) -> Iterator[None]:
    """Takes the folder of a SQLite registry away; the published adapters stay."""
    aside = folder.with_name("gone")
    registry.store.close()
    folder.rename(aside)
    try:
        yield
    finally:
        aside.rename(folder)


@pytest.mark.parametrize("policy", [OnNovel.GENERATE, OnNovel.BASE])
def test_edge_37_known_tasks_are_served_while_the_registry_is_away_and_all_are_after(
    open_tiny: OpenRegistry,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    policy: OnNovel,
) -> None:
    folder = tmp_path / "database"
    folder.mkdir()
    registry = open_tiny(registry_url=f"sqlite:///{folder / 'registry.db'}")
    names = [f"task-{number}" for number in range(8)]
    for number, name in enumerate(names):
        registry.register_task(name, f"Do the work of number {number}")
    digests = {name: registry.get_adapter(name).digest for name in names}
    client = VllmRules()

    async def run() -> None:
        async with front_end(
            registry, client=client, on_novel=policy, max_cpu_loras=PLACES + 1
        ) as server:
            asked = names[:-1]  # more than there are places for; the last is never asked for

            async def served(stale: str | None) -> bool:
                answers = await asyncio.gather(*(server.ask(name) for name in asked * 4))
                assert [answer.json().get("weights") for answer in answers] == [
                    digests[name] for name in asked * 4
                ]
                return {answer.headers.get("x-hyperplug-stale") for answer in answers} == {stale}

            assert await served(None)
            with gone(registry, folder):
                await until(lambda: server.gateway.lookups._recent.away)
                looks = counted(monkeypatch, registry.store, "get_task")
                assert await served("1")
                assert not looks  # nobody waits for a database that is known to be away
                # What was written before it went is not known here: its last word is.
                server.gateway.lookups._recent.forget()
                for name in asked[:2]:
                    again = await server.ask(name)
                    assert again.json()["weights"] == digests[name]
                    assert again.headers["x-hyperplug-stale"] == "1"
                assert looks
                assert (await server.ask(BASE)).status_code == 200
                unheard = "hyperplug:Say qqqqq backwards"
                lacking = [names[-1], "nobody"]
                if policy is OnNovel.BASE:
                    base = await server.ask(unheard)
                    assert base.json()["model"] == BASE
                    assert base.headers["x-hyperplug-decision"] == "base"
                    assert base.headers["x-hyperplug-stale"] == "1"
                else:
                    lacking.append(unheard)
                for model in lacking:
                    told = await server.ask(model)
                    assert told.status_code == 503
                    assert error_of(told)["type"] == "ServiceUnavailableError"
                    assert int(told.headers["retry-after"]) >= 1
                    assert str(folder) not in told.text
                assert (await server.http.get("/v1/hyperplug/health")).status_code == 503
            await until(lambda: not server.gateway.lookups._recent.away)
            assert await served(None)
            assert (await server.ask(names[-1])).json()["weights"] == digests[names[-1]]
            assert (await server.ask("nobody")).status_code == 404
            novel = await server.ask(unheard)
            expected = "novel" if policy is OnNovel.GENERATE else "base"
            assert novel.headers["x-hyperplug-decision"] == expected
            assert (await server.http.get("/v1/hyperplug/health")).status_code == 200

    asyncio.run(run())

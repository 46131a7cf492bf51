"""A real vLLM server under load for minutes: is every answer right, is everything bounded?

    python benchmarks/soak.py [--minutes 10] [--clients 32] [--flood 20000] [--rate 50] [--json OUT]
        [--part mixed|flood]

First each task is asked alone, at temperature 0. Then so many clients ask at random, for known
tasks, described ones and the base model, while others promote versions back and forth: every
answer has to be the one that its adapter gave alone. Then so many descriptions a second are sent
that no registered task may serve, all of them new, beside one client of known tasks: memory,
folders and that client's latency have to stay where they were, and what is refused has to be
told when to come again. For comparison that client is also measured alone, and beside another
who asks for known tasks as often as new descriptions were served. Parts that are not run stay
in OUT as they were.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import random
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import httpx
import numpy as np
import torch
from hyperplug_vllm.process import ServerProcess, launch

from hyperplug.adapters.leases import FRESH_SECONDS, HEARTBEAT_SECONDS
from hyperplug.config import Settings, load_settings
from hyperplug.entities import TaskDraft
from hyperplug.evaluation.machine import hardware, versions
from hyperplug.registry import Registry, open_registry

PARTS = ("mixed", "flood")
TOKENS = 4
TASKS = 12
INPUTS = (
    "The plot is thin and the jokes fall flat.",
    "A warm, funny film; I have seen it twice already.",
    "Is there a table for four at eight?",
)
SUBJECTS = ("hotel", "film", "book", "phone", "recipe", "song", "course", "game")
MAX_FOLDERS = 100
MAX_LIVE = 16
_CONTROL_SECONDS = 120
NOVEL_PER_MINUTE = 30
# Folders that a server may be about to use stay, and they are looked for now and then.
FOLDERS_AT_MOST = MAX_FOLDERS + round(
    NOVEL_PER_MINUTE * (1 + (FRESH_SECONDS + HEARTBEAT_SECONDS) / 60)
)
LIMITS = {
    "max_folders": MAX_FOLDERS,
    "max_live": MAX_LIVE,
    "novel_per_minute": NOVEL_PER_MINUTE,
    "texts_per_minute": 120,
}

Question = tuple[str, str]  # model and input


def description(number: int) -> str:
    """Returns the description of a task unlike all others."""
    subject = SUBJECTS[number % len(SUBJECTS)]
    return f"Say whether the {subject} of shelf {number} is good or bad. Answer with one word."


@dataclass(slots=True)
class Seen:
    """What the clients saw."""

    answers: int = 0
    wrong: list[str] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)


class Client:
    """Asks the server."""

    def __init__(self, http: httpx.AsyncClient, base: str) -> None:
        self._http = http
        self.base = base
        self.base_url = http.base_url

    async def ask(self, model: str, text: str, **options: Any) -> httpx.Response:
        """Returns an answer, whatever its status; `options` are hyperplug's."""
        body: dict[str, Any] = {
            "model": model,
            "messages": [{"role": "user", "content": text}],
            "max_tokens": TOKENS,
            "temperature": 0,
            **({"hyperplug": options} if options else {}),
        }
        return await self._http.post("/v1/chat/completions", json=body)


def told(response: httpx.Response) -> tuple[str, str]:
    """Returns the adapter that answered, and its words."""
    content = response.json()
    return content["model"], content["choices"][0]["message"]["content"]


async def alone(client: Client, models: list[str]) -> dict[Question, tuple[str, str]]:
    """Returns what each model answers when nothing else is asked, by adapter and input."""
    found: dict[Question, tuple[str, str]] = {}
    for model in models:
        for text in INPUTS:
            response = await client.ask(model, text)
            response.raise_for_status()
            adapter, words = told(response)
            found[adapter, text] = (model, words)
    return found


async def mixed(
    client: Client, registry: Registry, models: list[str], *, clients: int, seconds: float
) -> Seen:
    """Asks at random while versions are promoted back and forth, and compares every answer."""
    pairs = [(f"task-{number}@first", f"task-{number}@second") for number in range(2)]
    every = [*models, *(name for pair in pairs for name in pair)]
    right = await alone(client, every)
    seen, end = Seen(), time.monotonic() + seconds

    async def run(seed: int) -> None:
        rng = random.Random(seed)
        while time.monotonic() < end:
            model, text = rng.choice(models), rng.choice(INPUTS)
            started = time.perf_counter()
            response = await client.ask(model, text)
            seen.seconds.append(time.perf_counter() - started)
            seen.statuses[response.status_code] += 1
            seen.answers += 1
            if response.status_code != 200:
                seen.wrong.append(f"{model}: {response.text[:200]}")
                continue
            adapter, words = told(response)
            if right.get((adapter, text), ("", None))[1] != words:
                seen.wrong.append(f"{model}: {adapter} said {words!r}")

    async def promote() -> None:
        turn = 0
        while time.monotonic() < end:
            await asyncio.sleep(2.0)
            turn += 1
            for pair in pairs:
                await asyncio.to_thread(registry.promote, pair[turn % 2])

    await asyncio.gather(promote(), *(run(seed) for seed in range(clients)))
    return seen


async def flood(client: Client, count: int, rate: float, home: Path) -> dict[str, Any]:
    """Sends ever new descriptions beside a client of known tasks."""
    known = [f"task-{number}" for number in range(TASKS)]
    quiet = Seen()
    for number in range(200):
        await timed(client, known[number % TASKS], quiet)
    before = memory_mb()
    fresh = Seen()

    async def one(number: int) -> None:
        text = f"hyperplug:{description(10_000 + number)}"
        response = await crowd.ask(text, INPUTS[0], min_score=1.0)
        fresh.statuses[response.status_code] += 1
        if response.status_code == 429 and "retry-after" not in response.headers:
            fresh.wrong.append("429 without Retry-After")

    started = time.monotonic()
    watching = asyncio.create_task(watched(client, known))
    # A queue for connections would take the client longer than the server takes for requests.
    unlimited = httpx.Limits(max_connections=None)
    async with (
        httpx.AsyncClient(base_url=client.base_url, timeout=600, limits=unlimited) as http,
        asyncio.TaskGroup() as senders,
    ):
        crowd = Client(http, client.base)
        for number in range(count):
            await asyncio.sleep(max(0.0, started + number / rate - time.monotonic()))
            senders.create_task(one(number))
    seconds = time.monotonic() - started
    beside = await stopped(watching)
    served = fresh.statuses[200] / seconds
    watching = asyncio.create_task(watched(client, known))
    other = Seen()
    async with asyncio.TaskGroup() as senders:
        for number in range(round(served * _CONTROL_SECONDS)):
            await asyncio.sleep(1 / served)
            senders.create_task(timed(client, known[number % TASKS], other))
    control = await stopped(watching)
    folders = [path for path in (home / "library").glob("*/*@*") if path.is_dir()]
    return {
        "limits": LIMITS,
        "sent": count,
        "sent_per_second": rate,
        "seconds": round(seconds, 1),
        "statuses": dict(fresh.statuses),
        "without_retry_after": len(fresh.wrong),
        "folders": len(folders),
        "folders_at_most": FOLDERS_AT_MOST,
        "memory_mb_before": before,
        "memory_mb_after": memory_mb(),
        "known_ms": {
            "alone": quantiles(quiet),
            "beside_as_many_known": quantiles(control),
            "beside_the_flood": quantiles(beside),
        },
        "known_statuses": dict(beside.statuses),
    }


async def watched(client: Client, known: Sequence[str]) -> Seen:
    """Asks for known tasks, one after another, until `stopped` says so."""
    seen = Seen()
    with contextlib.suppress(asyncio.CancelledError):
        for number in itertools.count():
            await timed(client, known[number % TASKS], seen)
    return seen


async def stopped(watching: asyncio.Task[Seen]) -> Seen:
    """Returns what a watch saw."""
    watching.cancel()
    return await watching


async def timed(client: Client, model: str, seen: Seen) -> None:
    """Asks, and notes how long it took."""
    started = time.perf_counter()
    response = await client.ask(model, INPUTS[0])
    seen.seconds.append(time.perf_counter() - started)
    seen.statuses[response.status_code] += 1


def quantiles(seen: Seen) -> dict[str, float]:
    """Returns the median and the 99th percentile in milliseconds."""
    return {
        name: round(float(np.quantile(seen.seconds, share)) * 1000, 1)
        for name, share in (("p50", 0.5), ("p99", 0.99))
    }


def memory_mb() -> int:
    """Returns what the server and its engine hold: all processes under this one."""
    total = 0.0
    waiting = children(os.getpid())
    while waiting:
        pid = waiting.pop()
        waiting += children(pid)
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        total += sum(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))
    return round(total)


def children(pid: int) -> list[int]:
    """Returns the processes that this one started."""
    threads = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for thread in threads for child in thread.read_text().split()]


def prepare(settings: Settings) -> None:
    """Registers the tasks; two of them have two versions to be promoted."""
    with open_registry(settings=settings) as registry:
        drafts = [TaskDraft(name=f"task-{n}", description=description(n)) for n in range(TASKS)]
        list(registry.register_tasks(drafts, check=False))
        for number in range(2):
            name = f"task-{number}"
            registry.promote(registry.get_adapter(name).name, alias="first")
            registry.update_task(name, description=f"{description(number)} Use capitals.")
            registry.promote(registry.get_adapter(name).name, alias="second")


@click.command()
@click.option("--minutes", default=10.0, show_default=True)
@click.option("--clients", default=32, show_default=True)
@click.option("--flood", "flooding", default=20_000, show_default=True)
@click.option("--rate", default=50.0, show_default=True, help="Of the flood, a second.")
@click.option("--part", "parts", type=click.Choice(PARTS), multiple=True, default=PARTS)
@click.option("--json", "out", type=click.Path(path_type=Path))
def main(
    minutes: float,
    clients: int,
    flooding: int,
    rate: float,
    parts: tuple[str, ...],
    out: Path | None,
) -> None:
    """Prints what was seen as JSON."""
    with tempfile.TemporaryDirectory(prefix="hyperplug-soak-") as folder:
        home = Path(folder)
        settings = load_settings(home=home)
        prepare(settings)
        arguments = ["--max-model-len", "512", "--dtype", "float32", "--max-loras", "8"]
        arguments += ["--max-cpu-loras", "32"]
        for name, value in LIMITS.items():
            arguments += [f"--additional-config.hyperplug.{name}", str(value)]
        with launch(None, arguments, settings=settings, log=home / "server.log") as server:
            result = asyncio.run(
                measure(
                    server,
                    settings,
                    minutes=minutes,
                    clients=clients,
                    flooding=flooding,
                    rate=rate,
                    parts=parts,
                )
            )
    standing = json.loads(out.read_text()) if out is not None and out.is_file() else {}
    result = {part: result.get(part, standing.get(part)) for part in PARTS} | {
        "hardware": hardware(torch.device("cuda" if torch.cuda.is_available() else "cpu")),
        "versions": versions(),
    }
    text = json.dumps(result, indent=2)
    click.echo(text)
    if out is not None:
        out.write_text(f"{text}\n", encoding="utf-8")


async def measure(
    server: ServerProcess,
    settings: Settings,
    *,
    minutes: float,
    clients: int,
    flooding: int,
    rate: float,
    parts: Sequence[str],
) -> dict[str, Any]:
    """Returns the figures of each part."""
    limits = httpx.Limits(max_connections=clients + 16)
    async with httpx.AsyncClient(base_url=server.base_url, timeout=600, limits=limits) as http:
        client = Client(http, server.base_name)
        found: dict[str, Any] = {}
        if "mixed" in parts:
            found["mixed"] = await steady(client, settings, minutes=minutes, clients=clients)
        if "flood" in parts:
            found["flood"] = await flood(client, flooding, rate, settings.home)
        return found


async def steady(
    client: Client, settings: Settings, *, minutes: float, clients: int
) -> dict[str, Any]:
    """Returns what came of the clients that ask at random."""
    models = [
        *(f"task-{number}" for number in range(TASKS)),
        *(f"hyperplug:{description(100 + number)}" for number in range(4)),
        client.base,
    ]
    with open_registry(settings=settings) as registry:
        seen = await mixed(client, registry, models, clients=clients, seconds=60 * minutes)
    return {
        "minutes": minutes,
        "clients": clients,
        "answers": seen.answers,
        "statuses": dict(seen.statuses),
        "wrong": len(seen.wrong),
        "examples_of_wrong": seen.wrong[:5],
        "memory_mb": memory_mb(),
    }


if __name__ == "__main__":
    main()

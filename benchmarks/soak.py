"""A real vLLM server under load for minutes: is every answer right, is everything bounded?

    python benchmarks/soak.py [--minutes 10] [--clients 32] [--flood 20000] [--rate 50] [--json OUT]

First each task is asked alone, at temperature 0. Then so many clients ask at random, for known
tasks, described ones and the base model, while others promote versions back and forth: every
answer has to be the one that its adapter gave alone. Then so many descriptions a second are sent
that no registered task may serve, all of them new, beside one client of known tasks: memory,
folders and that client's latency have to stay where they were, and what is refused has to be
told when to come again.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import httpx
import numpy as np
import torch
from hyperplug_vllm.process import ServerProcess, launch

from hyperplug.config import Settings, load_settings
from hyperplug.entities import TaskDraft
from hyperplug.evaluation.machine import hardware, versions
from hyperplug.registry import Registry, open_registry

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
NOVEL_PER_MINUTE = 30

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
    beside, fresh = Seen(), Seen()
    running = True

    async def watch() -> None:
        number = 0
        while running:
            number += 1
            await timed(client, known[number % TASKS], beside)

    async def one(number: int) -> None:
        await asyncio.sleep(started + number / rate - time.monotonic())
        text = f"hyperplug:{description(10_000 + number)}"
        response = await client.ask(text, INPUTS[0], min_score=1.0)
        fresh.statuses[response.status_code] += 1
        if response.status_code == 429 and "retry-after" not in response.headers:
            fresh.wrong.append("429 without Retry-After")

    started = time.monotonic()
    watching = asyncio.create_task(watch())
    await asyncio.gather(*(one(number) for number in range(count)))
    seconds = time.monotonic() - started
    running = False
    await watching
    folders = [path for path in (home / "library").glob("*/*@*") if path.is_dir()]
    return {
        "sent": count,
        "sent_per_second": rate,
        "seconds": round(seconds, 1),
        "statuses": dict(fresh.statuses),
        "without_retry_after": len(fresh.wrong),
        "folders": len(folders),
        "folders_at_most": MAX_FOLDERS,
        "memory_mb_before": before,
        "memory_mb_after": memory_mb(),
        "known_p99_ms": {"quiet": p99(quiet), "beside": p99(beside)},
        "known_statuses": dict(beside.statuses),
    }


async def timed(client: Client, model: str, seen: Seen) -> None:
    """Asks, and notes how long it took."""
    started = time.perf_counter()
    response = await client.ask(model, INPUTS[0])
    seen.seconds.append(time.perf_counter() - started)
    seen.statuses[response.status_code] += 1


def p99(seen: Seen) -> float:
    """Returns the 99th percentile in milliseconds."""
    return round(float(np.quantile(seen.seconds, 0.99)) * 1000, 1)


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
@click.option("--json", "out", type=click.Path(path_type=Path))
def main(minutes: float, clients: int, flooding: int, rate: float, out: Path | None) -> None:
    """Prints what was seen as JSON."""
    with tempfile.TemporaryDirectory(prefix="hyperplug-soak-") as folder:
        home = Path(folder)
        settings = load_settings(home=home)
        prepare(settings)
        limits = {
            "max_folders": MAX_FOLDERS,
            "max_live": MAX_LIVE,
            "novel_per_minute": NOVEL_PER_MINUTE,
        }
        arguments = ["--max-model-len", "512", "--dtype", "float32", "--max-loras", "8"]
        arguments += ["--max-cpu-loras", "32"]
        for name, value in limits.items():
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
                )
            )
    result |= {
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
) -> dict[str, Any]:
    """Returns all figures."""
    limits = httpx.Limits(max_connections=clients + 16)
    async with httpx.AsyncClient(base_url=server.base_url, timeout=600, limits=limits) as http:
        client = Client(http, server.base_name)
        models = [
            *(f"task-{number}" for number in range(TASKS)),
            *(f"hyperplug:{description(100 + number)}" for number in range(4)),
            client.base,
        ]
        with open_registry(settings=settings) as registry:
            seen = await mixed(client, registry, models, clients=clients, seconds=60 * minutes)
        result: Mapping[str, Any] = {
            "minutes": minutes,
            "clients": clients,
            "answers": seen.answers,
            "statuses": dict(seen.statuses),
            "wrong": len(seen.wrong),
            "examples_of_wrong": seen.wrong[:5],
            "memory_mb": memory_mb(),
        }
        return {
            "mixed": result,
            "flood": await flood(client, flooding, rate, settings.home),
        }


if __name__ == "__main__":
    main()

"""What hyperplug costs a real vLLM server: against static adapters, and for what is new.

    python benchmarks/serving.py [--requests 200] [--adapters 16] [--json OUT] [--plots DIR]

One server has the same adapters twice: statically, by --lora-modules, and through hyperplug.
Requests go to both in turn, so that every ratio is between neighbours in time. Times are
client-side, of non-streamed requests for one token unless said otherwise.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import httpx
import numpy as np
import torch
from hyperplug_vllm.process import ServerProcess, launch

from hyperplug.config import load_settings
from hyperplug.entities import TaskDraft
from hyperplug.evaluation.machine import hardware, versions
from hyperplug.registry import Registry, open_registry

PROMPT = "The plot is thin and the jokes fall flat. I left before the end of it."
SUBJECTS = ("hotel", "film", "book", "phone", "recipe", "song", "course", "game")
QUALITIES = ("good or bad", "long or short", "old or new", "cheap or dear", "calm or loud")


def description(number: int) -> str:
    """Returns the description of a task unlike all others."""
    subject, quality = SUBJECTS[number % 8], QUALITIES[number // 8 % 5]
    return f"Say whether the {subject} in review {number} is {quality}. Answer with one word."


class Client:
    """Asks one server."""

    def __init__(self, server: ServerProcess, http: httpx.AsyncClient) -> None:
        self.base = server.base_name
        self._http = http

    async def ask(self, model: str, *, tokens: int = 1, **body: Any) -> httpx.Response:
        """Returns an answer. Raises on any error."""
        content = {
            "model": model,
            "messages": [{"role": "user", "content": PROMPT}],
            "max_tokens": tokens,
            "temperature": 0,
            "ignore_eos": True,
            **body,
        }
        response = await self._http.post("/v1/chat/completions", json=content)
        response.raise_for_status()
        return response

    async def seconds(self, model: str, **body: Any) -> float:
        """Returns how long an answer takes."""
        started = time.perf_counter()
        await self.ask(model, **body)
        return time.perf_counter() - started

    async def gaps(self, model: str, *, tokens: int) -> list[float]:
        """Returns the milliseconds between the tokens of a stream."""
        times: list[float] = []
        content = {
            "model": model,
            "messages": [{"role": "user", "content": PROMPT}],
            "max_tokens": tokens,
            "stream": True,
            "ignore_eos": True,
        }
        async with self._http.stream("POST", "/v1/chat/completions", json=content) as response:
            async for line in response.aiter_lines():
                if line.startswith("data: {"):
                    times.append(time.perf_counter())
        return [float(gap * 1000) for gap in np.diff(times)]


@click.command()
@click.option("--requests", default=200, show_default=True, help="Of each kind.")
@click.option("--adapters", default=16, show_default=True)
@click.option("--json", "out", type=click.Path(path_type=Path))
@click.option("--plots", type=click.Path(path_type=Path))
@click.option("--seed", default=0, show_default=True)
def main(requests: int, adapters: int, out: Path | None, plots: Path | None, seed: int) -> None:
    """Prints the figures as JSON."""
    with tempfile.TemporaryDirectory(prefix="hyperplug-benchmark-") as home:
        settings = load_settings(home=home)
        with open_registry(settings=settings) as registry:
            static = prepare(registry, adapters, Path(home))
            arguments = ["--max-model-len", "512", "--max-loras", str(adapters)]
            arguments += ["--max-cpu-loras", str(4 * adapters), "--lora-modules", *static]
            log = Path(home) / "server.log"
            with launch(None, arguments, settings=settings, log=log) as server:
                result = asyncio.run(measure(server, registry, requests, adapters, seed))
    result["hardware"] = hardware(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    result["versions"] = versions()
    shown = json.dumps(result, indent=2)
    click.echo(shown)
    if out is not None:
        out.write_text(f"{shown}\n")
    if plots is not None:
        draw(result, plots)


def prepare(registry: Registry, count: int, home: Path) -> list[str]:
    """Registers tasks and returns their adapters as --lora-modules takes them."""
    drafts = [TaskDraft(name=f"task-{n}", description=description(n)) for n in range(2 * count)]
    made = list(registry.register_tasks(drafts, check=False))
    static = []
    for outcome in made[:count]:
        assert outcome.adapter is not None and outcome.adapter.path is not None
        folder = registry.export(outcome.adapter.name, home / "static" / outcome.draft.name)
        static.append(f"static-{outcome.draft.name}={folder}")
    return static


async def measure(
    server: ServerProcess, registry: Registry, requests: int, adapters: int, seed: int
) -> dict[str, Any]:
    """Returns all figures."""
    limits = httpx.Limits(max_connections=64)
    async with httpx.AsyncClient(base_url=server.base_url, timeout=300, limits=limits) as http:
        client = Client(server, http)
        for number in range(adapters):
            await client.ask(f"task-{number}")
            await client.ask(f"static-task-{number}")
        await client.ask(client.base)
        return {
            "adapters": adapters,
            "requests": requests,
            "warm": await warm(client, requests, adapters),
            "not_loaded": await not_loaded(client, adapters),
            "novel": await novel(client, adapters),
            "resolution": await resolution(client, adapters),
            "throughput": await throughput(client, requests, adapters),
            "popularity": await popularity(client, requests, adapters, seed),
            "stall": await stall(client, registry),
        }


async def warm(client: Client, requests: int, adapters: int) -> dict[str, Any]:
    """Requests for loaded adapters, through us and static, and for the base, in turn."""
    times: dict[str, list[float]] = {"ours": [], "static": [], "base": []}
    for number in range(requests):
        name = f"task-{number % adapters}"
        for kind, model in (("ours", name), ("static", f"static-{name}"), ("base", client.base)):
            times[kind].append(1000 * await client.seconds(model))
    shown = {kind: quantiles(values) for kind, values in times.items()}
    return {
        **shown,
        "added_p50_ms": round(shown["ours"]["p50_ms"] - shown["static"]["p50_ms"], 2),
        "added_p99_ms": round(shown["ours"]["p99_ms"] - shown["static"]["p99_ms"], 2),
    }


async def not_loaded(client: Client, adapters: int) -> dict[str, Any]:
    """Known tasks whose adapters no request has asked for yet, each beside a warm one."""
    cold, hot, load = [], [], []
    for number in range(adapters, 2 * adapters):
        started = time.perf_counter()
        response = await client.ask(f"task-{number}")
        cold.append(1000 * (time.perf_counter() - started))
        load.append(timings(response)["load"])
        hot.append(1000 * await client.seconds(f"task-{number}"))
    extra = statistics.median(cold) - statistics.median(hot)
    return {
        "extra_p50_ms": round(extra, 1),
        "vllm_load_p50_ms": round(statistics.median(load), 1),
        "ratio_to_load": round(extra / statistics.median(load), 2),
    }


async def novel(client: Client, adapters: int, count: int = 12) -> dict[str, Any]:
    """Descriptions that nobody has registered, each beside a warm task."""
    fresh, hot, steps = [], [], []
    for number in range(count):
        text = f"hyperplug:{description(1000 + number)}"
        options = {"hyperplug": {"min_score": 1.0}}
        started = time.perf_counter()
        response = await client.ask(text, **options)
        fresh.append(1000 * (time.perf_counter() - started))
        steps.append(timings(response))
        hot.append(1000 * await client.seconds(f"task-{number % adapters}"))
    return {
        "extra_p50_ms": round(statistics.median(fresh) - statistics.median(hot), 1),
        "steps_p50_ms": {
            key: round(statistics.median(step[key] for step in steps), 1) for key in steps[0]
        },
    }


async def resolution(client: Client, adapters: int) -> dict[str, Any]:
    """Resolution alone, as the server's own clock has it."""
    named, described = [], []
    for number in range(40):
        response = await client.ask(f"task-{number % adapters}")
        named.append(sum(timings(response).values()))
        text = description(number % adapters).replace("Answer", "Please answer")
        response = await client.ask(f"hyperplug:{text}", hyperplug={"on_novel": "nearest"})
        described.append(sum(timings(response).values()))
    return {"by_name_p50_ms": quantiles(named)["p50_ms"], "by_text": quantiles(described)}


async def throughput(client: Client, requests: int, adapters: int) -> dict[str, Any]:
    """Tokens a second with 16 requests at once, through us and static, in turn."""
    rates: dict[str, list[float]] = {"ours": [], "static": []}
    for _ in range(3):
        for kind, prefix in (("ours", ""), ("static", "static-")):
            names = [f"{prefix}task-{n % adapters}" for n in range(max(32, requests // 2))]
            rates[kind].append(await rate(client, names))
    medians = {kind: statistics.median(values) for kind, values in rates.items()}
    return {
        "tokens_per_second": {kind: round(value, 1) for kind, value in medians.items()},
        "ratio": round(medians["ours"] / medians["static"], 3),
    }


async def popularity(client: Client, requests: int, adapters: int, seed: int) -> dict[str, Any]:
    """Tokens a second over twice as many tasks as slots: equally popular, and by Zipf's law."""
    random = np.random.default_rng(seed)
    count = 2 * adapters
    weights = 1 / np.arange(1, count + 1)
    result = {}
    for law, chances in (("uniform", None), ("zipf", weights / weights.sum())):
        chosen = random.choice(count, size=max(32, requests // 2), p=chances)
        result[law] = round(await rate(client, [f"task-{n}" for n in chosen]), 1)
    return {"tasks": count, "tokens_per_second": result}


async def rate(
    client: Client, names: Sequence[str], *, tokens: int = 16, at_once: int = 16
) -> float:
    """Returns tokens a second, so many requests at once."""
    gate = asyncio.Semaphore(at_once)

    async def one(name: str) -> None:
        async with gate:
            await client.ask(name, tokens=tokens)

    started = time.perf_counter()
    await asyncio.gather(*(one(name) for name in names))
    return tokens * len(names) / (time.perf_counter() - started)


async def stall(client: Client, registry: Registry) -> dict[str, Any]:
    """The longest pause of a running stream while adapters are loaded, and without."""
    await client.gaps(client.base, tokens=64)
    quiet = await client.gaps(client.base, tokens=128)
    drafts = [TaskDraft(name=f"stall-{n}", description=description(2000 + n)) for n in range(4)]
    names = [o.draft.name for o in registry.register_tasks(drafts, check=False)]

    async def load() -> None:
        for name in names:
            await asyncio.sleep(0.2)
            await client.ask(name)

    busy, _ = await asyncio.gather(client.gaps(client.base, tokens=128), load())
    return {
        "quiet": {**quantiles(quiet), "longest_ms": round(max(quiet), 1)},
        "while_loading": {**quantiles(busy), "longest_ms": round(max(busy), 1)},
    }


def timings(response: httpx.Response) -> dict[str, float]:
    """Returns the milliseconds of each step that a response tells."""
    steps = (step.partition(";dur=") for step in response.headers["x-hyperplug-timing"].split(", "))
    return {name: float(value) for name, _, value in steps}


def quantiles(values: Sequence[float]) -> dict[str, float]:
    """Returns median and 99th percentile."""
    return {
        "p50_ms": round(float(np.quantile(values, 0.5)), 2),
        "p99_ms": round(float(np.quantile(values, 0.99)), 2),
    }


def draw(result: dict[str, Any], folder: Path) -> None:
    """Draws the latencies."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    folder.mkdir(parents=True, exist_ok=True)
    warm_times = result["warm"]
    bars = {
        "base": warm_times["base"]["p50_ms"],
        "static adapter": warm_times["static"]["p50_ms"],
        "through hyperplug": warm_times["ours"]["p50_ms"],
        "known, not loaded": warm_times["ours"]["p50_ms"] + result["not_loaded"]["extra_p50_ms"],
        "novel": warm_times["ours"]["p50_ms"] + result["novel"]["extra_p50_ms"],
    }
    figure, axis = pyplot.subplots(figsize=(7, 3))
    axis.barh(list(bars), list(bars.values()), color="#4c72b0")
    axis.invert_yaxis()
    axis.set(xlabel="milliseconds to the first token, median")
    for position, value in enumerate(bars.values()):
        axis.text(value, position, f" {value:.0f}", va="center")
    figure.tight_layout()
    figure.savefig(folder / "serving.png", dpi=120)
    pyplot.close(figure)


if __name__ == "__main__":
    main()

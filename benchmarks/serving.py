"""What hyperplug costs a real vLLM server: against static adapters, and for what is new.

    python benchmarks/serving.py [--requests 200] [--adapters 16] [--json OUT] [--plots DIR]

One server has the same adapters twice: statically, by --lora-modules, and through hyperplug.
Requests go to both in turn, so that every ratio is between neighbours in time. A second server,
vLLM without hyperplug, loads the same folders by its own route. Times are client-side, of
non-streamed requests for one token unless said otherwise. No two prompts are alike, so that
none is in the prefix cache.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import httpx
import numpy as np
import torch
from hyperplug_vllm.process import ServerProcess
from hyperplug_vllm.serve import Launch, plan

from hyperplug.config import load_settings
from hyperplug.entities import TaskDraft
from hyperplug.evaluation.machine import hardware, versions
from hyperplug.registry import Registry, open_registry

PROMPT = "The plot is thin and the jokes fall flat. I left before the end of it."
# vLLM's processes poll for a second after they have worked, on threads that the other one needs.
_QUIET_SECONDS = 3.0
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
        self._asked = 0

    async def ask(self, model: str, *, tokens: int = 1, **body: Any) -> httpx.Response:
        """Returns an answer. Raises on any error."""
        self._asked += 1
        content = {
            "model": model,
            "messages": [{"role": "user", "content": f"{self._asked}. {PROMPT}"}],
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

    async def load(self, name: str, folder: Path) -> None:
        """Loads an adapter by vLLM's own route. Raises on any error."""
        content = {"lora_name": name, "lora_path": str(folder)}
        (await self._http.post("/v1/load_lora_adapter", json=content)).raise_for_status()

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
@click.option("--only", multiple=True, help="Part to measure; repeatable.")
def main(
    requests: int,
    adapters: int,
    out: Path | None,
    plots: Path | None,
    seed: int,
    only: tuple[str, ...],
) -> None:
    """Prints the figures as JSON."""
    with tempfile.TemporaryDirectory(prefix="hyperplug-benchmark-") as home:
        settings = load_settings(home=home)
        with open_registry(settings=settings) as registry:
            folders = prepare(registry, 2 * adapters, Path(home))
            arguments = ["--max-model-len", "512", "--max-loras", str(adapters)]
            arguments += ["--max-cpu-loras", str(4 * adapters)]
            modules = [f"static-{name}={folders[name]}" for name in list(folders)[:adapters]]
            planned = plan(None, [*arguments, "--lora-modules", *modules], settings=settings)
            with (
                ServerProcess(planned, log=Path(home) / "server.log") as server,
                ServerProcess(bare(planned), log=Path(home) / "bare.log") as other,
            ):
                servers = Servers(ours=server, bare=other)
                run = Run(requests, adapters, folders, seed, parts=only)
                result = asyncio.run(measure(servers, registry, run))
    result["hardware"] = hardware(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    result["versions"] = versions()
    shown = json.dumps(result, indent=2)
    click.echo(shown)
    if out is not None:
        out.write_text(f"{shown}\n")
    if plots is not None:
        draw(result, plots)


@dataclass(frozen=True, slots=True)
class Servers:
    """The server with hyperplug, and one without."""

    ours: ServerProcess
    bare: ServerProcess


@dataclass(frozen=True, slots=True)
class Run:
    """How much is measured; `folders` has the adapters of all tasks by name, no `parts` are all."""

    requests: int
    adapters: int
    folders: Mapping[str, Path]
    seed: int
    parts: Sequence[str] = ()


def prepare(registry: Registry, count: int, home: Path) -> dict[str, Path]:
    """Registers tasks and returns the folders of their adapters by the tasks' names."""
    drafts = [TaskDraft(name=f"task-{n}", description=description(n)) for n in range(count)]
    folders = {}
    for outcome in registry.register_tasks(drafts, check=False):
        assert outcome.adapter is not None
        folder = home / "static" / outcome.draft.name
        folders[outcome.draft.name] = registry.export(outcome.adapter.name, folder)
    return folders


def bare(planned: Launch) -> Launch:
    """Returns the same server without any plugin, and with vLLM's own route for loading."""
    environment = {**planned.environment, "VLLM_PLUGINS": ""}
    environment["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "True"
    cut = planned.command.index("--lora-modules")
    return replace(planned, command=planned.command[:cut], environment=environment)


async def measure(servers: Servers, registry: Registry, run: Run) -> dict[str, Any]:
    """Returns all figures."""
    limits = httpx.Limits(max_connections=64)
    async with (
        httpx.AsyncClient(base_url=servers.ours.base_url, timeout=300, limits=limits) as http,
        httpx.AsyncClient(base_url=servers.bare.base_url, timeout=300) as bare_http,
    ):
        client, other = Client(servers.ours, http), Client(servers.bare, bare_http)
        for number in range(run.adapters):
            await client.ask(f"task-{number}")
            await client.ask(f"static-task-{number}")
        await client.ask(client.base)
        parts: dict[str, Callable[[], Awaitable[dict[str, Any]]]] = {
            "warm": lambda: warm(client, run.requests, run.adapters),
            "throughput": lambda: throughput(client, run.requests, run.adapters),
            "not_loaded": lambda: not_loaded(client, other, run),
            "novel": lambda: novel(client, run.adapters),
            "resolution": lambda: resolution(client, run.adapters),
            "popularity": lambda: popularity(client, run.requests, run.adapters, run.seed),
            "stall": lambda: stall(client, registry),
        }
        found: dict[str, Any] = {"adapters": run.adapters, "requests": run.requests}
        for name in run.parts or parts:
            click.echo(name, err=True)
            found[name] = await parts[name]()
        return found


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


async def not_loaded(client: Client, other: Client, run: Run) -> dict[str, Any]:
    """Known tasks that no request has asked for yet, and vLLM's own loading of the same folders.

    Each is followed by a request for what is loaded by then: the difference is what loading
    costs, the route and vLLM's first use of it included.
    """
    names = [f"task-{number}" for number in range(run.adapters, 2 * run.adapters)]
    ours, alone, steps = [], [], []
    for name in names:
        started = time.perf_counter()
        response = await client.ask(name)
        cold = time.perf_counter() - started
        steps.append(timings(response))
        ours.append(1000 * (cold - await client.seconds(name)))
    await asyncio.sleep(_QUIET_SECONDS)
    await other.load("first", run.folders["task-0"])
    await other.ask("first")
    for name in names:
        started = time.perf_counter()
        await other.load(name, run.folders[name])
        await other.ask(name)
        cold = time.perf_counter() - started
        alone.append(1000 * (cold - await other.seconds(name)))
    await asyncio.sleep(_QUIET_SECONDS)
    extra, bare_extra = statistics.median(ours), statistics.median(alone)
    return {
        "extra_p50_ms": round(extra, 1),
        "bare_vllm_extra_p50_ms": round(bare_extra, 1),
        "ratio_to_bare_vllm": round(extra / bare_extra, 2),
        "steps_p50_ms": medians(steps),
    }


async def novel(client: Client, adapters: int, count: int = 12) -> dict[str, Any]:
    """Descriptions that nobody has registered, each beside a warm task."""
    fresh, hot, steps = [], [], []
    for number in range(count):
        text = f"hyperplug:{description(1000 + number)}"
        started = time.perf_counter()
        response = await client.ask(text, hyperplug={"min_score": 1.0})
        fresh.append(1000 * (time.perf_counter() - started))
        steps.append(timings(response))
        hot.append(1000 * await client.seconds(f"task-{number % adapters}"))
    return {
        "extra_p50_ms": round(statistics.median(fresh) - statistics.median(hot), 1),
        "steps_p50_ms": medians(steps),
    }


async def resolution(client: Client, adapters: int) -> dict[str, Any]:
    """Resolution alone, as the server's own clock has it: by name, by new text, by known text."""
    times: dict[str, list[float]] = {"by_name": [], "by_new_text": [], "by_known_text": []}
    for number in range(40):
        name = f"task-{number % adapters}"
        times["by_name"].append(sum(timings(await client.ask(name)).values()))
        text = f"hyperplug:{description(number % adapters)} Thank you, number {number}."
        for kind in ("by_new_text", "by_known_text"):
            response = await client.ask(text, hyperplug={"on_novel": "nearest"})
            steps = timings(response)
            times[kind].append(sum(steps.values()) - steps["load"])
    return {kind: quantiles(values) for kind, values in times.items()}


async def throughput(client: Client, requests: int, adapters: int) -> dict[str, Any]:
    """Tokens a second with 16 requests at once, through us and static, in turn."""
    rates: dict[str, list[float]] = {"ours": [], "static": []}
    for turn in range(4):
        kinds = [("ours", ""), ("static", "static-")]
        for kind, prefix in kinds if turn % 2 else reversed(kinds):
            names = [f"{prefix}task-{n % adapters}" for n in range(max(32, requests // 2))]
            rates[kind].append(await rate(client, names))
    middle = {kind: statistics.median(values) for kind, values in rates.items()}
    return {
        "tokens_per_second": {kind: round(value, 1) for kind, value in middle.items()},
        "rounds": {kind: [round(value, 1) for value in values] for kind, values in rates.items()},
        "ratio": round(middle["ours"] / middle["static"], 3),
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


def medians(steps: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Returns the median of each step, in milliseconds."""
    return {key: round(statistics.median(step[key] for step in steps), 1) for key in steps[0]}


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
    axis.margins(x=0.1)
    for position, value in enumerate(bars.values()):
        axis.text(value, position, f" {value:.0f}", va="center")
    figure.tight_layout()
    figure.savefig(folder / "serving.png", dpi=120)
    pyplot.close(figure)


if __name__ == "__main__":
    main()

"""Ways to adapt a model to a new task, side by side: what each brings and what it costs.

    python benchmarks/rivals.py --tasks CORPUS --out DIR --static FILE [--json OUT] [--plot OUT.png]

CORPUS has train and test tasks. The starts of MAML and Reptile are trained on the former; all
ways then answer the same questions of some of the latter. Those that train on a task take 20
steps on 8 examples, from scratch up to 80. --static is a LoRA of all training tasks
(`benchmarks/arms.py` makes one). What always answers is also asked simple questions that are no
task: they show what is left of the base model's own knowledge. The time to the first token is
the base model's for a prompt as long as the way's.
The stages are processes of the `hyperplug` command: what is done is not done again.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch

from hyperplug.basemodel import resolve_base
from hyperplug.config import load_settings
from hyperplug.evaluation.stages import run
from hyperplug.hypernet.loading import load_frozen, pick_device, pick_dtype
from hyperplug.registry import open_registry

STARTS = ("maml", "reptile")
_MIB = 2**20
_ROUNDS = 10


@dataclass(frozen=True, slots=True)
class Way:
    """A way to adapt.

    Attributes:
        label: in tables and plots.
        examples: of the task that it needs.
        stores: what it keeps for each task: "text", "adapter" or "nothing".
        adapted: whether an adapter is applied.
    """

    label: str
    examples: int
    stores: str
    adapted: bool = True


WAYS = {
    "base": Way("base model, input alone", 0, "nothing", adapted=False),
    "prompt": Way("say it in the prompt", 0, "text", adapted=False),
    "shots-8": Way("show 8 examples in the prompt", 8, "text", adapted=False),
    "rag": Way("RAG: retrieve 4 of 64 examples into the prompt", 64, "text", adapted=False),
    "full-sequential": Way("fine-tune all weights, task by task", 8, "nothing", adapted=False),
    "lora-sequential": Way("fine-tune one LoRA, task by task", 8, "nothing"),
    "lora": Way("fine-tune a LoRA of the task's own", 8, "adapter"),
    "static": Way("one LoRA for all tasks", 0, "nothing"),
    "static-refined": Way("one LoRA for all tasks, refined", 8, "adapter"),
    "reptile": Way("Reptile, refined", 8, "adapter"),
    "maml": Way("first-order MAML, refined", 8, "adapter"),
    "hypernet": Way("generate an adapter", 0, "adapter"),
    "hypernet-both": Way("generate an adapter from examples too", 8, "adapter"),
    "refined": Way("generate it from examples and refine it", 8, "adapter"),
}

_PATH = click.Path(path_type=Path)


@click.command()
@click.option("--tasks", type=_PATH, required=True)
@click.option("--out", type=_PATH, required=True, help="For what is done.")
@click.option("--static", type=_PATH, required=True, help="A LoRA of all training tasks.")
@click.option("--limit-tasks", default=22, show_default=True)
@click.option("--limit-examples", default=5, show_default=True, help="To be asked.")
@click.option(
    "--start-steps", default=200, show_default=True, help="Of MAML's and Reptile's start."
)
@click.option("--without", multiple=True, type=click.Choice(tuple(WAYS)), help="Leave out.")
@click.option("--seed", default=0, show_default=True)
@click.option("--json", "result", type=_PATH)
@click.option("--plot", type=_PATH)
def main(
    tasks: Path,
    out: Path,
    static: Path,
    limit_tasks: int,
    limit_examples: int,
    start_steps: int,
    without: tuple[str, ...],
    seed: int,
    result: Path | None,
    plot: Path | None,
) -> None:
    """Prints the table as Markdown."""
    out.mkdir(parents=True, exist_ok=True)
    ways = [name for name in WAYS if name not in without]
    starts = {name: out / f"{name}.safetensors" for name in STARTS if name in ways}
    for name, file in starts.items():
        if not file.is_file():
            run(
                *("train-start", "--method", name, "--tasks", tasks, "--out", file),
                *("--steps", start_steps, "--seed", seed),
            )
    table = out / "rivals.json"
    if not table.is_file():
        run(
            *("evaluate", "--tasks", tasks, "--arms", ",".join(ways), "--static", static),
            *(part for name, file in starts.items() for part in (f"--{name}", file)),
            *("--limit-tasks", limit_tasks, "--limit-examples", limit_examples, "--seed", seed),
            *("--dtype", "auto", "--json", table, "--answers", out / "rivals.jsonl", "--unrelated"),
        )
    measured = json.loads(table.read_text())
    rows = {name: row(name, measured["arms"], measured["unrelated"]) for name in ways}
    lengths = {name: measured["arms"][name]["prompt_tokens"] for name in ways}
    for name, milliseconds in first_tokens(lengths).items():
        rows[name]["first_token_ms"] = milliseconds
    kept = ("tasks", "families", "examples_total", "seed", "hardware", "versions", "settings")
    content = {"ways": rows} | {key: measured[key] for key in kept}
    if result is not None:
        result.write_text(f"{json.dumps(content, indent=1)}\n", encoding="utf-8")
    if plot is not None:
        draw(rows, plot)
    click.echo(markdown(rows))


def row(
    name: str, arms: Mapping[str, Mapping[str, Any]], unrelated: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns what a way brings and costs.

    Whatever has adapters for tasks alone leaves other requests to the base model as it is.
    """
    way, arm = WAYS[name], arms[name]
    tokens = arm["prompt_tokens"] - arms["base"]["prompt_tokens"]
    return {
        "score": arm["family_mean"],
        "low": arm["low"],
        "high": arm["high"],
        "examples": way.examples,
        "seconds_to_adapt": arm.get("adapt_seconds", 0.0),
        "prompt_tokens_more": round(tokens, 1),
        "stored": way.stores,
        "own_knowledge": unrelated["standing"].get(name, unrelated["base"]),
    }


def first_tokens(lengths: Mapping[str, float]) -> dict[str, float]:
    """Returns the median time in which the base model reads a prompt, in ms, by way.

    Args:
        lengths: of each way's prompts, in tokens.
    """
    settings = load_settings()
    device = pick_device("auto")
    with open_registry(settings=settings) as registry:
        generator = registry.generator
        loras = generator.loras("Answer yes or no.", ())
        frozen = load_frozen(
            resolve_base(settings.base, cache=settings.cache),
            generator.spec.target_modules,
            device=device,
            dtype=pick_dtype("auto", device),
        )
    taken: dict[str, list[float]] = {name: [] for name in lengths}
    with torch.no_grad():
        for _ in range(_ROUNDS + 1):
            for name, length in lengths.items():
                prompt = torch.ones(1, round(length), dtype=torch.long)
                started = time.perf_counter()
                hidden = frozen.adapted_hidden(
                    loras if WAYS[name].adapted else None, token_ids=prompt.to(device)
                )
                frozen.logits(hidden[:, -1]).argmax().item()
                taken[name].append(time.perf_counter() - started)
    return {name: round(1000 * statistics.median(s[1:]), 1) for name, s in taken.items()}


def adapter_bytes() -> int:
    """Returns the size of a generated adapter; LoRAs that are trained here have the same."""
    with open_registry(settings=load_settings()) as registry:
        return len(registry.generator.generate("Answer yes or no.").data)


def markdown(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns the table."""
    stored = {
        "nothing": "0",
        "text": "its text",
        "adapter": f"{adapter_bytes() / _MIB:.1f} MiB",
    }
    head = (
        "way",
        "score (95 %)",
        "examples",
        "time to adapt",
        "prompt tokens more",
        "first token",
        "a task keeps",
        "own knowledge",
    )
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name, found in rows.items():
        cells = (
            WAYS[name].label,
            f"{found['score']:.1f} ({found['low']:.1f} to {found['high']:.1f})",
            str(found["examples"]),
            duration(found["seconds_to_adapt"]),
            f"{found['prompt_tokens_more']:.0f}",
            f"{found['first_token_ms']:.0f} ms",
            stored[found["stored"]],
            f"{found['own_knowledge']:.0f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def duration(seconds: float) -> str:
    """Returns a time as people say it."""
    return f"{1000 * seconds:.0f} ms" if seconds < 1 else f"{seconds:.0f} s"


def draw(rows: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Draws score against prompt tokens, and how long each way takes to adapt."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(8, 5), layout="constrained")
    names = sorted(rows, key=lambda name: rows[name]["score"])
    values = [rows[name]["score"] for name in names]
    whiskers = [
        [rows[name]["score"] - rows[name]["low"] for name in names],
        [rows[name]["high"] - rows[name]["score"] for name in names],
    ]
    ours = {"hypernet", "hypernet-both", "refined"}
    colours = ["#1f77b4" if name in ours else "#aaaaaa" for name in names]
    axis.barh(
        [WAYS[n].label for n in names], values, xerr=whiskers, color=colours, ecolor="#555555"
    )
    for position, name in enumerate(names):
        found = rows[name]
        costs = [
            f"{found['examples']} examples" if found["examples"] else "",
            duration(found["seconds_to_adapt"]) if found["seconds_to_adapt"] else "",
            f"+{found['prompt_tokens_more']:.0f} tokens" if found["prompt_tokens_more"] > 1 else "",
        ]
        axis.text(found["high"] + 1, position, ", ".join(filter(None, costs)), va="center", size=8)
    axis.set_xlim(0, max(rows[name]["high"] for name in names) + 22)
    axis.set_xlabel("score on tasks of unseen datasets (0 to 100), 95 % interval")
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main()

"""How far a low-rank change goes: the score of tasks' own LoRAs against rank, modules and layers.

    python benchmarks/limits.py --tasks CORPUS/validation.jsonl.gz --out DIR [--json OUT]

Some tasks, of as many families, get a LoRA of their own at each size, trained on their examples:
the ceiling for whatever generates adapters of that size. Beside them: the base model, and what
the hypernetwork generates from the description. The stages are processes of the `hyperplug`
command; one whose file is there is not run again.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import click

from hyperplug.evaluation.machine import hardware, versions
from hyperplug.evaluation.stages import run
from hyperplug.hypernet.loading import pick_device

GENERATED = ("q_proj", "v_proj", "o_proj", "down_proj")
EVERY = (*GENERATED, "k_proj", "gate_proj", "up_proj")
# Rank, modules, and of the last layers how many, 0 for all; the first is what is generated.
SIZES: dict[str, tuple[int, tuple[str, ...], int]] = {
    "rank 16": (16, GENERATED, 12),
    "rank 1": (1, GENERATED, 12),
    "rank 4": (4, GENERATED, 12),
    "rank 64": (64, GENERATED, 12),
    "rank 16, query and value alone": (16, ("q_proj", "v_proj"), 12),
    "rank 16, all projections": (16, EVERY, 12),
    "rank 16, all layers": (16, GENERATED, 0),
}
BESIDE = ("base", "hypernet")


@click.command()
@click.option("--tasks", type=click.Path(path_type=Path), required=True)
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="Folder of what is done."
)
@click.option("--limit-tasks", default=22, show_default=True)
@click.option("--limit-examples", default=5, show_default=True, help="To be asked.")
@click.option("--steps", default=60, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--json", "result", type=click.Path(path_type=Path))
@click.option("--plot", type=click.Path(path_type=Path))
def main(
    tasks: Path,
    out: Path,
    limit_tasks: int,
    limit_examples: int,
    steps: int,
    seed: int,
    result: Path | None,
    plot: Path | None,
) -> None:
    """Prints the scores as JSON."""
    out.mkdir(parents=True, exist_ok=True)
    count = ("--limit-tasks", limit_tasks, "--seed", seed)
    found: dict[str, dict[str, Any]] = {}
    for name, (rank, modules, layers) in SIZES.items():
        stem = name.replace(",", "").replace(" ", "-")
        loras, table = out / f"{stem}.safetensors", out / f"{stem}.json"
        if not loras.is_file():
            run(
                *("train-loras", "--tasks", tasks, "--out", loras, *count),
                *("--include-noncommercial", "--hold-out", limit_examples),
                *("--rank", rank, "--top-layers", layers, "--steps", steps),
                *(option for module in modules for option in ("--module", module)),
            )
        if not table.is_file():
            arms = "oracle" if found else ",".join((*BESIDE, "oracle"))
            run(
                *("evaluate", "--tasks", tasks, "--arms", arms, "--oracle", loras),
                *(*count, "--limit-examples", limit_examples, "--json", table),
            )
        measured = json.loads(table.read_text())
        found |= {arm: shown(measured, arm) for arm in BESIDE if arm in measured["arms"]}
        found[name] = shown(measured, "oracle")
    content = {
        "steps": steps,
        "scores": found,
        "seed": seed,
        "hardware": hardware(pick_device("auto")),
        "versions": versions(),
    }
    text = json.dumps(content, indent=1)
    click.echo(text)
    if result is not None:
        result.write_text(f"{text}\n", encoding="utf-8")
    if plot is not None:
        draw(found, plot)


def shown(measured: dict[str, Any], name: str) -> dict[str, Any]:
    """Returns what is kept of an arm's figures."""
    arm = measured["arms"][name]
    categories: dict[str, list[float]] = {}
    for task, score in arm["tasks"].items():
        category = measured["task_details"][task]["category"]
        categories.setdefault(category, []).append(score)
    return {key: arm[key] for key in ("family_mean", "low", "high")} | {
        "categories": {c: round(statistics.fmean(s), 1) for c, s in sorted(categories.items())}
    }


def draw(found: dict[str, dict[str, Any]], path: Path) -> None:
    """Draws a bar for each size."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(8, 4), layout="constrained")
    names = {"base": "base model", "hypernet": "generated, rank 16"}
    colours = [
        "#bbbbbb" if n == "base" else "#d62728" if n == "hypernet" else "#1f77b4" for n in found
    ]
    values = [scores["family_mean"] for scores in found.values()]
    bars = axis.barh([names.get(n, f"own LoRA, {n}") for n in found], values, color=colours)
    axis.bar_label(bars, fmt=" %.1f")
    axis.invert_yaxis()
    axis.set_xlabel("score (0 to 100), mean over families")
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main()

"""Curves that teach: validation loss against training tasks, rank, compute and examples.

    python benchmarks/curves.py --tasks plain.prepared --checkpoint FILE --log FILE.csv --out DIR

Trains a small hypernetwork for every point of the first two curves (`--steps` each; a point
whose checkpoint is there is not trained again). The third is the log of a training run, the
fourth reads 0 to 8 examples with a trained checkpoint. Loss is the mean answer-token loss on
validation tasks, whose datasets no training task shares. Writes curves.json and curves.png.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from hyperplug.basemodel import resolve_base
from hyperplug.config import load_settings
from hyperplug.evaluation.stages import run
from hyperplug.hypernet.checkpoint import load_checkpoint
from hyperplug.hypernet.loading import load_frozen, pick_device, pick_dtype
from hyperplug.hypernet.losses import AnswerLoss
from hyperplug.hypernet.prepared import load_prepared
from hyperplug.hypernet.validation import validation_losses

TASKS = (10, 30, 100, 300, None)
RANKS = (2, 4, 8, 16)
EXAMPLES = (0, 1, 2, 4, 8)
COLOURS = {"matched": "#1f77b4", "shuffled": "#d62728", "static": "#7f7f7f"}
LABELS = {
    "matched": "own description",
    "shuffled": "another task's description",
    "static": "shared part alone",
}


@click.command()
@click.option("--tasks", type=click.Path(path_type=Path), required=True)
@click.option("--checkpoint", type=click.Path(path_type=Path), required=True)
@click.option("--log", type=click.Path(path_type=Path), required=True)
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option("--steps", default=200, show_default=True)
@click.option("--cache-dir", type=click.Path(path_type=Path))
def main(
    tasks: Path, checkpoint: Path, log: Path, out: Path, steps: int, cache_dir: Path | None
) -> None:
    """Writes the curves."""
    out.mkdir(parents=True, exist_ok=True)
    kept = ("--cache-dir", cache_dir) if cache_dir else ()
    total = len(load_prepared(tasks).train)
    curves: dict[str, Any] = {"steps_a_point": steps}
    curves["tasks"] = {
        str(count or total): train(
            tasks, out / f"tasks-{count or 'all'}", steps, kept, *limit(count)
        )
        for count in TASKS
    }
    curves["rank"] = {
        str(rank): train(tasks, out / f"rank-{rank}", steps, kept, "--generated-rank", rank)
        for rank in RANKS
    }
    with log.open() as file:
        curves["compute"] = [numbers(row) for row in csv.DictReader(file)]
    curves["examples"] = examples_curve(tasks, checkpoint)
    (out / "curves.json").write_text(json.dumps(curves, indent=1))
    plot(curves, out / "curves.png")


def limit(count: int | None) -> tuple[object, ...]:
    """Returns the option that limits the training tasks."""
    return () if count is None else ("--limit-tasks", count)


def train(
    tasks: Path, name: Path, steps: int, kept: tuple[object, ...], *options: object
) -> dict[str, float]:
    """Returns the validation losses of one point, training it unless it is there."""
    file = name.with_name(f"{name.name}.safetensors")
    if not file.is_file():
        run(
            *("train-hypernet", "--tasks", tasks, "--out", file),
            *("--steps", steps, "--compiled", "on", *kept, *options),
        )
        file.with_suffix(".state.pt").unlink(missing_ok=True)
    with file.with_suffix(".csv").open() as log:
        return numbers(list(csv.DictReader(log))[-1])


def numbers(row: Mapping[str, str]) -> dict[str, float]:
    """Returns the losses and steps of a row of a training log."""
    return {name: float(row[name]) for name in ("step", "minutes", *COLOURS)}


def examples_curve(tasks: Path, checkpoint: Path) -> dict[str, dict[str, float]]:
    """Returns the loss by number of examples, with the description and without."""
    settings = load_settings()
    base = resolve_base(settings.base, cache=settings.cache)
    network = load_checkpoint(checkpoint).network
    device = pick_device("auto")
    frozen = load_frozen(
        base, network.config.target_modules, device=device, dtype=pick_dtype("auto", device)
    )
    network.to(device)
    validation = load_prepared(tasks).validation
    losses = AnswerLoss(frozen, states=None)
    found: dict[str, dict[str, float]] = {"with description": {}, "examples alone": {}}
    for count in EXAMPLES:
        for name, described in (("with description", True), ("examples alone", False)):
            if described or count:
                found[name][str(count)] = validation_losses(
                    network, validation, losses=losses, examples=count, described=described
                )["matched"]
    return found


def plot(curves: Mapping[str, Any], file: Path) -> None:
    """Draws the four curves into one picture."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 2, figsize=(11, 8), layout="constrained")
    for axis, name, label in (
        (axes[0, 0], "tasks", "training tasks"),
        (axes[0, 1], "rank", "rank of the generated part (the shared part has 8)"),
    ):
        points = curves[name]
        for arm, colour in COLOURS.items():
            axis.plot(
                [int(x) for x in points],
                [row[arm] for row in points.values()],
                marker="o",
                color=colour,
                label=LABELS[arm],
            )
        axis.set_xscale("log", base=10 if name == "tasks" else 2)
        axis.set_xticks([int(x) for x in points], list(points))
        axis.minorticks_off()
        axis.set_xlabel(label)
        axis.set_title(f"after {curves['steps_a_point']} steps a point")
    for arm, colour in COLOURS.items():
        rows = curves["compute"]
        steps = [row["step"] for row in rows]
        axes[1, 0].plot(steps, [r[arm] for r in rows], marker="o", color=colour, label=LABELS[arm])
    axes[1, 0].set_xlabel("training steps")
    axes[1, 0].set_title("the run of the shipped checkpoint")
    for name, row in curves["examples"].items():
        axes[1, 1].plot([int(k) for k in row], list(row.values()), marker="o", label=name)
    axes[1, 1].set_xlabel("examples that the hypernetwork reads")
    axes[1, 1].set_title("the shipped checkpoint")
    for axis in axes.flat:
        axis.set_ylabel("validation loss an answer token")
        axis.margins(y=0.3)  # room for the legend
        axis.legend(frameon=False, loc="upper right", ncols=2, fontsize=9)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=110)


if __name__ == "__main__":
    main()

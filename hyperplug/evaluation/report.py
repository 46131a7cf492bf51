"""A benchmark's result for people: a table in Markdown and a plot."""

from __future__ import annotations

import io
import statistics
from collections.abc import Sequence
from pathlib import Path

from hyperplug.errors import MissingExtraError
from hyperplug.evaluation.result import BenchmarkResult
from hyperplug.hypernet.checkpoint import write_atomically


def markdown(result: BenchmarkResult) -> str:
    """Returns the result as Markdown: arms, differences, and where they were measured."""
    about = result.about
    settings = about["settings"]
    families = len({task.family for task in result.tasks})
    total = sum(task.examples for task in result.tasks)
    lines = [
        _table(
            ("arm", "mean over families", "mean over tasks", "what it is"),
            [
                (
                    arm.name,
                    f"{result.family_mean(arm.name):.1f}",
                    f"{result.mean(arm.name):.1f}",
                    arm.meaning,
                )
                for arm in result.arms
            ],
        )
    ]
    differences = result.differences()
    if differences:
        lines.append(
            _table(
                ("difference (over families)", "points", "95 % interval"),
                [
                    (name, f"{d.mean:+.1f}", f"{d.low:+.1f} to {d.high:+.1f}")
                    for name, d in differences.items()
                ],
            )
        )
    lines.append(
        f"{len(result.tasks)} tasks of {families} families, {total} examples, seed {result.seed}; "
        f"scores 0 to 100 (exact match or ROUGE-L, as the task says), greedy answers. "
        f"{about['hardware']}, {settings['dtype']}, {result.seconds / 60:.0f} minutes; "
        + ", ".join(f"{name} {version}" for name, version in about["versions"].items())
        + "."
    )
    return "\n\n".join(lines) + "\n"


def by_metric(result: BenchmarkResult) -> str:
    """Returns the mean over tasks of each arm, apart by metric, as Markdown."""
    metrics = sorted({task.metric for task in result.tasks})
    rows = []
    for arm in result.names:
        means = [
            statistics.fmean(t.scores[arm] for t in result.tasks_of(arm) if t.metric == metric)
            for metric in metrics
        ]
        rows.append((arm, *(f"{mean:.1f}" for mean in means)))
    counts = [sum(task.metric == metric for task in result.tasks) for metric in metrics]
    heads = [f"{m} ({n} tasks)" for m, n in zip(metrics, counts, strict=True)]
    return _table(("arm", *heads), rows) + "\n"


def plot(result: BenchmarkResult) -> bytes:
    """Returns a PNG: a bar an arm, and a dot a family.

    Raises:
        MissingExtraError: if matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as exc:
        raise MissingExtraError("matplotlib", extra="evaluation") from exc
    figure = Figure(figsize=(7.0, 3.8), layout="constrained")
    axes = figure.subplots()
    for place, arm in enumerate(result.names):
        mean = result.family_mean(arm)
        scores = result.family_scores(arm)
        axes.bar(place, mean, width=0.6, color=f"C{place}", alpha=0.55)
        spread = [place + 0.22 * (2 * i / max(1, len(scores) - 1) - 1) for i in range(len(scores))]
        axes.scatter(spread, scores, s=9, color="0.25", zorder=3)
        axes.annotate(
            f"{mean:.1f}",
            (place, mean),
            xytext=(0, 3),
            textcoords="offset points",
            ha="center",
            fontweight="bold",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1, "alpha": 0.8},
            zorder=4,
        )
    axes.set_xticks(range(len(result.arms)), list(result.names))
    axes.set_ylim(0, 102)
    axes.set_ylabel("score (0 to 100)")
    axes.set_title(
        f"Mean over {len(result.family_scores(result.names[0]))} families; a dot is a family",
        fontsize=10,
    )
    axes.spines[["top", "right"]].set_visible(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, metadata={"Software": None})
    return buffer.getvalue()


def write_report(result: BenchmarkResult, folder: Path, *, name: str) -> tuple[Path, Path]:
    """Writes `<name>.md` and `<name>.png` into `folder`, and returns their paths."""
    table, image = folder / f"{name}.md", folder / f"{name}.png"
    text = f"{markdown(result)}\n{by_metric(result)}\n![Scores by arm]({image.name})\n"
    write_atomically(image, plot(result))
    write_atomically(table, text.encode())
    return table, image


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)

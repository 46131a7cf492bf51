"""A benchmark's result for people: tables in Markdown, plots, and samples of answers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hyperplug.evaluation import plots
from hyperplug.evaluation.comparisons import Estimate
from hyperplug.evaluation.result import BenchmarkResult
from hyperplug.evaluation.samples import samples
from hyperplug.evaluation.tables import percent, signed, table
from hyperplug.hypernet.checkpoint import write_atomically

_INTRODUCTION = (
    "Every arm answers the same examples of the same tasks; 100 is a perfect score. An interval "
    "says where the mean could lie had other families of tasks been drawn: 95 %, paired bootstrap "
    "over families."
)


def markdown(result: BenchmarkResult) -> str:
    """Returns the result as Markdown: arms, differences, and where they were measured."""
    parts = [
        arms_table(result),
        differences_table(result),
        gaps_table(result),
        _other_figures(result),
        _remark(result),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def write_report(
    result: BenchmarkResult, folder: Path, *, name: str, answers: Path | None = None
) -> tuple[Path, ...]:
    """Writes tables and plots into `folder`, and returns their paths.

    `<name>.md`, `<name>-arms.png`, `<name>-categories.png`, `<name>-families.png`, and
    `<name>-samples.md` if there are answers.

    Args:
        answers: the file in which the benchmark kept every answer.

    Raises:
        MissingExtraError: if matplotlib is not installed.
    """
    images = {
        "arms": plots.arms_plot(result),
        "categories": plots.categories_plot(result),
        "families": plots.families_plot(result),
    }
    paths = [folder / f"{name}.md"]
    for kind, image in images.items():
        if image is not None:
            paths.append(folder / f"{name}-{kind}.png")
            write_atomically(paths[-1], image)
    if answers is not None:
        paths.append(folder / f"{name}-samples.md")
        write_atomically(paths[-1], samples(answers, result).encode())
    write_atomically(paths[0], _page(result, paths[1:]).encode())
    return tuple(paths)


def arms_table(result: BenchmarkResult) -> str:
    """Returns a row for each arm."""
    rows = []
    for arm in result.arms:
        found = result.interval(arm.name)
        if found is None:
            continue
        rows.append(
            (
                arm.name,
                f"{found.mean:.1f}",
                f"{found.low:.1f} to {found.high:.1f}",
                f"{result.mean(arm.name):.1f}",
                _over(found, result),
                f"{result.prompt_tokens.get(arm.name, 0):.0f}",
                arm.meaning,
            )
        )
    heads = ("arm", "mean over families", "95 % interval", "mean over tasks", "tasks")
    return table((*heads, "tokens a prompt", "what it is"), rows)


def differences_table(result: BenchmarkResult) -> str:
    """Returns a row for each pair of arms that answers a question; "" without any."""
    rows = [
        (
            name,
            signed(d.mean),
            f"{signed(d.low)} to {signed(d.high)}",
            _wanted(d, signed),
            d.meaning,
        )
        for name, d in result.differences().items()
    ]
    heads = ("difference", "points", "95 % interval", "wanted", "what it says")
    return table(heads, rows) if rows else ""


def gaps_table(result: BenchmarkResult) -> str:
    """Returns each arm's share of the way from base to oracle; "" without an oracle."""
    rows = [
        (
            name,
            f"{gap.mean:.2f}",
            f"{gap.low:.2f} to {gap.high:.2f}",
            _wanted(gap, lambda value: f"{value:.2f}"),
        )
        for name, gap in result.gaps().items()
    ]
    return (
        table(("share of the way from base to oracle", "", "95 % interval", "wanted"), rows)
        if rows
        else ""
    )


def budgets_table(result: BenchmarkResult) -> str:
    """Returns what each checkpoint cost to train; "" if none was used."""
    rows = []
    for name, about in result.about.get("checkpoints", {}).items():
        training = about.get("training", {})
        minutes = training.get("minutes", training.get("seconds", 0) / 60)
        rows.append(
            (
                name.replace("_", "-"),
                f"{about['parameters']:,}" if "parameters" in about else f"{about['loras']} LoRAs",
                str(about.get("rank", "")),
                _count(training.get("tasks")),
                _count(training.get("steps")),
                _count(training.get("tokens")),
                f"{minutes:.0f}" if minutes else "",
                str(training.get("hardware", "")),
                str(about.get("fingerprint", ""))[:12],
            )
        )
    heads = ("what", "parameters", "rank", "tasks", "steps", "tokens", "minutes", "hardware")
    return table((*heads, "fingerprint"), rows) if rows else ""


def breakdown(result: BenchmarkResult, attribute: str) -> str:
    """Returns the mean over tasks of each arm, apart by "metric" or "category"."""
    values = sorted({getattr(task, attribute) or "other" for task in result.tasks})
    rows = []
    for arm in result.names:
        cells = []
        for value in values:
            mean = plots.part_mean(result, arm, attribute, value)
            cells.append("" if mean is None else f"{mean:.1f}")
        rows.append((arm, *cells))
    counts = [sum((getattr(t, attribute) or "other") == v for t in result.tasks) for v in values]
    heads = [f"{v} ({n})" for v, n in zip(values, counts, strict=True)]
    return table(("arm", *heads), rows)


def _page(result: BenchmarkResult, others: list[Path]) -> str:
    images = {path.stem.rsplit("-", 1)[-1]: path.name for path in others}
    parts = [
        "# Evaluation",
        _INTRODUCTION,
        f"![Score of each arm]({images['arms']})",
        arms_table(result),
        _section("Differences", differences_table(result)),
        f"![Families of tasks]({images['families']})" if "families" in images else "",
        _section("Between the base model and a LoRA of the task's own", gaps_table(result)),
        _section("Further figures", _other_figures(result)),
        _section("By category of task", f"![By category]({images['categories']})"),
        breakdown(result, "category"),
        _section("By metric", breakdown(result, "metric")),
        _section("What was trained, and for how long", budgets_table(result)),
        _section("How it was measured", _remark(result)),
        f"[Samples of answers]({images['samples']})" if "samples" in images else "",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _section(title: str, text: str) -> str:
    return f"## {title}\n\n{text}" if text else ""


def _other_figures(result: BenchmarkResult) -> str:
    lines = [
        f"Prompt tokens saved, {pair}: {saved:.0f} on average."
        for pair, saved in result.tokens_saved().items()
    ]
    shares = result.decision_shares()
    if shares:
        shown = ", ".join(f"{name} {percent(share)}" for name, share in shares.items())
        lines.append(f"The policy decided: {shown}.")
    if result.unrelated is not None:
        other = result.unrelated
        lines.append(
            f"{other.questions} unrelated questions: base model {other.base:.1f}; under the "
            f"adapters of {len(other.mounted)} tasks it loses {other.loss:.1f} points on average "
            "(wanted: at most 1)."
        )
        lines += [
            f"{arm}, which answers whatever is asked: {score:.1f}."
            for arm, score in other.standing.items()
        ]
    return "\n".join(f"- {line}" for line in lines)


def _remark(result: BenchmarkResult) -> str:
    about: Mapping[str, Any] = result.about
    families = len({task.family for task in result.tasks})
    total = sum(task.examples for task in result.tasks)
    return (
        f"{len(result.tasks)} tasks of {families} families, {total} examples, seed {result.seed}; "
        f"scores 0 to 100 (exact match or ROUGE-L, as the task says), greedy answers. "
        f"{about['hardware']}, {about['settings']['dtype']}, {result.seconds / 60:.0f} minutes; "
        + ", ".join(f"{name} {version}" for name, version in about["versions"].items())
        + "."
    )


def _over(found: Estimate, result: BenchmarkResult) -> str:
    """Returns how many tasks a mean is over, and of how many if not of all."""
    total = len(result.tasks)
    return str(found.tasks) if found.tasks == total else f"{found.tasks} of {total}"


def _wanted(estimate: Estimate, shown: Any) -> str:
    if estimate.wanted is None:
        return ""
    met = "reached" if estimate.mean >= estimate.wanted else "missed"
    return f"{shown(estimate.wanted)}: {met}"


def _count(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else ""

"""A calibration for people and programs: JSON, a table in Markdown, and two plots."""

from __future__ import annotations

import io
import itertools
import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyperplug.errors import MissingExtraError
from hyperplug.evaluation.tables import table
from hyperplug.hypernet.checkpoint import write_atomically
from hyperplug.hypernet.curves import Border, Pair, Probe, Source, harm_curve, promises, risk_curve
from hyperplug.hypernet.measuring import Calibration

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_STEPS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0)
_DIGITS = 4
_COLOURS = {Source.TASK: "C0", Source.WORDING: "C2", Source.JUNK: "C3"}
_PAIR_NAMES = {Source.TASK: "another task", Source.WORDING: "the same task in other words"}
_PROBE_NAMES = {
    Source.TASK: "task",
    Source.WORDING: "the task in other words",
    Source.JUNK: "no task at all",
}


def summary(calibration: Calibration) -> dict[str, Any]:
    """Returns how the thresholds were found, as a checkpoint keeps it."""
    options = calibration.options
    return {
        "tasks": calibration.tasks,
        "examples": options.limit_examples,
        "pairs": len(calibration.pairs),
        "margin": options.margin,
        "near_risk": options.near_risk,
        "harm_risk": options.harm_risk,
        "near": calibration.near.reason,
        "support": calibration.support.reason,
        "before": asdict(calibration.before),
        "promises": [asdict(promise) for promise in promises(calibration.probes)],
    }


def as_json(calibration: Calibration) -> str:
    """Returns everything that was measured, as JSON."""
    curve = risk_curve(calibration.pairs, margin=calibration.options.margin)
    return json.dumps(
        {
            "thresholds": asdict(calibration.thresholds),
            "checkpoint": calibration.checkpoint.name,
            "fingerprint": calibration.fingerprint,
            **summary(calibration),
            "seed": calibration.options.seed,
            "skipped_tasks": calibration.skipped,
            "seconds": round(calibration.seconds, 1),
            "near_curve": [_rounded(point) for point in curve],
            "harm_curve": [_rounded(point) for point in harm_curve(calibration.probes)],
            "measured_pairs": [_rounded(pair) for pair in calibration.pairs],
            "measured_probes": [_rounded(probe) for probe in calibration.probes],
        }
    )


def markdown(calibration: Calibration) -> str:
    """Returns the borders and the curves in steps of a tenth, as Markdown."""
    options, before = calibration.options, calibration.before
    borders = table(
        ("border", "value", "before", "why"),
        [
            _border_row("near", calibration.near, before.near),
            _border_row("support", calibration.support, before.support),
        ],
    )
    near = table(
        ("similarity", "pairs", f"worse by over {options.margin:g}", "mean extra loss"),
        _bins(calibration.pairs, options.margin),
    )
    support = table(
        ("source", "adapters", "harming", "generated for", "mean change of loss"),
        [_probe_row(source, calibration) for source in Source],
    )
    remark = (
        f"{calibration.tasks} held-out tasks, up to {options.limit_examples} examples each, "
        f"{len(calibration.pairs)} pairs of a request and a registered task, seed "
        f"{options.seed}; losses in nats an answer token."
    )
    return "\n\n".join((borders, near, support, remark)) + "\n"


def near_plot(calibration: Calibration) -> bytes:
    """Returns a PNG: what each neighbour costs, and risk against coverage."""
    figure = _figure(width=9.6)
    left, right = figure.subplots(1, 2)
    for source, name in _PAIR_NAMES.items():
        chosen = [pair for pair in calibration.pairs if pair.source is source]
        left.scatter(
            [pair.similarity for pair in chosen],
            [pair.extra for pair in chosen],
            s=8,
            alpha=0.5,
            color=_COLOURS[source],
            label=name,
        )
    left.axhline(calibration.options.margin, color="0.4", linewidth=0.8, linestyle=":")
    left.axvline(calibration.near.value, color="black", linewidth=1)
    _nats_scale(left)
    left.set_xlabel("similarity of request and registered task")
    left.set_ylabel("extra loss of its adapter (nats a token)")
    left.set_title(f"NEAREST from a similarity of {calibration.near.value:g} on", fontsize=10)
    figure.legend(fontsize=8, loc="outside lower left", ncols=2)
    _risk(right, calibration)
    return _png(figure)


def support_plot(calibration: Calibration) -> bytes:
    """Returns a PNG: harm of each generated adapter, and the chance of harm, by support."""
    figure = _figure(width=7.0)
    axes = figure.subplots()
    for source, name in _PROBE_NAMES.items():
        chosen = [probe for probe in calibration.probes if probe.source is source]
        axes.scatter(
            [probe.support for probe in chosen],
            [probe.harm for probe in chosen],
            s=12,
            alpha=0.6,
            color=_COLOURS[source],
            label=name,
        )
    axes.axhline(0, color="0.4", linewidth=0.8, linestyle=":")
    axes.axvline(calibration.support.value, color="black", linewidth=1)
    _nats_scale(axes)
    axes.set_xlabel("support: similarity to the nearest training description")
    axes.set_ylabel("harm: loss with adapter − base's (nats a token)")
    curve = harm_curve(calibration.probes)
    chance = axes.twinx()
    chance.plot(
        [point.support for point in curve],
        [point.chance for point in curve],
        color="C1",
        drawstyle="steps-mid",
    )
    chance.axhline(calibration.options.harm_risk, color="C1", linewidth=0.8, linestyle=":")
    chance.set_ylim(-0.02, 1.02)
    chance.set_ylabel("chance that the adapter harms", color="C1")
    figure.legend(fontsize=8, loc="outside lower center", ncols=3)
    axes.set_title(f"BASE below a support of {calibration.support.value:g}", fontsize=10)
    return _png(figure)


def write_report(calibration: Calibration, folder: Path, *, name: str) -> tuple[Path, ...]:
    """Writes `<name>.md`, `<name>-near.png` and `<name>-support.png`; returns their paths."""
    table = folder / f"{name}.md"
    near, support = folder / f"{name}-near.png", folder / f"{name}-support.png"
    write_atomically(near, near_plot(calibration))
    write_atomically(support, support_plot(calibration))
    text = (
        f"{markdown(calibration)}\n![NEAREST: risk and coverage]({near.name})\n\n"
        f"![BASE: harm against support]({support.name})\n"
    )
    write_atomically(table, text.encode())
    return table, near, support


def _risk(axes: Axes, calibration: Calibration) -> None:
    curve = risk_curve(calibration.pairs, margin=calibration.options.margin)
    axes.plot([p.coverage for p in curve], [p.risk for p in curve], color="C0")
    axes.axhline(calibration.options.near_risk, color="0.4", linewidth=0.8, linestyle=":")
    for step in (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3):
        point = next((p for p in reversed(curve) if p.threshold >= step), None)
        if point is not None:
            axes.annotate(
                f"{step:g}",
                (point.coverage, point.risk),
                xytext=(4, -11),
                textcoords="offset points",
                fontsize=8,
            )
            axes.plot(point.coverage, point.risk, "o", color="C0", markersize=4)
    chosen = next((p for p in reversed(curve) if p.threshold >= calibration.near.value), None)
    if chosen is not None:
        axes.plot(chosen.coverage, chosen.risk, "o", color="black", zorder=3)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("coverage: share of the pairs served by the neighbour")
    axes.set_ylabel("risk: share of those that it serves worse")
    axes.set_title("Numbers: the border of similarity; black: the chosen one", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)


def _nats_scale(axes: Axes) -> None:
    """Shows losses from hundredths to tens of nats, of both signs."""
    axes.set_yscale("symlog", linthresh=0.3)
    low, high = axes.get_ylim()
    ticks = [t for t in (-10, -3, -1, -0.3, 0, 0.3, 1, 3, 10) if low <= t <= high]
    axes.set_yticks(ticks, [f"{tick:+g}" if tick else "0" for tick in ticks])
    axes.minorticks_off()


def _figure(*, width: float) -> Figure:
    try:
        from matplotlib.figure import Figure
    except ImportError as exc:
        raise MissingExtraError("matplotlib", extra="evaluation") from exc
    return Figure(figsize=(width, 4.0), layout="constrained")


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, metadata={"Software": None})
    return buffer.getvalue()


def _border_row(name: str, border: Border, before: float) -> tuple[str, ...]:
    return name, f"{border.value:.3f}", f"{before:.3f}", border.reason


def _bins(pairs: Sequence[Pair], margin: float) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for high, low in itertools.pairwise(_STEPS):
        chosen = [p for p in pairs if low <= p.similarity < high + (high == 1)]
        if chosen:
            worse = statistics.fmean(pair.extra > margin for pair in chosen)
            extra = statistics.fmean(pair.extra for pair in chosen)
            rows.append(
                (f"{low:.1f} to {high:.1f}", str(len(chosen)), f"{worse:.0%}", f"{extra:+.2f}")
            )
    return rows


def _probe_row(source: Source, calibration: Calibration) -> tuple[str, ...]:
    chosen: list[Probe] = [probe for probe in calibration.probes if probe.source is source]
    inside = sum(probe.support >= calibration.support.value for probe in chosen)
    harming = sum(probe.harm > 0 for probe in chosen)
    mean = f"{statistics.fmean(probe.harm for probe in chosen):+.2f}" if chosen else "-"
    return _PROBE_NAMES[source], str(len(chosen)), str(harming), str(inside), mean


def _rounded(entry: Any) -> dict[str, Any]:
    return {
        name: round(value, _DIGITS) if isinstance(value, float) else value
        for name, value in asdict(entry).items()
    }

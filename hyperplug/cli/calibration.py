"""The command that measures where the lookup policy's borders should lie."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from hyperplug.cli.context import Globals, model_options, pass_globals, registry_options
from hyperplug.cli.output import say

_PATH = click.Path(path_type=Path)
_SHARE = click.FloatRange(0.0, 1.0, min_open=True, max_open=True)
_COUNT = click.IntRange(min=1)


@click.command("calibrate")
@click.option(
    "--tasks", type=_PATH, required=True, metavar="FILE", help="Held-out tasks to measure on."
)
@click.option(
    "--train-tasks",
    type=_PATH,
    required=True,
    metavar="FILE",
    help="What the hypernetwork was trained on; neighbours come from both.",
)
@click.option("--limit-tasks", type=_COUNT, metavar="N", help="At most so many held-out tasks.")
@click.option(
    "--limit-examples",
    type=_COUNT,
    default=6,
    show_default=True,
    metavar="M",
    help="At most so many examples a task.",
)
@click.option("--max-tokens", type=_COUNT, default=256, show_default=True)
@click.option(
    "--margin",
    type=click.FloatRange(min=0.0),
    default=0.1,
    show_default=True,
    help="A neighbour is worse if its loss is so much higher, in nats a token.",
)
@click.option(
    "--near-risk",
    type=_SHARE,
    default=0.1,
    show_default=True,
    help="Share of worse neighbours that NEAREST may bring.",
)
@click.option(
    "--harm-risk",
    type=_SHARE,
    default=0.5,
    show_default=True,
    help="Chance of harm up to which an adapter is generated.",
)
@click.option("--seed", type=int, default=0, show_default=True, metavar="K")
@click.option("--json", "out", type=_PATH, metavar="OUT", help="Write all figures there.")
@click.option("--report", type=_PATH, metavar="DIR", help="Write a table and two plots there.")
@click.option("--write", is_flag=True, help="Put the thresholds into the checkpoint.")
@click.option("--device", default="auto", show_default=True)
@click.option("--dtype", default="auto", show_default=True)
@model_options
@registry_options
@pass_globals
def calibrate(
    shared: Globals, /, out: Path | None, report: Path | None, write: bool, **options: Any
) -> None:
    """Measure the lookup policy's thresholds.

    NEAREST: how near must a registered task be, so that its adapter serves a request as well
    as one generated for it? BASE: how far from the training tasks does generating harm?

    Prints a table in Markdown. --write changes the checkpoint's thresholds and nothing else.
    """
    from hyperplug.cli.meters import CalibrationMeter
    from hyperplug.evaluation.calibration import as_json, markdown, summary, write_report
    from hyperplug.hypernet.calibration import write_thresholds
    from hyperplug.hypernet.checkpoint import write_atomically
    from hyperplug.hypernet.measuring import measure_calibration
    from hyperplug.hypernet.subjects import CalibrationOptions

    with CalibrationMeter() as meter:
        found = measure_calibration(
            CalibrationOptions(**options), settings=shared.settings(), progress=meter
        )
    click.echo(markdown(found), nl=False)
    if out is not None:
        write_atomically(out, as_json(found).encode())
        say(f"Wrote {out}")
    if report is not None:
        name = out.stem if out is not None else "calibration"
        for path in write_report(found, report, name=name):
            say(f"Wrote {path}")
    if write:
        write_thresholds(
            found.checkpoint,
            found.thresholds,
            fingerprint=found.fingerprint,
            about=summary(found),
        )
        say(f"Wrote the thresholds into {found.checkpoint}")

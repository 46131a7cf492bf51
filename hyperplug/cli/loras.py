"""The command that trains a LoRA for each task, to compare generated adapters with."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import click

from hyperplug.cli.context import (
    Globals,
    base_option,
    json_option,
    pass_globals,
    registry_options,
)
from hyperplug.cli.output import print_json, say

_PATH = click.Path(path_type=Path)


@click.command("train-loras")
@click.option("--tasks", type=_PATH, required=True, metavar="FILE_OR_DIR", help="What to train on.")
@click.option("--out", type=_PATH, required=True, metavar="FILE", help="The LoRAs to write.")
@click.option(
    "--like", type=_PATH, metavar="TEST_FILE", help="Only the tasks nearest to those in there."
)
@click.option("--neighbours", type=int, help="How many for each of those  [default: 3].")
@click.option("--limit-tasks", type=int, metavar="N", help="At most so many tasks.")
@click.option("--per-family", is_flag=True, help="One task of each family.")
@click.option(
    "--hold-out",
    type=int,
    metavar="N_EXAMPLES",
    help="Spare the examples that `evaluate --limit-examples` asks.",
)
@click.option("--seed", type=int, metavar="K", help="As given to `evaluate`  [default: 0].")
@click.option("--rank", type=int, help="Rank of each LoRA  [default: 16].")
@click.option("--scale", type=float, help="Multiplier of each LoRA.")
@click.option("--steps", type=int, help="At most so many steps  [default: 60].")
@click.option("--sequences-per-task", type=int, help="Examples of each in a step.")
@click.option("--learning-rate", type=float)
@click.option("--max-tokens", type=int, help="Leave out longer examples.")
@click.option("--max-answer-tokens", type=int, help="Leave out those with longer answers.")
@click.option("--top-layers", type=int, help="Adapt so many of the last layers; 0 for all.")
@click.option("--module", "modules", multiple=True, help="A projection to adapt; repeatable.")
@click.option("--tasks-at-once", type=int, help="LoRAs trained side by side.")
@click.option("--cache-gib", type=float, help="Keep so much of the lower layers' output.")
@click.option("--include-noncommercial", is_flag=True, help="Not to be shipped then.")
@click.option("--compiled", help='"auto", "on", "off": compile the base model.')
@click.option("--device", help='"auto", "cpu", "cuda".')
@click.option("--dtype", help='"auto", "float32", "bfloat16".')
@base_option
@registry_options
@json_option
@pass_globals
def train_loras(shared: Globals, /, out: Path, as_json: bool, **options: Any) -> None:
    """Train an ordinary LoRA for each task, to compare with.

    \b
    oracle   the test tasks' own: --tasks TEST_FILE --hold-out N, where N is what
             `evaluate --limit-examples` is given
    nearest  training tasks': --tasks TRAIN_FILE --like TEST_FILE

    With --like, --limit-tasks and --per-family choose among the tasks of TEST_FILE. Each
    LoRA is of the step with the lowest loss on examples held back from its training. An
    interrupted run is resumed.
    """
    from hyperplug.cli.meters import LoraMeter
    from hyperplug.evaluation.lora_tasks import LoraOptions
    from hyperplug.evaluation.train_loras import train_loras as train

    given = {name: value for name, value in options.items() if value not in (None, ())}
    with LoraMeter() as meter:
        bank = train(LoraOptions(out=out, **given), settings=shared.settings(), progress=meter)
    if as_json:
        print_json({"loras": out, "training": bank.training, "tasks": bank.records})
    else:
        click.echo(str(out))
        before = statistics.fmean(record.before for record in bank.records)
        after = statistics.fmean(record.after for record in bank.records)
        say(f"{len(bank.records)} LoRAs; loss on held-back examples {before:.3f} -> {after:.3f}")


@click.command("train-start")
@click.option("--tasks", type=_PATH, required=True, metavar="FILE_OR_DIR", help="What to train on.")
@click.option("--out", type=_PATH, required=True, metavar="FILE", help="The LoRA to write.")
@click.option(
    "--method",
    type=click.Choice(["maml", "reptile"]),
    required=True,
    help="First-order MAML, or Reptile.",
)
@click.option(
    "--inner-steps", type=int, default=5, show_default=True, help="Steps that a task takes."
)
@click.option(
    "--inner-learning-rate", type=float, default=1e-3, show_default=True, help="Theirs, of Adam."
)
@click.option("--limit-tasks", type=int, metavar="N", help="At most so many tasks.")
@click.option("--seed", type=int, metavar="K", help="[default: 0]")
@click.option("--rank", type=int, help="[default: 16]")
@click.option("--steps", type=int, help="Updates of the start  [default: 200].")
@click.option("--tasks-at-once", type=int, help="Tasks in an update  [default: 4].")
@click.option("--sequences-per-task", type=int, help="Examples in a step.")
@click.option("--learning-rate", type=float, help="Of the updates  [default: 0.001, reptile 0.5].")
@click.option("--max-tokens", type=int, help="Leave out longer examples.")
@click.option("--max-answer-tokens", type=int, help="Leave out those with longer answers.")
@click.option("--top-layers", type=int, help="Adapt so many of the last layers; 0 for all.")
@click.option("--module", "modules", multiple=True, help="A projection to adapt; repeatable.")
@click.option("--cache-gib", type=float, help="Keep so much of the lower layers' output.")
@click.option("--include-noncommercial", is_flag=True, help="Not to be shipped then.")
@click.option("--device", help='"auto", "cpu", "cuda".')
@click.option("--dtype", help='"auto", "float32", "bfloat16".')
@base_option
@registry_options
@json_option
@pass_globals
def train_start(
    shared: Globals,
    /,
    out: Path,
    method: str,
    inner_steps: int,
    inner_learning_rate: float,
    as_json: bool,
    **options: Any,
) -> None:
    """Train a LoRA from which few steps suffice, to compare with.

    `evaluate --maml FILE` or `--reptile FILE` refines it on each task's examples. An
    interrupted run is resumed.
    """
    from hyperplug.cli.progress import Progress
    from hyperplug.evaluation.lora_tasks import LoraOptions
    from hyperplug.evaluation.meta import MetaOptions, MetaReport, Method
    from hyperplug.evaluation.meta import train_start as train

    usual = {
        "steps": 200,
        "tasks_at_once": 4,
        "learning_rate": 1e-3 if method == "maml" else 0.5,
    }
    given = {name: value for name, value in options.items() if value not in (None, ())}
    meta = MetaOptions(
        loras=LoraOptions(out=out, **(usual | given)),
        method=Method(method),
        inner_steps=inner_steps,
        inner_learning_rate=inner_learning_rate,
    )
    with Progress("Training") as progress:

        def stepped(report: MetaReport) -> None:
            progress.update(report.step, report.steps)

        bank = train(meta, settings=shared.settings(), say=say, on_step=stepped)
    if as_json:
        print_json({"start": out, "training": bank.training})
    else:
        click.echo(str(out))
        say(f"Loss after {meta.inner_steps} steps on a task: {bank.records[0].after:.3f}")

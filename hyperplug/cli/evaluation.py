"""The command that measures generated adapters, and what they are compared with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from hyperplug.cli.context import Globals, model_options, pass_globals, registry_options
from hyperplug.cli.output import say

_PATH = click.Path(path_type=Path)
_ARMS = "base,prompt,static-part,hypernet,shuffled"


@click.command("evaluate")
@click.option(
    "--tasks", type=_PATH, required=True, metavar="FILE_OR_DIR", help="What to measure on."
)
@click.option(
    "--arms",
    default=_ARMS,
    show_default=True,
    metavar="ARMS",
    help='What to compare; "all" is every arm whose files are given.',
)
@click.option("--limit-tasks", type=int, metavar="N", help="At most so many tasks.")
@click.option("--limit-examples", type=int, metavar="M", help="At most so many examples a task.")
@click.option("--seed", type=int, default=0, show_default=True, metavar="K")
@click.option("--json", "out", type=_PATH, metavar="OUT", help="Write the result there.")
@click.option("--answers", type=_PATH, metavar="FILE", help="Keep every answer, as JSON lines.")
@click.option(
    "--report",
    type=_PATH,
    metavar="DIR",
    help="Write tables, plots and, with --answers, samples there.",
)
@click.option("--static", type=_PATH, metavar="FILE", help="Checkpoint of a multi-task LoRA.")
@click.option(
    "--static-prompt",
    type=_PATH,
    metavar="FILE",
    help="Likewise, trained with the description in the prompt.",
)
@click.option("--t2l", type=_PATH, metavar="FILE", help="Checkpoint of a Text-to-LoRA network.")
@click.option("--loras", type=_PATH, metavar="FILE", help="LoRAs of training tasks.")
@click.option("--oracle", type=_PATH, metavar="FILE", help="LoRAs of these very tasks.")
@click.option("--maml", type=_PATH, metavar="FILE", help="A start from train-start.")
@click.option("--reptile", type=_PATH, metavar="FILE", help="Likewise, by Reptile.")
@click.option(
    "--train-tasks", type=_PATH, metavar="FILE", help="What the registry of the policy holds."
)
@click.option("--unrelated", is_flag=True, help="Also ask simple questions that no adapter is for.")
@click.option("--device", default="auto", show_default=True)
@click.option("--dtype", default="float32", show_default=True)
@model_options
@registry_options
@pass_globals
def evaluate(
    shared: Globals,
    /,
    arms: str,
    out: Path | None,
    report: Path | None,
    **options: Any,
) -> None:
    """Score generated adapters on held-out tasks.

    Every arm answers the same examples. Without further files:

    \b
    base               the input alone, no adapter
    prompt             the description in the prompt, no adapter
    shots-1, -4, -8    description and so many worked examples in the prompt
    static-part        the part of the hypernetwork that all tasks share
    hypernet           the adapter from the task's own description
    hypernet-examples  the adapter from 8 examples alone
    hypernet-both      the adapter from both; hypernet-both:4 reads 4 examples
    hypernet-prompt    hypernet, with the description in the prompt too
    rephrased          the adapter from another wording of the description
    shuffled           the adapter from another task's description
    junk               the adapter from a text that describes no task
    examples-shuffled  the adapter from 8 examples of another task
    refined            hypernet-both after 20 steps on its 8 examples
    lora               a LoRA trained from scratch on 8 examples
    lora-sequential    one LoRA, trained on 8 examples of each task in turn
    full-sequential    all weights of the model, likewise
    rag                description and the nearest of 64 stored examples in the prompt

    \b
    static             --static: one LoRA for all tasks
    static-refined     --static: after 20 steps on 8 examples
    maml, reptile      --maml, --reptile: likewise, from a start that was trained for it
    static-prompt      --static-prompt: likewise, with the description in the prompt
    t2l                --t2l: the adapter by Text-to-LoRA; t2l-shuffled, t2l-junk
    mean               --loras: the mean of training tasks' LoRAs
    nearest, merge     --loras: the nearest training task's, a sum of the nearest three
    oracle             --oracle: a LoRA trained on the task's own examples
    policy             --train-tasks: what a registry of them would serve

    Prints tables in Markdown. An interrupted run with --json is resumed.
    """
    from hyperplug.cli.meters import BenchmarkMeter
    from hyperplug.evaluation.arms import parse_arms
    from hyperplug.evaluation.benchmark import run_benchmark
    from hyperplug.evaluation.options import ARTEFACTS, BenchmarkOptions
    from hyperplug.evaluation.report import markdown, write_report

    given = {name for name in ARTEFACTS if options[name] is not None}
    with BenchmarkMeter() as meter:
        result = run_benchmark(
            BenchmarkOptions(arms=parse_arms(arms, given=given), out=out, **options),
            settings=shared.settings(),
            progress=meter,
        )
    click.echo(markdown(result), nl=False)
    if report is not None:
        name = out.stem if out is not None else "evaluation"
        for path in write_report(result, report, name=name, answers=options["answers"]):
            say(f"Wrote {path}")

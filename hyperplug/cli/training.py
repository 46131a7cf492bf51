"""Commands that train the adapter of one task: refine-adapter, train-adapter."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from hyperplug.cli.context import (
    Function,
    Globals,
    json_option,
    model_options,
    pass_globals,
    registry_options,
)
from hyperplug.cli.output import adapter_summary, print_json, say
from hyperplug.cli.progress import Progress

if TYPE_CHECKING:
    from hyperplug.registry.learning import Learned, Training


def _options(function: Function) -> Function:
    """Adds what both commands take."""
    for option in (
        click.option("--no-promote", is_flag=True, help="Store the new version without an alias."),
        click.option("--seed", type=int, default=0, show_default=True),
        click.option("--learning-rate", type=float, help="Of Adam."),
        click.option("--seconds", type=float, metavar="T", help="Train at most so long."),
        click.option(
            "--examples",
            "examples_file",
            type=click.Path(path_type=Path),
            metavar="FILE.jsonl",
            help="Train on these  [default: the task's own].",
        ),
        click.argument("task"),
    ):
        function = option(function)
    return registry_options(model_options(json_option(function)))


@click.command("refine-adapter")
@click.option("--steps", type=click.IntRange(min=1), default=40, show_default=True)
@click.option("--code-only", is_flag=True, help="Train the task code alone: some hundred numbers.")
@_options
@pass_globals
def refine_adapter(
    shared: Globals,
    task: str,
    examples_file: Path | None,
    steps: int,
    seconds: float | None,
    learning_rate: float | None,
    seed: int,
    code_only: bool,
    no_promote: bool,
    as_json: bool,
) -> None:
    """Train a task's adapter a little further.

    A quarter of the examples is held back: the best step on them becomes a new version, and
    nothing is stored if no step is better than the start.
    """
    from hyperplug.registry.learning import Training

    _train(
        shared,
        task,
        Training.CODE if code_only else Training.ADAPTER,
        examples_file=examples_file,
        steps=steps,
        seconds=seconds,
        learning_rate=learning_rate or (3e-2 if code_only else 5e-4),
        seed=seed,
        rank=16,
        promote=not no_promote,
        as_json=as_json,
    )


@click.command("train-adapter")
@click.option("--steps", type=click.IntRange(min=1), default=200, show_default=True)
@click.option("--rank", type=click.IntRange(min=1), default=16, show_default=True)
@_options
@pass_globals
def train_adapter(
    shared: Globals,
    task: str,
    examples_file: Path | None,
    steps: int,
    seconds: float | None,
    learning_rate: float | None,
    seed: int,
    rank: int,
    no_promote: bool,
    as_json: bool,
) -> None:
    """Train an ordinary LoRA for a task from scratch.

    It becomes the task's adapter if it is better on held-back examples than the present one.
    """
    from hyperplug.registry.learning import Training

    _train(
        shared,
        task,
        Training.SCRATCH,
        examples_file=examples_file,
        steps=steps,
        seconds=seconds,
        learning_rate=learning_rate or 2e-3,
        seed=seed,
        rank=rank,
        promote=not no_promote,
        as_json=as_json,
    )


def _train(
    shared: Globals,
    task: str,
    training: Training,
    *,
    examples_file: Path | None,
    steps: int,
    seconds: float | None,
    learning_rate: float,
    seed: int,
    rank: int,
    promote: bool,
    as_json: bool,
) -> None:
    from hyperplug.hypernet.refine import RefineRecipe
    from hyperplug.taskfile import read_examples

    examples = read_examples(examples_file) if examples_file is not None else None
    recipe = RefineRecipe(steps=steps, seconds=seconds, learning_rate=learning_rate, seed=seed)
    with shared.open() as registry, Progress("Training") as progress:
        learned = registry.learn(
            task,
            examples=examples,
            training=training,
            recipe=recipe,
            rank=rank,
            promote=promote,
            on_step=lambda step: progress.update(step.step, step.steps),
        )
    _tell(learned, as_json=as_json)


def _tell(learned: Learned, *, as_json: bool) -> None:
    refined = learned.refined
    if as_json:
        figures = {
            "loss_base": refined.base,
            "loss_start": refined.before,
            "loss": refined.after,
            "best_step": refined.best_step,
            "steps": refined.steps,
            "examples": refined.trained_on,
            "held_back": refined.held_back,
            "seconds": round(refined.seconds, 1),
        }
        adapter = None if learned.adapter is None else adapter_summary(learned.adapter)
        print_json({"adapter": adapter, "promoted": learned.promoted, **figures})
    elif learned.adapter is not None:
        click.echo(learned.adapter.name)
    say(
        f"Loss on {refined.held_back} held-back examples: base {refined.base:.2f}, "
        f"start {refined.before:.2f}, best {refined.after:.2f} at step {refined.best_step} "
        f"of {refined.steps} ({refined.seconds:.0f} s)"
    )
    if learned.adapter is None:
        say("No step was better than the start: nothing was stored.")
    elif not learned.promoted:
        say(f"To serve it, run: hyperplug promote-adapter {learned.adapter.name}")

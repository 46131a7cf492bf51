"""Commands that train a hypernetwork."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hyperplug.cli.context import (
    Globals,
    base_option,
    json_option,
    pass_globals,
    registry_options,
)
from hyperplug.cli.output import print_json, say

if TYPE_CHECKING:
    from hyperplug.hypernet.forecast import Forecast
    from hyperplug.hypernet.tasks import CorpusTask

_PATH = click.Path(path_type=Path)
_REGISTRY = "registry"


def corpus_options(command: Any) -> Any:
    """Adds the options that say what to train on."""
    options = [
        click.option(
            "--tasks",
            type=_PATH,
            required=True,
            metavar="FILE_OR_DIR",
            help="What to train on: JSON lines, Super-NaturalInstructions, or prepared tasks.",
        ),
        click.option("--validation", type=_PATH, metavar="FILE", help="Held-out tasks."),
        click.option("--seed", type=int, help="The same seed gives the same run."),
        click.option("--max-tokens", type=int, help="Leave out longer examples."),
        click.option("--max-answer-tokens", type=int, help="Leave out those with longer answers."),
        click.option("--examples-per-task", type=int),
        click.option("--in-prompt", type=float, help="Share of examples with the description."),
        click.option("--composed", type=int, help="Tasks to make of each by other formats."),
        click.option("--rewordings", type=int, help="Further wordings of its descriptions."),
        click.option(
            "--include-noncommercial", is_flag=True, default=None, help="Not to be shipped then."
        ),
        click.option("--limit-tasks", type=int, help="Train on so many tasks only."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@click.command("prepare-tasks")
@corpus_options
@click.option("--out", type=_PATH, required=True, metavar="FILE", help="Ends in .prepared.")
@base_option
@registry_options
@json_option
@pass_globals
def prepare_tasks(shared: Globals, /, out: Path, as_json: bool, **options: Any) -> None:
    """Prepare tasks for training: augment and encode them.

    The file is given to `train-hypernet --tasks`, here or on a machine that has neither the
    corpus nor the text encoder.
    """
    from hyperplug.cli.meters import TrainingMeter
    from hyperplug.hypernet.corpus import write_corpus
    from hyperplug.hypernet.options import CorpusOptions

    with TrainingMeter() as meter:
        corpus = write_corpus(
            CorpusOptions(**_given(options)), out, settings=shared.settings(), progress=meter
        )
    sizes = {"train": len(corpus.train), "validation": len(corpus.validation)}
    if as_json:
        print_json({"prepared": out, **sizes})
    else:
        click.echo(str(out))
        say(f"Train on it with: hyperplug train-hypernet --tasks {out} --out FILE")


@click.command("train-hypernet")
@corpus_options
@click.option("--out", type=_PATH, required=True, metavar="FILE", help="The checkpoint to write.")
@click.option("--extend", type=_PATH, metavar="FILE", help="Go on from this checkpoint.")
@click.option(
    "--keep",
    type=_PATH,
    metavar="FILE_OR_DIR",
    help='Tasks to keep when extending; "registry" for those of the registry.',
)
@click.option("--keep-strength", type=float, help="How much they are kept; 0 for not at all.")
@click.option("--replay", type=int, help="Train again on so many examples of each kept task.")
@click.option("--new-atoms", type=int, help="Add so many to each projection's dictionary.")
@click.option("--network", help="What to train: hypernet, or a network to compare it with.")
@click.option("--steps", type=int, help="End after so many steps.")
@click.option("--minutes", type=float, help="End after so much training time.")
@click.option("--learning-rate", type=float, help="A tenth of the usual one with --extend.")
@click.option("--scale", type=float, help="Multiplier of the adapters.")
@click.option("--top-layers", type=int, help="Adapt so many of the last layers; 0 for all.")
@click.option("--module", "modules", multiple=True, help="A projection to adapt; repeatable.")
@click.option("--static-rank", type=int, help="Rank of the part that all tasks share.")
@click.option("--generated-rank", type=int, help="Rank of the generated part; 0 for none.")
@click.option("--atoms", type=int, help="Size of each projection's dictionary.")
@click.option(
    "--words/--no-words",
    default=None,
    help="Let it point at words in the base model's vocabulary.  [default: words]",
)
@click.option("--tasks-per-step", type=int)
@click.option("--sequences-per-task", type=int, help="Examples of each in a step.")
@click.option("--cache-gib", type=float, help="Keep so much of the lower layers' output.")
@click.option("--cache-dir", type=_PATH, metavar="DIR", help="Keep it there for later runs.")
@click.option("--evaluate-every", type=int, help="Steps between looks at the held-out tasks.")
@click.option("--save-every", type=float, help="Seconds between saves; a kill loses no more.")
@click.option("--compiled", help='"auto", "on", "off": compile the base model.')
@click.option("--device", help='"auto", "cpu", "cuda".')
@click.option("--dtype", help='"auto", "float32", "bfloat16".')
@click.option("--dry-run", is_flag=True, help="Only say what it would need.")
@base_option
@registry_options
@json_option
@pass_globals
def train_hypernet(
    shared: Globals, /, out: Path, dry_run: bool, as_json: bool, **options: Any
) -> None:
    """Train a hypernetwork for a base model.

    An interrupted run is resumed. Options left out take the values with which the
    shipped checkpoint was trained. If the loss on held-out tasks was lower before the end,
    the weights of then go to a second file, FILE-best.

    With --extend, it learns new tasks and keeps what it made for those that it knows. Give
    their descriptions with --keep: the checkpoint alone holds less of them.
    """
    from hyperplug.cli.meters import TrainingMeter
    from hyperplug.hypernet.options import TrainingOptions
    from hyperplug.hypernet.recipe import forecast_training
    from hyperplug.hypernet.recipe import train_hypernet as train

    kept: tuple[CorpusTask, ...] = ()
    if options["extend"] is not None and options["keep"] == Path(_REGISTRY):
        options["keep"], kept = None, _registered(shared)
    chosen = TrainingOptions(out=out, **_given(options))
    if dry_run:
        _show_forecast(forecast_training(chosen, settings=shared.settings()), as_json=as_json)
        return
    with TrainingMeter() as meter:
        checkpoint = train(chosen, settings=shared.settings(), kept=kept, progress=meter)
    if as_json:
        print_json(
            {
                "checkpoint": out,
                "fingerprint": checkpoint.fingerprint,
                "thresholds": checkpoint.thresholds,
                "training": checkpoint.training,
            }
        )
    else:
        click.echo(str(out))
        say(f"Use it with --hypernet {out}, or HYPERPLUG_HYPERNET={out}")


def _registered(shared: Globals) -> tuple[CorpusTask, ...]:
    """Returns the tasks of the registry, as tasks to keep."""
    from hyperplug.errors import ConfigError
    from hyperplug.hypernet.kept import kept_task

    with shared.open() as registry:
        tasks = registry.list_tasks()
    if not tasks:
        raise ConfigError("the registry has no tasks to keep", hint="leave out --keep registry")
    return tuple(kept_task(task.name, task.description, task.examples) for task in tasks)


def _show_forecast(needs: Forecast, *, as_json: bool) -> None:
    if as_json:
        print_json(needs)
        return
    click.echo(f"parameters  {needs.parameters:,} to train, {needs.base_parameters:,} frozen")
    click.echo(f"memory      about {needs.memory_bytes / 2**30:.1f} GiB")
    click.echo(f"speed       about {needs.tokens_per_second:,.0f} tokens/s")
    click.echo(f"time        about {needs.minutes:,.0f} minutes for {needs.steps:,} steps")


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the options that were given; the others keep their defaults."""
    return {name: value for name, value in options.items() if value not in (None, ())}

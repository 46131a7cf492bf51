"""Commands on many tasks at once: reembed, regenerate, gc."""

from __future__ import annotations

from datetime import timedelta

import click

from hyperplug.cli.context import (
    Globals,
    json_option,
    model_options,
    pass_globals,
    registry_options,
)
from hyperplug.cli.output import INTERRUPTED, print_json, say
from hyperplug.cli.progress import Progress

_DAYS = click.FloatRange(min=0)


@click.command("reembed")
@click.option("--drop", metavar="EMBEDDER", help="Delete the vectors of one no longer used.")
@registry_options
@model_options
@pass_globals
def reembed(shared: Globals, drop: str | None) -> int:
    """Embed the tasks that the present embedder has not seen.

    For a new embedder: set HYPERPLUG_EMBEDDER, run this, then restart the servers; until
    then they find tasks as before. Interrupted, it goes on when run again.
    """
    with shared.open() as registry:
        if drop is not None:
            say(f"{registry.drop_embeddings(drop):,} vectors deleted")
            return 0
        done = 0
        try:
            with Progress("Embedding") as progress:
                for done, total in registry.reembed():
                    progress.update(done, total)
        except KeyboardInterrupt:
            say(f"\nInterrupted after {done:,} tasks; run it again to go on.")
            return INTERRUPTED
    say(f"{done:,} tasks embedded")
    return 0


@click.command("regenerate")
@click.option(
    "--alias",
    default="current",
    show_default=True,
    help='Which alias leads to the new versions; "candidate" lets you try them first.',
)
@click.option("--no-check", is_flag=True, help="Do not measure adapters on the tasks' examples.")
@registry_options
@model_options
@json_option
@pass_globals
def regenerate(shared: Globals, alias: str, no_check: bool, as_json: bool) -> int:
    """Generate anew what another hypernetwork made.

    Each task gets a new version. The old ones serve until the new ones are stored, and stay.
    Interrupted, it goes on when run again.
    """
    made: list[str] = []
    problems: list[tuple[str, str]] = []
    with shared.open() as registry:
        try:
            with Progress("Generating") as progress:
                for outcome in registry.regenerate(alias=alias, check=not no_check):
                    progress.update(outcome.done, outcome.total)
                    if outcome.adapter is not None:
                        made.append(outcome.adapter.name)
                    if outcome.error is not None:
                        problems.append((outcome.task.name, str(outcome.error)))
        except KeyboardInterrupt:
            say(f"\nInterrupted after {len(made):,} adapters; run it again to go on.")
            return INTERRUPTED
    if as_json:
        print_json(
            {
                "adapters": made,
                "problems": [{"task": task, "problem": text} for task, text in problems],
            }
        )
    for task, text in problems:
        say(f"{task}: {text}")
    say(f"{len(made):,} adapters generated, {len(problems):,} problems")
    return 1 if problems else 0


@click.command("gc")
@click.option(
    "--grace-days",
    type=_DAYS,
    default=30.0,
    show_default=True,
    help="Keep what was removed for so long.",
)
@click.option(
    "--keep-versions",
    type=click.IntRange(min=0),
    metavar="N",
    help="Delete adapters that no alias leads to, but for the newest N of a task  [default: none].",
)
@click.option(
    "--auto-days",
    type=_DAYS,
    metavar="DAYS",
    help="Remove tasks that came without a name, registered longer ago  [default: none].",
)
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@registry_options
@json_option
@pass_globals
def collect(
    shared: Globals,
    grace_days: float,
    keep_versions: int | None,
    auto_days: float | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Delete what nobody needs any more, in all namespaces.

    Removed tasks, their adapters, folders of adapters that are no longer stored, leftovers of
    killed processes. Pinned adapters stay.
    """
    with shared.open() as registry:
        garbage = registry.collect_garbage(
            grace=timedelta(days=grace_days),
            keep_versions=keep_versions,
            auto_unused=None if auto_days is None else timedelta(days=auto_days),
            dry_run=dry_run,
        )
    if as_json:
        print_json(garbage)
        return
    for kind in ("tasks", "adapters", "folders"):
        for name in getattr(garbage, kind):
            click.echo(f"{kind[:-1]} {name}")
    verb = "would go" if dry_run else "deleted"
    say(
        f"{len(garbage.tasks):,} tasks, {len(garbage.adapters):,} old adapters, "
        f"{len(garbage.folders):,} folders, {garbage.leftovers:,} leftovers {verb}"
    )

"""Commands on tasks: find, list, show, remove."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from hyperplug.cli.context import (
    Globals,
    json_option,
    model_options,
    pass_globals,
    registry_options,
)
from hyperplug.cli.output import (
    adapter_summary,
    local_time,
    print_fields,
    print_json,
    print_table,
    say,
    short,
    task_summary,
    working,
)

if TYPE_CHECKING:
    from hyperplug.entities import Match, Thresholds

NOTHING_FOUND = 3


@click.command("find-task")
@click.argument("text")
@click.option(
    "--limit", type=click.IntRange(min=1), default=5, show_default=True, help="At most so many."
)
@click.option(
    "--min-score",
    type=click.FloatRange(-1.0, 1.0),
    metavar="COSINE",
    help="Leave out what is farther  [default: what has nothing in common with TEXT].",
)
@registry_options
@model_options
@json_option
@pass_globals
def find_task(
    shared: Globals, text: str, limit: int, min_score: float | None, as_json: bool
) -> int:
    """Find the tasks nearest to TEXT.

    Exit status 3 if none is near. Those marked "yes" are near enough to serve TEXT
    without an adapter of its own.
    """
    with shared.open() as registry, working("Loading the text encoder"):
        matches = registry.find(text, limit=limit)
        thresholds = registry.thresholds()
    border = min(thresholds.near, thresholds.support) if min_score is None else min_score
    near = [match for match in matches if match.score >= border]
    if as_json:
        print_json([_match_summary(match, thresholds) for match in near])
    elif near:
        rows = [
            (
                f"{match.score:.3f}",
                "yes" if match.score >= thresholds.near else "no",
                match.task.name,
                short(match.task.description),
            )
            for match in near
        ]
        print_table(rows, header=("SCORE", "SERVES", "TASK", "DESCRIPTION"))
    if not matches:
        say("No task is registered.")
    elif not near:
        say(
            f"No task is near: the nearest, {matches[0].task.name}, scores "
            f"{matches[0].score:.3f}, under {border:g}. Show it with --min-score."
        )
    return 0 if near else NOTHING_FOUND


def _match_summary(match: Match, thresholds: Thresholds) -> dict[str, Any]:
    serves = match.score >= thresholds.near
    return {"score": match.score, "serves": serves, "task": task_summary(match.task)}


@click.command("list-tasks")
@click.option("--tag", help="Only tasks with this tag.")
@click.option("--limit", type=click.IntRange(min=1), help="At most so many.")
@click.option("--offset", type=click.IntRange(min=0), default=0, help="Pass over so many.")
@registry_options
@json_option
@pass_globals
def list_tasks(
    shared: Globals, tag: str | None, limit: int | None, offset: int, as_json: bool
) -> None:
    """List the registered tasks."""
    with shared.open() as registry:
        tasks = registry.list_tasks(tag=tag, limit=limit, offset=offset)
    if as_json:
        print_json([task_summary(task) for task in tasks])
    elif tasks:
        rows = [
            (t.name, ",".join(t.tags) or "-", local_time(t.created_at), short(t.description))
            for t in tasks
        ]
        print_table(rows, header=("TASK", "TAGS", "CREATED", "DESCRIPTION"))
    else:
        say("No tasks. Register one with: hyperplug register-task NAME DESCRIPTION")


@click.command("show-task")
@click.argument("name")
@registry_options
@json_option
@pass_globals
def show_task(shared: Globals, name: str, as_json: bool) -> None:
    """Show a task and its adapters."""
    with shared.open() as registry:
        task = registry.get_task(name)
        adapters = registry.list_adapters(task_name=name)
    if as_json:
        shown = [adapter_summary(adapter) for adapter in adapters]
        print_json({**task_summary(task), "adapters": shown})
        return
    print_fields(
        {
            **task_summary(task),
            "examples": len(task.examples),
            "adapters": [adapter.name for adapter in adapters],
        }
    )


@click.command("remove-task")
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@registry_options
@pass_globals
def remove_task(shared: Globals, name: str, yes: bool) -> int:
    """Remove a task, with the adapters that only it uses."""
    with shared.open() as registry:
        task = registry.get_task(name)
        if not yes and not _agreed(f"Remove {name} ({short(task.description)}) and its adapters?"):
            say("Nothing was removed.")
            return 1
        registry.remove_task(name)
    say(f"Removed {name}.")
    return 0


def _agreed(question: str) -> bool:
    """Returns whether the user says yes; the end of the input is a no."""
    say(f"{question} [y/N] ")
    return sys.stdin.readline().strip().lower() in ("y", "yes")

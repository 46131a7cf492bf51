"""Commands on tasks: find, list, show, remove."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hyperplug.cli.context import (
    Globals,
    json_option,
    lines_option,
    model_options,
    pass_globals,
    registry_options,
)
from hyperplug.cli.gains import check_options, tell_harm
from hyperplug.cli.output import (
    adapter_summary,
    agreed,
    local_time,
    print_fields,
    print_json,
    print_lines,
    print_table,
    say,
    short,
    stdin_text,
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
@click.option("--exact", is_flag=True, help="Compare with every task, whatever index there is.")
@registry_options
@model_options
@json_option
@pass_globals
def find_task(
    shared: Globals, text: str, limit: int, min_score: float | None, exact: bool, as_json: bool
) -> int:
    """Find the tasks nearest to TEXT.

    Exit status 3 if none is near. Those marked "yes" are near enough to serve TEXT
    without an adapter of its own.
    """
    with shared.open() as registry, working("Loading the text encoder"):
        matches = registry.find(text, limit=limit, exact=exact)
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
@click.option("--after", metavar="TASK", help="Only those registered after this one.")
@click.option("--search", metavar="TEXT", help="Only those with this in name or description.")
@click.option("--removed", is_flag=True, help="Only removed ones, which restore-task brings back.")
@registry_options
@json_option
@lines_option
@pass_globals
def list_tasks(
    shared: Globals,
    tag: str | None,
    limit: int | None,
    offset: int,
    after: str | None,
    search: str | None,
    removed: bool,
    as_json: bool,
    as_lines: bool,
) -> None:
    """List the registered tasks, the oldest first.

    Go through many by pages: --limit 1000, then --after the last one shown.
    """
    with shared.open() as registry:
        tasks = registry.list_tasks(
            tag=tag, search=search, removed=removed, after=after, limit=limit, offset=offset
        )
    if as_lines:
        print_lines(map(task_summary, tasks))
    elif as_json:
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
    """Show a task, its revisions, adapters and aliases."""
    with shared.open() as registry:
        task = registry.get_task(name)
        revisions = registry.task_revisions(name)
        adapters = registry.list_adapters(task_name=name)
        aliases = registry.store.all_aliases(task.id)
    if as_json:
        shown = [adapter_summary(adapter) for adapter in adapters]
        print_json(
            {
                **task_summary(task),
                "revisions": revisions,
                "adapters": shown,
                "aliases": [
                    {"alias": alias, "adapter": adapter, "base_fingerprint": base}
                    for alias, adapter, base in aliases
                ],
            }
        )
        return
    print_fields(
        {
            **task_summary(task),
            "examples": len(task.examples),
            "adapters": [adapter.name for adapter in adapters],
            "aliases": [f"{alias}={adapter}" for alias, adapter, _ in aliases],
        }
    )
    for before in revisions:
        click.echo(
            f"revision {before.revision} until {local_time(before.replaced_at)}: "
            f"{short(before.description)}"
        )


@click.command("update-task")
@click.argument("name")
@click.option("--description", metavar="TEXT", help='The new description; "-" reads stdin.')
@click.option(
    "--examples",
    "examples_file",
    type=click.Path(path_type=Path),
    metavar="FILE.jsonl",
    help="The new examples, in place of the old ones.",
)
@click.option("--tag", "tags", multiple=True, help="The new tags, in place of the old ones.")
@click.option("--no-generate", is_flag=True, help="Only change the task, and keep its adapter.")
@check_options
@registry_options
@model_options
@json_option
@pass_globals
def update_task(
    shared: Globals,
    name: str,
    description: str | None,
    examples_file: Path | None,
    tags: tuple[str, ...],
    no_generate: bool,
    no_check: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Change a task, and generate a new version of its adapter.

    What it said before is kept, and so are its adapters: rollback-adapter goes back.
    """
    from hyperplug.taskfile import read_examples

    if description is None and examples_file is None and not tags:
        raise click.UsageError("Give --description, --examples or --tag.")
    text = stdin_text() if description == "-" else description
    examples = read_examples(examples_file) if examples_file is not None else None
    with shared.open() as registry, working("Updating"):
        task, adapter = registry.update_task(
            name,
            description=text,
            examples=examples,
            tags=tags or None,
            generate=not no_generate,
            check=not no_check,
            force=force,
        )
    tell_harm(adapter)
    if as_json:
        shown = adapter_summary(adapter) if adapter is not None else None
        print_json({"task": task_summary(task), "adapter": shown})
    else:
        click.echo(adapter.name if adapter is not None else task.name)


@click.command("remove-task")
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@registry_options
@pass_globals
def remove_task(shared: Globals, name: str, yes: bool) -> int:
    """Remove a task, with the adapters that only it uses.

    restore-task brings it back, until purge-task or gc deletes it.
    """
    with shared.open() as registry:
        task = registry.get_task(name)
        if not yes and not agreed(f"Remove {name} ({short(task.description)}) and its adapters?"):
            say("Nothing was removed.")
            return 1
        registry.remove_task(name)
    say(f"Removed {name}. Bring it back with: hyperplug restore-task {name}")
    return 0


@click.command("restore-task")
@click.argument("name")
@registry_options
@pass_globals
def restore_task(shared: Globals, name: str) -> None:
    """Bring back the task of that name that was removed last."""
    with shared.open() as registry:
        registry.restore_task(name)
    say(f"Restored {name}.")


@click.command("purge-task")
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@registry_options
@pass_globals
def purge_task(shared: Globals, name: str, yes: bool) -> int:
    """Delete a removed task for good.

    The adapters that only it uses go with it, unless they are pinned.
    """
    with shared.open() as registry:
        if not yes and not agreed(f"Delete the removed task {name} for good?"):
            say("Nothing was deleted.")
            return 1
        registry.purge_task(name)
    say(f"Deleted {name}.")
    return 0

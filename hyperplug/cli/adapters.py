"""Commands on adapters: generate, list, show, export, import, validate."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hyperplug.cli.context import (
    Globals,
    json_option,
    lines_option,
    model_options,
    pass_globals,
    registry_options,
)
from hyperplug.cli.gains import TOLD_METRICS, check_options, gain_line, promise_line, tell_harm
from hyperplug.cli.output import (
    adapter_summary,
    local_time,
    print_fields,
    print_json,
    print_lines,
    print_table,
    say,
    working,
)
from hyperplug.cli.progress import Progress
from hyperplug.entities import Adapter, AdapterState

if TYPE_CHECKING:
    from hyperplug.registry import Registry

_FOLDER = click.Path(path_type=Path)
_MAX_RANK = click.option(
    "--max-rank",
    type=click.IntRange(min=1),
    default=64,
    show_default=True,
    help="Highest rank that your servers take.",
)


@click.command("generate-adapter")
@click.argument("task", required=False)
@click.option("--description", metavar="TEXT", help="Generate for a description without a name.")
@click.option(
    "--examples",
    "examples_file",
    type=_FOLDER,
    metavar="FILE.jsonl",
    help="Condition on these examples (with --description).",
)
@check_options
@registry_options
@model_options
@json_option
@pass_globals
def generate_adapter(
    shared: Globals,
    task: str | None,
    description: str | None,
    examples_file: Path | None,
    no_check: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Generate the adapter of a task.

    With --description, registers the text under a name made from it. If the task has
    examples, the adapter is checked on them: one that makes answers worse is not used.
    """
    from hyperplug.taskfile import read_examples

    if (task is None) == (description is None):
        raise click.UsageError("Give either TASK or --description TEXT.")
    if examples_file is not None and description is None:
        raise click.UsageError("--examples goes with --description; a task brings its own.")
    examples = read_examples(examples_file) if examples_file is not None else ()
    with shared.open() as registry, working("Generating"):
        if description is not None:
            adapter = registry.generate_for(
                description, examples=examples, check=not no_check, force=force
            )
        else:
            adapter = registry.generate(str(task), check=not no_check, force=force)
    tell_harm(adapter)
    if as_json:
        print_json(adapter_summary(adapter))
    else:
        click.echo(f"{adapter.name}\t{adapter.path}")


@click.command("list-adapters")
@click.option("--task", "task_name", metavar="TASK", help="Only the adapters of this task.")
@click.option("--after", metavar="ADAPTER", help="Only those stored after this one.")
@click.option("--limit", type=click.IntRange(min=1), help="At most so many.")
@registry_options
@json_option
@lines_option
@pass_globals
def list_adapters(
    shared: Globals,
    task_name: str | None,
    after: str | None,
    limit: int | None,
    as_json: bool,
    as_lines: bool,
) -> None:
    """List stored adapters, the oldest first."""
    with shared.open() as registry:
        if task_name is not None:
            registry.get_task(task_name)  # an unknown task is not one without adapters
        found = registry.iterate_adapters(task_name=task_name, after=after, limit=limit)
        if as_lines:
            print_lines(map(adapter_summary, found))
            return
        adapters = list(found)
    if as_json:
        print_json([adapter_summary(adapter) for adapter in adapters])
    elif adapters:
        rows = [
            (
                a.name,
                str(a.version),
                a.origin if a.state is AdapterState.READY else f"{a.origin}, {a.state}",
                str(a.rank),
                f"{a.size_bytes:,}",
                local_time(a.created_at),
            )
            for a in adapters
        ]
        print_table(rows, header=("ADAPTER", "VERSION", "ORIGIN", "RANK", "BYTES", "CREATED"))
    else:
        say("No adapters. Make one with: hyperplug generate-adapter TASK")


@click.command("show-adapter")
@click.argument("name")
@registry_options
@model_options
@json_option
@pass_globals
def show_adapter(shared: Globals, name: str, as_json: bool) -> None:
    """Show an adapter.

    NAME is its own, or that of a task, for the task's current adapter.
    """
    with shared.open() as registry:
        adapter = registry.published(registry.get_adapter(name))
    summary = adapter_summary(adapter)
    if as_json:
        print_json(summary)
    else:
        print_fields(
            {
                **summary,
                "metrics": _other_metrics(adapter),
                "predicted gain": promise_line(adapter),
                "gain": gain_line(adapter),
            }
        )


def _other_metrics(adapter: Adapter) -> dict[str, float]:
    """Returns the figures that no line of their own tells."""
    return {name: value for name, value in adapter.metrics.items() if name not in TOLD_METRICS}


@click.command("export-adapter")
@click.argument("name")
@click.argument("folder", type=_FOLDER)
@registry_options
@model_options
@json_option
@pass_globals
def export_adapter(
    shared: Globals,
    name: str,
    folder: Path,
    as_json: bool,
) -> None:
    """Write an adapter as a plain PEFT folder."""
    with shared.open() as registry:
        path = registry.export(name, folder)
    if as_json:
        print_json({"name": name, "path": path})
    else:
        click.echo(str(path))


@click.command("import-adapter")
@click.argument("folder", type=_FOLDER)
@click.option("--task", "task_name", required=True, metavar="NAME", help="The task it serves.")
@_MAX_RANK
@click.option("--hold", is_flag=True, help="Keep it in quarantine until approve-adapter.")
@registry_options
@model_options
@json_option
@pass_globals
def import_adapter(
    shared: Globals,
    folder: Path,
    task_name: str,
    max_rank: int,
    hold: bool,
    as_json: bool,
) -> None:
    """Store a PEFT folder as a task's adapter.

    It is checked in full first, and becomes the task's current adapter unless it is held.
    """
    with shared.open() as registry:
        adapter = registry.import_(folder, task_name=task_name, max_rank=max_rank, hold=hold)
    if as_json:
        print_json(adapter_summary(adapter))
    else:
        click.echo(adapter.name)


@click.command("export-adapters")
@click.argument("target", metavar="DIR_OR_URL")
@click.option("--task", "tasks", multiple=True, metavar="TASK", help="Only of this task; repeat.")
@click.option("--all", "all_versions", is_flag=True, help="All versions, not only current ones.")
@click.option("--by-task", is_flag=True, help="Name the folders by task, not by adapter.")
@registry_options
@model_options
@json_option
@pass_globals
def export_adapters(
    shared: Globals,
    target: str,
    tasks: tuple[str, ...],
    all_versions: bool,
    by_task: bool,
    as_json: bool,
) -> None:
    """Write many adapters, each as a PEFT folder.

    They are in the layout that servers read: DIR/ADAPTER/adapter_config.json. The target is a
    folder or a URL that fsspec knows, "s3://bucket/adapters". What is there already is left
    alone: run it again to write the news.
    """
    if all_versions and by_task:
        raise click.UsageError("--by-task has room for one adapter of a task; leave --all out.")
    written, kept = [], 0
    with shared.open() as registry:
        chosen = _chosen(registry, tasks, all_versions=all_versions)
        with Progress("Exporting") as progress:
            for adapter, new in registry.export_many(chosen, target, by_task=by_task):
                kept += not new
                if new:
                    written.append(adapter.name)
                progress.update(len(written) + kept, len(chosen))
    if as_json:
        print_json({"written": written, "unchanged": kept})
    else:
        for name in written:
            click.echo(name)
    say(f"{len(written):,} adapters written, {kept:,} were there")


def _chosen(registry: Registry, tasks: Sequence[str], *, all_versions: bool) -> list[Adapter]:
    if not all_versions:
        if not tasks:
            return list(registry.current_adapters())
        return [registry.get_adapter(task) for task in tasks]
    if not tasks:
        return list(registry.iterate_adapters())
    found = {a.id: a for task in tasks for a in registry.list_adapters(task_name=task)}
    return list(found.values())


@click.command("import-adapters")
@click.argument("folder", type=_FOLDER)
@_MAX_RANK
@click.option("--hold", is_flag=True, help="Keep them in quarantine until approve-adapter.")
@registry_options
@model_options
@json_option
@pass_globals
def import_adapters(shared: Globals, folder: Path, max_rank: int, hold: bool, as_json: bool) -> int:
    """Store every PEFT folder below a folder.

    Each goes to the task that its hyperplug.json names, else to the task of its folder's
    name. Bad ones stop nothing and are told at the end.
    """
    adapters, problems = [], []
    with shared.open() as registry, working("Importing"):
        for path, outcome in registry.import_many(folder, max_rank=max_rank, hold=hold):
            if isinstance(outcome, Adapter):
                adapters.append(outcome.name)
            else:
                problems.append((path, str(outcome)))
    if as_json:
        told = [{"folder": path, "problem": text} for path, text in problems]
        print_json({"adapters": adapters, "problems": told})
    else:
        for name in adapters:
            click.echo(name)
    for path, text in problems:
        say(f"{path}: {text}")
    say(f"{len(adapters):,} adapters imported, {len(problems):,} bad folders")
    return 1 if problems else 0


@click.command("validate-adapter")
@click.argument("folder", type=_FOLDER)
@_MAX_RANK
@registry_options
@model_options
@json_option
@pass_globals
def validate_adapter(shared: Globals, folder: Path, max_rank: int, as_json: bool) -> None:
    """Check a PEFT folder against the base model.

    Nothing is stored.
    """
    from hyperplug.adapters.validate import validate_folder
    from hyperplug.basemodel import resolve_base

    settings = shared.settings()
    model = resolve_base(settings.base, cache=settings.cache, progress=say)
    report = validate_folder(folder, base=model.spec, max_rank=max_rank)
    for warning in report.warnings:
        say(f"Warning: {warning}")
    if as_json:
        weights = report.weights
        print_json(
            {
                "valid": True,
                "rank": weights.rank,
                "alpha": weights.alpha,
                "modules": len(weights.target_modules),
                "digest": weights.digest,
                "warnings": report.warnings,
            }
        )
    else:
        click.echo(f"valid: rank {report.weights.rank}, fits {model.spec.id}")

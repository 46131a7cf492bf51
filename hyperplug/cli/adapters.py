"""Commands on adapters: generate, list, show, export, import, validate."""

from __future__ import annotations

from pathlib import Path

import click

from hyperplug.cli.context import (
    Globals,
    json_option,
    model_options,
    pass_globals,
    registry_options,
)
from hyperplug.cli.gains import GAIN_METRICS, check_options, gain_line, tell_harm
from hyperplug.cli.output import (
    adapter_summary,
    local_time,
    print_fields,
    print_json,
    print_table,
    say,
    working,
)
from hyperplug.entities import Adapter

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
@registry_options
@json_option
@pass_globals
def list_adapters(shared: Globals, task_name: str | None, as_json: bool) -> None:
    """List stored adapters."""
    with shared.open() as registry:
        if task_name is not None:
            registry.get_task(task_name)  # an unknown task is not one without adapters
        adapters = registry.list_adapters(task_name=task_name)
    if as_json:
        print_json([adapter_summary(adapter) for adapter in adapters])
    elif adapters:
        rows = [
            (
                a.name,
                str(a.id),
                a.origin,
                str(a.rank),
                f"{a.size_bytes:,}",
                local_time(a.created_at),
            )
            for a in adapters
        ]
        print_table(rows, header=("ADAPTER", "ID", "ORIGIN", "RANK", "BYTES", "CREATED"))
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
        print_fields({**summary, "metrics": _other_metrics(adapter), "gain": gain_line(adapter)})


def _other_metrics(adapter: Adapter) -> dict[str, float]:
    """Returns the figures that `gain_line` does not tell."""
    return {name: value for name, value in adapter.metrics.items() if name not in GAIN_METRICS}


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
@registry_options
@model_options
@json_option
@pass_globals
def import_adapter(
    shared: Globals,
    folder: Path,
    task_name: str,
    max_rank: int,
    as_json: bool,
) -> None:
    """Store a PEFT folder as a task's adapter.

    It is checked in full first, and becomes the task's current adapter.
    """
    with shared.open() as registry:
        adapter = registry.import_(folder, task_name=task_name, max_rank=max_rank)
    if as_json:
        print_json(adapter_summary(adapter))
    else:
        click.echo(adapter.name)


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

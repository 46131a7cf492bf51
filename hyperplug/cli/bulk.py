"""Registering tasks: one from the command line, or many from a file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hyperplug.cli.context import (
    Globals,
    json_option,
    model_options,
    pass_globals,
    registry_options,
)
from hyperplug.cli.gains import check_options, tell_harm
from hyperplug.cli.output import (
    INTERRUPTED,
    adapter_summary,
    print_json,
    say,
    stdin_text,
    task_summary,
    working,
)
from hyperplug.cli.progress import Progress
from hyperplug.policy import harm

if TYPE_CHECKING:
    from hyperplug.entities import TaskDraft
    from hyperplug.registry import Registered, Registry

_FILE = click.Path(path_type=Path)


@click.command("register-task")
@click.argument("name", required=False)
@click.argument("description", required=False)
@click.option(
    "--examples",
    "examples_file",
    type=_FILE,
    metavar="FILE.jsonl",
    help='Examples, one a line: {"input": "…", "output": "…"}.',
)
@click.option(
    "--from-file",
    "tasks_file",
    type=_FILE,
    metavar="TASKS.jsonl",
    help='Many tasks, one a line: {"name", "description", "examples", "tags"}.',
)
@click.option("--tag", "tags", multiple=True, help="Tag the task; may be repeated.")
@click.option("--no-generate", is_flag=True, help="Only register; generate when first asked for.")
@check_options
@registry_options
@model_options
@json_option
@pass_globals
def register_task(
    shared: Globals,
    name: str | None,
    description: str | None,
    examples_file: Path | None,
    tasks_file: Path | None,
    tags: tuple[str, ...],
    no_generate: bool,
    no_check: bool,
    force: bool,
    as_json: bool,
) -> int:
    """Register a task and generate its adapter.

    If the task has examples, the adapter is checked on them: one that makes answers worse is
    not used. Registering the same task again changes nothing. DESCRIPTION may be "-" for stdin.
    """
    from hyperplug.taskfile import read_examples

    making = _Making(generate=not no_generate, check=not no_check, force=force)
    if tasks_file is not None:
        if name is not None or examples_file is not None:
            raise click.UsageError("--from-file takes neither NAME nor --examples.")
        return _register_many(shared, tasks_file, tags=tags, making=making, as_json=as_json)
    if name is None or description is None:
        raise click.UsageError("Give NAME and DESCRIPTION, or --from-file TASKS.jsonl.")
    text = stdin_text() if description == "-" else description
    examples = read_examples(examples_file) if examples_file is not None else ()
    with shared.open() as registry, working("Registering"):
        task, adapter = registry.register_task(
            name, text, examples=examples, tags=tags, **asdict(making)
        )
    tell_harm(adapter)
    if as_json:
        shown = adapter_summary(adapter) if adapter is not None else None
        print_json({"task": task_summary(task), "adapter": shown})
    else:
        click.echo(adapter.name if adapter is not None else task.name)
    return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Making:
    """How adapters are made, as the registry takes it."""

    generate: bool
    check: bool
    force: bool


@dataclass(slots=True)
class _Tally:
    """What became of the lines of a task file, as the registry reports it."""

    lines: list[int] = field(default_factory=list)
    registered: list[dict[str, Any]] = field(default_factory=list)
    known: int = 0
    harming: list[str] = field(default_factory=list)
    problems: list[tuple[int, str]] = field(default_factory=list)

    def add(self, outcome: Registered) -> None:
        number = self.lines[outcome.index]
        if outcome.error is not None:
            self.problems.append((number, str(outcome.error)))
            return
        self.known += not outcome.created
        adapter = outcome.adapter.name if outcome.adapter is not None else None
        if outcome.adapter is not None and harm(outcome.adapter):
            self.harming.append(outcome.adapter.name)
        self.registered.append(
            {"line": number, "name": outcome.draft.name, "adapter": adapter, "new": outcome.created}
        )


def _register_many(
    shared: Globals, path: Path, *, tags: tuple[str, ...], making: _Making, as_json: bool
) -> int:
    """Registers what a file holds; bad lines stop nothing and are told at the end."""
    tally = _Tally()
    with shared.open() as registry:
        try:
            _register_lines(registry, path, tags=tags, making=making, tally=tally)
        except KeyboardInterrupt:
            say(f"\nInterrupted after {len(tally.registered)} tasks; run it again to go on.")
            return INTERRUPTED
    if as_json:
        problems = [{"line": number, "problem": text} for number, text in sorted(tally.problems)]
        print_json({"tasks": tally.registered, "problems": problems})
    else:
        for entry in tally.registered:
            click.echo(entry["adapter"] or entry["name"])
    for number, text in sorted(tally.problems):
        say(f"{path}:{number}: {text}")
    for adapter in tally.harming:
        say(f"Warning: adapter {adapter} makes answers worse and is not used; see show-adapter")
    new = len(tally.registered) - tally.known
    say(f"{new} registered, {tally.known} known before, {len(tally.problems)} bad lines")
    return 1 if tally.problems else 0


def _register_lines(
    registry: Registry, path: Path, *, tags: tuple[str, ...], making: _Making, tally: _Tally
) -> None:
    from hyperplug.taskfile import file_size, read_tasks

    read = 0

    def drafts() -> Iterator[TaskDraft]:
        nonlocal read
        for line in read_tasks(path):
            read = line.bytes_read
            if line.task is None:
                tally.problems.append((line.number, line.problem))
            else:
                tally.lines.append(line.number)
                yield replace(line.task, tags=(*line.task.tags, *tags))

    size_bytes = file_size(path)
    with Progress("Registering") as progress:
        for number, outcome in enumerate(registry.register_tasks(drafts(), **asdict(making)), 1):
            tally.add(outcome)
            # How many tasks the file holds is not known, only how much of it is read.
            progress.update(number, round(len(tally.lines) * size_bytes / max(read, 1)))

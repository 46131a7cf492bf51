"""Commands on versions of adapters: promote, roll back, pin, approve."""

from __future__ import annotations

import click

from hyperplug.cli.context import (
    Globals,
    base_option,
    json_option,
    pass_globals,
    registry_options,
)
from hyperplug.cli.output import local_time, print_json, print_table, say

_ALIAS = click.option(
    "--alias", default="current", show_default=True, help="Which alias of the task to move."
)


@click.command("promote-adapter")
@click.argument("adapter")
@_ALIAS
@click.option("--task", "task_name", metavar="TASK", help="Of this task  [default: its own].")
@registry_options
@base_option
@pass_globals
def promote_adapter(shared: Globals, adapter: str, alias: str, task_name: str | None) -> None:
    """Let a task mean this adapter.

    ADAPTER is its name, or TASK@ALIAS: "promote-adapter faq@candidate" serves what was on trial.
    """
    with shared.open() as registry:
        promoted = registry.promote(adapter, alias=alias, task_name=task_name)
    click.echo(promoted.name)


@click.command("rollback-adapter")
@click.argument("task")
@_ALIAS
@registry_options
@base_option
@pass_globals
def rollback_adapter(shared: Globals, task: str, alias: str) -> None:
    """Let a task mean the adapter that it meant before."""
    with shared.open() as registry:
        adapter = registry.rollback(task, alias=alias)
    click.echo(adapter.name)


@click.command("history")
@click.argument("task")
@registry_options
@base_option
@json_option
@pass_globals
def history(shared: Globals, task: str, as_json: bool) -> None:
    """Show which adapters a task meant, and who changed that."""
    with shared.open() as registry:
        changes = registry.alias_history(task)
    if as_json:
        print_json(changes)
        return
    rows = [
        (
            local_time(change.created_at),
            change.alias,
            change.adapter or "-",
            change.created_by or "-",
            "rolled back" if change.undone else "",
        )
        for change in changes
    ]
    if rows:
        print_table(rows, header=("WHEN", "ALIAS", "ADAPTER", "BY", ""))
    else:
        say("No alias was ever changed.")


@click.command("pin-adapter")
@click.argument("adapter")
@click.option("--unpin", is_flag=True, help="Let it be collected again.")
@registry_options
@base_option
@pass_globals
def pin_adapter(shared: Globals, adapter: str, unpin: bool) -> None:
    """Keep an adapter whatever is collected."""
    with shared.open() as registry:
        kept = registry.pin(adapter, pinned=not unpin)
    click.echo(kept.name)


@click.command("approve-adapter")
@click.argument("adapter")
@registry_options
@base_option
@pass_globals
def approve_adapter(shared: Globals, adapter: str) -> None:
    """End the quarantine of an adapter.

    It serves once it is promoted.
    """
    with shared.open() as registry:
        approved = registry.approve(adapter)
    click.echo(approved.name)
    say(f"To serve it, run: hyperplug promote-adapter {approved.name}")

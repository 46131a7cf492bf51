"""Commands on the registry's schema."""

from __future__ import annotations

import click

from hyperplug.cli.context import Globals, json_option, pass_globals, registry_options
from hyperplug.cli.output import print_json, say


@click.group("db")
@registry_options
def db() -> None:
    """Look after the registry's schema."""


@db.command("upgrade")
@registry_options
@json_option
@pass_globals
def upgrade(shared: Globals, as_json: bool) -> None:
    """Create the registry, or bring it to this version's schema."""
    from hyperplug.store import schema

    revision = schema.upgrade(shared.settings().registry_url)
    if as_json:
        print_json({"current": revision, "head": schema.head()})
    else:
        click.echo(revision)


@db.command("current")
@registry_options
@json_option
@pass_globals
def current(shared: Globals, as_json: bool) -> int:
    """Print the registry's schema revision."""
    from hyperplug.store import schema

    revision = schema.current(shared.settings().registry_url)
    if as_json:
        print_json({"current": revision, "head": schema.head()})
    elif revision is None:
        say("The database is empty; run: hyperplug db upgrade")
    else:
        click.echo(revision)
    return 0 if revision is not None else 1


@db.command("check")
@registry_options
@json_option
@pass_globals
def check(shared: Globals, as_json: bool) -> None:
    """Succeed if the registry has this version's schema."""
    from hyperplug.store import schema

    schema.check(shared.settings().registry_url)
    if as_json:
        print_json({"current": schema.head(), "head": schema.head()})
    else:
        say("The schema is up to date.")

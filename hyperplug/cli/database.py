"""Commands on the registry's schema."""

from __future__ import annotations

import click

from hyperplug.cli.context import Globals, json_option, pass_globals, registry_options
from hyperplug.cli.output import agreed, print_json, say
from hyperplug.cli.progress import Progress


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


@db.command("downgrade")
@click.argument("revision")
@click.option("--yes", is_flag=True, help="Do not ask.")
@registry_options
@pass_globals
def downgrade(shared: Globals, revision: str, yes: bool) -> int:
    """Bring the registry back to an older schema.

    What only the newer one can hold is lost: removed tasks, revisions, other aliases.
    """
    from hyperplug.store import schema

    if not yes and not agreed(f"Give up what schema {revision} cannot hold?"):
        say("Nothing was changed.")
        return 1
    click.echo(schema.downgrade(shared.settings().registry_url, revision))
    return 0


@db.command("copy")
@click.argument("source", metavar="FROM")
@click.argument("target", metavar="TO")
@json_option
def copy(source: str, target: str, as_json: bool) -> None:
    """Copy a whole registry to another database.

    FROM and TO are SQLAlchemy URLs; TO must be empty. All of it arrives or nothing, and is
    compared with what was sent, adapters by their digests.
    """
    from hyperplug.store import copying

    with Progress("Copying") as progress:
        copied = copying.copy(source, target, progress=progress.update)
    if as_json:
        print_json(copied.rows)
    else:
        for table, count in copied.rows.items():
            click.echo(f"{table}\t{count}")

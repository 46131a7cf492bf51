"""The schema's version: what the database has, what this code needs, how to get there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, Engine, inspect, text

from hyperplug.errors import RegistryError, SchemaVersionError
from hyperplug.store.engine import migrating, open_engine, parse_url
from hyperplug.store.failures import masked, reported

if TYPE_CHECKING:
    from alembic.config import Config
    from alembic.script import ScriptDirectory

VERSION_TABLE = "hyperplug_schema"
"""Not Alembic's usual name: another program's database must not pass for a registry."""


def migrations_folder() -> Path:
    """Returns the folder of the migrations, in an installed package or a checkout.

    Raises:
        RegistryError: when it is in neither place.
    """
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "migrations", package.parent / "migrations"):
        if (folder / "env.py").is_file():
            return folder
    raise RegistryError("hyperplug's migrations are missing", hint="install hyperplug again")


def head() -> str:
    """Returns the revision that this code works with."""
    return str(_scripts().get_current_head())


def current(url: str) -> str | None:
    """Returns the revision of the database at `url`; None if it is empty."""
    with _opened(url, create=False) as engine, reported(engine.url), engine.connect() as connection:
        return revision(connection)


def check(url: str) -> None:
    """Passes when the database at `url` is a registry of this code's revision.

    Raises:
        SchemaVersionError: when it is older or newer.
        RegistryError: when it is empty, unreachable or belongs to something else.
    """
    with _opened(url, create=False) as engine:
        check_engine(engine)


def upgrade(url: str) -> str:
    """Brings the database at `url` to this code's revision, or changes nothing; returns it.

    Raises:
        SchemaVersionError: when it is newer than this code.
        RegistryError: when it is unreachable or belongs to something else.
    """
    with _opened(url, create=True) as engine:
        upgrade_engine(engine)
    return head()


def downgrade(url: str, target: str) -> str:
    """Brings the database at `url` back to an older revision, or changes nothing; returns it.

    What only the newer schema can hold is lost.

    Raises:
        SchemaVersionError: when it is newer than this code, or `target` is not older.
        RegistryError: when it is unreachable or belongs to something else.
    """
    from alembic import command

    older = [script.revision for script in _scripts().walk_revisions()]
    with _opened(url, create=False) as engine:
        check_engine(engine)
        if target not in older or target == head():
            raise SchemaVersionError(
                f"{target!r} is no older schema than {head()!r}",
                hint=f"choose one of: {', '.join(sorted(set(older) - {head()}))}",
            )
        with migrating(engine) as connection:
            config = _config()
            config.attributes["connection"] = connection
            command.downgrade(config, target)
    return target


def prepare_engine(engine: Engine, *, create: bool) -> None:
    """Fills an empty database if `create`; then does as `check_engine`."""
    if create:
        with reported(engine.url), engine.connect() as connection:
            empty = revision(connection) is None
        if empty:
            upgrade_engine(engine)
    check_engine(engine)


def check_engine(engine: Engine) -> None:
    """Does as `check` for a database that is open."""
    with reported(engine.url), engine.connect() as connection:
        found = revision(connection)
    if found is None:
        raise RegistryError(
            f"registry {masked(engine.url)} is empty", hint="run: hyperplug db upgrade"
        )
    _refuse_newer(engine, found)
    if found != head():
        raise SchemaVersionError(
            f"registry {masked(engine.url)} has schema {found!r}, older than {head()!r}",
            hint="run: hyperplug db upgrade",
        )


def upgrade_engine(engine: Engine) -> None:
    """Does as `upgrade` for a database that is open, in one transaction."""
    from alembic import command

    with migrating(engine) as connection:
        # Only now, with other writers shut out, is it known what there is to do.
        found = revision(connection)
        if found is not None:
            _refuse_newer(engine, found)
        if found != head():
            config = _config()
            config.attributes["connection"] = connection
            command.upgrade(config, "head")


def revision(connection: Connection) -> str | None:
    """Returns the revision that the database is marked with; None if it is empty.

    Raises:
        RegistryError: when it holds tables but no mark, so belongs to something else.
    """
    tables = set(inspect(connection).get_table_names())
    if VERSION_TABLE in tables:
        row = connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).first()
        return str(row[0]) if row else ""
    if tables:
        some = ", ".join(sorted(tables)[:3])
        raise RegistryError(
            f"{masked(connection.engine.url)} is not a hyperplug registry; it holds {some}",
            hint="give the URL of an empty database",
        )
    return None


def _refuse_newer(engine: Engine, found: str) -> None:
    known = {script.revision for script in _scripts().walk_revisions()}
    if found and found not in known:
        raise SchemaVersionError(
            f"registry {masked(engine.url)} has schema {found!r}, newer than {head()!r}",
            hint="upgrade hyperplug: pip install --upgrade hyperplug",
        )


@contextmanager
def _opened(url: str, *, create: bool) -> Iterator[Engine]:
    engine = open_engine(parse_url(url), create=create)
    try:
        yield engine
    finally:
        engine.dispose()


def _scripts() -> ScriptDirectory:
    from alembic.script import ScriptDirectory

    return ScriptDirectory.from_config(_config())


def _config() -> Config:
    from alembic.config import Config

    config = Config()
    # "%" starts an interpolation in Alembic's configuration, and may stand in a path.
    config.set_main_option("script_location", str(migrations_folder()).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config

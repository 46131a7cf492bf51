"""Versions of the schema in both databases."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine

from hyperplug.errors import RegistryError, SchemaVersionError
from hyperplug.store import open_store, schema
from hyperplug.store.engine import parse_url
from hyperplug.store.tables import Row
from tests.store import worker
from tests.store.samples import BASE, EMBEDDER, add, execute, new_adapter, vector

LATER = """
from alembic import op
import sqlalchemy as sa

revision, down_revision, branch_labels, depends_on = "9999", "{head}", None, None

def upgrade():
    op.add_column("tasks", sa.Column("later", sa.Integer()))
    {end}
"""


def later_code(folder: Path, monkeypatch: pytest.MonkeyPatch, *, end: str = "") -> None:
    """Puts the migrations of a later version of the code in place of today's."""
    head = schema.head()
    copy = folder / "100% later"
    shutil.copytree(schema.migrations_folder(), copy)
    (copy / "versions" / "9999_later.py").write_text(LATER.format(head=head, end=end))
    monkeypatch.setattr(schema, "migrations_folder", lambda: copy)


def test_opening_an_empty_database_fills_it(url: str) -> None:
    store = open_store(url)
    assert store.schema_revision() == schema.head()
    assert schema.current(url) == schema.head()
    schema.check(url)
    store.close()


def test_the_migrations_make_the_tables_that_the_code_expects(url: str) -> None:
    schema.upgrade(url)
    engine = create_engine(parse_url(url))
    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"version_table": schema.VERSION_TABLE, "compare_type": True}
        )
        assert compare_metadata(context, Row.metadata) == []
    engine.dispose()


def test_upgrading_twice_changes_nothing(url: str) -> None:
    assert schema.upgrade(url) == schema.head()
    store = open_store(url)
    task = add(store, "kept")
    assert schema.upgrade(url) == schema.head()
    assert store.get_task("kept", namespace="default") == task
    store.close()


def test_processes_that_open_an_empty_database_at_once_all_succeed(url: str) -> None:
    for process in [worker.start("open", url) for _ in range(3)]:
        worker.finish(process)
    schema.check(url)


def test_an_empty_database_is_left_alone_unless_asked(url: str) -> None:
    if url.startswith("sqlite"):
        Path(str(parse_url(url).database)).touch()
    with pytest.raises(RegistryError, match=r"is empty.*hyperplug db upgrade"):
        open_store(url, create=False)
    assert schema.current(url) is None


def test_a_missing_file_is_not_made_unless_asked(tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match="does not exist"):
        open_store(f"sqlite:///{tmp_path}/sub/none.db", create=False)
    assert list(tmp_path.iterdir()) == []
    open_store(f"sqlite:///{tmp_path}/sub/none.db").close()
    assert (tmp_path / "sub" / "none.db").is_file()


def test_an_older_schema_is_refused_until_upgraded(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(url)
    task = add(store, "kept")
    store.close()
    later_code(tmp_path, monkeypatch)
    for opening in (open_store, schema.check):
        with pytest.raises(SchemaVersionError, match=r"older than '9999'.*hyperplug db upgrade"):
            opening(url)
    assert schema.upgrade(url) == "9999"
    store = open_store(url)
    assert store.list_tasks(namespace="default") == [task]
    store.close()


def test_a_newer_schema_is_refused(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        later_code(tmp_path, patched)
        schema.upgrade(url)
    for opening in (open_store, schema.check, schema.upgrade):
        with pytest.raises(SchemaVersionError, match=r"'9999', newer than.*upgrade hyperplug"):
            opening(url)
    assert schema.current(url) == "9999"


def test_a_migration_that_fails_changes_nothing(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_store(url).close()
    before = schema.head()
    with monkeypatch.context() as patched:
        later_code(tmp_path, patched, end='op.execute("SELECT * FROM no_such_thing")')
        with pytest.raises(RegistryError, match="no_such_thing"):
            schema.upgrade(url)
    assert schema.current(url) == before
    open_store(url).close()


@pytest.mark.parametrize("table", ["customers", "alembic_version"])
def test_a_foreign_database_is_refused_and_left_alone(url: str, table: str) -> None:
    execute(url, f"CREATE TABLE {table} (id integer)")
    for opening in (open_store, schema.check, schema.upgrade, schema.current):
        with pytest.raises(RegistryError, match=f"not a hyperplug registry; it holds {table}"):
            opening(url)
    assert execute(url, f"SELECT * FROM {table}") == []


ASSETS = Path(__file__).parent / "assets"
RELEASED = ("0001",)


def load(url: str, file: Path) -> None:
    """Fills an empty database from a dump that an older version of the code left."""
    statements = file.read_text()
    if url.startswith("sqlite"):
        with contextlib.closing(sqlite3.connect(str(parse_url(url).database))) as connection:
            connection.executescript(statements)
        return
    engine = create_engine(parse_url(url))
    with engine.begin() as connection:
        connection.exec_driver_sql(statements.replace("%", "%%"))
    engine.dispose()


@pytest.fixture(params=RELEASED)
def released(request: pytest.FixtureRequest, url: str) -> str:
    """The URL of a registry as that release left it."""
    kind = "sqlite" if url.startswith("sqlite") else "postgresql"
    load(url, ASSETS / f"{kind}-{request.param}.sql")
    assert schema.current(url) == request.param
    return url


def assert_all_there(url: str) -> None:
    """Passes if all that the dumps hold is in the registry, and works."""
    store = open_store(url)
    names = [task.name for task in store.list_tasks(namespace="default")]
    assert names == ["sentiment", "twin", "plain"]
    first, twin, _ = store.list_tasks(namespace="default")
    assert first.tags == ("reviews", "auto")
    assert first.examples[1].input == "D\u00fcr\u2014"
    adapters = store.list_adapters(namespace="default")
    assert [(a.version, a.hypernet_fingerprint is not None) for a in adapters] == [
        (1, True),
        (2, False),
    ]
    assert adapters[0].metrics == {"gain": 0.25}
    assert all(len(store.adapter_bytes(a)) == a.size_bytes for a in adapters)
    for task in (first, twin):
        assert store.current_adapter(task.id, base_fingerprint=BASE.fingerprint) == adapters[0]
    found = store.nearest(vector(0, 0.6, 0.8), embedder_id=EMBEDDER, namespace="default", limit=1)
    assert (found[0].task.name, round(found[0].score, 5)) == ("plain", 1.0)
    store.close()


def test_every_released_schema_is_upgraded_with_all_it_holds(released: str) -> None:
    assert schema.upgrade(released) == schema.head()
    assert_all_there(released)
    store = open_store(released)
    assert add(store, "next").id == 6  # 3 was given out before, and is not given out again
    adapter = store.put_adapter(new_adapter(add(store, "new"), seed=9))
    assert adapter.id == 2**20 + 4
    assert adapter.version == 1
    store.remove_task("sentiment", namespace="default")
    assert add(store, "sentiment").revision == 1
    store.close()


def test_a_downgrade_gives_up_only_what_the_older_schema_cannot_hold(released: str) -> None:
    schema.upgrade(released)
    store = open_store(released)
    add(store, "removed")
    store.remove_task("removed", namespace="default")
    store.close()
    assert schema.downgrade(released, "0001") == "0001"
    assert schema.current(released) == "0001"
    schema.upgrade(released)
    assert_all_there(released)
    with pytest.raises(SchemaVersionError, match="no older schema"):
        schema.downgrade(released, schema.head())
    with pytest.raises(SchemaVersionError, match="choose one of: 0001"):
        schema.downgrade(released, "none")


@pytest.mark.postgres
def test_an_older_postgres_does_as_well(older_postgres_server: str) -> None:
    load(older_postgres_server, ASSETS / "postgresql-0001.sql")
    schema.upgrade(older_postgres_server)
    assert_all_there(older_postgres_server)

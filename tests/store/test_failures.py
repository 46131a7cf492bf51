"""What goes wrong around a database: each time one clear line and a remedy."""

from __future__ import annotations

import itertools
import sqlite3
import sys
import threading
import time
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.exc import OperationalError

from hyperplug.errors import (
    ConfigError,
    HyperplugError,
    RegistryError,
    RegistryUnreachableError,
)
from hyperplug.store import Store, open_store, schema, task_rows
from hyperplug.store import engine as store_engine
from hyperplug.store.engine import parse_url
from hyperplug.store.failures import reported
from tests.conftest import running_postgres, url_of
from tests.store import worker
from tests.store.samples import (
    EMBEDDER,
    add,
    execute,
    new_adapter,
    new_task,
    put_identities,
    vector,
)


def assert_clear(error: HyperplugError) -> None:
    """Passes for one line of what and one of what to do, with no secret in either."""
    assert error.message
    assert error.hint
    assert "\n" not in str(error)
    assert "s3cret" not in str(error)
    assert len(str(error)) < 500


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "registry.db",
        "//user:s3cret@host/db",
        "postgresql://user:s3cret@host:port/db",
        "mysql://user:s3cret@host/db",
        "mysql+nosuchdriver://host/db?password=s3cret",
        "postgresql+psycopg2://user:s3cret@host/db",
        "sqlite+aiosqlite:///x.db",
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite:///file:x.db?mode=ro&uri=true",
        "sqlite://relative/x.db",
        "sqlite:///~nosuchuser/x.db",
        "sqlite:///x\0.db",
        "sqlite:////tmp/x.db?timeout=soon",
        "postgresql://user:s3cret",
        "postgresql:user:s3cret@host/db",
        "postgresql://user:@s3cret@host/db",
        "mysql://host/db?token=s3cret",
    ],
)
def test_a_wrong_url_is_a_config_error(bad: str) -> None:
    with pytest.raises(ConfigError) as caught:
        open_store(bad)
    assert_clear(caught.value)


@pytest.mark.parametrize(
    "where",
    [
        "user:s3cret@localhost:1/db",
        "localhost:1/db?user=u&password=s3cret",
        "user:s3cret@no-such-host.invalid/db",
        "user:s3cret@/db?host=/no/such/folder",
    ],
)
@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_an_unreachable_server_is_reported_without_the_password(scheme: str, where: str) -> None:
    for opening in (open_store, schema.current):
        with pytest.raises(RegistryError, match="server is running") as caught:
            opening(f"{scheme}://{where}")
        assert_clear(caught.value)


@pytest.mark.postgres
def test_an_unknown_postgres_database_or_user_is_reported(postgres_url: str) -> None:
    with pytest.raises(RegistryError, match="create the database first") as caught:
        open_store(postgres_url.replace("/test_", "/none_"))
    assert_clear(caught.value)
    with pytest.raises(RegistryError, match="check the user") as caught:
        open_store(postgres_url.replace("postgres:@", "nobody:s3cret@"))
    assert_clear(caught.value)


@pytest.mark.postgres
def test_a_server_that_is_gone_without_a_word_is_noticed(postgres_url: str) -> None:
    """By default TCP asks after two hours; what stands in the URL is the operator's own."""
    for own, seconds in (("", "5"), ("keepalives_idle=60", "60")):
        store = open_store(f"{postgres_url}{'&' if '?' in postgres_url else '?'}{own}")
        with store._engine.connect() as connection:
            driver: Any = connection.connection.driver_connection
            parameters = driver.info.get_parameters()
        assert parameters["keepalives_idle"] == seconds
        assert parameters["tcp_user_timeout"] == "10000"
        store.close()


@pytest.mark.postgres
def test_a_store_shows_its_url_without_the_password(postgres_url: str) -> None:
    store = open_store(postgres_url.replace("postgres:@", "postgres:s3cret@"))
    assert "postgres:***@" in store.url
    assert "s3cret" not in store.url + repr(store)
    store.close()


def test_a_password_that_a_driver_repeats_is_masked() -> None:
    url = parse_url("postgresql://user:s3cret@host/db?sslpassword=s3cret2")
    driver_error = OSError("could not use s3cret of s3cret2\nsecond line")
    with pytest.raises(RegistryError, match=r"could not use \*\*\*") as caught, reported(url):
        raise OperationalError("SELECT 's3cret'", {}, driver_error)
    assert_clear(caught.value)


@pytest.mark.postgres
def test_a_postgres_server_that_goes_away_is_reported_and_found_again(postgres_url: str) -> None:
    store = open_store(postgres_url)
    task = add(store, "kept")
    execute(
        postgres_url,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()",
    )
    assert store.get_task("kept", namespace="default") == task
    store.close()


def test_a_folder_or_another_file_is_no_registry(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("Some notes that are no database.\n" * 100)
    for name, message in ((".", "is a folder"), ("notes.txt", "not a database")):
        with pytest.raises(RegistryError, match=message) as caught:
            open_store(f"sqlite:///{tmp_path / name}")
        assert_clear(caught.value)
    with pytest.raises(RegistryError) as caught:
        open_store(f"sqlite:///{tmp_path}/notes.txt/registry.db")
    assert_clear(caught.value)


def test_a_truncated_database_file_is_reported(tmp_path: Path, sqlite_url: str) -> None:
    store = open_store(sqlite_url)
    for number in range(50):
        add(store, f"t{number}", *range(1, 200))
    store.close()
    with (tmp_path / "registry.db").open("r+b") as file:
        file.truncate(20_000)
    with pytest.raises(RegistryError, match="malformed") as caught:
        open_store(sqlite_url).list_tasks(namespace="default")
    assert_clear(caught.value)


def test_a_missing_table_is_reported(store: Store, url: str) -> None:
    execute(url, "DROP TABLE aliases")
    with pytest.raises(RegistryError, match="hyperplug db check") as caught:
        store.current_adapter(1, base_fingerprint="x")
    assert_clear(caught.value)


def test_waiting_for_another_writer_ends(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_engine, "BUSY_TIMEOUT_SECONDS", 1)
    first, second = open_store(url), open_store(url)
    with store_engine.writing(first._engine):
        with pytest.raises(RegistryError, match="another process is writing") as caught:
            add(second, "t")
        assert_clear(caught.value)
        assert second.count_tasks(namespace="default") == 0
    add(second, "t")
    first.close()
    second.close()


@pytest.mark.skipif(sys.platform != "linux", reason="root obeys file modes on Linux only")
def test_a_read_only_file_can_be_read_and_not_written(tmp_path: Path, sqlite_url: str) -> None:
    store = open_store(sqlite_url)
    add(store, "kept")
    store.close()
    (tmp_path / "registry.db").chmod(0o444)
    process = worker.start("write-read-only", sqlite_url)
    count, error = worker.finish(process).splitlines()
    assert count == "1"
    assert "readonly database" in error
    assert "make the file and its folder writable" in error


def test_a_disk_without_space_leaves_whole_rows_only(sqlite_url: str) -> None:
    open_store(sqlite_url).close()
    error = worker.finish(worker.start("write-to-small-disk", sqlite_url))
    assert sqlite_url in error
    assert "check the disk" in error or "free space" in error
    store = open_store(sqlite_url)
    tasks = store.list_tasks(namespace="default")
    assert len(tasks) > 5
    assert execute(sqlite_url, "SELECT count(*) FROM task_embeddings") == [(len(tasks),)]
    assert execute(sqlite_url, "PRAGMA integrity_check") == [("ok",)]
    add(store, "after", *range(1, 401))
    store.close()


def test_a_full_sqlite_file_is_reported(sqlite_url: str) -> None:
    store = open_store(sqlite_url)
    put_identities(store)
    task = add(store, "t")
    engine = store._engine
    engine.dispose()

    @event.listens_for(engine, "connect")
    def _limit(connection: sqlite3.Connection, _record: object) -> None:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages + 2}")

    with pytest.raises(RegistryError, match=r"full.*free space") as caught:
        store.put_adapter(new_adapter(task))
    assert_clear(caught.value)
    assert store.list_adapters(namespace="default") == []
    store.close()


def test_a_writer_killed_at_work_leaves_whole_rows(url: str) -> None:
    open_store(url).close()
    process = worker.start("write-for-ever", url)
    assert process.stdout is not None
    for _ in range(25):
        process.stdout.readline()
    process.kill()
    written = 25 + len(process.stdout.readlines())
    process.wait(timeout=10)
    process.stdout.close()

    store = open_store(url)
    tasks = {task.name for task in store.list_tasks(namespace="default")}
    adapters = store.list_adapters(namespace="default")
    assert written <= len(adapters) <= written + 1
    assert len(adapters) <= len(tasks) <= len(adapters) + 1
    assert execute(url, "SELECT count(*) FROM task_embeddings") == [(len(tasks),)]
    assert execute(url, "SELECT count(*) FROM aliases") == [(len(adapters),)]
    for adapter in adapters:
        assert len(store.adapter_bytes(adapter)) == adapter.size_bytes
        assert adapter.task_name in tasks
    store.close()


def test_a_writer_killed_before_its_commit_leaves_nothing_and_no_lock(url: str) -> None:
    open_store(url).close()
    process = worker.start("stop-half-way", url)
    assert process.stdout is not None
    assert process.stdout.readline() == "written\n"
    process.kill()
    process.wait(timeout=10)
    process.stdout.close()
    store = open_store(url)
    assert store.count_tasks(namespace="default") == 0
    add(store, "next")
    assert store.count_tasks(namespace="default") == 1
    store.close()


def test_ctrl_c_inside_a_transaction_leaves_nothing(store: Store) -> None:
    def interrupted() -> None:
        with store_engine.writing(store._engine) as session:
            task_rows.add(session, [new_task("half")])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert store.list_tasks(namespace="default") == []
    add(store, "next")
    found = store.nearest(vector(1, 0, 0), embedder_id=EMBEDDER, namespace="default", limit=5)
    assert [match.task.name for match in found] == ["next"]


@pytest.mark.postgres
def test_work_goes_on_over_a_restart_of_postgres() -> None:
    with running_postgres() as server:
        store = open_store(url_of(server))
        done: list[str] = []
        stop = threading.Event()

        def write() -> None:
            for number in itertools.count():
                done.append(add(store, f"t{number}", 1, number, 0).name)
                if stop.is_set():
                    return

        writer = threading.Thread(target=write)
        writer.start()
        for _ in range(2):
            before = len(done)
            while len(done) < before + 20:
                assert writer.is_alive()
                time.sleep(0.01)
            server.stop()
            time.sleep(0.5)
            server.ensure_postgres_running()
        before = len(done)
        while len(done) < before + 20:
            assert writer.is_alive()
            time.sleep(0.01)
        stop.set()
        writer.join(timeout=30)
        assert {task.name for task in store.list_tasks(namespace="default")} == set(done)
        server.stop()
        store.patience_seconds = 0.3
        began = time.monotonic()
        with pytest.raises(RegistryUnreachableError, match="server is running") as caught:
            store.count_tasks(namespace="default")
        assert 0.1 < time.monotonic() - began < 10
        assert_clear(caught.value)
        store.close()


def test_a_clock_that_jumps_loses_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    class Ahead(datetime):
        """A clock that runs ten years ahead."""

        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return datetime.now(tz) + timedelta(days=3650)

    with monkeypatch.context() as patched:
        patched.setattr(task_rows, "datetime", Ahead)
        add(store, "ahead")
        add(store, "removed")
        store.remove_task("removed", namespace="default")
    assert store.purge_removed(datetime.now(UTC)) == []
    add(store, "now")
    names = [task.name for task in store.list_tasks(namespace="default")]
    assert names == ["ahead", "now"]  # by registration, whatever the clock said
    assert store.restore_task("removed", namespace="default").deleted_at is None

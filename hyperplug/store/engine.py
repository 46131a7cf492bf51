"""Connections: reads the URL and opens transactions that behave alike on both databases."""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.orm import Session

from hyperplug.errors import ConfigError, MissingExtraError, RegistryError
from hyperplug.naming import is_encodable
from hyperplug.store.failures import masked, reported

BUSY_TIMEOUT_SECONDS = 20
CONNECT_TIMEOUT_SECONDS = 10
_WRITER_LOCK = 0x6879_7065_7270_6C67  # "hyperplg": PostgreSQL advisory locks are integers
_WRITES = "hyperplug_writes"
CHANNEL = "hyperplug"
"""Where PostgreSQL tells other processes that something was written."""
_COUNT = text("UPDATE registry SET changes = changes + 1")
_NOTIFY = text(f"SELECT pg_notify('{CHANNEL}', '')")
_HINT = "use sqlite:///path/registry.db or postgresql+psycopg://user:password@host/database"


def parse_url(url: str) -> URL:
    """Returns the URL with its driver filled in and, for SQLite, an absolute path.

    Raises:
        ConfigError: when it is malformed or names another kind of database.
    """
    if not is_encodable(str(url)) or "\x00" in str(url):
        raise ConfigError("the registry URL holds a NUL or is not valid UTF-8", hint=_HINT)
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        # Without its cause: that may quote the URL with its password.
        raise ConfigError(f"registry URL {_outline(url)!r} is malformed", hint=_HINT) from None
    if "@" in (parsed.host or "") or ("@" in (parsed.database or "") and parsed.host):
        # Where the password ends is a guess then, and the rest of it would be shown.
        raise ConfigError(
            f"registry URL {_outline(url)!r} has an '@' too many",
            hint="in a password write '@' as %40, '/' as %2F and '%' as %25",
        )
    if parsed.drivername in ("sqlite", "sqlite+pysqlite"):
        return parsed.set(drivername="sqlite", database=_sqlite_path(parsed))
    if parsed.drivername in ("postgres", "postgresql", "postgresql+psycopg"):
        return parsed.set(drivername="postgresql+psycopg")
    raise ConfigError(
        f"registry URL {masked(parsed)!r}: {parsed.drivername!r} is not supported", hint=_HINT
    )


def _outline(url: str) -> str:
    """Returns a text that could not be parsed, less all that may be a password in it."""
    if re.fullmatch(r"[\w./ -]{0,200}", str(url)):
        return str(url)
    scheme = re.match(r"\w[\w+]{0,40}://", str(url))
    return f"{scheme[0] if scheme else ''}…"


def _sqlite_path(url: URL) -> str:
    database = url.database or ""
    if database in ("", ":memory:") or database.startswith("file:") or url.host:
        raise ConfigError(
            f"registry URL {masked(url)!r} names no file",
            hint="use sqlite:///relative/path.db or sqlite:////absolute/path.db",
        )
    try:
        return str(Path(database).expanduser().absolute())
    except RuntimeError as exc:  # a user that is not there
        raise ConfigError(
            f"registry URL {masked(url)!r}: {exc}", hint="give the path in full"
        ) from exc


def open_engine(url: URL, *, create: bool) -> Engine:
    """Returns an engine for a URL from `parse_url`; for SQLite the file's folder exists.

    Raises:
        ConfigError: when an option in the URL has an unusable value.
        RegistryError: when the file is not there and must not be made.
        MissingExtraError: when the PostgreSQL driver is not installed.
    """
    if url.get_backend_name() == "sqlite":
        _prepare_file(Path(str(url.database)), create=create)
    try:
        return _sqlite_engine(url) if url.get_backend_name() == "sqlite" else _postgres_engine(url)
    except ValueError as exc:
        raise ConfigError(
            f"registry URL {masked(url)!r} has an unusable option: {exc}",
            hint="correct what follows the '?' in it",
        ) from exc


def _prepare_file(path: Path, *, create: bool) -> None:
    try:
        if path.is_dir():
            raise RegistryError(f"registry {path} is a folder", hint="name a file in it")
        if create:
            path.parent.mkdir(parents=True, exist_ok=True)
        elif not path.exists():
            raise RegistryError(
                f"registry {path} does not exist", hint="check the path, or register a task first"
            )
    except OSError as exc:
        raise RegistryError(
            f"registry {path}: {exc.strerror or exc}", hint="choose a folder that you may write to"
        ) from exc


def _sqlite_engine(url: URL) -> Engine:
    engine = create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_SECONDS})

    @event.listens_for(engine, "connect")
    def _on_connect(connection: sqlite3.Connection, _record: object) -> None:
        # Transactions are begun below: the driver would begin them late, at the first
        # write, and never says BEGIN IMMEDIATE.
        connection.isolation_level = None
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute("PRAGMA synchronous=FULL")
        _use_wal(connection)

    @event.listens_for(engine, "begin")
    def _on_begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get(_WRITES, False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _use_wal(connection: sqlite3.Connection) -> None:
    """Switches the file to WAL; SQLite's own waiting does not cover that switch."""
    deadline = time.monotonic() + BUSY_TIMEOUT_SECONDS
    while connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as exc:
            if "locked" not in str(exc) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


# How far pgvector's graph is searched. Measured (benchmarks/registry.py): a recall of the
# nearest over 0.98 takes more the more vectors there are.
_NEAR, _FAR = 100, 700
_MANY_ROWS = 200_000
_ESTIMATED_ROWS = "SELECT reltuples FROM pg_class WHERE oid = to_regclass('task_embeddings')"
# A machine that is gone without a word is noticed in some ten seconds, not in two hours.
_LIVENESS = {
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,  # milliseconds
}


def _postgres_engine(url: URL) -> Engine:
    arguments = {
        "connect_timeout": CONNECT_TIMEOUT_SECONDS,
        "application_name": "hyperplug",
        **_LIVENESS,
    }
    missing: Mapping[str, Any] = {k: v for k, v in arguments.items() if k not in url.query}
    try:
        engine = create_engine(url, connect_args=dict(missing), pool_pre_ping=True)
    except ImportError as exc:
        raise MissingExtraError("psycopg", extra="postgres") from exc

    @event.listens_for(engine, "connect")
    def _on_connect(connection: Any, _record: object) -> None:
        # pgvector: look farther than its defaults, and go on where a filter left too few.
        rows = connection.execute(_ESTIMATED_ROWS).fetchone()
        far = _FAR if rows is not None and rows[0] > _MANY_ROWS else _NEAR
        connection.execute(f"SET hnsw.ef_search = {far}")
        connection.execute("SET hnsw.iterative_scan = 'relaxed_order'")
        connection.commit()

    return engine


@contextmanager
def reading(engine: Engine) -> Iterator[Session]:
    """A session that sees one state of the database and writes nothing."""
    with reported(engine.url), Session(engine, expire_on_commit=False) as session:
        yield session


@contextmanager
def looking(engine: Engine) -> Iterator[Session]:
    """A session for single questions: no transaction holds them together, or costs anything."""
    if engine.dialect.name == "postgresql":
        engine = engine.execution_options(isolation_level="AUTOCOMMIT")
    with reading(engine) as session:
        yield session


@contextmanager
def writing(engine: Engine) -> Iterator[Session]:
    """A session that commits at the end, all or nothing, and tells others of the change.

    One writer at a time on either database (SQLite knows no other way), so that a look
    followed by an insert needs no retry.
    """
    with reported(engine.url):
        writer = engine.execution_options(**{_WRITES: True})
        with Session(writer, expire_on_commit=False) as session, session.begin():
            lock_writers(session.connection())
            yield session
            session.flush()
            session.execute(_COUNT)
            if session.get_bind().dialect.name == "postgresql":
                session.execute(_NOTIFY)


@contextmanager
def migrating(engine: Engine) -> Iterator[Connection]:
    """Like `writing`, without the ORM, and with SQLite's foreign keys off until the end.

    SQLite alters a table by making another one; with foreign keys on, dropping the first
    would delete whatever refers to its rows.
    """
    with reported(engine.url):
        writer = engine.execution_options(**{_WRITES: True})
        with writer.connect() as connection:
            sqlite = connection.dialect.name == "sqlite"
            if sqlite:
                driver: Any = connection.connection.driver_connection
                driver.execute("PRAGMA foreign_keys=OFF")
                connection.detach()  # it does not go back to those that others use
            with connection.begin():
                lock_writers(connection)
                yield connection
                broken = sqlite and connection.exec_driver_sql("PRAGMA foreign_key_check").first()
                if broken:
                    raise RegistryError(
                        f"table {broken[0]} refers to rows that are not there",
                        hint="nothing was changed; restore the file from a backup",
                    )


def lock_writers(connection: Connection) -> None:
    """Waits for other writers on PostgreSQL; on SQLite, BEGIN IMMEDIATE has done so."""
    if connection.dialect.name == "postgresql":
        connection.execute(text(f"SET LOCAL lock_timeout = '{BUSY_TIMEOUT_SECONDS}s'"))
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _WRITER_LOCK})

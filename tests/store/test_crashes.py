"""Killed at any moment: what was acknowledged is there, and nothing else is half there."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hyperplug.adapters import Library
from hyperplug.store import Store, open_store, schema
from tests.adapters.samples import foreign
from tests.store import forked
from tests.store.samples import EMBEDDER, add, execute, new_adapter, vector

SQLITE_KILLS, POSTGRES_KILLS = 30, 12
LONGEST_SECONDS = 0.12

Work = Callable[..., None]

pytestmark = pytest.mark.slow


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with what the work needs."""
    foreign(tmp_path / "peft")
    forked.first_schema(tmp_path / "first.db")
    return tmp_path


def kill_often(
    work: Work, url: str, home: Path, *, kills: int, check: Callable[[], None] = lambda: None
) -> list[list[str]]:
    """Starts the work again and again, kills it, and returns what it was told is done.

    `check` looks at what each kill left, before the next process may repair it.
    """
    record = home / "record"
    record.touch()
    chosen = random.Random(work.__name__)
    for number in range(kills):
        size = record.stat().st_size
        process = forked.start(work, url, str(home), str(record), number)
        deadline = time.monotonic() + 60
        while record.stat().st_size == size and time.monotonic() < deadline:
            assert process.is_alive(), f"{work.__name__} ended by itself"
            time.sleep(0.001)
        time.sleep(chosen.uniform(0, LONGEST_SECONDS))
        process.kill()
        process.join()
        check()
    lines = [line.split() for line in record.read_text().splitlines()]
    assert len(lines) >= kills
    return lines


def assert_whole(store: Store, url: str, home: Path) -> None:
    """Passes if every row and folder is complete, and leftovers can be collected."""
    assert store.integrity() == []
    tasks = store.list_tasks(namespace="default")
    assert store.embedding_counts(namespace="default") == {EMBEDDER: len(tasks)}
    for adapter in store.list_adapters(namespace="default"):
        assert len(store.adapter_bytes(adapter)) == adapter.size_bytes
    assert_no_half_folder(store, home)
    library = Library(home / "library")
    library.collect_leftovers(older_than_seconds=-1)
    assert list(library.root.glob(".tmp-*")) == []
    # The next writer finds no lock, and what was never said to be done may be done again.
    add(store, "afterwards", 1, 2, 3)
    found = store.nearest(vector(1, 2, 3), embedder_id=EMBEDDER, namespace="default", limit=1)
    assert found[0].task.name == "afterwards"


def assert_no_half_folder(store: Store, home: Path) -> None:
    """Passes if every folder that can be seen holds its whole adapter."""
    stored = {adapter.name: adapter for adapter in store.list_adapters(namespace="default")}
    library = Library(home / "library")
    for _, name, _ in library.folders():
        if name in stored:
            assert library.path(stored[name]) is not None, name


@pytest.mark.parametrize(
    "work",
    [forked.register, forked.generate, forked.import_, forked.collect],
    ids=["registration", "generation", "import", "gc"],
)
def test_writers_killed_at_any_moment(work: Work, url: str, home: Path) -> None:
    store = open_store(url)
    forked.fill(store)
    kills = SQLITE_KILLS if url.startswith("sqlite") else POSTGRES_KILLS
    done = kill_often(
        work, url, home, kills=kills, check=lambda: assert_no_half_folder(store, home)
    )
    names = {task.name for task in store.list_tasks(namespace="default")}
    adapters = {adapter.name for adapter in store.list_adapters(namespace="default")}
    assert {name for kind, name in done if kind == "task"} <= names
    assert {name for kind, name in done if kind == "adapter"} <= adapters
    library = Library(home / "library")
    for kind, name in done:
        if kind == "folder":
            adapter = store.get_adapter(name, namespace="default")
            assert adapter is not None and library.path(adapter) is not None
    assert_whole(store, url, home)
    store.close()


def test_publishers_killed_at_any_moment(sqlite_url: str, home: Path) -> None:
    store = open_store(sqlite_url)
    forked.fill(store)
    for number in range(5):
        store.put_adapter(new_adapter(add(store, f"p{number}", 1, 0, 0), seed=number))
    kill_often(
        forked.publish,
        sqlite_url,
        home,
        kills=SQLITE_KILLS,
        check=lambda: assert_no_half_folder(store, home),
    )
    assert_whole(store, sqlite_url, home)
    store.close()


def test_copies_killed_at_any_moment(sqlite_url: str, home: Path) -> None:
    store = open_store(sqlite_url)
    forked.fill(store)
    for number in range(20):
        store.put_adapter(new_adapter(add(store, f"p{number}", 1, 0, 0), seed=number))
    count = store.count_tasks(namespace="default")
    done = kill_often(forked.copy, sqlite_url, home, kills=SQLITE_KILLS)
    acknowledged = {url for _, url in done}
    for path in home.glob("copy-*.db"):
        url = f"sqlite:///{path}"
        if url not in acknowledged and schema.current(url) is None:
            continue  # nothing but the file is there
        copied = open_store(url)
        assert copied.integrity() == []
        found = copied.count_tasks(namespace="default")
        assert found == count if url in acknowledged else found in (0, count)
        assert len(copied.list_adapters(namespace="default")) == (20 if found else 0)
        copied.close()
    store.close()


def test_migrations_killed_at_any_moment(sqlite_url: str, home: Path) -> None:
    done = kill_often(forked.migrate, sqlite_url, home, kills=SQLITE_KILLS)
    upgraded = {url for kind, url in done if kind == "upgraded"}
    old = {url for kind, url in done if kind == "old"}
    assert upgraded < old
    for url in sorted(old):
        assert schema.current(url) == schema.head() if url in upgraded else schema.current(url)
        schema.upgrade(url)
        store = open_store(url)
        assert store.integrity() == []
        assert [task.name for task in store.list_tasks(namespace="default")] == [
            "sentiment",
            "twin",
            "plain",
        ]
        assert all(store.adapter_bytes(a) for a in store.list_adapters(namespace="default"))
        store.close()
    assert execute(sorted(old)[0], "SELECT count(*) FROM registry") == [(1,)]

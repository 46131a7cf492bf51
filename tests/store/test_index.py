"""The index in memory, with few vectors where it usually has many."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from hyperplug.entities import NewTask
from hyperplug.store import Store, hnsw, memory, open_store
from tests.store import worker
from tests.store.samples import EMBEDDER, add, new_task

DIMENSION = 48


@pytest.fixture(autouse=True)
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "EXACT_LIMIT", 50)
    monkeypatch.setattr(memory, "MATRIX_LIMIT", 400)
    monkeypatch.setattr(memory, "_PAGE", 64)


def rows(count: int, seed: int = 0) -> NDArray[np.float32]:
    """Returns random unit vectors, shape (count, 48)."""
    values = np.random.default_rng(seed).standard_normal((count, DIMENSION)).astype(np.float32)
    return np.asarray(values / np.linalg.norm(values, axis=1, keepdims=True))


def fill(store: Store, vectors: NDArray[np.float32], *, begin: int = 0) -> None:
    """Registers a task `t<number>` for each vector."""
    tasks: list[NewTask] = [new_task(f"t{begin + n}") for n in range(len(vectors))]
    store.add_tasks(tasks, embedder_id=EMBEDDER, embeddings=list(vectors))


def best(store: Store, query: NDArray[np.float32], *, exact: bool = False) -> str:
    """Returns the name of the nearest task."""
    found = store.nearest(query, embedder_id=EMBEDDER, namespace="default", limit=1, exact=exact)
    return found[0].task.name


@pytest.fixture
def filled(sqlite_url: str) -> Iterator[Store]:
    """A store of 300 tasks whose index is built."""
    store = open_store(sqlite_url)
    fill(store, rows(300))
    best(store, rows(1)[0])
    store.wait_for_indexes()
    yield store
    store.close()


def files(url: str) -> list[Path]:
    """Returns the index files of a registry."""
    return sorted(Path(f"{url.removeprefix('sqlite:///')}.index").glob("*.usearch"))


def assert_finds_all(store: Store, vectors: NDArray[np.float32], *, begin: int = 0) -> None:
    found = [best(store, vector) for vector in vectors]
    right = [name == f"t{begin + number}" for number, name in enumerate(found)]
    # The index is approximate: of random vectors, which have no neighbours, it may miss some.
    assert sum(right) >= 0.98 * len(right)


def test_lookups_are_right_before_during_and_after_the_index_is_built(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = rows(600)
    store = open_store(sqlite_url)
    fill(store, vectors[:500])
    monkeypatch.setattr(memory.MemorySearch, "_build_later", lambda self: None)
    assert_finds_all(store, vectors[:20])  # too many for a matrix: read each time
    monkeypatch.undo()
    monkeypatch.setattr(memory, "EXACT_LIMIT", 50)
    assert_finds_all(store, vectors[:20])
    store.wait_for_indexes()
    (search,) = store._vectors._searches.values()
    assert isinstance(search._index, hnsw.HnswIndex)
    assert len(search._index) == 500
    assert_finds_all(store, vectors[:500])
    fill(store, vectors[500:], begin=500)
    assert_finds_all(store, vectors[500:], begin=500)
    store.close()


def test_scores_do_not_depend_on_the_index(filled: Store) -> None:
    for query in rows(20, seed=1):
        options = {"embedder_id": EMBEDDER, "namespace": "default", "limit": 5}
        near = filled.nearest(query, **options)  # type: ignore[arg-type]
        exact = filled.nearest(query, exact=True, **options)  # type: ignore[arg-type]
        assert [match.task for match in near] == [match.task for match in exact]
        scores = [match.score for match in exact]
        assert [match.score for match in near] == pytest.approx(scores, abs=1e-6)


def test_the_file_is_used_and_brought_up_to_date(filled: Store, sqlite_url: str) -> None:
    assert len(files(sqlite_url)) == 1
    filled.remove_task("t7", namespace="default")
    fill(filled, rows(3, seed=5), begin=300)
    other = open_store(sqlite_url)
    best(other, rows(1)[0])
    (search,) = other._vectors._searches.values()
    assert isinstance(search._index, hnsw.HnswIndex)  # at once, not after building
    assert_finds_all(other, rows(3, seed=5), begin=300)
    assert best(other, rows(300)[7]) != "t7"
    other.restore_task("t7", namespace="default")
    assert best(other, rows(300)[7]) == "t7"
    assert best(filled, rows(300)[7]) == "t7"
    other.close()
    assert len(files(sqlite_url)) == 1


@pytest.mark.parametrize("damage", ["missing", "truncated", "emptied", "garbage"])
def test_a_bad_file_is_made_again(filled: Store, sqlite_url: str, damage: str) -> None:
    (file,) = files(sqlite_url)
    content = file.read_bytes()
    if damage == "missing":
        file.unlink()
    else:
        bad = {"truncated": content[: len(content) // 2], "emptied": b"", "garbage": b"x" * 500}
        file.write_bytes(bad[damage])
    other = open_store(sqlite_url)
    assert_finds_all(other, rows(300)[:20])
    other.wait_for_indexes()
    assert_finds_all(other, rows(300))
    other.close()
    assert files(sqlite_url)[0].stat().st_size > len(content) / 2


def test_the_file_of_another_registry_is_not_used(filled: Store, sqlite_url: str) -> None:
    (file,) = files(sqlite_url)
    filled.close()
    database = Path(sqlite_url.removeprefix("sqlite:///"))
    for path in database.parent.glob("registry.db*"):
        if path.is_file():
            path.unlink()
    other = open_store(sqlite_url)
    vectors = rows(300, seed=9)
    fill(other, vectors)
    assert_finds_all(other, vectors[:20])
    other.wait_for_indexes()
    assert_finds_all(other, vectors)
    assert len(files(sqlite_url)) == 2
    assert file.is_file()
    other.close()


def test_what_other_processes_write_is_found(filled: Store, sqlite_url: str) -> None:
    numbers = [str(number) for number in rows(1, seed=4)[0]]
    worker.finish(worker.start("add", sqlite_url, "theirs", *numbers))
    assert best(filled, rows(1, seed=4)[0]) == "theirs"
    worker.finish(worker.start("remove", sqlite_url, "theirs"))
    assert best(filled, rows(1, seed=4)[0]) != "theirs"


def test_a_folder_that_cannot_be_written_is_no_obstacle(sqlite_url: str) -> None:
    store = open_store(sqlite_url)
    Path(f"{sqlite_url.removeprefix('sqlite:///')}.index").write_text("in the way")
    fill(store, rows(100))
    best(store, rows(1)[0])
    store.wait_for_indexes()
    assert_finds_all(store, rows(100))
    store.close()


def test_without_usearch_every_vector_is_compared(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hnsw, "available", lambda: False)
    store = open_store(sqlite_url)
    fill(store, rows(500))
    assert_finds_all(store, rows(500)[:20])
    assert files(sqlite_url) == []
    add(store, "one", *rows(1, seed=3)[0])
    assert best(store, rows(1, seed=3)[0]) == "one"
    store.close()

"""Nearest tasks in both databases."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from sqlalchemy.dialects import sqlite

from hyperplug.errors import RegistryError, TaskNotFoundError
from hyperplug.store import Store, open_store
from hyperplug.store.columns import Embedding
from tests.store import worker
from tests.store.samples import EMBEDDER, add, execute, new_task, vector


def near(store: Store, *numbers: float, limit: int = 10) -> list[tuple[str, float]]:
    """Returns names and scores of the nearest tasks in the default namespace."""
    found = store.nearest(vector(*numbers), embedder_id=EMBEDDER, namespace="default", limit=limit)
    return [(match.task.name, round(match.score, 5)) for match in found]


def test_scores_are_cosines_best_first(store: Store) -> None:
    random = np.random.default_rng(1)
    rows = random.normal(size=(150, 24)).astype(np.float32)
    for number, row in enumerate(rows):
        add(store, f"t{number}", *row)
    query = random.normal(size=24).astype(np.float32) * 50
    cosines = rows @ query / np.linalg.norm(rows, axis=1) / np.linalg.norm(query)
    best = np.argsort(-cosines)[:7]
    found = store.nearest(query, embedder_id=EMBEDDER, namespace="default", limit=7)
    assert [match.task.name for match in found] == [f"t{number}" for number in best]
    assert [match.score for match in found] == pytest.approx(list(cosines[best]), abs=1e-5)


def test_few_or_no_tasks(store: Store) -> None:
    assert near(store, 1, 0) == []
    add(store, "only", 1, 0)
    assert near(store, -1, 0) == [("only", -1.0)]
    assert near(store, 1, 0, limit=0) == []


def test_of_equal_scores_the_oldest_is_first(store: Store) -> None:
    oldest = add(store, "d", 3, 4)
    for name in ("b", "c", "a"):
        add(store, name, 3, 4)
    # The row of its vector is now the youngest; the task is not.
    store.put_embedding(oldest.id, embedder_id=EMBEDDER, embedding=vector(3, 4))
    add(store, "best", 1, 0)
    assert [name for name, _ in near(store, 1, 0, limit=3)] == ["best", "d", "b"]


def test_embedders_are_never_compared(store: Store) -> None:
    add(store, "old", 1, 0, 0)
    store.add_task(new_task("new"), embedder_id="other", embedding=vector(1, 0, 0))
    store.add_task(new_task("wide"), embedder_id="wide", embedding=vector(1, 0, 0, 0))
    assert near(store, 1, 0, 0) == [("old", 1.0)]
    wide = store.nearest(vector(1, 0, 0, 0), embedder_id="wide", namespace="default", limit=9)
    assert [match.task.name for match in wide] == ["wide"]
    assert store.nearest(vector(1), embedder_id="unknown", namespace="default", limit=9) == []


def test_an_embedder_cannot_change_its_dimension(store: Store) -> None:
    task = add(store, "t", 1, 0, 0)
    with pytest.raises(RegistryError, match="gave 2 numbers, its stored vectors have 3"):
        store.nearest(vector(1, 0), embedder_id=EMBEDDER, namespace="default", limit=1)
    with pytest.raises(RegistryError, match="gave 2 numbers"):
        store.put_embedding(task.id, embedder_id=EMBEDDER, embedding=vector(1, 0))
    assert near(store, 1, 0, 0) == [("t", 1.0)]


def test_namespaces_are_searched_apart(store: Store) -> None:
    add(store, "here", 1, 0)
    add(store, "there", 1, 0, namespace="tenant")
    assert near(store, 1, 0) == [("here", 1.0)]


def test_a_vector_can_be_replaced(store: Store) -> None:
    task = add(store, "t", 1, 0)
    add(store, "u", 1, 1)
    assert near(store, 1, 0) == [("t", 1.0), ("u", 0.70711)]
    store.put_embedding(task.id, embedder_id=EMBEDDER, embedding=vector(0, 1))
    assert near(store, 1, 0) == [("u", 0.70711), ("t", 0.0)]
    with pytest.raises(TaskNotFoundError):
        store.put_embedding(task.id + 99, embedder_id=EMBEDDER, embedding=vector(0, 1))


def test_what_another_process_writes_is_seen(store: Store, url: str) -> None:
    add(store, "a", 1, 0)
    add(store, "b", 1, 1)
    assert near(store, 1, 0) == [("a", 1.0), ("b", 0.70711)]
    worker.finish(worker.start("add", url, "c", "4", "3"))
    assert near(store, 1, 0) == [("a", 1.0), ("c", 0.8), ("b", 0.70711)]
    worker.finish(worker.start("replace", url, "a", "0", "1"))
    assert near(store, 1, 0) == [("c", 0.8), ("b", 0.70711), ("a", 0.0)]
    worker.finish(worker.start("remove", url, "b"))
    assert near(store, 1, 0) == [("c", 0.8), ("a", 0.0)]
    # The newest row goes and another comes: the number of rows stays.
    worker.finish(worker.start("remove", url, "c"))
    worker.finish(worker.start("add", url, "d", "3", "4"))
    assert near(store, 1, 0) == [("d", 0.6), ("a", 0.0)]
    # One is replaced and one comes between two searches: more rows, not all of the old.
    worker.finish(worker.start("replace", url, "d", "1", "0"))
    worker.finish(worker.start("add", url, "e", "4", "3"))
    assert near(store, 1, 0) == [("d", 1.0), ("e", 0.8), ("a", 0.0)]


def test_threads_search_while_others_register(store: Store) -> None:
    def register_and_search(number: int) -> None:
        add(store, f"t{number}", 1, number)
        scores = [score for _, score in near(store, 1, 0, limit=50)]
        assert scores == sorted(scores, reverse=True)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(register_and_search, range(24)))
    assert len(near(store, 1, 0, limit=50)) == 24


def test_a_truncated_vector_is_reported(sqlite_url: str) -> None:
    store = open_store(sqlite_url)
    add(store, "t", 1, 0, 0)
    execute(sqlite_url, "UPDATE task_embeddings SET embedding = x'0000803f00'")
    with pytest.raises(RegistryError, match="stored embedding 1 is damaged"):
        near(store, 1, 0, 0)
    store.close()


@settings(max_examples=50, deadline=None)
@given(hnp.arrays(np.float32, st.integers(1, 40), elements=st.floats(-4, 4, width=32)))
def test_vectors_survive_sqlite_bit_for_bit(numbers: NDArray[np.float32]) -> None:
    column, dialect = Embedding(), sqlite.dialect()
    stored = column.process_bind_param(numbers, dialect)
    assert len(stored) == 4 * numbers.size
    back = column.process_result_value(stored, dialect)
    assert back is not None
    assert back.tobytes() == numbers.astype("<f4").tobytes()

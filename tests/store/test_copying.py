"""Copying a registry between databases."""

from __future__ import annotations

from pathlib import Path

import pytest

from hyperplug.entities import TaskChange
from hyperplug.errors import RegistryError
from hyperplug.naming import description_digest
from hyperplug.store import Store, copying, open_store, schema
from tests.store import forked
from tests.store.samples import (
    BASE,
    EMBEDDER,
    add,
    execute,
    new_adapter,
    new_task,
    put_identities,
    vector,
)


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a database to copy into."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'copy' / 'registry.db'}"
    return str(request.getfixturevalue("second_postgres_url"))


def fill(store: Store) -> None:
    """Puts some of everything into a store, and takes some out again."""
    put_identities(store)
    store.add_task(
        new_task("a", tags=("x", "y")), embedder_id=EMBEDDER, embedding=vector(0.6, 0.8, 0)
    )
    task = store.get_task("a", namespace="default")
    assert task is not None
    store.put_adapter(new_adapter(task, seed=1, key="k"))
    text = "Now something else — with a dash"
    wanted = TaskChange(description=text, description_digest=description_digest(text))
    store.change_task(
        "a", wanted, namespace="default", embedder_id=EMBEDDER, embedding=vector(0, 0.6, 0.8)
    )
    adapter = store.put_adapter(new_adapter(task, seed=2))
    store.set_metrics(adapter.id, {"gain": 0.1})
    add(store, "b", 1, 0, 0, namespace="other")
    add(store, "gone", 1, 0, 0)
    store.remove_task("gone", namespace="default")
    add(store, "purged", 1, 0, 0)
    store.remove_task("purged", namespace="default")
    store.purge_task("purged", namespace="default")


def everything(store: Store) -> object:
    """Returns what a user sees of a store."""
    tasks = store.list_tasks(namespace="default") + store.list_tasks(namespace="other")
    adapters = store.list_adapters(namespace="default")
    found = store.nearest(vector(0, 0.6, 0.8), embedder_id=EMBEDDER, namespace="default", limit=5)
    return (
        tasks,
        store.list_tasks(namespace="default", removed=True),
        [store.task_revisions(task.id) for task in tasks],
        adapters,
        [store.adapter_bytes(adapter) for adapter in adapters],
        store.alias_history(tasks[0].id, base_fingerprint=BASE.fingerprint),
        [(match.task, pytest.approx(match.score, abs=1e-6)) for match in found],
        store.identity(),
    )


def test_everything_arrives(store: Store, url: str, target: str) -> None:
    fill(store)
    said: list[tuple[int, int]] = []
    copied = copying.copy(url, target, progress=lambda done, total: said.append((done, total)))
    assert copied.rows["tasks"] == 3
    assert said[-1][0] == said[-1][1] == sum(copied.rows.values())
    other = open_store(target)
    assert everything(other) == everything(store)
    before = max(task.id for task in store.list_tasks(namespace="default", removed=True))
    assert add(other, "next").id > before + 1  # not that of the purged task
    other.close()


def test_an_empty_registry_is_copied(store: Store, url: str, target: str) -> None:
    put_identities(store)
    copying.copy(url, target)
    other = open_store(target)
    adapter = other.put_adapter(new_adapter(add(other, "a")))
    assert adapter.id == 2**20
    other.close()


def test_a_target_that_is_not_empty_is_refused(store: Store, url: str, target: str) -> None:
    fill(store)
    other = open_store(target)
    task = add(other, "mine")
    with pytest.raises(RegistryError, match=r"not empty.*new database"):
        copying.copy(url, target)
    assert other.list_tasks(namespace="default") == [task]
    other.close()
    with pytest.raises(RegistryError, match="same registry"):
        copying.copy(url, url)


def test_nothing_arrives_if_an_adapter_is_damaged(store: Store, url: str, target: str) -> None:
    fill(store)
    bad = "x'00'" if url.startswith("sqlite") else "'\\x00'::bytea"
    execute(url, f"UPDATE adapters SET data = {bad} WHERE version = 2")
    with pytest.raises(RegistryError, match=r"do not match their digest.*doctor --deep"):
        copying.copy(url, target)
    assert schema.current(target) == schema.head()
    other = open_store(target)
    assert other.count_tasks(namespace="default") == 0
    other.close()


def test_a_copy_made_in_the_middle_of_writes_is_one_state(
    store: Store, url: str, target: str, tmp_path: Path
) -> None:
    forked.fill(store)
    record = tmp_path / "record"
    writer = forked.start(forked.generate, url, str(tmp_path), str(record), 1)
    try:
        while not record.exists() or len(record.read_text().splitlines()) < 10:
            assert writer.is_alive()
        acknowledged = [line.split()[1] for line in record.read_text().splitlines()]
        copying.copy(url, target)
    finally:
        writer.kill()
        writer.join()
    restored = open_store(target)
    adapters = restored.list_adapters(namespace="default")
    assert set(acknowledged) <= {adapter.name for adapter in adapters}
    assert all(restored.adapter_bytes(adapter) for adapter in adapters)
    tasks = restored.list_tasks(namespace="default")
    assert restored.embedding_counts(namespace="default") == {EMBEDDER: len(tasks)}
    assert restored.changes() <= store.changes()
    restored.close()

"""Many processes on one registry: nothing is lost, doubled or mixed up, nobody waits forever."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import pytest

from hyperplug.store import open_store
from tests.store import forked
from tests.store.samples import EMBEDDER

pytestmark = pytest.mark.slow

PROCESSES, OPERATIONS = 8, 500
AT_ONCE = 16


def lines(record: Path) -> list[list[str]]:
    """Returns what processes were told is done."""
    return [line.split() for line in record.read_text().splitlines()]


def test_eight_processes_do_five_hundred_mixed_operations_each(url: str, tmp_path: Path) -> None:
    store = open_store(url)
    forked.fill(store)
    record = tmp_path / "record"
    processes = [
        forked.start(forked.mix, url, str(tmp_path), str(record), seed, OPERATIONS)
        for seed in range(PROCESSES)
    ]
    for process in processes:
        process.join(timeout=600)
    assert [process.exitcode for process in processes] == [0] * PROCESSES
    done = lines(record)

    def of(kind: str) -> list[str]:
        return [words[1] for words in done if words[0] == kind]

    tasks = store.list_tasks(namespace="default")
    names = [task.name for task in tasks]
    assert len(set(names)) == len(names)
    assert set(of("task")) - set(of("removed")) == {n for n in names if n.startswith("own-")}
    updates = Counter(of("update"))
    for number in range(forked.SHARED):
        task = store.get_task(f"shared-{number}", namespace="default")
        assert task is not None
        assert task.revision == 1 + updates[task.name]
        assert len(store.task_revisions(task.id)) == updates[task.name]
    adapters = store.list_adapters(namespace="default")
    assert len({adapter.id for adapter in adapters}) == len(adapters)
    versions = Counter((adapter.task_name, adapter.version) for adapter in adapters)
    assert set(versions.values()) <= {1}
    for adapter in adapters:
        assert len(store.adapter_bytes(adapter)) == adapter.size_bytes
    measured = store.list_adapters(namespace="default", task_name="shared-0")
    kept = {name for adapter in measured for name in adapter.metrics}
    assert set(of("metric")) <= kept
    assert store.embedding_counts(namespace="default") == {EMBEDDER: len(tasks)}
    assert store.integrity() == []
    store.close()


def test_one_novel_description_asked_for_at_once_has_one_adapter(url: str, tmp_path: Path) -> None:
    store = open_store(url)
    forked.fill(store)
    record = tmp_path / "record"
    at = time.time() + 2
    processes = [
        forked.start(forked.novel, url, str(tmp_path), str(record), seed, at)
        for seed in range(AT_ONCE)
    ]
    for process in processes:
        process.join(timeout=120)
    assert [process.exitcode for process in processes] == [0] * AT_ONCE
    answers = lines(record)
    assert len(answers) == AT_ONCE
    assert len({tuple(words) for words in answers}) == 1
    assert len(store.list_adapters(namespace="default")) == 1
    assert store.count_tasks(namespace="default") == forked.SHARED + 1
    store.close()

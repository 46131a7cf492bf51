"""Work that other processes do in the tests of crashes and of concurrency.

Each function runs in a process of its own, forked from a server that has imported all this,
and appends a line to a file for whatever it was told is done.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import random
import shutil
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from pathlib import Path

from hyperplug.adapters import Library
from hyperplug.adapters.validate import validate_folder
from hyperplug.config import load_settings
from hyperplug.entities import NewAdapter, Origin, Task, TaskChange
from hyperplug.naming import auto_task_name, description_digest
from hyperplug.registry import open_registry
from hyperplug.store import Store, copying, open_store, schema
from tests.adapters.samples import BASE as TINY
from tests.store.samples import (
    BASE,
    EMBEDDER,
    HYPERNET,
    add,
    new_adapter,
    new_task,
    vector,
)

ASSETS = Path(__file__).parent / "assets"

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests.store.forked"])


def start(work: Callable[..., None], *arguments: object) -> multiprocessing.process.BaseProcess:
    """Returns a process that does the work."""
    process = _context.Process(target=work, args=arguments)
    process.start()
    return process


class Record:
    """What a process was told is done, in a file that outlives it."""

    def __init__(self, file: str) -> None:
        self._descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def add(self, *words: object) -> None:
        """Appends a line."""
        os.write(self._descriptor, (" ".join(map(str, words)) + "\n").encode())


def register(url: str, folder: str, record: str, seed: int) -> None:
    """Registers tasks, some at a time."""
    done, store = Record(record), open_store(url)
    for number in itertools.count():
        names = [f"r{seed}-{number}-{n}" for n in range(3)]
        store.add_tasks(
            [new_task(name) for name in names],
            embedder_id=EMBEDDER,
            embeddings=[vector(1, number, n) for n in range(3)],
        )
        for name in names:
            done.add("task", name)


def generate(url: str, folder: str, record: str, seed: int) -> None:
    """Registers tasks, stores adapters and publishes them."""
    done, store, library = Record(record), open_store(url), Library(Path(folder) / "library")
    for number in itertools.count():
        name = f"g{seed}-{number}"
        task = add(store, name, 1, number, 0)
        adapter = store.put_adapter(new_adapter(task, seed=hash((seed, number)) % 2**32, key=name))
        done.add("adapter", adapter.name)
        library.publish(adapter, store.adapter_bytes(adapter), base_id=BASE.id)
        done.add("folder", adapter.name)


def import_(url: str, folder: str, record: str, seed: int) -> None:
    """Imports a PEFT folder for one new task after another."""
    done, store = Record(record), open_store(url)
    for number in itertools.count():
        task = add(store, f"i{seed}-{number}", 1, number, 0)
        report = validate_folder(Path(folder) / "peft", base=TINY)
        adapter = store.put_adapter(
            NewAdapter(
                namespace=task.namespace,
                task_id=task.id,
                task_name=task.name,
                weights=report.weights,
                origin=Origin.IMPORTED,
                base_fingerprint=TINY.fingerprint,
            )
        )
        done.add("adapter", adapter.name)


def collect(url: str, folder: str, record: str, seed: int) -> None:
    """Registers, removes and collects garbage."""
    done = Record(record)
    with open_registry(url, settings=load_settings(home=folder)) as registry:
        store = registry.store
        for number in itertools.count():
            for kept in (True, False):
                task = add(store, f"c{seed}-{number}-{kept}".lower(), 1, number, 0)
                adapter = store.put_adapter(new_adapter(task, seed=number, key=task.name))
                data = store.adapter_bytes(adapter)
                registry.library.publish(adapter, data, base_id=BASE.id)
                if kept:
                    done.add("adapter", adapter.name)
                else:
                    store.remove_task(task.name, namespace="default")
            registry.collect_garbage(grace=timedelta(0), keep_versions=1)


def copy(url: str, folder: str, record: str, seed: int) -> None:
    """Copies the registry to one new file after another."""
    done = Record(record)
    for number in itertools.count():
        target = f"sqlite:///{folder}/copy-{seed}-{number}.db"
        copying.copy(url, target)
        done.add("copy", target)


def migrate(url: str, folder: str, record: str, seed: int) -> None:
    """Upgrades one registry of the first schema after another."""
    done = Record(record)
    for number in itertools.count():
        path = Path(folder) / f"old-{seed}-{number}.db"
        shutil.copy(Path(folder) / "first.db", path)
        done.add("old", f"sqlite:///{path}")
        schema.upgrade(f"sqlite:///{path}")
        done.add("upgraded", f"sqlite:///{path}")


def publish(url: str, folder: str, record: str, seed: int) -> None:
    """Publishes adapters that are stored, takes them away, and publishes them again."""
    store, library = open_store(url), Library(Path(folder) / "library")
    adapters = store.list_adapters(namespace="default", limit=5)
    for adapter in itertools.cycle(adapters):
        library.publish(adapter, store.adapter_bytes(adapter), base_id=BASE.id)
        library.remove(adapter)
        Record(record).add("round", adapter.name)


def first_schema(path: Path) -> None:
    """Makes a registry of the first schema."""
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript((ASSETS / "sqlite-0001.sql").read_text())


# Concurrency

SHARED = 5


def mix(url: str, folder: str, record: str, seed: int, count: int) -> None:
    """Does so many operations of all kinds on tasks of its own and on shared ones."""
    done, store = Record(record), open_store(url)
    chosen = random.Random(seed)
    own: list[Task] = []
    for number in range(count):
        kind = chosen.choices(
            ("register", "update", "generate", "resolve", "remove", "promote", "measure"),
            (25, 15, 20, 20, 5, 10, 5),
        )[0]
        shared = store.get_task(f"shared-{chosen.randrange(SHARED)}", namespace="default")
        assert shared is not None
        if kind == "register" or not own:
            own.append(add(store, f"own-{seed}-{number}", 1, seed, number))
            done.add("task", own[-1].name)
        elif kind == "update":
            text = f"Text {number} by {seed}"
            wanted = TaskChange(description=text, description_digest=description_digest(text))
            store.change_task(
                shared.name,
                wanted,
                namespace="default",
                embedder_id=EMBEDDER,
                embedding=vector(1, seed, number),
            )
            done.add("update", shared.name)
        elif kind == "generate":
            task = chosen.choice([*own, shared])
            key = f"{task.name}-{chosen.randrange(8)}"
            adapter = store.put_adapter(new_adapter(task, seed=abs(hash(key)) % 2**32, key=key))
            done.add("adapter", adapter.name)
        elif kind == "resolve":
            found = store.nearest(
                vector(1, seed, number), embedder_id=EMBEDDER, namespace="default", limit=2
            )
            assert found
            current = store.current_adapter(shared.id, base_fingerprint=BASE.fingerprint)
            if current is not None:
                assert len(store.adapter_bytes(current)) == current.size_bytes
        elif kind == "remove":
            gone = own.pop(chosen.randrange(len(own)))
            store.remove_task(gone.name, namespace="default")
            done.add("removed", gone.name)
        elif kind == "promote":
            adapters = store.list_adapters(namespace="default", task_name=shared.name)
            if adapters:
                store.set_alias(shared.id, adapter_id=chosen.choice(adapters).id)
                done.add("promoted", shared.name)
        else:
            adapters = store.list_adapters(namespace="default", task_name="shared-0")
            if adapters:
                store.set_metrics(adapters[0].id, {f"by_{seed}_{number}": float(number)})
                done.add("metric", f"by_{seed}_{number}")
    done.add("end", seed)
    store.close()


def novel(url: str, folder: str, record: str, seed: int, at: float) -> None:
    """Does what a server does for a novel description, at the same moment as others."""
    store = open_store(url)
    text = "Sort the letters of the word."
    time.sleep(max(0.0, at - time.time()))
    task, _ = store.add_task(
        new_task(auto_task_name(text), text), embedder_id=EMBEDDER, embedding=vector(1, 0, 0)
    )
    # Bytes may differ between machines; the first that are stored stand for all.
    adapter = store.put_adapter(new_adapter(task, seed=seed, key="the one key"))
    Record(record).add("adapter", adapter.id, adapter.digest)


def fill(store: Store) -> None:
    """Puts identities and shared tasks into a store."""
    store.put_base_model(BASE)
    store.put_base_model(TINY)
    store.put_hypernet(HYPERNET)
    for number in range(SHARED):
        add(store, f"shared-{number}", 1, number, 0)

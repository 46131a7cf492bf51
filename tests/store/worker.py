"""A second process for the store's tests: `python -m tests.store.worker COMMAND URL [ARG]`."""

from __future__ import annotations

import ctypes
import itertools
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import text

import hyperplug.store
from hyperplug.errors import RegistryError
from hyperplug.naming import DEFAULT_NAMESPACE
from hyperplug.store import Store, open_store
from hyperplug.store.engine import writing
from tests.store.samples import EMBEDDER, add, new_adapter, put_identities, vector


def start(command: str, url: str, *arguments: str) -> subprocess.Popen[str]:
    """Returns a running worker; what it prints can be read from `stdout`."""
    root = Path(hyperplug.store.__file__).parents[2]
    return subprocess.Popen(
        [sys.executable, "-m", "tests.store.worker", command, url, *arguments],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    """Returns what a worker printed, once it has ended well."""
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    return output.strip()


def _open(url: str, *_: str) -> None:
    open_store(url).close()


def _add(url: str, name: str, *numbers: str) -> None:
    add(open_store(url), name, *map(float, numbers))


def _remove(url: str, name: str) -> None:
    open_store(url).remove_task(name, namespace=DEFAULT_NAMESPACE)


def _replace(url: str, name: str, *numbers: str) -> None:
    store = open_store(url)
    task = store.get_task(name, namespace=DEFAULT_NAMESPACE)
    assert task is not None
    store.put_embedding(task.id, embedder_id=EMBEDDER, embedding=vector(*map(float, numbers)))


def _generate(url: str, name: str, seed: str, start_at: str) -> None:
    """Puts an adapter under the same key as other workers, at the same moment."""
    store = open_store(url)
    task = store.get_task(name, namespace=DEFAULT_NAMESPACE)
    assert task is not None
    adapter = new_adapter(task, seed=int(seed), key="same")
    time.sleep(max(0.0, float(start_at) - time.time()))
    print(store.put_adapter(adapter).digest)


def _write_for_ever(url: str) -> None:
    store = open_store(url)
    put_identities(store)
    for number in itertools.count():
        task = add(store, f"task-{number}", 1, number, 0)
        store.put_adapter(new_adapter(task, seed=number, key=str(number)))
        print(number, flush=True)


def _stop_half_way(url: str) -> None:
    """Does all of a registration but its commit, then waits to be killed."""
    store = open_store(url)
    with writing(store._engine) as session:
        add_half = text(
            "INSERT INTO tasks (namespace, name, description, description_digest, examples,"
            " created_at) VALUES ('default', 'half', 'x', 'x', '[]', '2026-01-01 00:00:00')"
        )
        session.execute(add_half)
        print("written", flush=True)
        time.sleep(60)


def _write_to_small_disk(url: str) -> None:
    """Registers tasks until the file may grow no more; prints the error."""
    store = open_store(url)
    limit_bytes = 400_000
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))
    _print_failure(store)


def _write_read_only(url: str) -> None:
    """Reads, prints the number of tasks, writes, prints the error."""
    _obey_file_modes()
    store = open_store(url)
    print(store.count_tasks(namespace=DEFAULT_NAMESPACE))
    _print_failure(store)


def _obey_file_modes() -> None:
    """Gives up the capabilities by which root writes to read-only files."""
    libc = ctypes.CDLL(None, use_errno=True)
    version_3, this_process = 0x20080522, 0
    header = (ctypes.c_uint32 * 2)(version_3, this_process)
    if libc.capset(header, (ctypes.c_uint32 * 6)()):
        raise OSError(ctypes.get_errno(), "capset")


def _print_failure(store: Store) -> None:
    try:
        for number in range(10_000):
            add(store, f"more-{number}", *range(1, 401))
    except RegistryError as exc:
        print(exc)


COMMANDS: dict[str, Callable[..., None]] = {
    "open": _open,
    "add": _add,
    "remove": _remove,
    "replace": _replace,
    "generate": _generate,
    "write-for-ever": _write_for_ever,
    "stop-half-way": _stop_half_way,
    "write-to-small-disk": _write_to_small_disk,
    "write-read-only": _write_read_only,
}

if __name__ == "__main__":
    COMMANDS[sys.argv[1]](*sys.argv[2:])

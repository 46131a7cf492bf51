"""A second process for the library's tests: `python -m tests.adapters.worker COMMAND ROOT`."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import tests
from hyperplug.adapters import Library
from hyperplug.errors import RegistryError
from tests.adapters.samples import BASE, stored, weights

ROUNDS = 40
_NOBODY = 65534


def start(command: str, root: Path, *arguments: str) -> subprocess.Popen[str]:
    """Returns a running worker."""
    checkout = Path(str(tests.__file__)).parents[1]
    return subprocess.Popen(
        [sys.executable, "-m", "tests.adapters.worker", command, str(root), *arguments],
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": str(checkout), "PYTHONDONTWRITEBYTECODE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    """Returns what a worker printed, once it has ended well."""
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    return output.strip()


def _publish_many(root: str, start_at: str) -> None:
    """Publishes the same adapters as other workers, at the same moment."""
    library = Library(Path(root))
    samples = [weights(seed) for seed in range(ROUNDS)]
    time.sleep(max(0.0, float(start_at) - time.time()))
    for packed in samples:
        library.publish(stored(packed), packed.data, base_id=BASE.id)


def _publish_for_ever(root: str) -> None:
    """Publishes and removes, without an end, until it is killed."""
    library = Library(Path(root))
    print("ready", flush=True)
    samples = [weights(seed) for seed in range(5)]
    while True:
        for packed in samples:
            library.publish(stored(packed), packed.data, base_id=BASE.id)
            library.remove(stored(packed))


def _publish_on_small_disk(root: str) -> None:
    """Publishes where files may not grow beyond 100 bytes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
    _publish_one(root, seed=0)


def _publish_read_only(root: str, seed: str) -> None:
    """Publishes as a user who may only read; root gives up its rights first."""
    if os.geteuid() == 0:
        os.seteuid(_NOBODY)
    _publish_one(root, seed=int(seed))


def _publish_one(root: str, *, seed: int) -> None:
    packed = weights(seed)
    try:
        print(Library(Path(root)).publish(stored(packed), packed.data, base_id=BASE.id))
    except RegistryError as error:
        print(error)


COMMANDS: dict[str, Callable[..., None]] = {
    "publish-many": _publish_many,
    "publish-for-ever": _publish_for_ever,
    "publish-on-small-disk": _publish_on_small_disk,
    "publish-read-only": _publish_read_only,
}

if __name__ == "__main__":
    COMMANDS[sys.argv[1]](*sys.argv[2:])

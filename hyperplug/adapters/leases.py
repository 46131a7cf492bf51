"""Which published folders are in use, by servers that may be on other machines.

A server holds a lease: a file in the library that names what it has loaded, and that it
touches while it lives. Whoever deletes folders spares those named by a lease that is still
fresh. Clocks are compared by the file system that holds the library, not between machines.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
from collections.abc import Iterable
from pathlib import Path

from hyperplug.adapters.folders import explained

HEARTBEAT_SECONDS = 30.0
FRESH_SECONDS = 4 * HEARTBEAT_SECONDS
_FOLDER = ".leases"
_MAX_BYTES = 16 * 2**20


class Lease:
    """What one server has loaded, told to all who share its library."""

    def __init__(self, root: Path) -> None:
        self._root = root
        host = socket.gethostname().replace("/", "-")[:100]
        name = f"{host}-{os.getpid()}-{secrets.token_hex(4)}.json"
        self._file = root / _FOLDER / name

    def hold(self, folders: Iterable[str]) -> None:
        """Says that these folders are in use, "namespace/adapter" each, and no others.

        To be repeated every `HEARTBEAT_SECONDS`. Raises RegistryError.
        """
        content = json.dumps(sorted(folders)).encode()
        temporary = self._file.with_suffix(".tmp")
        with explained(self._root):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(content)
            temporary.replace(self._file)

    def release(self) -> None:
        """Ends the lease."""
        with contextlib.suppress(OSError):
            self._file.unlink()


def leased(root: Path) -> set[str]:
    """Returns the folders that a fresh lease names; stale leases are deleted."""
    found: set[str] = set()
    with contextlib.suppress(OSError):
        files = list((root / _FOLDER).glob("*.json"))
        now = _now(root) if files else 0.0
        for file in files:
            with contextlib.suppress(OSError, ValueError, TypeError):
                state = file.stat()
                if now - state.st_mtime > FRESH_SECONDS:
                    file.unlink()
                elif state.st_size <= _MAX_BYTES:
                    names = json.loads(file.read_bytes())
                    found.update(names if isinstance(names, list) else ())
    return found


def _now(root: Path) -> float:
    """Returns the time of the file system: that of a file made just now."""
    probe = root / _FOLDER / f".now-{os.getpid()}-{secrets.token_hex(4)}"
    probe.touch()
    try:
        return probe.stat().st_mtime
    finally:
        probe.unlink()

"""The adapter folders on disk: immutable, content-addressed, published by rename.

A runtime may read a folder at any moment and keeps its path for as long as it runs. So a
folder appears complete or not at all, its name holds its digest, and it never changes. The
library is a cache: whatever is missing or damaged is written again from the registry.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from hyperplug.adapters.folders import (
    TEMPORARY_PREFIX,
    delete,
    explained,
    rename_folder,
    temporary_folder,
    write_cached_files,
    write_files,
)
from hyperplug.adapters.leases import FRESH_SECONDS, leased
from hyperplug.adapters.peft_format import (
    CONFIG_FILE,
    PROVENANCE_FILE,
    WEIGHTS_FILE,
    adapter_config,
    provenance,
)
from hyperplug.entities import Adapter
from hyperplug.errors import ConfigError, CorruptAdapterError, RegistryError
from hyperplug.naming import adapter_name, check_name, split_adapter_name

_STALE_SECONDS = 3600.0
_ATTEMPTS = 3
# What identifies the state of a file without reading it: inode, size, modification time.
_Signature = tuple[tuple[int, int, int], ...]


class Library:
    """A folder of published adapters, shared by any number of processes and threads."""

    def __init__(self, root: Path) -> None:
        self.root = root.expanduser().absolute()
        self._lock = threading.Lock()
        self._verified: dict[Path, _Signature] = {}

    def path(self, adapter: Adapter) -> Path | None:
        """Returns the adapter's folder if it is published and intact."""
        folder = self._folder(adapter)
        return folder if self._is_intact(folder, adapter) else None

    def publish(self, adapter: Adapter, data: bytes, *, base_id: str) -> Path:
        """Returns the adapter's folder, writing it unless it is there and intact.

        Args:
            data: its safetensors bytes.
            base_id: the base model's name, for the PEFT configuration.

        Raises:
            CorruptAdapterError: if `data` is not what the adapter's digest says.
            RegistryError: if the folder cannot be written.
        """
        folder = self._folder(adapter)
        if self._is_intact(folder, adapter):
            return folder
        _check_digest(adapter, data)
        files = adapter_files(adapter, data, base_id)
        with explained(self.root):
            folder.parent.mkdir(parents=True, exist_ok=True)
            # More than once: another process may remove or repair it at the same time.
            for _ in range(_ATTEMPTS):
                if not self._rename_in(folder, files):
                    self._repair(folder, files, adapter)
                if self._is_intact(folder, adapter):
                    return folder
        raise RegistryError(
            f"adapter folder {folder} does not hold what was written into it",
            hint="check the disk; delete the folder and try again",
        )

    def export(self, adapter: Adapter, data: bytes, folder: Path, *, base_id: str) -> Path:
        """Returns `folder`, absolute, after writing the adapter into it as a PEFT folder.

        Raises:
            ConfigError: if `folder` exists and is not empty.
            CorruptAdapterError: if `data` is not what the adapter's digest says.
            RegistryError: if it cannot be written.
        """
        target = folder.expanduser().absolute()
        _check_digest(adapter, data)
        with explained(target.parent):
            target.parent.mkdir(parents=True, exist_ok=True)
            with temporary_folder(target.parent) as temporary:
                write_files(temporary, adapter_files(adapter, data, base_id))
                if not rename_folder(temporary, target) and not _holds(target, adapter):
                    raise ConfigError(
                        f"{target} exists and is not empty", hint="name a new or empty folder"
                    )
        return target

    def remove(self, adapter: Adapter) -> None:
        """Takes the adapter's folder out of sight at once, then deletes it.

        Raises:
            RegistryError: if it cannot be deleted.
        """
        self.discard(self._folder(adapter))

    def is_there(self, adapter: Adapter) -> bool:
        """Returns whether something is where the adapter's folder belongs, intact or not."""
        return os.path.lexists(self._folder(adapter))

    def folders(self) -> Iterator[tuple[str, str, Path]]:
        """Yields namespace, adapter name and path of every published folder."""
        with contextlib.suppress(OSError):
            for path in sorted(self.root.glob("*/*@*")):
                if split_adapter_name(path.name) and path.is_dir():
                    yield path.parent.name, path.name, path

    def discard(self, folder: Path) -> None:
        """Does as `remove` for a folder that `folders` gave.

        Raises:
            RegistryError: if it cannot be deleted.
        """
        with self._lock:
            self._verified.pop(folder, None)
        with explained(self.root):
            self._discard(folder)

    def trim(self, *, keep: int) -> int:
        """Deletes the folders that were published or used the longest ago, but for `keep`.

        Those that a server has leased stay, and those that one may be about to lease. Returns
        how many went; they are written again when they are needed.
        """
        folders = [(self._used_at(path), path) for _, _, path in self.folders()]
        excess = len(folders) - keep
        if excess <= 0:
            return 0
        in_use = leased(self.root)
        recent = time.time() - FRESH_SECONDS
        idle = [
            path for used, path in sorted(folders) if used < recent and self.key(path) not in in_use
        ]
        for path in idle[:excess]:
            self.discard(path)
        return len(idle[:excess])

    def used(self, adapter: Adapter) -> None:
        """Notes that the adapter's folder is in use now, so that `trim` takes others first."""
        with contextlib.suppress(OSError):
            os.utime(self._folder(adapter))

    def in_use(self) -> set[str]:
        """Returns the folders that servers have leased, as `key` has them."""
        return leased(self.root)

    @staticmethod
    def key(folder: Path) -> str:
        """Returns "namespace/adapter" of a published folder."""
        return f"{folder.parent.name}/{folder.name}"

    @staticmethod
    def _used_at(folder: Path) -> float:
        try:
            return folder.stat().st_mtime
        except OSError:
            return 0.0

    def collect_leftovers(self, *, older_than_seconds: float = _STALE_SECONDS) -> int:
        """Returns how many unfinished folders of killed processes were deleted."""
        deleted = 0
        limit = time.time() - older_than_seconds
        with contextlib.suppress(OSError):
            for leftover in list(self.root.glob(f"{TEMPORARY_PREFIX}*")):
                with contextlib.suppress(OSError):
                    if leftover.lstat().st_mtime < limit:
                        delete(leftover)
                        deleted += 1
        return deleted

    def _folder(self, adapter: Adapter) -> Path:
        """Returns where the adapter belongs; its names come from a database, so are checked."""
        check_name(adapter.namespace, kind="namespace")
        if split_adapter_name(adapter.name) is None or adapter.name != adapter_name(
            adapter.task_name, adapter.digest
        ):
            raise CorruptAdapterError(
                f"adapter name {adapter.name[:100]!r} does not match its task and digest",
                hint="the registry row is damaged: generate or import the adapter again",
            )
        return self.root / adapter.namespace / adapter.name

    def _is_intact(self, folder: Path, adapter: Adapter) -> bool:
        """Returns whether the folder is complete; reads it only if it changed since."""
        signature = _signature(folder)
        if signature is None:
            return False
        with self._lock:
            if self._verified.get(folder) == signature:
                return True
        if not _holds(folder, adapter):
            return False
        with self._lock:
            self._verified[folder] = signature
        return True

    def _rename_in(self, folder: Path, files: Mapping[str, bytes]) -> bool:
        """Returns whether the folder was put in place; False if something is there."""
        if os.path.lexists(folder):
            return False
        # Nothing waits for the disk: a folder that a power cut left torn is found and written
        # anew, since every process reads it against its digest before its first use.
        with temporary_folder(self.root) as temporary:
            write_cached_files(temporary, files)
            return rename_folder(temporary, folder, wait=False)

    def _repair(self, folder: Path, files: Mapping[str, bytes], adapter: Adapter) -> None:
        """Replaces damaged files one by one, so that readers never miss the folder.

        Another process may do the same at the same time: both write the same bytes.
        """
        if self._is_intact(folder, adapter):
            return
        _refuse_namesake(folder, adapter)
        if folder.is_symlink() or not folder.is_dir():
            self._discard(folder)
            self._rename_in(folder, files)
            return
        with temporary_folder(self.root) as temporary:
            write_cached_files(temporary, files)
            for name in files:
                if (folder / name).is_dir() and not (folder / name).is_symlink():
                    self._discard(folder / name)
                (temporary / name).replace(folder / name)

    def _discard(self, path: Path) -> None:
        aside = self.root / f"{TEMPORARY_PREFIX}{os.getpid()}-{secrets.token_hex(8)}"
        with contextlib.suppress(FileNotFoundError):
            path.rename(aside)
            delete(aside)


def _refuse_namesake(folder: Path, adapter: Adapter) -> None:
    """Refuses to take another adapter's damage for ours where eight digits are the same."""
    with contextlib.suppress(OSError):
        digest = hashlib.sha256((folder / WEIGHTS_FILE).read_bytes()).hexdigest()
        if digest != adapter.digest and adapter.name == adapter_name(adapter.task_name, digest):
            raise RegistryError(
                f"{folder} already holds another adapter whose digest starts the same",
                hint="set HYPERPLUG_HOME to another folder, or change the task's description",
            )


def adapter_files(adapter: Adapter, data: bytes, base_id: str) -> dict[str, bytes]:
    """Returns a folder's content; the configuration comes last, as readers start there."""
    return {
        WEIGHTS_FILE: data,
        PROVENANCE_FILE: _json(provenance(adapter)),
        CONFIG_FILE: _json(adapter_config(adapter, base_id)),
    }


def _json(values: Mapping[str, object]) -> bytes:
    return (json.dumps(values, indent=2, sort_keys=True) + "\n").encode()


def _check_digest(adapter: Adapter, data: bytes) -> None:
    if hashlib.sha256(data).hexdigest() != adapter.digest:
        raise CorruptAdapterError(
            f"the stored weights of {adapter.name} do not match their digest",
            hint="generate or import the adapter again",
        )


def _holds(folder: Path, adapter: Adapter) -> bool:
    """Returns whether the folder holds exactly this adapter, whatever the base is called."""
    try:
        weights = (folder / WEIGHTS_FILE).read_bytes()
        config = json.loads((folder / CONFIG_FILE).read_bytes())
        origin = json.loads((folder / PROVENANCE_FILE).read_bytes())
        base_id = config["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return (
        hashlib.sha256(weights).hexdigest() == adapter.digest
        and config == adapter_config(adapter, base_id)
        and isinstance(origin, dict)
        and origin.get("sha256") == adapter.digest
        and origin.get("base_fingerprint") == adapter.base_fingerprint
    )


def _signature(folder: Path) -> _Signature | None:
    """Returns the state of the three files; None if one is missing or is a link."""
    try:
        states = [(folder / name).lstat() for name in (WEIGHTS_FILE, CONFIG_FILE, PROVENANCE_FILE)]
    except OSError:
        return None
    if folder.is_symlink() or any((state.st_mode & 0o170000) != 0o100000 for state in states):
        return None
    return tuple((state.st_ino, state.st_size, state.st_mtime_ns) for state in states)

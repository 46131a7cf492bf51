"""Folders that appear complete or not at all, and disk errors with a remedy."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from hyperplug.errors import RegistryError

TEMPORARY_PREFIX = ".tmp-"
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_FORBIDDEN = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})
_TAKEN = frozenset({errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR})


@contextlib.contextmanager
def temporary_folder(parent: Path) -> Iterator[Path]:
    """Yields a new folder beside the final ones; deletes it if it is still there."""
    # os.mkdir, not tempfile: a published folder must obey the umask, so that a server
    # that runs as another user can read it.
    folder = parent / f"{TEMPORARY_PREFIX}{os.getpid()}-{secrets.token_hex(8)}"
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Writes the files and waits until the disk has them."""
    for name, content in files.items():
        with (folder / name).open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    sync_folder(folder)


def write_cached_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Writes files that can be made again, without waiting for the disk."""
    for name, content in files.items():
        (folder / name).write_bytes(content)


def rename_folder(source: Path, target: Path, *, wait: bool = True) -> bool:
    """Returns whether `source` became `target`; False if something is already there.

    Unless `wait` is False, the disk has the new name then.
    """
    try:
        source.rename(target)
    except OSError as exc:
        if exc.errno in _TAKEN:
            return False
        raise
    if wait:
        sync_folder(target.parent)
    return True


def sync_folder(folder: Path) -> None:
    """Waits until the disk has the folder's list of names."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def delete(path: Path) -> None:
    """Deletes a file, a link (not what it points to) or a whole folder."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


@contextlib.contextmanager
def explained(folder: Path) -> Iterator[None]:
    """Turns the operating system's errors into ours, with a remedy."""
    try:
        yield
    except OSError as exc:
        reason = exc.strerror or str(exc)
        if exc.errno in _FULL:
            hint = "free disk space, or set HYPERPLUG_HOME to a folder on another disk"
        elif exc.errno in _FORBIDDEN:
            hint = "make it writable, or set HYPERPLUG_HOME to a folder that is"
        else:
            hint = "check the path and the disk"
        raise RegistryError(f"cannot write adapters to {folder}: {reason}", hint=hint) from exc

"""Exporting many adapters, to a folder or to wherever fsspec can write.

Each adapter is a folder of its own below the target, in the layout that servers read. One
that is there with the same digest is left alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from hyperplug.adapters.folders import (
    delete,
    explained,
    rename_folder,
    temporary_folder,
    write_files,
)
from hyperplug.adapters.peft_format import CONFIG_FILE, PROVENANCE_FILE, WEIGHTS_FILE
from hyperplug.errors import ConfigError, MissingExtraError, RegistryError


class ExportTarget(Protocol):
    """Where adapters are exported to."""

    def digest(self, name: str) -> str | None:
        """Returns the digest of the adapter in the folder of that name; None without one."""

    def write(self, name: str, files: Mapping[str, bytes]) -> None:
        """Writes a folder, in place of one that is there. Raises RegistryError."""


def open_target(target: str) -> ExportTarget:
    """Returns a target: a local folder, or a URL such as "s3://bucket/adapters".

    Raises:
        ConfigError: if fsspec does not know the URL's scheme.
        MissingExtraError: if fsspec is not installed.
    """
    return _Remote(target) if "://" in target else _Local(Path(target).expanduser().absolute())


class _Local:
    def __init__(self, root: Path) -> None:
        self._root = root

    def digest(self, name: str) -> str | None:
        try:
            return _digest((self._root / name / PROVENANCE_FILE).read_bytes())
        except OSError:
            return None

    def write(self, name: str, files: Mapping[str, bytes]) -> None:
        folder = self._root / name
        with explained(self._root):
            self._root.mkdir(parents=True, exist_ok=True)
            with temporary_folder(self._root) as temporary:
                (temporary / "new").mkdir()
                write_files(temporary / "new", files)
                if folder.exists():
                    folder.rename(temporary / "old")
                if not rename_folder(temporary / "new", folder):
                    raise ConfigError(
                        f"{folder} is in use by something else", hint="choose another folder"
                    )
                if (temporary / "old").exists():
                    delete(temporary / "old")


class _Remote:
    def __init__(self, url: str) -> None:
        try:
            import fsspec
        except ImportError as exc:
            raise MissingExtraError("fsspec", extra="remote") from exc
        try:
            self._files, self._root = fsspec.core.url_to_fs(url)
        except (ValueError, ImportError) as exc:
            raise ConfigError(
                f"cannot export to {_without_secrets(url)!r}: {str(exc).splitlines()[0][:200]}",
                hint="use a folder, or a URL that fsspec knows: s3://bucket/path",
            ) from exc
        self._shown = _without_secrets(url)

    def digest(self, name: str) -> str | None:
        try:
            return _digest(self._files.cat_file(f"{self._root}/{name}/{PROVENANCE_FILE}"))
        except Exception:  # each file system has its own; the folder is written anew
            return None

    def write(self, name: str, files: Mapping[str, bytes]) -> None:
        folder = f"{self._root}/{name}"
        try:
            self._files.makedirs(folder, exist_ok=True)
            # Readers start at the configuration; what says that all is there comes last.
            for file in (WEIGHTS_FILE, CONFIG_FILE, PROVENANCE_FILE):
                self._files.pipe_file(f"{folder}/{file}", files[file])
        except Exception as exc:
            reason = (str(exc).splitlines() or [type(exc).__name__])[0][:200]
            raise RegistryError(
                f"cannot write {name} to {self._shown}: {reason}",
                hint="check the URL and your rights to it, and run it again",
            ) from exc


def _digest(raw: bytes) -> str | None:
    try:
        found: Any = json.loads(raw)
    except ValueError:
        return None
    digest = found.get("sha256") if isinstance(found, dict) else None
    return digest if isinstance(digest, str) else None


def _without_secrets(url: str) -> str:
    """Returns a URL without user, password and query."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.split('?')[0].rpartition('@')[2]}"[:200]

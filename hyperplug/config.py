"""Settings, from arguments, `HYPERPLUG_*` environment variables and defaults."""

from __future__ import annotations

import getpass
import os
import socket
from dataclasses import dataclass, field
from pathlib import Path

from hyperplug.errors import ConfigError
from hyperplug.naming import DEFAULT_NAMESPACE, check_name

DEFAULT_BASE = "HuggingFaceTB/SmolLM2-135M-Instruct"
DEFAULT_EMBEDDER = "all-MiniLM-L6-v2"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Where things are and which models to use.

    Attributes:
        home: data folder: the default SQLite registry and the adapter library.
        cache: folder for what can be made again (prepared base models).
        registry_url: SQLAlchemy URL; not shown in `repr`, as it may hold a password.
        base: hub id or folder of the base model.
        hypernet: path of a hypernetwork checkpoint; None picks the shipped one.
        embedder: hub id, folder or packaged name of the text encoder.
        namespace: the tenant to work in.
        actor: who works, for the registry's record.
    """

    home: Path
    cache: Path
    registry_url: str = field(repr=False)
    base: str = DEFAULT_BASE
    hypernet: Path | None = None
    embedder: str = DEFAULT_EMBEDDER
    namespace: str = DEFAULT_NAMESPACE
    actor: str = ""

    @property
    def library(self) -> Path:
        """The folder in which adapters are published."""
        return self.home / "library"


def load_settings(
    *,
    registry_url: str | None = None,
    home: str | os.PathLike[str] | None = None,
    base: str | None = None,
    hypernet: str | os.PathLike[str] | None = None,
    namespace: str | None = None,
) -> Settings:
    """Returns the settings in force: an argument beats its variable beats the default.

    Variables: HYPERPLUG_HOME, HYPERPLUG_CACHE, HYPERPLUG_REGISTRY, HYPERPLUG_BASE,
    HYPERPLUG_HYPERNET, HYPERPLUG_EMBEDDER, HYPERPLUG_NAMESPACE, HYPERPLUG_ACTOR.

    Raises:
        ConfigError: for a checkpoint that is not there, or a path that cannot be one.
        InvalidNameError: for an illegal namespace.
    """
    import platformdirs

    env = os.environ
    home_folder = _absolute(
        home or env.get("HYPERPLUG_HOME") or platformdirs.user_data_dir("hyperplug")
    )
    cache = _absolute(env.get("HYPERPLUG_CACHE") or platformdirs.user_cache_dir("hyperplug"))
    named = hypernet or env.get("HYPERPLUG_HYPERNET")
    checkpoint = _absolute(named) if named else None
    if checkpoint is not None and not _is_file(checkpoint):
        raise ConfigError(
            f"hypernetwork checkpoint {str(named)!r} does not exist",
            hint="check --hypernet or HYPERPLUG_HYPERNET; unset it to use the shipped one",
        )
    return Settings(
        home=home_folder,
        cache=cache,
        registry_url=registry_url or env.get("HYPERPLUG_REGISTRY") or _registry_in(home_folder),
        base=base or env.get("HYPERPLUG_BASE") or DEFAULT_BASE,
        hypernet=checkpoint,
        embedder=env.get("HYPERPLUG_EMBEDDER") or DEFAULT_EMBEDDER,
        namespace=check_name(
            namespace or env.get("HYPERPLUG_NAMESPACE") or DEFAULT_NAMESPACE, kind="namespace"
        ),
        actor=env.get("HYPERPLUG_ACTOR") or _user_at_host(),
    )


def _user_at_host() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError, ImportError):  # no name for this user id, as in containers
        user = "unknown"
    return f"{user}@{socket.gethostname()}"


def _absolute(path: str | os.PathLike[str]) -> Path:
    try:
        found = Path(path).expanduser().absolute()
    except RuntimeError as exc:  # a user that is not there
        raise ConfigError(f"path {str(path)!r}: {exc}", hint="give the path in full") from exc
    if "\0" in str(path):
        raise ConfigError(f"path {str(path)!r} holds a NUL", hint="give another path")
    return found


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # too long a name, or a folder that is closed to us
        return False


def _registry_in(home: Path) -> str:
    """Returns the URL of the default registry."""
    if "?" in str(home):  # begins the options of a URL, and cannot be escaped
        raise ConfigError(
            f"the data folder {str(home)!r} has a '?' in its path",
            hint="choose another HYPERPLUG_HOME, or name a registry with HYPERPLUG_REGISTRY",
        )
    return f"sqlite:///{home / 'registry.db'}"

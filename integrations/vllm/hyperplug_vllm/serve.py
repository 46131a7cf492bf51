"""`hyperplug serve`: vLLM's own server, started so that it serves tasks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NoReturn

from hyperplug.basemodel import resolve_base
from hyperplug.config import Settings
from hyperplug.entities import OnNovel
from hyperplug.errors import BaseMismatchError, CheckpointError, ConfigError
from hyperplug.registry import open_registry
from hyperplug_vllm import compat
from hyperplug_vllm.contract import (
    COMMAND_MODULE,
    MIDDLEWARE,
    PLUGIN_GROUP,
    PLUGIN_NAME,
    SERVER_MODULE,
    Way,
)
from hyperplug_vllm.flags import (
    Wish,
    additional_settings,
    value_of,
    vllm_arguments,
    vllm_environment,
    wants_several,
)
from hyperplug_vllm.settings import read_settings

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """How to start the server, once everything was found to fit.

    Attributes:
        base_name: the `model` under which clients reach the bare base model.
    """

    command: tuple[str, ...]
    environment: Mapping[str, str]
    base_name: str


def plan(
    base: str | None,
    vllm_args: Sequence[str] = (),
    *,
    settings: Settings,
    progress: Progress | None = None,
) -> Launch:
    """Returns how to start a server for `base`, checked as far as one can without starting it.

    Args:
        base: hub id or folder; None takes the one in the settings.
        vllm_args: any flags of vLLM's server; they beat what hyperplug would choose.

    Raises:
        MissingExtraError: if vLLM is not installed.
        ConfigError: for an unsupported vLLM, or flags that cannot work together.
        BaseModelError, BaseMismatchError, CheckpointError, RegistryError: if the base, the
            hypernetwork and the registry do not fit; the server would refuse them later.
    """
    way = _require_vllm()
    tell = progress or (lambda _: None)
    base_id = base or settings.base
    tell(f"Preparing the base model {base_id}")
    folder = resolve_base(base_id, cache=settings.cache, progress=progress).folder
    given = additional_settings(vllm_args)
    wanted = {
        "registry": settings.registry_url,
        "namespace": settings.namespace,
        "home": str(settings.home),
        "hypernet": str(settings.hypernet or ""),
    }
    serving = read_settings({**wanted, **given}, base=base_id)
    tell("Checking that registry, hypernetwork and base model fit")
    rank = _checked_rank(serving.settings, on_novel=serving.on_novel)
    accelerated = compat.has_accelerator()
    wish = Wish(folder=folder, base_name=base_id, rank=rank, accelerated=accelerated)
    arguments = vllm_arguments(wish, vllm_args)
    if way is Way.MIDDLEWARE:  # ahead of the user's own, which run before it
        arguments = ["--middleware", MIDDLEWARE, *arguments]
    module = COMMAND_MODULE if wants_several(vllm_args) else SERVER_MODULE
    return Launch(
        command=(sys.executable, "-m", module, *arguments),
        environment=_environment(settings, accelerated=accelerated),
        base_name=value_of("--served-model-name", arguments) or base_id,
    )


def main(
    base: str | None,
    vllm_args: Sequence[str] = (),
    *,
    settings: Settings,
    progress: Progress | None = None,
) -> NoReturn:
    """Becomes the server: signals reach vLLM itself, and nothing is left when it ends.

    Raises:
        HyperplugError: as `plan` does, before anything is started.
    """
    launch = plan(base, vllm_args, settings=settings, progress=progress)
    (progress or (lambda _: None))(f"Starting vLLM with {launch.base_name}")
    sys.stdout.flush()
    sys.stderr.flush()
    if os.name == "posix":
        os.execve(launch.command[0], list(launch.command), dict(launch.environment))
    child = subprocess.Popen(launch.command, env=dict(launch.environment))
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, _frame: child.send_signal(received))
    raise SystemExit(child.wait())


def _checked_rank(settings: Settings, *, on_novel: OnNovel) -> int:
    """Returns the rank of generated adapters, 0 if this server needs no hypernetwork."""
    with open_registry(settings=settings) as registry:
        try:
            return registry.generator.spec.rank
        except (CheckpointError, BaseMismatchError):
            if on_novel is OnNovel.GENERATE:
                raise
            return 0


def _environment(settings: Settings, *, accelerated: bool) -> dict[str, str]:
    """Returns the server's environment. vLLM logs its flags, so a URL goes in here."""
    changed = {
        **os.environ,
        "HYPERPLUG_HOME": str(settings.home),
        "HYPERPLUG_CACHE": str(settings.cache),
        "HYPERPLUG_REGISTRY": settings.registry_url,
        "HYPERPLUG_NAMESPACE": settings.namespace,
        "HYPERPLUG_EMBEDDER": settings.embedder,
    }
    if settings.hypernet is not None:
        changed["HYPERPLUG_HYPERNET"] = str(settings.hypernet)
    return vllm_environment(changed, accelerated=accelerated)


def _require_vllm() -> Way:
    import importlib.metadata

    way = compat.require_supported()
    if not importlib.metadata.entry_points(group=PLUGIN_GROUP, name=PLUGIN_NAME):
        raise ConfigError(
            "vLLM would not find hyperplug: it is on the path, but not installed",
            hint="run: pip install --editable .",
        )
    return way


def with_port(launch: Launch, port: int) -> Launch:
    """Returns the launch on this machine's loopback address and that port."""
    command = (*launch.command, "--host", "127.0.0.1", "--port", str(port))
    return replace(launch, command=command)

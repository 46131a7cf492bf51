"""Names of adapters between ingress and replicas, in Ray's form: BASE:ADAPTER. No I/O."""

from __future__ import annotations

from hyperplug_vllm.targets import Target, TargetKind, named_target

from hyperplug.errors import ConfigError, TaskNotFoundError

_SEPARATOR = ":"


def check_base_name(name: str) -> None:
    """Refuses a base model's name that could not be told from what follows it.

    Raises:
        ConfigError: if it holds a colon.
    """
    if _SEPARATOR in name:
        raise ConfigError(
            f"model_id {name!r} holds a colon", hint="choose another model_id for clients to use"
        )


def routed_name(base: str, adapter: str) -> str:
    """Returns the `model` by which an adapter is asked for in the cluster."""
    return f"{base}{_SEPARATOR}{adapter}"


def routed_target(base: str, model: str | None) -> Target | None:
    """Returns what a `model` names beside the base model; None for the base model itself.

    Raises:
        TaskNotFoundError: if it is no name: descriptions are the ingress's to resolve.
    """
    given, separator, name = (model or base).partition(_SEPARATOR)
    if given != base or not separator:
        return None
    target = named_target(name)
    if target.kind is TargetKind.TEXT:
        raise TaskNotFoundError(
            f"no task {name[:80]!r}", hint='describe a task as "hyperplug:DESCRIPTION"'
        )
    return target

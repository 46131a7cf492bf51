"""hyperplug in Ray Serve LLM: replicas share a registry, and an adapter's requests a replica."""

from __future__ import annotations

from typing import Any

__all__ = ["build_app"]


def build_app(args: dict[str, Any]) -> Any:
    """Returns the application that `serve.run` takes, or that a Serve config file names.

    Args:
        args: as `ray.serve.llm.build_openai_app` takes them, with one model in `llm_configs`.

    Raises:
        MissingExtraError: if Ray is not installed.
        ConfigError: for what cannot be served this way.
    """
    from hyperplug_ray import compat

    compat.require_ray()
    from hyperplug_ray.app import build

    return build(args)

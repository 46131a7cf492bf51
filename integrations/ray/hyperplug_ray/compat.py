"""Everything that hyperplug takes from Ray Serve LLM beyond its public classes.

Ray's objects are untyped here. Besides what is called below, `TaskServer` leaves out the step by
which Ray itself loads adapters. All of it was found in, and run with, Ray 2.60.
"""

from __future__ import annotations

import importlib.util
from types import SimpleNamespace
from typing import Any

from hyperplug_vllm import compat as vllm_compat
from hyperplug_vllm.compat import ServerFlags

from hyperplug.errors import ConfigError, MissingExtraError


def require_ray() -> None:
    """Checks that Ray Serve LLM can be imported.

    Raises:
        MissingExtraError: if Ray is not installed.
        ConfigError: if it lacks what Ray Serve LLM needs.
    """
    if importlib.util.find_spec("ray") is None:
        raise MissingExtraError("ray", extra="ray")
    try:
        import ray.serve.llm  # noqa: F401
    except ImportError as exc:
        raise ConfigError(
            f"Ray Serve LLM cannot be imported: {exc}", hint="run: pip install 'hyperplug[ray]'"
        ) from exc


def server_flags(config: Any) -> ServerFlags:
    """Returns what concerns hyperplug of an `LLMConfig`.

    Raises:
        ConfigError: if the weights come from a bucket, where their fingerprint is not at hand.
    """
    source = config.model_loading_config.model_source or config.model_id
    if not isinstance(source, str) or "://" in source:
        raise ConfigError(
            "the base model comes from a bucket",
            hint="name a folder or a hub id as model_source, present on every node",
        )
    return vllm_compat.server_flags(SimpleNamespace(**{**config.engine_kwargs, "model": source}))


def model_card(config: Any) -> Any:
    """Returns what the ingress tells of the base model under /v1/models."""
    from ray.llm._internal.serve.core.configs.openai_api_models import to_model_metadata

    return to_model_metadata(config.model_id, config)


def vllm_parts(engine: Any) -> tuple[Any, Any]:
    """Returns vLLM's engine client, and the state with its list of models, of a started engine."""
    return engine._engine_client, engine._app_state


def answer_in_error(status: int, kind: str, message: str) -> Any:
    """Returns the answer that Ray's ingress tells a client as an error with that status."""
    from ray.serve.llm.openai_api_models import ErrorResponse

    error = {"message": message, "type": kind, "param": "model", "code": status}
    return ErrorResponse.model_validate({"error": error})

"""The application: an ingress that resolves tasks, in front of replicas that hold adapters."""

from __future__ import annotations

from typing import Any

from ray import serve
from ray.serve.llm import LLMConfig, LLMServingArgs, build_llm_deployment
from ray.serve.llm.ingress import OpenAiIngress

from hyperplug.errors import ConfigError
from hyperplug_ray import compat
from hyperplug_ray.ingress import TaskIngress
from hyperplug_ray.names import check_base_name
from hyperplug_ray.server import TaskServer

# What vLLM is to hold where the configuration is silent, as `hyperplug serve` has it on a GPU.
_ENGINE = {"enable_lora": True, "max_loras": 8, "max_cpu_loras": 128, "max_lora_rank": 16}


def build(args: dict[str, Any]) -> Any:
    """Returns the Serve application; `hyperplug_ray.build_app` says of what.

    Raises:
        ConfigError: for several models, or one that cannot be served this way.
    """
    given = LLMServingArgs.model_validate(args)
    if len(given.llm_configs) != 1:
        raise ConfigError(
            f"{len(given.llm_configs)} models in llm_configs",
            hint="make one application for each; they can share a registry",
        )
    config = with_lora(given.llm_configs[0])
    check_base_name(config.model_id)
    flags = compat.server_flags(config)
    server = config.server_cls or TaskServer
    if not issubclass(server, TaskServer):
        raise ConfigError(
            f"server_cls {server.__name__} loads no adapters", hint="derive it from TaskServer"
        )
    deployment = build_llm_deployment(config, deployment_cls=server)
    return serve.deployment(TaskIngress, **ingress_options(config, given)).bind(
        llm_deployments={config.model_id: deployment},
        model_cards={config.model_id: compat.model_card(config)},
        flags=flags,
    )


def with_lora(config: LLMConfig) -> LLMConfig:
    """Returns a copy of a configuration whose engine holds adapters.

    Raises:
        ConfigError: if Ray is to load adapters itself as well, or for a key in plain sight.
    """
    if "api_key" in config.engine_kwargs:
        raise ConfigError(
            "api_key in engine_kwargs is shown by Ray's dashboard and asked for by nobody",
            hint="set VLLM_API_KEY in the environment of the ingress",
        )
    if config.lora_config is not None:
        raise ConfigError(
            "lora_config lets Ray load adapters from a bucket, under ids of its own",
            hint="leave it out: hyperplug loads those of the registry",
        )
    copy = config.model_copy(deep=True)
    copy.update_engine_kwargs(**{**_ENGINE, **config.engine_kwargs})
    return copy


def ingress_options(config: LLMConfig, given: LLMServingArgs) -> dict[str, Any]:
    """Returns the options of the ingress: its processes have the replicas' environment."""
    own = given.ingress_deployment_config
    options = {**OpenAiIngress.get_deployment_options([config]), "name": "TaskIngress", **own}
    if "num_replicas" in own and "autoscaling_config" not in own:
        del options["autoscaling_config"]  # Ray takes one or the other
    actor = dict(options.get("ray_actor_options") or {})
    runtime = {**(config.runtime_env or {}), **actor.get("runtime_env", {})}
    options["ray_actor_options"] = {**actor, "runtime_env": runtime}
    return options

"""What is refused before a cluster is asked for anything."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("ray", reason="Ray is not installed: run make ray")
pytest.importorskip("vllm")

import ray
from hyperplug_ray import build_app
from hyperplug_ray.app import ingress_options, with_lora
from hyperplug_ray.compat import server_flags
from hyperplug_ray.ingress import TaskIngress, routing
from ray import serve
from ray.serve.llm import LLMConfig, LLMServingArgs

from hyperplug.errors import ConfigError

pytestmark = [pytest.mark.ray, pytest.mark.slow]

MODEL = {"model_id": "base", "model_source": "/models/base"}
CPU = {"kind": "cpu"}


def _config(**changed: Any) -> dict[str, Any]:
    return {"model_loading_config": MODEL, "accelerator_config": CPU, **changed}


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"lora_config": {"max_num_adapters_per_replica": 4}}, "lora_config"),
        ({"engine_kwargs": {"api_key": "a-secret"}}, "VLLM_API_KEY"),
        ({"model_loading_config": {**MODEL, "model_source": "s3://bucket/base"}}, "bucket"),
        ({"model_loading_config": {**MODEL, "model_id": "base:one"}}, "model_id"),
        ({"server_cls": "ray.serve.llm.deployment:LLMServer"}, "server_cls"),
    ],
)
def test_what_cannot_be_served_is_refused_in_one_line(changed: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told) as raised:
        build_app({"llm_configs": [_config(**changed)]})
    assert raised.value.hint and "\n" not in str(raised.value)
    assert "a-secret" not in str(raised.value)


def test_several_models_are_refused() -> None:
    other = {**MODEL, "model_id": "other"}
    with pytest.raises(ConfigError, match="2 models"):
        build_app({"llm_configs": [_config(), _config(model_loading_config=other)]})


def test_the_engine_holds_adapters_unless_the_configuration_says_how_many() -> None:
    flags = server_flags(with_lora(LLMConfig(**_config())))
    assert flags.enable_lora and flags.model == "/models/base"
    assert (flags.max_loras, flags.max_cpu_loras, flags.max_lora_rank) == (8, 128, 16)
    own = LLMConfig(**_config(engine_kwargs={"max_loras": 2, "max_cpu_loras": 4}))
    kept = server_flags(with_lora(own))
    assert (kept.max_loras, kept.max_cpu_loras) == (2, 4)
    assert own.engine_kwargs == {"max_loras": 2, "max_cpu_loras": 4}


@pytest.mark.parametrize("own", [{}, {"num_replicas": 2}, {"ray_actor_options": {"num_cpus": 2}}])
def test_the_ingress_takes_options_of_its_own(own: dict[str, Any]) -> None:
    runtime = {"env_vars": {"HYPERPLUG_NAMESPACE": "team"}}
    args = {"llm_configs": [_config(runtime_env=runtime)], "ingress_deployment_config": own}
    given = LLMServingArgs.model_validate(args)
    deployment = serve.deployment(TaskIngress, **ingress_options(given.llm_configs[0], given))
    assert deployment.name == "TaskIngress"
    assert deployment.num_replicas == own.get("num_replicas", 1)
    assert deployment.ray_actor_options["runtime_env"] == runtime
    wanted = own.get("ray_actor_options", {"num_cpus": 1})
    assert deployment.ray_actor_options["num_cpus"] == wanted["num_cpus"]


def test_settings_reach_replicas_and_ingress_but_for_a_replicas_limit() -> None:
    given = {"hyperplug": {"namespace": "team", "max_live": 4}}
    config = LLMConfig(**_config(engine_kwargs={"additional_config": given}))
    flags = server_flags(with_lora(config))
    assert flags.additional == given["hyperplug"]
    assert routing(flags).additional == {"namespace": "team"}
    assert routing(flags).max_cpu_loras > flags.max_cpu_loras


def test_none_of_this_starts_a_cluster() -> None:
    assert not ray.is_initialized()

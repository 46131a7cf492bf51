"""Which flags vLLM gets."""

from __future__ import annotations

from pathlib import Path

import pytest
from hyperplug_vllm.flags import (
    Wish,
    additional_settings,
    given_flags,
    lora_rank,
    value_of,
    vllm_arguments,
    vllm_environment,
    wants_several,
)

from hyperplug.errors import ConfigError

CPU = Wish(folder=Path("/models/tiny"), base_name="org/tiny", rank=16, accelerated=False)
GPU = Wish(folder=Path("/models/tiny"), base_name="org/tiny", rank=16, accelerated=True)


def test_what_a_bare_launch_adds() -> None:
    arguments = vllm_arguments(CPU, [])
    assert value_of("--model", arguments) == "/models/tiny"
    assert value_of("--served-model-name", arguments) == "org/tiny"
    assert value_of("--max-lora-rank", arguments) == "16"
    assert value_of("--dtype", arguments) == "float32"
    assert "--enable-lora" in arguments
    slots, held = value_of("--max-loras", arguments), value_of("--max-cpu-loras", arguments)
    assert slots is not None and held is not None
    assert 1 < int(slots) <= int(held)


def test_a_gpu_keeps_vllms_own_dtype() -> None:
    assert "--dtype" not in vllm_arguments(GPU, [])


@pytest.mark.parametrize(
    "own",
    [
        ["--max-loras", "2"],
        ["--max-loras=2"],
        ["--max_loras", "2"],
        ["--max_loras=2"],
    ],
)
def test_the_users_flags_win_in_any_spelling(own: list[str]) -> None:
    arguments = vllm_arguments(CPU, own)
    assert given_flags(own) == {"--max-loras"}
    assert arguments.count("--max-loras") + arguments.count("--max_loras") <= 1
    assert value_of("--max-loras", arguments) == "2"
    assert arguments[-len(own) :] == own


def test_more_slots_than_usual_raise_what_is_held() -> None:
    assert value_of("--max-cpu-loras", vllm_arguments(CPU, ["--max-loras", "64"])) == "64"


def test_fewer_held_than_usual_lower_the_slots() -> None:
    assert value_of("--max-loras", vllm_arguments(CPU, ["--max-cpu-loras", "2"])) == "2"


def test_flags_in_a_config_file_win(tmp_path: Path) -> None:
    file = tmp_path / "vllm.yaml"
    file.write_text("dtype: bfloat16\nmax_loras: 3\n", encoding="utf-8")
    arguments = vllm_arguments(CPU, ["--config", str(file)])
    assert "--dtype" not in arguments
    assert "--max-loras" not in arguments


def test_a_config_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        vllm_arguments(CPU, [f"--config={tmp_path / 'none.yaml'}"])


@pytest.mark.parametrize("own", [["--model", "x"], ["--model=x"], ["--no-enable-lora"]])
def test_flags_that_contradict(own: list[str]) -> None:
    with pytest.raises(ConfigError):
        vllm_arguments(CPU, own)


@pytest.mark.parametrize(("rank", "flag"), [(0, 16), (16, 16), (17, 32), (24, 32), (400, 512)])
def test_only_ranks_that_vllm_takes(rank: int, flag: int) -> None:
    assert lora_rank(rank) == flag


def test_a_rank_beyond_vllm() -> None:
    with pytest.raises(ConfigError, match="rank 513"):
        lora_rank(513)


def test_plugins_already_named_stay() -> None:
    assert vllm_environment({}, accelerated=True)["VLLM_PLUGINS"] == "hyperplug"
    changed = vllm_environment({"VLLM_PLUGINS": "mine,hyperplug"}, accelerated=True)
    assert changed["VLLM_PLUGINS"] == "mine,hyperplug"


def test_the_environment_of_a_cpu_keeps_what_is_set() -> None:
    changed = vllm_environment({"VLLM_CPU_KVCACHE_SPACE": "7"}, accelerated=False)
    assert changed["VLLM_CPU_KVCACHE_SPACE"] == "7"
    assert "VLLM_CPU_KVCACHE_SPACE" not in vllm_environment({}, accelerated=True)


def test_vllms_own_adapter_endpoints_stay_closed() -> None:
    opened = {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"}
    assert "VLLM_ALLOW_RUNTIME_LORA_UPDATING" not in vllm_environment(opened, accelerated=True)


def test_our_settings_among_vllms_arguments() -> None:
    assert additional_settings(
        [
            "--additional-config.hyperplug.namespace",
            "acme",
            "--additional_config.hyperplug.on_novel=base",
            "--port",
            "1",
        ]
    ) == {"namespace": "acme", "on_novel": "base"}
    given = ["--additional-config", '{"hyperplug": {"min_score": 0.5}, "other": 1}']
    assert additional_settings(given) == {"min_score": 0.5}


@pytest.mark.parametrize(
    "own",
    [
        ["--api-server-count", "2"],
        ["--api_server_count=2"],
        ["-asc", "2"],
        ["--data-parallel-size", "2"],
        ["-dp=2"],
        ["-dpl", "1"],
        ["--headless"],
    ],
)
def test_several_servers_or_engines_are_noticed(own: list[str]) -> None:
    assert wants_several(["--max-loras", "2", *own])


@pytest.mark.parametrize("own", [[], ["--port", "8000"], ["-tp", "2"], ["--api-key", "k"]])
def test_one_server_is_told_from_several(own: list[str]) -> None:
    assert not wants_several(own)


def test_several_servers_in_a_file_are_noticed(tmp_path: Path) -> None:
    file = tmp_path / "vllm.yaml"
    file.write_text("api-server-count: 2\n")
    assert wants_several(["--config", str(file)])

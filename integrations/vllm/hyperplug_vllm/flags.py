"""vLLM's command line: which flags a user gave, and what hyperplug adds. No I/O but --config."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hyperplug.errors import ConfigError
from hyperplug_vllm.contract import LORA_RANKS, PLUGIN_NAME

_DEFAULT_RANK = 16
# Set here or given as BASE; as vLLM flags they would contradict that.
_RESERVED = ("--model", "--model-tag")
# What only vLLM's command reads; the short forms are vLLM's too.
_SEVERAL = re.compile(r"--(api-server-count|headless|data-parallel-.+)|-(asc|dp[a-z]?)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What hyperplug would like vLLM to run with, unless the user says otherwise.

    Attributes:
        folder: the base model's folder.
        base_name: the name under which clients ask for the base model.
        rank: the highest rank among the adapters that will be generated.
        accelerated: whether there is a GPU.
    """

    folder: Path
    base_name: str
    rank: int
    accelerated: bool


def given_flags(arguments: Sequence[str]) -> frozenset[str]:
    """Returns the names of the flags among vLLM's arguments, "--max-loras" for any spelling.

    vLLM takes underscores for dashes, "--flag=value", "--flag.key value", and "--config FILE".
    """
    names = set()
    for index, argument in enumerate(arguments):
        if not argument.startswith("--"):
            continue
        name = _normal(argument)
        names.add(name)
        if name == "--config":
            file = argument.partition("=")[2] or "".join(arguments[index + 1 : index + 2])
            names.update(_config_flags(Path(file)))
    return frozenset(names)


def wants_several(arguments: Sequence[str]) -> bool:
    """Returns whether the arguments speak of several API servers or engines."""
    short = {argument.partition("=")[0] for argument in arguments}
    return any(_SEVERAL.fullmatch(flag) for flag in given_flags(arguments) | short)


def vllm_arguments(wish: Wish, arguments: Sequence[str]) -> list[str]:
    """Returns the arguments for vLLM's server: the user's own, and ours where they are silent.

    Raises:
        ConfigError: for a flag that contradicts `hyperplug serve`.
    """
    given = given_flags(arguments)
    for flag in _RESERVED:
        if flag in given:
            raise ConfigError(
                f"{flag} cannot be given here", hint="name the base model: hyperplug serve BASE"
            )
    if "--no-enable-lora" in given:
        raise ConfigError("hyperplug needs LoRA", hint="leave out --no-enable-lora")
    ours = {
        "--model": str(wish.folder),
        "--served-model-name": wish.base_name,
        "--enable-lora": None,
        "--max-lora-rank": str(lora_rank(wish.rank)),
        **_slots(given, arguments, accelerated=wish.accelerated),
    }
    if not wish.accelerated:
        # Two cores without bfloat16 are slower in it than in float32.
        ours["--dtype"] = "float32"
    added = [(flag, value) for flag, value in ours.items() if flag not in given]
    return [part for pair in added for part in pair if part is not None] + list(arguments)


def vllm_environment(environment: Mapping[str, str], *, accelerated: bool) -> dict[str, str]:
    """Returns the environment for vLLM's server; what is set already stays."""
    changed = {"VLLM_NO_USAGE_STATS": "1", **environment}
    plugins = [name for name in environment.get("VLLM_PLUGINS", "").split(",") if name]
    # The variable is an allow list over every group of plugins.
    changed["VLLM_PLUGINS"] = ",".join(dict.fromkeys([*plugins, PLUGIN_NAME]))
    changed.pop("VLLM_ALLOW_RUNTIME_LORA_UPDATING", None)
    if not accelerated:
        changed.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB; 23,000 tokens of a 135 M model
        changed.setdefault("TOKENIZERS_PARALLELISM", "false")
    return changed


def lora_rank(rank: int) -> int:
    """Returns the least `--max-lora-rank` that vLLM accepts and that holds `rank`."""
    wanted = max(rank, _DEFAULT_RANK)
    for allowed in LORA_RANKS:
        if allowed >= wanted:
            return allowed
    raise ConfigError(f"vLLM cannot serve adapters of rank {rank}", hint="train a smaller one")


def _slots(
    given: frozenset[str], arguments: Sequence[str], *, accelerated: bool
) -> dict[str, str | None]:
    """Returns how many adapters to hold: a user's --max-loras bounds the rest from below."""
    slots = 8 if accelerated else 4
    held = 128 if accelerated else 32
    if "--max-loras" in given:
        own = value_of("--max-loras", arguments)
        held = max(held, int(own) if own and own.isdecimal() else 0)
    elif "--max-cpu-loras" in given:
        own = value_of("--max-cpu-loras", arguments)
        slots = min(slots, int(own)) if own and own.isdecimal() else slots
    return {"--max-loras": str(slots), "--max-cpu-loras": str(held)}


def value_of(flag: str, arguments: Sequence[str]) -> str | None:
    """Returns the last value given for a flag on the command line itself."""
    value = None
    for index, argument in enumerate(arguments):
        if argument.startswith("--") and _normal(argument) == flag:
            _, equals, after = argument.partition("=")
            value = after if equals else "".join(arguments[index + 1 : index + 2])
    return value


def additional_settings(arguments: Sequence[str]) -> dict[str, object]:
    """Returns what stands under `--additional-config.hyperplug` on the command line."""
    prefix = "--additional-config.hyperplug."
    found: dict[str, object] = {}
    for index, argument in enumerate(arguments):
        name, equals, after = argument.partition("=")
        dashed = name.replace("_", "-", 1) if name.startswith("--additional_") else name
        value = after if equals else "".join(arguments[index + 1 : index + 2])
        if dashed.startswith(prefix):
            found[dashed.removeprefix(prefix)] = value
        elif dashed == "--additional-config":
            found.update(_json_settings(value))
    return found


def _json_settings(text: str) -> dict[str, object]:
    try:
        content = json.loads(text)
    except ValueError:  # vLLM's parser will say so
        return {}
    group = content.get("hyperplug") if isinstance(content, dict) else None
    return dict(group) if isinstance(group, dict) else {}


def _normal(argument: str) -> str:
    name = argument.partition("=")[0].partition(".")[0]
    return "--" + name[2:].replace("_", "-")


def _config_flags(file: Path) -> set[str]:
    """Returns the flags that a YAML file for vLLM's --config sets."""
    import yaml

    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as exc:
        raise ConfigError(f"cannot read {str(file)!r}: {exc}", hint="check --config") from exc
    if not isinstance(content, dict):
        return set()
    return {_normal(f"--{key}") for key in content}

"""Reading a foreign `adapter_config.json`: known settings only, never evaluated."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from hyperplug.adapters.problems import Problems

MAX_CONFIG_BYTES = 2**20
MAX_MODULE_LENGTH = 255

# Read by `parse_config`, or without meaning for a trained adapter.
_READ = frozenset(
    [
        "peft_type",
        "task_type",
        "r",
        "lora_alpha",
        "use_rslora",
        "target_modules",
        "exclude_modules",
        "init_lora_weights",
        "layers_to_transform",
        "layers_pattern",
        "base_model_name_or_path",
    ]
)
_WITHOUT_MEANING = frozenset(
    [
        "auto_mapping",
        "peft_version",
        "revision",
        "inference_mode",
        "lora_dropout",
        "megatron_core",
        "megatron_config",
        "qalora_group_size",
        "loftq_config",
        "eva_config",
        "corda_config",
        "lora_ga_config",
    ]
)
# Initialisations that leave the base model's weights alone, as in vLLM's PEFTHelper.
_PLAIN_INITS = frozenset({"gaussian", "eva", "orthogonal", "mica", "lora_ga"})
_REFUSED = {
    "use_dora": "it uses DoRA",
    "bias": "it trains biases",
    "lora_bias": "it has LoRA biases",
    "modules_to_save": "it replaces whole modules (modules_to_save)",
    "rank_pattern": "its rank differs by module (rank_pattern)",
    "alpha_pattern": "its alpha differs by module (alpha_pattern)",
}
_PLAIN_HINT = "train a plain LoRA of one rank: no DoRA, biases, saved modules or patterns"
_CONFIG_HINT = "export it again with PEFT's save_pretrained"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraSettings:
    """What an adapter configuration says, checked.

    Attributes:
        scale: the multiplier that it asks for, rsLoRA included.
        targets: names or path endings of its modules; None if it gives a pattern,
            which we do not evaluate.
        excluded: path endings taken out of `targets`.
        layers: layer numbers it is limited to; None for all.
        base_id: the base model's name as the trainer knew it; may be "".
    """

    rank: int
    alpha: float
    use_rslora: bool
    targets: frozenset[str] | None
    excluded: frozenset[str]
    layers: frozenset[int] | None
    base_id: str

    @property
    def scale(self) -> float:
        """The multiplier of B A that this configuration asks for."""
        return self.alpha / (math.sqrt(self.rank) if self.use_rslora else self.rank)

    def select(self, modules: Collection[str]) -> set[str] | None:
        """Returns those of `modules` that PEFT would adapt; None if only PEFT can tell."""
        if self.targets is None:
            return None
        return {
            module
            for module in modules
            if _ends_with(module, self.targets)
            and not _ends_with(module, self.excluded)
            and (self.layers is None or module in self.targets or _layer(module) in self.layers)
        }


def parse_config(raw: bytes, problems: Problems) -> LoraSettings | None:
    """Returns the settings in `raw`, or None; whatever is wrong goes into `problems`."""
    config = parse_object(raw, "adapter_config.json", problems)
    if config is None:
        return None
    rank, alpha = _rank(config, problems), _alpha(config, problems)
    targets = _targets(config, problems)
    excluded = config.get("exclude_modules") or []
    _check_kind(config, problems)
    _check_plain(config, problems)
    if rank is None or alpha is None:
        return None
    if isinstance(excluded, str) or not _are_texts(excluded):
        targets, excluded = None, []
    return LoraSettings(
        rank=rank,
        alpha=alpha,
        use_rslora=config.get("use_rslora") is True,
        targets=targets,
        excluded=frozenset(excluded),
        layers=_layers(config, problems),
        base_id=str(config.get("base_model_name_or_path") or "")[:500],
    )


def parse_object(raw: bytes, file: str, problems: Problems) -> dict[str, Any] | None:
    """Returns the JSON object in `raw`, or None after noting why it is none."""
    try:
        value = json.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError) as exc:
        reason = str(exc).splitlines()[0][:100]
        problems.add(f"{file} is not valid JSON: {reason}", hint=_CONFIG_HINT)
        return None
    if not isinstance(value, dict):
        problems.add(f"{file} is not a JSON object", hint=_CONFIG_HINT)
        return None
    return value


def _rank(config: Mapping[str, Any], problems: Problems) -> int | None:
    rank = config.get("r")
    if type(rank) is int and 0 < rank < 2**16:
        return rank
    problems.add(f"r is {_shown(config, 'r')}, not a positive whole number", hint=_CONFIG_HINT)
    return None


def _alpha(config: Mapping[str, Any], problems: Problems) -> float | None:
    alpha = config.get("lora_alpha")
    # Compared before it is converted: an int from JSON may be too large for a float.
    if isinstance(alpha, int | float) and not isinstance(alpha, bool) and 0 < alpha < 1e6:
        return float(alpha)
    problems.add(
        f"lora_alpha is {_shown(config, 'lora_alpha')}, not a positive number", hint=_CONFIG_HINT
    )
    return None


def _targets(config: Mapping[str, Any], problems: Problems) -> frozenset[str] | None:
    targets = config.get("target_modules")
    if isinstance(targets, str) and targets:
        return None
    if isinstance(targets, list) and targets and _are_texts(targets):
        if max(map(len, targets)) > MAX_MODULE_LENGTH:
            problems.add("target_modules has a name too long for a module", hint=_CONFIG_HINT)
            return None
        return frozenset(targets)
    problems.add(
        f"target_modules is {_shown(config, 'target_modules')}, not a list of module names",
        hint=_CONFIG_HINT,
    )
    return None


def _layers(config: Mapping[str, Any], problems: Problems) -> frozenset[int] | None:
    layers = config.get("layers_to_transform")
    if layers is None or layers == []:
        return None
    numbers = layers if isinstance(layers, list) else [layers]
    if all(type(number) is int for number in numbers):
        return frozenset(numbers)
    problems.add("layers_to_transform is not a list of numbers", hint=_CONFIG_HINT)
    return None


def _check_kind(config: Mapping[str, Any], problems: Problems) -> None:
    if config.get("peft_type") != "LORA":
        problems.add(f"peft_type is {_shown(config, 'peft_type')}, not 'LORA'", hint=_PLAIN_HINT)
    if config.get("task_type") not in (None, "CAUSAL_LM"):
        problems.add(
            f"task_type is {_shown(config, 'task_type')}, not 'CAUSAL_LM'",
            hint="hyperplug serves language models",
        )
    init = config.get("init_lora_weights", True)
    plain = isinstance(init, str) and init.lower() in _PLAIN_INITS
    if not plain and not isinstance(init, bool | None):
        problems.add(
            f"its initialisation {str(init)[:40]!r} changes the base model",
            hint="convert it with PEFT's path_initial_model_for_weight_conversion",
        )


def _check_plain(config: Mapping[str, Any], problems: Problems) -> None:
    """Refuses whatever could change the adapter's meaning beyond alpha / r · B A."""
    for key, value in config.items():
        if key in _READ or key in _WITHOUT_MEANING or not value or value == "none":
            continue
        what = _REFUSED.get(key, f"its setting {key[:60]!r} is not supported")
        problems.add(what, hint=_PLAIN_HINT)
    if not isinstance(config.get("use_rslora", False), bool | None):
        problems.add(f"use_rslora is {_shown(config, 'use_rslora')}", hint=_CONFIG_HINT)


def _ends_with(module: str, endings: Collection[str]) -> bool:
    """Returns whether a whole-part ending of `module` is among `endings`."""
    parts = module.split(".")
    return any(".".join(parts[start:]) in endings for start in range(len(parts)))


def _layer(module: str) -> int | None:
    numbers = (part for part in module.split(".") if part.isascii() and part.isdecimal())
    first = next(numbers, None)
    return int(first) if first is not None else None


def _are_texts(values: object) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) for value in values)


def _shown(config: Mapping[str, Any], key: str) -> str:
    return repr(config[key])[:60] if key in config else "missing"

"""The generators that can be trained and used: ours, and Text-to-LoRA to compare with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from hyperplug.hypernet.model import AdapterNetwork, Hypernet, HypernetConfig
from hyperplug.hypernet.text_to_lora import TextToLora
from hyperplug.hypernet.text_to_lora_shape import TextToLoraConfig

NetworkConfig = HypernetConfig | TextToLoraConfig

_HYPERNET = "hypernet"
_TEXT_TO_LORA = "text-to-lora"


def build_network(config: NetworkConfig) -> AdapterNetwork:
    """Returns a freshly initialised generator of that shape."""
    return Hypernet(config) if isinstance(config, HypernetConfig) else TextToLora(config)


def count_parameters(config: NetworkConfig) -> int:
    """Returns how many parameters a generator of that shape has, without allocating them."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build_network(config).parameters())


def config_as_dict(config: NetworkConfig) -> dict[str, Any]:
    """Returns a shape as JSON values, with the kind of generator that it is for."""
    kind = _HYPERNET if isinstance(config, HypernetConfig) else _TEXT_TO_LORA
    return {"kind": kind, **config.as_dict()}


def config_from_dict(content: Mapping[str, Any]) -> NetworkConfig:
    """Returns the shape of `config_as_dict`'s content; without a kind it is a hypernet's."""
    values = dict(content)
    if values.pop("kind", _HYPERNET) == _HYPERNET:
        return HypernetConfig.from_dict(values)
    return TextToLoraConfig.from_dict(values)

"""What a training run would need: parameters, memory and time, before it is begun."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from hyperplug.basemodel import BaseModel
from hyperplug.hypernet.frozen import layer_index
from hyperplug.hypernet.loading import weights_bytes
from hyperplug.hypernet.networks import NetworkConfig, count_parameters
from hyperplug.hypernet.train import TrainConfig

# Weights, gradients, their average and the two moments of AdamW, in float32.
_BYTES_A_PARAMETER = 5 * 4
# Of a layer for a token in the forward pass: what autograd keeps, in units of the hidden size.
_KEPT_WIDTHS = 30
# The share of the floor that training reaches; benchmarks/training.py measures it.
_EFFICIENCY = 0.4
_RATE_SECONDS = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """An estimate, good to a factor of two.

    Attributes:
        parameters: of the network that is trained.
        base_parameters: of the frozen base model.
        memory_bytes: base model, network with optimizer, activations, kept lower layers.
        tokens_per_second: training speed.
        minutes: length of the run.
        steps: optimizer steps in it.
        matrix_rate: measured floating-point operations a second in matrix products.
    """

    parameters: int
    base_parameters: int
    memory_bytes: int
    tokens_per_second: float
    minutes: float
    steps: int
    matrix_rate: float


def forecast(
    base: BaseModel,
    network: NetworkConfig,
    config: TrainConfig,
    *,
    mean_tokens: float,
    cache_bytes: int,
    device: torch.device,
    dtype: torch.dtype,
) -> Forecast:
    """Returns what a run would need.

    Args:
        mean_tokens: mean length of the sequences to train on.
        cache_bytes: how much of the lower layers' output may be kept in memory.
    """
    base_bytes = weights_bytes(base.folder, dtype)
    base_parameters = base_bytes // dtype.itemsize
    parameters = count_parameters(network)
    rate = matrix_rate(device, dtype)
    speed = _EFFICIENCY * floor_tokens_per_second(base_parameters, rate)
    rows = config.sampling.tasks * config.sampling.sequences
    seconds_a_step = rows * mean_tokens / speed
    if config.minutes:
        steps = min(config.steps, int(60 * config.minutes / seconds_a_step))
    else:
        steps = config.steps
    layers = len({layer_index(path) for path in network.target_modules})
    width = max(network.in_features)
    activations = int(rows * mean_tokens * layers * width * _KEPT_WIDTHS * dtype.itemsize)
    return Forecast(
        parameters=parameters,
        base_parameters=base_parameters,
        memory_bytes=base_bytes + _BYTES_A_PARAMETER * parameters + activations + cache_bytes,
        tokens_per_second=speed,
        minutes=steps * seconds_a_step / 60,
        steps=steps,
        matrix_rate=rate,
    )


def floor_tokens_per_second(base_parameters: int, rate: float) -> float:
    """Returns the speed at which only the matrix products of a forward pass, and of a
    backward pass to the adapters' outputs, through all layers took time: four operations
    a parameter and token."""
    return rate / (4 * base_parameters)


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Returns the measured floating-point operations a second of a large matrix product."""
    rows, size = (2048, 1536) if device.type == "cpu" else (8192, 8192)
    x = torch.randn(rows, size, device=device).to(dtype)
    weight = torch.randn(size, size, device=device).to(dtype)

    def seconds() -> float:
        started = time.perf_counter()
        float(torch.nn.functional.linear(x, weight)[0, 0])  # waits for the device
        return time.perf_counter() - started

    seconds()
    begun, best = time.perf_counter(), seconds()
    while time.perf_counter() - begun < _RATE_SECONDS:
        best = min(best, seconds())
    return 2 * rows * size * size / best

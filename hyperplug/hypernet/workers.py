"""Several processes on one training run, started by torchrun or `accelerate launch`."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch import distributed as dist

from hyperplug.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Workers:
    """The processes of a run; each takes an equal share of a step's tasks."""

    rank: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def share(self, items: int) -> slice:
        """Returns this process's part of `items` things."""
        size = items // self.count
        return slice(self.rank * size, (self.rank + 1) * size)

    def average(self, gradients: Iterable[Tensor], *numbers: float) -> list[float]:
        """Averages gradients over the processes in place, and returns the numbers' means."""
        if self.count == 1:
            return list(numbers)
        tensors = list(gradients)
        device = tensors[0].device
        flat = torch.cat([*(t.flatten() for t in tensors), torch.tensor(numbers, device=device)])
        dist.all_reduce(flat)
        flat /= self.count
        start = 0
        for tensor in tensors:
            tensor.copy_(flat[start : start + tensor.numel()].view_as(tensor))
            start += tensor.numel()
        return [float(number) for number in flat[len(flat) - len(numbers) :]]


def own_device(device: torch.device) -> torch.device:
    """Returns the GPU of this process where torchrun started several on a machine."""
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if several and device.type == "cuda" and device.index is None:
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return device


def join_workers(device: torch.device, *, tasks: int) -> Workers:
    """Returns this process's place among those that torchrun started; alone without it.

    Args:
        tasks: how many tasks a step has.

    Raises:
        ConfigError: if a step's tasks cannot be shared out equally.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        return Workers()
    if tasks % count:
        raise ConfigError(
            f"{tasks} tasks a step cannot be shared among {count} processes",
            hint=f"start a number of processes that divides {tasks}",
        )
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return Workers(rank=dist.get_rank(), count=count)

"""The replicas as the ingress sees them: one engine that holds whatever any replica holds."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from hyperplug_vllm.compat import Engine

from hyperplug.entities import Adapter
from hyperplug_ray.names import routed_name


class Replicas:
    """Stands for vLLM's `EngineClient` where the engines are other processes.

    Nothing is loaded ahead: the request itself goes to the replica that holds its adapter, or
    else to the one with the fewest, and is what loads it there.
    """

    async def add_lora(self, request: Any) -> bool:
        """Takes note of nothing."""
        return True

    async def remove_lora(self, lora_id: int) -> bool:
        """Leaves it to the replicas, which make room by themselves."""
        return True


class RoutedEngine(Engine):
    """An engine whose adapters have names by which Ray finds their replica."""

    def __init__(self, *, base_name: str, namespace: str) -> None:
        names = SimpleNamespace(
            lora_requests={},
            base_model_paths=[SimpleNamespace(name=base_name)],
            is_base_model=lambda name: name == base_name,
        )
        super().__init__(Replicas(), names, namespace=namespace)

    def served_name(self, adapter: Adapter) -> str:
        """Returns BASE:ADAPTER, Ray's form of a model with an adapter."""
        return routed_name(self.base_name, super().served_name(adapter))

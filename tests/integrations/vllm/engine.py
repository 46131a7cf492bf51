"""vLLM's side of the border, for tests that need it to fail or to be slow."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from hyperplug_vllm.compat import Engine

BASE = "org/base"


class Client:
    """Stands for vLLM's `EngineClient`: keeps what was loaded, in order.

    Attributes:
        fail: ids whose loading raises, as an activation in vLLM may: the id stays.
    """

    def __init__(self) -> None:
        self.loaded: list[int] = []
        self.calls: list[tuple[str, int]] = []
        self.fail: set[int] = set()
        self.pause = asyncio.Event()
        self.pause.set()

    async def add_lora(self, request: Any) -> bool:
        self.calls.append(("add", request.lora_int_id))
        await self.pause.wait()
        await asyncio.sleep(0.005)
        self.loaded.append(request.lora_int_id)
        if request.lora_int_id in self.fail:
            raise RuntimeError("wrong shape")
        return True

    async def remove_lora(self, lora_id: int) -> bool:
        self.calls.append(("remove", lora_id))
        await asyncio.sleep(0.005)
        if lora_id in self.loaded:
            self.loaded.remove(lora_id)
            return True
        return False

    async def run(self, request: Any) -> str | None:
        """Answers one request with an adapter, or with the base for None.

        Returns the digest of the weights that answered, where an engine reads any.
        """
        return None


def serving_models() -> Any:
    """Returns what stands for vLLM's `OpenAIServingModels`, with one static adapter."""
    return SimpleNamespace(
        lora_requests={"static-one": SimpleNamespace(lora_name="static-one")},
        base_model_paths=[SimpleNamespace(name=BASE)],
        is_base_model=lambda name: name == BASE,
    )


def make_engine(client: Client | None = None) -> tuple[Engine, Client, Any]:
    """Returns an engine with its client and models."""
    client, models = client or Client(), serving_models()
    return Engine(client, models), client, models

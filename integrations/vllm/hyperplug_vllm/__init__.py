"""hyperplug inside vLLM: requests name a task, the server answers through its adapter."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hyperplug.entities import Resolution
from hyperplug.errors import InvalidAdapterError

if TYPE_CHECKING:
    from vllm.lora.request import LoRARequest

__all__ = ["lora_request"]


def lora_request(resolution: Resolution) -> LoRARequest | None:
    """Returns what vLLM's offline `LLM.generate(lora_request=…)` takes; None for BASE.

    Raises:
        InvalidAdapterError: if the resolution's adapter is not published.
        MissingExtraError: if vLLM is not installed.
    """
    from hyperplug_vllm import compat

    if resolution.adapter is None:
        return None
    if resolution.adapter.path is None:
        raise InvalidAdapterError(
            f"adapter {resolution.adapter.name} is not published",
            hint="take it from Registry.resolve, or pass it through Registry.published",
        )
    request: LoRARequest = compat.lora_request(resolution.adapter)
    return request

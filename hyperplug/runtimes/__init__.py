"""Runtimes: things that run a base model with adapters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

from hyperplug.entities import Adapter

Prompt = str | Sequence[Mapping[str, str]]


@runtime_checkable
class Runtime(Protocol):
    """Answers prompts with one frozen base model, through any number of adapters."""

    def answer(
        self, prompt: Prompt, /, *, adapter: Adapter | None = None, max_tokens: int = 64
    ) -> str:
        """Returns the model's greedy answer.

        Args:
            prompt: the user's text, or chat messages with "role" and "content".
            adapter: a published adapter; None asks the bare base model.
            max_tokens: where to cut the answer off.
        """
        ...

    def close(self) -> None:
        """Frees the model and its adapters."""
        ...


__all__ = ["Prompt", "Runtime"]

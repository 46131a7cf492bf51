"""Keys and values of many prompts in generation: rows of several lengths side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

_ROOM = 64


class RoomyLayer(DynamicLayer):  # type: ignore[misc]
    """A cache layer with room to spare, so that most tokens are added without a copy.

    Only layers that attention sees in full; a sliding window is left to the mask.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._length = 0

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Adds tokens, (rows, heads, new, head), and returns all of them."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = key_states, value_states
            self._length = key_states.shape[-2]
            return self.keys, self.values
        end = self._length + key_states.shape[-2]
        if end > self.keys.shape[-2]:
            self.keys = _with_room(self.filled_keys, end + _ROOM)
            self.values = _with_room(self.filled_values, end + _ROOM)
        self.keys[..., self._length : end, :] = key_states
        self.values[..., self._length : end, :] = value_states
        self._length = end
        return self.filled_keys, self.filled_values

    def get_seq_length(self) -> int:
        """Returns how many tokens are in it."""
        return self._length

    @property
    def filled_keys(self) -> Tensor:
        """The keys so far, (rows, heads, length, head)."""
        return self.keys[..., : self._length, :]

    @property
    def filled_values(self) -> Tensor:
        """The values so far, (rows, heads, length, head)."""
        return self.values[..., : self._length, :]

    def rows(self, indices: Tensor | None = None) -> RoomyLayer:
        """Returns some rows, all by default, as a layer of its own.

        It has no room, so that adding to it leaves this one as it is.
        """
        layer = RoomyLayer()
        keys, values = self.filled_keys, self.filled_values
        layer.update(
            keys if indices is None else keys[indices],
            values if indices is None else values[indices],
        )
        return layer


def new_cache() -> Cache:
    """Returns an empty cache."""
    return Cache(layer_class_to_replicate=RoomyLayer)


def joined(layers: Sequence[RoomyLayer]) -> RoomyLayer:
    """Returns the rows of all, the shorter ones padded with zeros on the left."""
    length = max(layer.get_seq_length() for layer in layers)
    layer = RoomyLayer()
    layer.update(
        torch.cat([_padded(part.filled_keys, length) for part in layers]),
        torch.cat([_padded(part.filled_values, length) for part in layers]),
    )
    return layer


def _padded(values: Tensor, length: int) -> Tensor:
    return torch.nn.functional.pad(values, (0, 0, length - values.shape[-2], 0))


def _with_room(values: Tensor, length: int) -> Tensor:
    """Returns values, (rows, heads, n, head), in front of a buffer of that length."""
    buffer = values.new_zeros((*values.shape[:-2], length, values.shape[-1]))
    buffer[..., : values.shape[-2], :] = values
    return buffer

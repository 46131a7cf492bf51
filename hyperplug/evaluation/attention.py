"""Attention for generation on a CPU: keys and values are not copied for each query head."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_NAME = "hyperplug_grouped"
# Models whose attention is plain softmax over scaled products, with nothing added.
_PLAIN = frozenset({"llama", "mistral", "qwen2", "qwen3", "smollm3"})


def use_grouped_attention(model: Any) -> bool:
    """Lets a model compute grouped-query attention without copies, if it is of a plain kind.

    Returns whether it now does.
    """
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, eager_mask
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    if model.config.model_type not in _PLAIN:
        return False
    ALL_ATTENTION_FUNCTIONS.register(_NAME, grouped_attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register(_NAME, eager_mask)
    model.set_attn_implementation(_NAME)
    return True


def grouped_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    **_: Any,
) -> tuple[Tensor, None]:
    """Returns attention's output, (rows, length, heads, head), and no weights.

    Args:
        query: (rows, heads, length, head).
        key: (rows, groups, all, head); likewise `value`.
        attention_mask: added to the scores, (rows, 1, length, all).
    """
    rows, heads, length, size = query.shape
    groups = key.shape[1]
    grouped = query.reshape(rows, groups, -1, size)  # (rows, groups, heads / groups * length, head)
    scores = torch.matmul(grouped, key.transpose(2, 3)) * scaling
    scores = scores.view(rows, heads, length, -1)
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    out = torch.matmul(weights.view(rows, groups, -1, key.shape[2]), value)
    return out.reshape(rows, heads, length, size).transpose(1, 2).contiguous(), None

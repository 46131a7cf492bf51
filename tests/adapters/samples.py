"""A tiny base model's shapes, adapters for it, and folders of files to break."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hyperplug.adapters import Library, adapter_config, pack
from hyperplug.adapters.peft_format import CONFIG_FILE, WEIGHTS_FILE, Pair
from hyperplug.entities import Adapter, AdapterWeights, BaseModelSpec, ModuleShape, Origin

HIDDEN, INNER, KEY_VALUE, LAYERS = 16, 24, 8, 2
SIZES = {
    "self_attn.q_proj": (HIDDEN, HIDDEN),
    "self_attn.k_proj": (HIDDEN, KEY_VALUE),
    "self_attn.v_proj": (HIDDEN, KEY_VALUE),
    "self_attn.o_proj": (HIDDEN, HIDDEN),
    "mlp.gate_proj": (HIDDEN, INNER),
    "mlp.up_proj": (HIDDEN, INNER),
    "mlp.down_proj": (INNER, HIDDEN),
}
BASE = BaseModelSpec(
    id="example/tiny",
    revision="",
    architecture="LlamaForCausalLM",
    fingerprint="a" * 64,
    module_shapes={
        f"model.layers.{layer}.{name}": ModuleShape(in_features=size[0], out_features=size[1])
        for layer in range(LAYERS)
        for name, size in SIZES.items()
    },
)
# The upper layer only: a list of bare suffixes would reach the lower one as well.
MODULES = tuple(f"model.layers.1.{name}" for name in ("self_attn.q_proj", "mlp.down_proj"))


def pairs(
    seed: int = 0, *, rank: int = 4, modules: Iterable[str] = MODULES, scale: float = 0.1
) -> dict[str, Pair]:
    """Returns random LoRA pairs that float16 holds exactly."""
    random = np.random.default_rng(seed)

    def matrix(rows: int, columns: int) -> NDArray[np.float32]:
        values = random.normal(0, scale, size=(rows, columns))
        return values.astype(np.float16).astype(np.float32)

    return {
        module: (
            matrix(rank, BASE.module_shapes[module].in_features),
            matrix(BASE.module_shapes[module].out_features, rank),
        )
        for module in modules
    }


def weights(seed: int = 0, *, rank: int = 4, alpha: float | None = None) -> AdapterWeights:
    """Returns packed random weights."""
    return pack(pairs(seed, rank=rank), alpha=alpha or rank)


def stored(
    packed: AdapterWeights, *, task: str = "sums", base_fingerprint: str = BASE.fingerprint
) -> Adapter:
    """Returns the registry's row of those weights."""
    return Adapter(
        id=2**20,
        namespace="default",
        name=f"{task}@{packed.digest[:8]}",
        task_name=task,
        digest=packed.digest,
        rank=packed.rank,
        alpha=packed.alpha,
        target_modules=packed.target_modules,
        origin=Origin.GENERATED,
        base_fingerprint=base_fingerprint,
        hypernet_fingerprint="c" * 64,
        size_bytes=len(packed.data),
        metrics={},
        created_at=datetime(2026, 1, 2, tzinfo=UTC),
    )


def export(folder: Path, packed: AdapterWeights | None = None) -> Path:
    """Returns `folder` holding an adapter exported by us, hyperplug.json included."""
    packed = packed or weights()
    return Library(folder.parent / "library").export(
        stored(packed), packed.data, folder, base_id=BASE.id
    )


def foreign(folder: Path, packed: AdapterWeights | None = None, **config: Any) -> Path:
    """Returns `folder` holding an adapter as another program would write it.

    Args:
        config: settings that replace or join those of the configuration; None removes.
    """
    packed = packed or weights()
    folder.mkdir(parents=True)
    settings = adapter_config(packed, BASE.id) | config
    (folder / CONFIG_FILE).write_text(
        json.dumps({key: value for key, value in settings.items() if value is not None})
    )
    (folder / WEIGHTS_FILE).write_bytes(packed.data)
    return folder


def raw_file(header: object, body: bytes = b"") -> bytes:
    """Returns a safetensors file with any header, right or wrong."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body

"""What identifies a base model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

from hyperplug.basemodel import read_spec, resolve_base
from hyperplug.errors import BaseModelError

CONFIG = {"architectures": ["TinyForCausalLM"], "hidden_size": 4, "num_hidden_layers": 11}


def _model(folder: Path, *, change: float = 0.0, config: dict[str, object] = CONFIG) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    tensors: dict[str, NDArray[np.float32]] = {
        f"m.layers.{n}.q_proj.weight": np.full((2, 4), n, np.float32) for n in range(11)
    }
    tensors["m.layers.10.q_proj.weight"][1, 2] += change
    tensors["m.embed.weight"] = np.zeros((3, 4), np.float32)
    tensors["m.layers.0.norm.weight"] = np.ones(4, np.float32)
    save_file(tensors, folder / "model.safetensors")
    return folder


def test_shapes_in_model_order(tmp_path: Path) -> None:
    spec = read_spec(_model(tmp_path / "m"))
    assert list(spec.module_shapes) == [f"m.layers.{n}.q_proj" for n in range(11)]
    shape = spec.module_shapes["m.layers.0.q_proj"]
    assert (shape.in_features, shape.out_features) == (4, 2)
    assert spec.architecture == "TinyForCausalLM"


def test_fingerprint_is_of_content_not_place(tmp_path: Path) -> None:
    first, second = read_spec(_model(tmp_path / "a")), read_spec(_model(tmp_path / "b"))
    assert first.fingerprint == second.fingerprint
    weights = read_spec(_model(tmp_path / "c", change=1e-3))
    config = read_spec(_model(tmp_path / "d", config=CONFIG | {"hidden_size": 8}))
    assert len({first.fingerprint, weights.fingerprint, config.fingerprint}) == 3


@pytest.mark.parametrize("damage", ["config.json", "model.safetensors"])
def test_damaged_models_are_named(tmp_path: Path, damage: str) -> None:
    folder = _model(tmp_path / "m")
    (folder / damage).write_bytes(b"\xff\xff\xff\xff\xff\xff\xff\x7f{")
    with pytest.raises(BaseModelError, match=damage):
        read_spec(folder)
    (folder / damage).unlink()
    with pytest.raises(BaseModelError):
        read_spec(folder)


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(BaseModelError, match="does not exist"):
        resolve_base(str(tmp_path / "nowhere"), cache=tmp_path)

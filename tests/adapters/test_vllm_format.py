"""vLLM's own loader takes what we export, whole, and at the right scale."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hyperplug.adapters import validate_folder
from hyperplug.errors import InvalidAdapterError
from tests.adapters.samples import BASE, MODULES, export, foreign, pairs, weights

pytestmark = pytest.mark.vllm
pytest.importorskip("vllm")

EXPECTED = {module.rsplit(".", 1)[-1] for module in BASE.module_shapes}


def load(folder: Path, *, max_rank: int = 16) -> Any:
    """Returns vLLM's model of the adapter, by the steps of its worker."""
    import torch
    from vllm.config.lora import LoRAConfig
    from vllm.lora.lora_model import LoRAModel
    from vllm.lora.peft_helper import PEFTHelper

    helper = PEFTHelper.from_local_dir(str(folder), max_position_embeddings=256)
    helper.validate_legal(LoRAConfig(max_lora_rank=max_rank))
    return LoRAModel.from_local_checkpoint(
        str(folder), EXPECTED, helper, lora_model_id=2**20, device="cpu", dtype=torch.float32
    )


@pytest.mark.parametrize(("rank", "alpha"), [(4, 4.0), (8, 4.0), (16, 40.0), (2, 2.5)])
def test_vllm_loads_every_matrix_at_the_right_scale(
    tmp_path: Path, rank: int, alpha: float
) -> None:
    adapter = pairs(rank=rank)
    loaded = load(export(tmp_path / "a", weights(rank=rank, alpha=alpha)))
    assert (loaded.id, loaded.rank) == (2**20, rank)
    assert set(loaded.loras) == set(MODULES)
    for module, (a, b) in adapter.items():
        lora = loaded.loras[module]
        np.testing.assert_array_equal(lora.lora_a.numpy(), a)
        np.testing.assert_array_equal(lora.lora_b.numpy(), b)
        assert lora.scaling == pytest.approx(alpha / rank)


def test_a_rank_that_we_refuse_is_one_that_vllm_refuses(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="rank 9 is greater than max_lora_rank 8"):
        load(export(tmp_path / "a", weights(rank=9)), max_rank=8)


def test_the_rank_that_our_hint_names_is_one_that_vllm_takes(tmp_path: Path) -> None:
    with pytest.raises(InvalidAdapterError) as caught:
        validate_folder(export(tmp_path / "a", weights(rank=9)), base=BASE, max_rank=8)
    named = re.search(r"--max-lora-rank (\d+)", caught.value.hint)
    assert named is not None
    assert load(tmp_path / "a", max_rank=int(named[1])).rank == 9


def test_folded_rslora_has_the_same_effect(tmp_path: Path) -> None:
    flagged = foreign(tmp_path / "flagged", weights(alpha=16), use_rslora=True)
    folded = export(tmp_path / "folded", validate_folder(flagged, base=BASE).weights)
    before, after = load(flagged), load(folded)
    for module in MODULES:
        old, new = before.loras[module], after.loras[module]
        old_update = old.scaling * (old.lora_b @ old.lora_a).numpy()
        new_update = new.scaling * (new.lora_b @ new.lora_a).numpy()
        np.testing.assert_allclose(new_update, old_update, rtol=1e-5, atol=1e-7)

"""The kept output of the lower layers equals a fresh one, also in the next run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hyperplug.errors import ConfigError
from hyperplug.hypernet.batches import pad
from hyperplug.hypernet.data import TokenSequence
from hyperplug.hypernet.frozen import FrozenBase
from hyperplug.hypernet.states import LowerStates

SEQUENCES = [
    TokenSequence(key="a", prompt=(5, 6, 7), answer=(8,)),
    TokenSequence(key="b", prompt=(9,), answer=(10, 11)),
]


def fresh(frozen: FrozenBase) -> list[torch.Tensor]:
    return [
        frozen.lower(torch.tensor([s.prompt + s.answer]))[0].to(frozen.dtype) for s in SEQUENCES
    ]


def test_kept_states_equal_fresh_ones(frozen: FrozenBase, tmp_path: Path) -> None:
    file = tmp_path / "kept" / "base.states"
    ids = pad(SEQUENCES).token_ids
    for _ in range(2):  # the second time from the file of the first
        states = LowerStates(frozen, budget_bytes=10**6, file=file)
        for _ in range(2):
            batch = states.batch(SEQUENCES, ids)
            for row, expected in zip(batch, fresh(frozen), strict=True):
                assert torch.allclose(row[: len(expected)], expected, atol=1e-6)
        states.close()
    assert file.stat().st_size == 7 * frozen.hidden_size * 4


def test_without_budget_nothing_is_kept(frozen: FrozenBase, tmp_path: Path) -> None:
    file = tmp_path / "base.states"
    states = LowerStates(frozen, budget_bytes=0, file=file)
    states.batch(SEQUENCES, pad(SEQUENCES).token_ids)
    assert file.stat().st_size == 0


def test_a_record_cut_off_by_a_kill_is_dropped(frozen: FrozenBase, tmp_path: Path) -> None:
    file = tmp_path / "base.states"
    ids = pad(SEQUENCES).token_ids
    states = LowerStates(frozen, budget_bytes=10**6, file=file)
    states.batch(SEQUENCES, ids)
    states.close()
    with file.open("r+b") as data:
        data.truncate(6 * frozen.hidden_size * 4)
    with file.with_suffix(".index").open("ab") as index:
        index.write(b"half a record")
    batch = LowerStates(frozen, budget_bytes=10**6, file=file).batch(SEQUENCES, ids)
    for row, expected in zip(batch, fresh(frozen), strict=True):
        assert torch.allclose(row[: len(expected)], expected, atol=1e-6)


def test_two_runs_never_share_a_file(frozen: FrozenBase, tmp_path: Path) -> None:
    """Each would write where the other believes its own to be."""
    file = tmp_path / "base.states"
    first = LowerStates(frozen, budget_bytes=10**6, file=file)
    with pytest.raises(ConfigError, match="another run") as caught:
        LowerStates(frozen, budget_bytes=10**6, file=file)
    assert "--cache-dir" in caught.value.hint
    first.close()
    LowerStates(frozen, budget_bytes=10**6, file=file).close()

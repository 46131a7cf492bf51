"""The lookup policy's borders: the quick rule, and thresholds put into a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.torch import save_file

from hyperplug.entities import Thresholds
from hyperplug.errors import CheckpointError
from hyperplug.hypernet.batches import PreparedTask
from hyperplug.hypernet.calibration import calibrate, write_thresholds
from hyperplug.hypernet.checkpoint import FORMAT, load_checkpoint
from hyperplug.hypernet.encoding import EncodedDescription, EncodedExamples
from tests.hypernet.conftest import MakeTrainer


def at(angle: float, *, family: str) -> PreparedTask:
    """Returns a task whose description points into a direction of the plane."""
    pooled = np.array([np.cos(angle), np.sin(angle)], dtype=np.float32)
    encoded = EncodedDescription(pooled=pooled, tokens=np.zeros((1, 2), dtype=np.float16))
    return PreparedTask(
        id=f"{family}/{angle}",
        family=family,
        descriptions=(encoded,),
        examples=EncodedExamples.none(2),
        conditioning=0,
        sequences=(),
    )


def test_borders_come_from_tasks_of_other_families() -> None:
    train: Sequence[PreparedTask] = [at(0.0, family="a")]
    validation = [at(0.5, family="b"), at(0.51, family="b"), at(1.0, family="c")]
    thresholds = calibrate(train, validation)
    # The likest pair of different families is 0.49 apart, not the 0.01 within one family.
    assert thresholds.near == pytest.approx(np.cos(0.49), abs=0.002)
    # All but 2 % are at least as near to a training task as this: the farthest is 1.0 off.
    assert np.cos(1.0) <= thresholds.support < np.cos(0.9)


def test_training_tasks_as_their_own_validation_do_not_close_the_policy() -> None:
    tasks = [at(0.0, family="a"), at(0.6, family="b"), at(1.2, family="c")]
    thresholds = calibrate(tasks, tasks)
    assert thresholds.support == pytest.approx(np.cos(0.6), abs=0.01)
    alone = calibrate(tasks[:1], tasks[:1])
    assert 0 < alone.support < alone.near < 1


def test_written_thresholds_change_nothing_else(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(steps=1)
    trainer.run()
    _forget_the_kind(trainer.out)
    before = load_checkpoint(trainer.out)
    chosen = Thresholds(near=0.81, support=0.33)
    write_thresholds(
        trainer.out, chosen, fingerprint=before.fingerprint, about={"tasks": 7, "near": "why"}
    )
    after = load_checkpoint(trainer.out)
    assert after.thresholds == chosen
    assert after.fingerprint == before.fingerprint
    assert after.training == {**before.training, "calibration": {"tasks": 7, "near": "why"}}
    assert not list(trainer.out.parent.glob(".*tmp"))
    with pytest.raises(CheckpointError, match="has changed meanwhile"):
        write_thresholds(trainer.out, chosen, fingerprint="0" * 64, about={})


def _forget_the_kind(path: Path) -> None:
    """Writes a checkpoint's configuration as an earlier release did, without its kind."""
    with safe_open(path, framework="pt") as file:
        content = json.loads(file.metadata()[FORMAT])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    del content["config"]["kind"]
    save_file(tensors, path, metadata={FORMAT: json.dumps(content, sort_keys=True)})

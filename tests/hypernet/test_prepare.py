"""Choosing projections, preparing tasks, and setting the lookup policy's borders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hyperplug.basemodel import BaseModel, read_spec
from hyperplug.errors import BaseModelError, TrainingError
from hyperplug.hypernet.batches import PreparedTask
from hyperplug.hypernet.data import read_corpus
from hyperplug.hypernet.encoding import EncodedDescription
from hyperplug.hypernet.loading import load_tokenizer
from hyperplug.hypernet.prepare import calibrate, choose_modules, prepare_tasks
from tests.hypernet.conftest import LIMITS
from tests.miniature import WordHashEmbedder, base_folder, toy_corpus


def test_the_chosen_modules_are_of_the_last_layers_in_model_order(base: BaseModel) -> None:
    chosen = choose_modules(base.spec, modules=("v_proj", "q_proj"), top_layers=2)
    assert chosen == (
        "model.layers.1.self_attn.q_proj",
        "model.layers.1.self_attn.v_proj",
        "model.layers.2.self_attn.q_proj",
        "model.layers.2.self_attn.v_proj",
    )
    assert len(choose_modules(base.spec)) == 12
    assert choose_modules(base.spec, top_layers=99) == choose_modules(base.spec)


def test_ten_layers_are_ordered_by_number(tmp_path: Path) -> None:
    spec = read_spec(base_folder(tmp_path / "deep", layers=11))
    chosen = choose_modules(spec, modules=("q_proj",))
    assert [path.split(".")[2] for path in chosen] == [str(n) for n in range(11)]


def test_other_names_take_all_projections(tmp_path: Path) -> None:
    spec = read_spec(base_folder(tmp_path / "neox", family="gpt_neox"))
    chosen = choose_modules(spec, top_layers=1)
    assert len(chosen) == 4 and "gpt_neox.layers.2.attention.query_key_value" in chosen


def test_a_model_without_projections(base: BaseModel) -> None:
    with pytest.raises(BaseModelError, match="no linear projections"):
        choose_modules(replace(base.spec, module_shapes={}))


def test_part_of_the_sequences_carry_the_description(base: BaseModel, tmp_path: Path) -> None:
    tasks = read_corpus(toy_corpus(tmp_path / "tasks.jsonl")).tasks

    def told(share: float) -> int:
        prepared = prepare_tasks(
            tasks,
            tokenizer=load_tokenizer(base),
            embedder=WordHashEmbedder(),
            limits=replace(LIMITS, in_prompt=share),
        )
        return sum("#" in s.key for task in prepared for s in task.sequences)

    assert (told(0), told(1)) == (0, 48)
    assert 8 < told(0.5) < 40 and told(0.5) == told(0.5)


def test_tasks_that_are_too_long_are_left_out(base: BaseModel, tmp_path: Path) -> None:
    tasks = read_corpus(toy_corpus(tmp_path / "tasks.jsonl")).tasks
    seen: list[int] = []
    with pytest.raises(TrainingError, match="none of the 2 tasks has 4 examples within 8"):
        prepare_tasks(
            tasks,
            tokenizer=load_tokenizer(base),
            embedder=WordHashEmbedder(),
            limits=replace(LIMITS, max_tokens=8),
            progress=seen.append,
        )
    assert sum(seen) == 2


def at(angle: float, *, family: str) -> PreparedTask:
    """Returns a task whose description points into a direction of the plane."""
    pooled = np.array([np.cos(angle), np.sin(angle)], dtype=np.float32)
    encoded = EncodedDescription(pooled=pooled, tokens=np.zeros((1, 2), dtype=np.float16))
    return PreparedTask(
        id=f"{family}/{angle}",
        family=family,
        descriptions=(encoded,),
        examples=np.zeros((0, 4), dtype=np.float32),
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

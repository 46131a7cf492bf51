"""Choosing projections and preparing tasks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hyperplug.basemodel import BaseModel, read_spec
from hyperplug.errors import BaseModelError, TrainingError
from hyperplug.hypernet.data import read_corpus
from hyperplug.hypernet.loading import load_tokenizer
from hyperplug.hypernet.prepare import choose_modules, prepare_tasks
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

"""Answers given many at once against those that transformers gives one at a time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from hyperplug.basemodel import BaseModel, read_spec
from hyperplug.evaluation.attention import use_grouped_attention
from hyperplug.evaluation.decoding import GreedyDecoder, Prompt
from hyperplug.hypernet.frozen import FrozenBase
from hyperplug.hypernet.loading import load_frozen
from hyperplug.hypernet.model import LoraBatch
from hyperplug.hypernet.prepare import choose_modules
from tests.miniature import FAMILIES, base_folder

END = 256
TEXTS = (
    "short",
    "a somewhat longer prompt " * 3,
    "y",
    "x" * 60,
    "which is it?",
    "a b c",
    "no",
    "+",
)
BUDGETS = (6, 9, 3, 12, 4, 8, 1, 20)
RANK = 4


def prompts() -> list[Prompt]:
    pairs = zip(TEXTS, BUDGETS, strict=True)
    return [Prompt(ids=tuple(text.encode()), max_new_tokens=budget) for text, budget in pairs]


def frozen(folder: Path, *, top_layers: int = 1, family: str = "llama") -> FrozenBase:
    path = base_folder(folder, family=family)
    base = BaseModel(folder=path, spec=read_spec(path))
    modules = choose_modules(base.spec, top_layers=top_layers)
    return load_frozen(base, modules, device=torch.device("cpu"), dtype=torch.float32)


def adapters(base: FrozenBase, count: int, *, seed: int = 0) -> list[LoraBatch]:
    """Returns strong random adapters of so many tasks."""
    random = torch.Generator().manual_seed(seed)
    targets: list[Any] = base._targets
    return [
        LoraBatch(
            a=torch.randn(count, RANK, target.in_features, generator=random),
            b=torch.randn(count, target.out_features, RANK, generator=random) * 0.1,
        )
        for target in targets
    ]


def alone(base: FrozenBase, prompt: Prompt, loras: Sequence[LoraBatch] | None) -> list[int]:
    """Returns the answer that transformers generates."""
    model: Any = base.model
    base._active = None if loras is None else list(loras)
    out = model.generate(
        input_ids=torch.tensor([prompt.ids]),
        attention_mask=torch.ones(1, len(prompt.ids), dtype=torch.long),
        max_new_tokens=prompt.max_new_tokens,
        do_sample=False,
        eos_token_id=END,
        pad_token_id=END,
    )
    base._active = None
    answer: list[int] = out[0, len(prompt.ids) :].tolist()
    return answer[: answer.index(END)] if END in answer else answer


def row(loras: Sequence[LoraBatch], index: int) -> list[LoraBatch]:
    return [LoraBatch(a=x.a[index : index + 1], b=x.b[index : index + 1]) for x in loras]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_answers_as_one_by_one(tmp_path: Path, family: str) -> None:
    base = frozen(tmp_path, family=family)
    loras = adapters(base, len(TEXTS))
    expected = [alone(base, p, row(loras, n)) for n, p in enumerate(prompts())]
    bare = [alone(base, prompt, None) for prompt in prompts()]
    use_grouped_attention(base.model)
    decoder = GreedyDecoder(base, end_ids=[END], part_rows=3)
    reading = decoder.read(prompts())
    assert decoder.answer(reading, loras) == expected
    assert decoder.answer(reading, None) == bare
    assert decoder.answer(reading, loras) == expected  # the reading is as it was
    assert bare != expected and len({tuple(answer) for answer in bare}) > 1


@pytest.mark.parametrize("top_layers", [3, 2])
def test_it_does_not_matter_where_adapters_begin(tmp_path: Path, top_layers: int) -> None:
    base = frozen(tmp_path, top_layers=top_layers)
    assert base.can_split == (top_layers < 3)
    one = adapters(base, 1, seed=3)
    expected = [alone(base, prompt, one) for prompt in prompts()]
    decoder = GreedyDecoder(base, end_ids=[END], part_rows=100)
    assert decoder.answer(decoder.read(prompts()), one) == expected


def test_some_rows_are_answered_with_their_own_adapters(tmp_path: Path) -> None:
    base = frozen(tmp_path)
    loras = adapters(base, len(TEXTS))
    decoder = GreedyDecoder(base, end_ids=[END], part_rows=3)
    reading = decoder.read(prompts())
    every = decoder.answer(reading, loras)
    rows = [1, 4, 6, 7]
    chosen = [LoraBatch(a=x.a[rows], b=x.b[rows]) for x in loras]
    assert decoder.answer(reading, chosen, rows=rows) == [every[n] for n in rows]
    assert decoder.answer(reading, row(loras, 6), rows=[6]) == [every[6]]
    assert decoder.answer(reading, None, rows=[]) == []


def test_long_answers_outgrow_the_room(tmp_path: Path) -> None:
    base = frozen(tmp_path)
    prompt = Prompt(ids=tuple(b"go on"), max_new_tokens=150)
    decoder = GreedyDecoder(base, end_ids=[999], part_rows=2)
    both = decoder.answer(decoder.read([prompt, prompt]), None)
    model: Any = base.model
    out = model.generate(
        torch.tensor([prompt.ids]),
        max_new_tokens=150,
        do_sample=False,
        eos_token_id=999,
        pad_token_id=0,
    )
    assert both[0] == both[1] == out[0, 5:].tolist()

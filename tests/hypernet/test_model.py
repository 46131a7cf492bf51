"""The hypernetwork by itself: how it starts, what it reads, what it gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from hyperplug.entities import Example
from hyperplug.hypernet.batches import PreparedTask
from hyperplug.hypernet.encoding import collate, encode_descriptions, encode_examples
from hyperplug.hypernet.frozen import FrozenBase
from hyperplug.hypernet.model import Hypernet, HypernetConfig, LoraBatch, TaskInput
from tests.miniature import WordHashEmbedder

EMBEDDER = WordHashEmbedder()


def read(*descriptions: str | None, examples: Sequence[Example] = ()) -> TaskInput:
    encoded = [d and encode_descriptions(EMBEDDER, [d])[0] for d in descriptions]
    pairs = [encode_examples(EMBEDDER, examples) for _ in descriptions]
    return collate([e or None for e in encoded], pairs, embedding_size=EMBEDDER.dimension)


@pytest.fixture
def hypernet(config: HypernetConfig) -> Hypernet:
    torch.manual_seed(0)
    return Hypernet(config).eval().requires_grad_(False)


@pytest.fixture
def trained(hypernet: Hypernet) -> Hypernet:
    """One whose output is not zero."""
    for parameter in hypernet.parameters():
        parameter.add_(0.05 * torch.randn_like(parameter))
    return hypernet


def same(first: Sequence[LoraBatch], second: Sequence[LoraBatch], *, row: int = 0) -> bool:
    """Returns whether the adapter of `first`'s only task is that of a row of `second`."""
    return all(
        torch.allclose(x.a[0], y.a[row], atol=1e-5) and torch.allclose(x.b[0], y.b[row], atol=1e-5)
        for x, y in zip(first, second, strict=True)
    )


def test_a_fresh_hypernetwork_leaves_logits_unchanged(
    hypernet: Hypernet, frozen: FrozenBase
) -> None:
    token_ids = torch.arange(2, 14).reshape(2, 6)
    before = frozen.logits(frozen.hidden(token_ids))
    with frozen.adapted(hypernet(read("one task", "another task"))):
        after = frozen.logits(frozen.hidden(token_ids))
    assert torch.equal(before, after)


def test_a_changed_one_does_not(trained: Hypernet, frozen: FrozenBase) -> None:
    token_ids = torch.arange(2, 14).reshape(2, 6)
    before = frozen.logits(frozen.hidden(token_ids))
    with frozen.adapted(trained(read("one task", "another task"))):
        after = frozen.logits(frozen.hidden(token_ids))
    assert not torch.allclose(before, after, atol=1e-4)


def test_the_description_matters_and_padding_does_not(trained: Hypernet) -> None:
    alone = trained(read("short text"))
    padded = trained(read("short text", "a text of many more words than the other one has"))
    assert same(alone, padded)
    assert not same(alone, padded, row=1)


def test_examples_matter_with_and_without_a_description(trained: Hypernet) -> None:
    pairs = [Example(input="two and two", output="four"), Example(input="one", output="one")]
    told, shown = trained(read("add")), trained(read("add", examples=pairs))
    assert not same(told, shown)
    assert not same(shown, trained(read(None, examples=pairs)))
    swapped = [Example(input=p.output, output=p.input) for p in pairs]
    assert not same(shown, trained(read("add", examples=swapped)))


def test_the_order_of_examples_does_not_matter(trained: Hypernet) -> None:
    pairs = [Example(input=f"in {n}", output=f"out {n}") for n in range(3)]
    shown = trained(read("add", examples=pairs))
    assert same(shown, trained(read("add", examples=pairs[::-1])))


def test_dropping_the_generated_part_leaves_the_static_one(trained: Hypernet) -> None:
    task = read("one task", "another task")
    kept = trained(task, keep=torch.tensor([0.0, 1.0]))
    for static, lora in zip(trained.static(), kept, strict=True):
        product = static.b[0] @ static.a[0]  # (out, in)
        assert torch.allclose(lora.b[0] @ lora.a[0], product, atol=1e-6)
        assert not torch.allclose(lora.b[1] @ lora.a[1], product, atol=1e-4)


def test_shapes_and_rank(trained: Hypernet, config: HypernetConfig) -> None:
    loras = trained(read("one task", "another task"))
    assert len(loras) == len(config.target_modules)
    for lora, inputs, outputs in zip(loras, config.in_features, config.out_features, strict=True):
        assert lora.a.shape == (2, config.rank, inputs)
        assert lora.b.shape == (2, outputs, config.rank)


def test_configuration_survives_json(config: HypernetConfig) -> None:
    content = config.as_dict() | {"target_modules": list(config.target_modules)}
    assert HypernetConfig.from_dict(content) == config
    assert HypernetConfig.from_dict(replace(config, atoms=9).as_dict()) != config


def test_encodings_of_a_prepared_task(prepared: Sequence[PreparedTask]) -> None:
    task = prepared[0]
    assert len(task.descriptions) == 2
    assert task.examples.shape == (task.conditioning, 2 * EMBEDDER.dimension)
    assert np.allclose(np.linalg.norm(task.descriptions[0].pooled), 1, atol=1e-5)

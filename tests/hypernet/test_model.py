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
from hyperplug.hypernet.words import Vocabulary
from tests.miniature import WordHashEmbedder, byte_tokenizer

EMBEDDER = WordHashEmbedder()
VOCABULARY = Vocabulary(
    byte_tokenizer(), torch.randn(272, 32, generator=torch.Generator().manual_seed(0))
)


def read(*descriptions: str | None, examples: Sequence[Example] = ()) -> TaskInput:
    encoded = [
        d and encode_descriptions(EMBEDDER, [d], vocabulary=VOCABULARY)[0] for d in descriptions
    ]
    shown = encode_examples(EMBEDDER, examples, vocabulary=VOCABULARY)
    pairs = [shown for _ in descriptions]
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


def test_words_are_written_as_the_base_model_spells_them(
    hypernet: Hypernet, config: HypernetConfig
) -> None:
    """A fresh network that is made to point adds directions within the words' span, and only
    where the residual stream is written."""
    assert hypernet.pointer is not None
    hypernet.pointer.size.bias.fill_(1.0)
    task = read("yes or no")
    span = task.words[0]  # (I, words)
    for path, lora in zip(config.target_modules, hypernet(task), strict=True):
        generated = lora.b[0, :, config.static_rank :]  # (out, r)
        if path.endswith(("o_proj", "down_proj")):
            within = torch.linalg.pinv(span.T, rtol=1e-4) @ generated
            assert generated.norm() > 0.1
            assert torch.allclose(span.T @ within, generated, atol=1e-4)
        else:
            assert not generated.any()


def test_words_alone_tell_tasks_apart(trained: Hypernet) -> None:
    task = read("say yes", "say yes")
    other = replace(task, words=task.words.flip(-1) * torch.tensor([1.0, 0.0])[:, None, None])
    assert same(trained(read("say yes")), trained(task), row=1)
    assert not same(trained(read("say yes")), trained(other), row=1)


def test_a_network_without_words_ignores_them(config: HypernetConfig) -> None:
    network = Hypernet(replace(config, word_size=0))
    assert not network.reads_words and network.pointer is None
    task = read("say yes")
    assert same(network(task), network(replace(task, words=task.words.flip(1))))


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
    assert task.examples.pairs.shape == (task.conditioning, 2 * EMBEDDER.dimension)
    assert np.allclose(np.linalg.norm(task.descriptions[0].pooled), 1, atol=1e-5)

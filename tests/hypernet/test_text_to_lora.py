"""Text-to-LoRA by itself: its sizes, how it starts, what it reads, what it gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from hyperplug.entities import Example
from hyperplug.errors import ConfigError
from hyperplug.hypernet.encoding import collate, encode_descriptions, encode_examples
from hyperplug.hypernet.frozen import FrozenBase
from hyperplug.hypernet.model import HypernetConfig, LoraBatch, TaskInput
from hyperplug.hypernet.text_to_lora import TextToLora
from hyperplug.hypernet.text_to_lora_shape import (
    TextToLoraConfig,
    Variant,
    depths_of,
    kinds_of,
    matched_size,
    paper_scale,
    text_to_lora_parameters,
)
from tests.miniature import WordHashEmbedder

EMBEDDER = WordHashEmbedder()
VARIANTS: tuple[Variant, ...] = ("L", "M", "S")


def shape(
    *, layers: int, modules: dict[str, tuple[int, int]], rank: int, **changes: Any
) -> TextToLoraConfig:
    """Returns a shape for a base whose layers have those projections (inputs, outputs)."""
    pairs = [pair for _ in range(layers) for pair in modules.values()]
    values: dict[str, Any] = {
        "base_fingerprint": "base",
        "embedder_id": "encoder",
        "embedding_size": 384,
        "target_modules": tuple(f"model.layers.{n}.{m}" for n in range(layers) for m in modules),
        "in_features": tuple(inputs for inputs, _ in pairs),
        "out_features": tuple(outputs for _, outputs in pairs),
        "rank": rank,
        "scale": paper_scale(rank),
    }
    return TextToLoraConfig(**values | changes)


MISTRAL = shape(
    layers=32,
    modules={"self_attn.q_proj": (4096, 4096), "self_attn.v_proj": (4096, 1024)},
    rank=8,
    embedding_size=1024,
)
SMOLLM = shape(
    layers=12,
    modules={
        "self_attn.q_proj": (576, 576),
        "self_attn.v_proj": (576, 192),
        "self_attn.o_proj": (576, 576),
        "mlp.down_proj": (1536, 576),
    },
    rank=16,
)


@pytest.fixture
def small(config: HypernetConfig) -> TextToLoraConfig:
    """For the tiny base model, whose up-projections have more outputs than inputs."""
    return TextToLoraConfig(
        base_fingerprint=config.base_fingerprint,
        embedder_id=config.embedder_id,
        embedding_size=config.embedding_size,
        target_modules=config.target_modules,
        in_features=config.in_features,
        out_features=config.out_features,
        rank=3,
        scale=paper_scale(3),
        latent_size=32,
        head_size=48,
    )


@pytest.fixture(params=VARIANTS)
def network(small: TextToLoraConfig, request: pytest.FixtureRequest) -> TextToLora:
    """Each variant, fresh."""
    torch.manual_seed(0)
    return TextToLora(replace(small, variant=request.param)).eval()


@pytest.fixture
def trained(network: TextToLora) -> TextToLora:
    """One whose output depends on everything."""
    for parameter in network.requires_grad_(False).parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    return network


def read(*descriptions: str | None, examples: Sequence[Example] = ()) -> TaskInput:
    encoded = [d and encode_descriptions(EMBEDDER, [d])[0] for d in descriptions]
    pairs = [encode_examples(EMBEDDER, examples) for _ in descriptions]
    return collate([e or None for e in encoded], pairs, embedding_size=EMBEDDER.dimension)


def same(first: Sequence[LoraBatch], second: Sequence[LoraBatch], *, row: int = 0) -> bool:
    """Returns whether the adapter of `first`'s only task is that of a row of `second`."""
    return all(
        torch.allclose(x.a[0], y.a[row], atol=1e-5) and torch.allclose(x.b[0], y.b[row], atol=1e-5)
        for x, y in zip(first, second, strict=True)
    )


def parameters_of(config: TextToLoraConfig) -> int:
    """Returns what a network of that shape has, without memory for it."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in TextToLora(config).parameters())


@pytest.mark.parametrize(
    ("variant", "parameters"), [("L", 55_424_000), ("M", 34_412_288), ("S", 4_994_816)]
)
def test_sizes_in_the_papers_setting(variant: Variant, parameters: int) -> None:
    """The paper states 55, 34 and 5 million."""
    config = replace(MISTRAL, variant=variant)
    assert parameters_of(config) == text_to_lora_parameters(config) == parameters


@pytest.mark.parametrize("variant", VARIANTS)
def test_sizes_of_other_shapes(variant: Variant, small: TextToLoraConfig) -> None:
    for config in (small, SMOLLM):
        changed = replace(config, variant=variant, rank_places="learned")
        assert parameters_of(changed) == text_to_lora_parameters(changed)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_matched_size_has_about_that_many_parameters(variant: Variant) -> None:
    matched = matched_size(replace(SMOLLM, variant=variant), parameters=5_000_000)
    assert parameters_of(matched) == pytest.approx(5_000_000, rel=0.01)
    assert matched.latent_size >= SMOLLM.latent_size
    assert replace(matched, latent_size=128, head_size=512) == replace(SMOLLM, variant=variant)


def test_a_matched_size_that_is_too_small_is_refused() -> None:
    with pytest.raises(ConfigError, match="more than 100,000 parameters"):
        matched_size(SMOLLM, parameters=100_000)


def test_the_papers_size_matches_itself() -> None:
    config = replace(MISTRAL, variant="S")
    assert matched_size(config, parameters=4_994_816) == config


def test_layers_and_types_are_read_from_the_paths() -> None:
    upper = replace(
        MISTRAL,
        target_modules=("h.7.q", "h.7.v", "h.9.q", "h.9.v"),
        in_features=(8, 8, 8, 8),
        out_features=(8, 4, 8, 4),
    )
    assert depths_of(upper) == (0, 0, 1, 1)
    assert [kind.slots for kind in kinds_of(upper)] == [(0, 2), (1, 3)]


def test_impossible_shapes_are_refused(small: TextToLoraConfig) -> None:
    with pytest.raises(ConfigError, match="no variant 'XL'"):
        replace(small, variant="XL")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="latent size 30"):
        replace(small, latent_size=30)


def test_configuration_survives_json(small: TextToLoraConfig) -> None:
    content = small.as_dict() | {"target_modules": list(small.target_modules)}
    assert TextToLoraConfig.from_dict(content) == small
    assert TextToLoraConfig.from_dict(replace(small, variant="S").as_dict()) != small


def test_shapes(trained: TextToLora) -> None:
    config = trained.config
    task = read("one task", "another task")
    assert trained.encode(task).shape == (2, config.latent_size // 2)
    sizes = zip(config.in_features, config.out_features, strict=True)
    for lora, (inputs, outputs) in zip(trained(task), sizes, strict=True):
        assert lora.a.shape == (2, config.rank, inputs)
        assert lora.b.shape == (2, outputs, config.rank)


def test_large_leaves_logits_unchanged_at_first(
    small: TextToLoraConfig, frozen: FrozenBase
) -> None:
    token_ids = torch.arange(2, 14).reshape(2, 6)
    before = frozen.logits(frozen.hidden(token_ids))
    with frozen.adapted(TextToLora(small).eval()(read("one task", "another task"))):
        after = frozen.logits(frozen.hidden(token_ids))
    assert torch.equal(before, after)


def test_every_variant_starts_equal_for_all_tasks_and_layers(network: TextToLora) -> None:
    loras = network(read("one task", "another task"))
    for kind in kinds_of(network.config):
        first = loras[kind.slots[0]]
        for slot in kind.slots:
            assert torch.equal(loras[slot].a, first.a[:1].expand_as(first.a))
            assert torch.equal(loras[slot].b, first.b[:1].expand_as(first.b))
    limit = network.config.in_features[0] ** -0.5  # a LoRA's A is uniform up to it
    assert 0 < float(loras[0].a.detach().abs().max()) <= limit


def test_gradients_reach_the_heads_at_first_and_everything_after_a_step(
    network: TextToLora, frozen: FrozenBase
) -> None:
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        with frozen.adapted(network(read("one task", "another task"))):
            states = frozen.hidden(torch.arange(2, 14).reshape(2, 6))
        torch.autograd.backward(frozen.logits(states).logsumexp(dim=-1).sum())
        assert all(p.grad is not None and p.grad.any() for p in network.heads.parameters())
        optimizer.step()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name


def test_the_description_matters_and_its_neighbours_do_not(trained: TextToLora) -> None:
    alone = trained(read("short text"))
    beside = trained(read("short text", "a text of many more words than the other one has"))
    assert same(alone, beside)
    assert not same(alone, beside, row=1)


def test_only_the_sentence_embedding_is_read(trained: TextToLora) -> None:
    told = read("add")
    shown = read("add", examples=[Example(input="one", output="two")])
    assert same(trained(told), trained(shown))
    assert same(trained(told), trained(replace(told, tokens=2 * told.tokens)))
    assert same(trained(told), trained(replace(told, pooled=2 * told.pooled)))


def test_no_description_is_a_zero_embedding(trained: TextToLora) -> None:
    told = read("add")
    hidden = replace(told, has_description=torch.tensor([False]))
    zero = replace(told, pooled=torch.zeros_like(told.pooled))
    assert same(trained(read(None)), trained(hidden))
    assert same(trained(hidden), trained(zero))


def test_nothing_is_static(trained: TextToLora) -> None:
    task = read("one task", "another task")
    kept, whole = trained(task, keep=torch.tensor([0.0, 1.0])), trained(task)
    for part, full, static in zip(kept, whole, trained.static(), strict=True):
        assert not part.b[0].any() and not static.b.any()
        assert torch.equal(part.b[1], full.b[1]) and full.b[0].any()


def test_rows_of_a_small_one_differ(small: TextToLoraConfig) -> None:
    for places in ("rotary", "learned"):
        config = replace(small, variant="S", rank_places=places)
        network = TextToLora(config).eval().requires_grad_(False)
        for head in network.heads.parameters():
            torch.nn.init.normal_(head)
        a = network(read("add"))[0].a[0]  # (r, in)
        assert not torch.allclose(a[0], a[1]) and not torch.allclose(a[1], a[2])


def test_it_is_deterministic_and_drops_in_training_only(trained: TextToLora) -> None:
    task = read("one task")
    assert all(torch.equal(x.a, y.a) for x, y in zip(trained(task), trained(task), strict=True))
    trained.train()
    assert not same(trained(task), trained(task))


def test_the_seed_decides_the_start(small: TextToLoraConfig) -> None:
    weights = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        weights.append(TextToLora(small).state_dict())
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    assert not torch.equal(weights[0]["task.0.weight"], weights[2]["task.0.weight"])

"""A few steps from an adapter: what they learn, what they keep, and going on with them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hyperplug.adapters.peft_format import pack, unpack
from hyperplug.basemodel import BaseModel
from hyperplug.entities import AdapterWeights, Example, Thresholds
from hyperplug.errors import ConfigError
from hyperplug.hypernet.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from hyperplug.hypernet.generate import CodeDecoder, Generator
from hyperplug.hypernet.model import Hypernet, HypernetConfig
from hyperplug.hypernet.refine import RefineProgress, Refiner, RefineRecipe, load_refiner, split
from hyperplug.hypernet.words import load_vocabulary
from tests.miniature import WordHashEmbedder

EXAMPLES = tuple(Example(input=f"input {n}", output="yes") for n in range(16))
RECIPE = RefineRecipe(steps=30, learning_rate=1e-2)


@pytest.fixture
def refiner(base: BaseModel, modules: tuple[str, ...], tmp_path: Path) -> Refiner:
    """On the upper two layers of a random Llama."""
    return load_refiner(base, modules, states=tmp_path / "states", device="cpu", dtype="float32")


@pytest.fixture
def start(base: BaseModel, modules: tuple[str, ...]) -> AdapterWeights:
    """An adapter that changes little."""
    chosen = torch.Generator().manual_seed(0)
    pairs = {}
    for module in modules:
        shape = base.spec.module_shapes[module]
        a = torch.randn(2, shape.in_features, generator=chosen) * 0.1
        b = torch.randn(shape.out_features, 2, generator=chosen) * 0.1
        pairs[module] = (a.numpy(), b.numpy())
    return pack(pairs, alpha=4.0)


@pytest.fixture
def decoder(base: BaseModel, config: HypernetConfig, tmp_path: Path) -> CodeDecoder:
    """The task code of a random hypernetwork."""
    torch.manual_seed(0)
    words = load_vocabulary(base)
    assert words is not None
    network = Hypernet(replace(config, word_size=words.size))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    file = tmp_path / "hypernet.safetensors"
    support = torch.from_numpy(WordHashEmbedder().embed(["agree with yes"]))
    thresholds = Thresholds(near=0.8, support=0.1)
    save_checkpoint(file, Checkpoint(network=network, support=support, thresholds=thresholds))
    generator = Generator(load_checkpoint(file), embedder=WordHashEmbedder(), vocabulary=words)
    return generator.code_decoder("agree with yes")


def test_refining_lowers_the_loss(refiner: Refiner, start: AdapterWeights) -> None:
    refined = refiner.refine(start, EXAMPLES, recipe=RECIPE)
    assert refined.weights is not None
    assert refined.after < refined.before - 1
    assert (refined.trained_on, refined.held_back) == (12, 4)
    assert refiner.loss(start, EXAMPLES, recipe=RECIPE) == pytest.approx(refined.before, rel=1e-4)
    found = refiner.loss(refined.weights, EXAMPLES, recipe=RECIPE)
    assert found == pytest.approx(refined.after, rel=1e-3)
    assert refined.weights.rank == start.rank


def test_training_from_scratch(refiner: Refiner) -> None:
    refined = refiner.train(3, EXAMPLES, recipe=RECIPE)
    assert refined.weights is not None
    assert refined.before == pytest.approx(refined.base)  # a LoRA begins as nothing
    assert refined.after < refined.before - 1
    assert refined.weights.rank == 3


def test_refining_the_code(refiner: Refiner, decoder: CodeDecoder) -> None:
    before = [value.clone() for value in decoder.network.state_dict().values()]
    refined = refiner.refine_code(decoder, EXAMPLES, recipe=replace(RECIPE, learning_rate=0.1))
    assert refined.weights is not None
    assert refined.after < refined.before
    after = decoder.network.state_dict().values()
    assert all(map(torch.equal, before, after))  # only the code was trained


def test_nothing_better(refiner: Refiner, start: AdapterWeights) -> None:
    far_too_fast = RefineRecipe(steps=4, learning_rate=50.0)
    refined = refiner.refine(start, EXAMPLES, recipe=far_too_fast)
    assert refined.weights is None
    assert refined.after == refined.before


def test_the_same_seed_gives_the_same_bytes(refiner: Refiner, start: AdapterWeights) -> None:
    recipe = replace(RECIPE, steps=6)
    first = refiner.refine(start, EXAMPLES, recipe=recipe)
    again = refiner.refine(start, EXAMPLES, recipe=recipe)
    other = refiner.refine(start, EXAMPLES, recipe=replace(recipe, seed=1))
    assert first.weights is not None
    assert again.weights is not None
    assert other.weights is not None
    assert first.weights.digest == again.weights.digest != other.weights.digest


def test_an_interrupted_run_goes_on(
    refiner: Refiner, start: AdapterWeights, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = refiner.refine(start, EXAMPLES, recipe=RECIPE)
    monkeypatch.setattr("hyperplug.hypernet.refine._SAVE_SECONDS", 0.0)

    def stop(progress: RefineProgress) -> None:
        if progress.step == 11:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        refiner.refine(start, EXAMPLES, recipe=RECIPE, on_step=stop)
    steps: list[int] = []
    rest = refiner.refine(
        start, EXAMPLES, recipe=RECIPE, on_step=lambda progress: steps.append(progress.step)
    )
    assert steps[0] == 12
    assert whole.weights is not None
    assert rest.weights is not None
    theirs, ours = unpack(whole.weights.data), unpack(rest.weights.data)
    for module, (a, b) in theirs.items():
        assert a == pytest.approx(ours[module][0], abs=1e-6)
        assert b == pytest.approx(ours[module][1], abs=1e-6)
    assert (rest.before, rest.best_step) == (whole.before, whole.best_step)


def test_a_damaged_state_begins_anew(refiner: Refiner, start: AdapterWeights) -> None:
    recipe = replace(RECIPE, steps=4)
    first = refiner.refine(start, EXAMPLES, recipe=recipe)
    assert first.state is not None
    first.state.parent.mkdir(exist_ok=True)
    first.state.write_bytes(b"no state")
    again = refiner.refine(start, EXAMPLES, recipe=recipe)
    assert again.steps == 4


def test_time_is_up(refiner: Refiner, start: AdapterWeights) -> None:
    refined = refiner.refine(start, EXAMPLES, recipe=replace(RECIPE, seconds=0.0))
    assert refined.steps == 0
    assert refined.weights is None


def test_too_few_examples(refiner: Refiner, start: AdapterWeights) -> None:
    with pytest.raises(ConfigError, match="3 usable examples, 4 are needed"):
        refiner.refine(start, EXAMPLES[:3], recipe=RECIPE)


def test_split_is_by_seed(refiner: Refiner) -> None:
    numbers = refiner.sequences([Example(input=f"{n}", output=f"{n}") for n in range(40)])
    train, held_back = split(numbers, seed=0)
    assert (len(train), len(held_back)) == (30, 10)
    assert split(numbers, seed=0) == (train, held_back)
    assert split(numbers, seed=1) != (train, held_back)
    assert len(split(numbers * 10, seed=0)[1]) == 32

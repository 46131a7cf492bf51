"""All weights trained on, one task after another, on a tiny model."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch

from hyperplug.entities import Example
from hyperplug.errors import ConfigError, TrainingError
from hyperplug.evaluation.adapters import described
from hyperplug.evaluation.answers import Answerer
from hyperplug.evaluation.arms import Source
from hyperplug.evaluation.finetuning import WeightTrainer
from hyperplug.evaluation.tuning import Tuner
from hyperplug.hypernet.data import TokenSequence, chat_prompt
from hyperplug.hypernet.frozen import FrozenBase
from hyperplug.hypernet.loading import load_frozen, load_tokenizer
from hyperplug.hypernet.losses import AnswerLoss
from hyperplug.hypernet.refine import Refiner
from tests.evaluation.conftest import World

YES, NO = "Say yes.", "Say no."
RATE = 3e-3


@pytest.fixture
def copy(world: World) -> Callable[..., FrozenBase]:
    path = list(world.base.spec.module_shapes)[-1:]

    def load(dtype: torch.dtype = torch.float32) -> FrozenBase:
        return load_frozen(world.base, path, device=torch.device("cpu"), dtype=dtype)

    return load


def examples(description: str, answer: str) -> list[Example]:
    return [described(Example(input=f"word {n}", output=answer), description) for n in range(1, 9)]


def tuner(world: World, base: FrozenBase, load: Callable[[], FrozenBase] | None) -> Tuner:
    path = list(world.base.spec.module_shapes)[-1]
    return Tuner(
        base,
        load_tokenizer(world.base),
        {path: world.base.spec.module_shapes[path]},
        seed=0,
        learning_rates={Source.WEIGHTS: RATE},
        copy=load,
    )


def sequences(world: World, base: FrozenBase, *, answer: str) -> list[TokenSequence]:
    path = list(world.base.spec.module_shapes)[-1]
    shapes = {path: world.base.spec.module_shapes[path]}
    return Refiner(base, load_tokenizer(world.base), shapes).sequences(examples(YES, answer))


def test_a_task_is_learned_and_the_next_one_writes_over_it(
    world: World, copy: Callable[..., FrozenBase]
) -> None:
    tokenizer = load_tokenizer(world.base)
    base = copy()
    before = [weight.clone() for weight in base.model.parameters()]

    def says(answerer: Answerer) -> str:
        prompt = chat_prompt(tokenizer, "word 3", description=YES)
        return answerer.answer(answerer.read([answerer.prompt(prompt, max_new_tokens=4)]), None)[0]

    train = tuner(world, base, copy)
    first = [examples(YES, "yes")]
    assert says(train.tune_weights(first, steps=60)) == "yes"
    both = [*first, examples(YES, "no")]
    assert says(train.tune_weights(both, steps=60)) == "no"
    assert all(map(torch.equal, before, base.model.parameters()))


def test_steps_too_small_for_bfloat16_add_up(world: World, copy: Callable[..., FrozenBase]) -> None:
    base = copy(torch.bfloat16)
    batch = sequences(world, base, answer="yes")
    trainer = WeightTrainer(base)
    shown = {name: weight.clone() for name, weight in base.model.named_parameters()}
    loss = AnswerLoss(base, states=None)
    before = float(loss(None, batch).mean())
    trainer.train(itertools.repeat(batch), steps=1, learning_rate=1e-7)
    name = "model.layers.0.mlp.up_proj.weight"
    weight, precise = base.model.get_parameter(name), trainer.state()[name]
    assert float((weight != shown[name]).float().mean()) < 0.05
    assert float((precise != shown[name].float()).float().mean()) > 0.5
    trainer.train(itertools.repeat(batch), steps=300, learning_rate=3e-5)
    assert float(loss(None, batch).mean()) < before - 0.05
    assert {weight.dtype for weight in base.model.parameters()} == {torch.bfloat16}
    assert not any(weight.requires_grad for weight in base.model.parameters())


def test_weights_are_loaded_again(world: World, copy: Callable[..., FrozenBase]) -> None:
    trained, fresh = copy(), copy()
    batch = sequences(world, trained, answer="yes")
    trainer = WeightTrainer(trained)
    trainer.train(itertools.repeat(batch), steps=3, learning_rate=RATE)
    WeightTrainer(fresh).load(trainer.state())
    assert all(map(torch.equal, trained.model.parameters(), fresh.model.parameters()))


def test_a_loss_that_is_no_number_ends_it(world: World, copy: Callable[..., FrozenBase]) -> None:
    base = copy()
    batch = sequences(world, base, answer="yes")
    with pytest.raises(TrainingError, match="the loss is"):
        WeightTrainer(base).train(itertools.repeat(batch), steps=50, learning_rate=1e30)


def test_without_a_copy_nothing_is_trained(world: World, copy: Callable[..., FrozenBase]) -> None:
    with pytest.raises(ConfigError, match="cannot be trained"):
        tuner(world, copy(), None).tune_weights([examples(YES, "yes")], steps=1)

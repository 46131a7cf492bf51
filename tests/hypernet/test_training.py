"""Training: it learns, it can be interrupted, and it says when it cannot go on."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence

import pytest
import torch
from torch import nn

from hyperplug.errors import TrainingError
from hyperplug.hypernet.batches import PreparedTask, Sampler, Sampling, pad
from hyperplug.hypernet.checkpoint import load_checkpoint
from hyperplug.hypernet.data import IGNORE, TokenSequence
from hyperplug.hypernet.train import Report, Trainer
from tests.hypernet.conftest import MakeTrainer


def run(trainer: Trainer, *, stop_at: int | None = None) -> list[float]:
    """Runs to the end, or until it is interrupted after a step, and returns the losses."""
    losses: list[float] = []

    def on_step(report: Report) -> None:
        losses.append(report.loss)
        if report.step == stop_at:
            raise KeyboardInterrupt

    if stop_at is None:
        trainer.run(on_step)
    else:
        with pytest.raises(KeyboardInterrupt):
            trainer.run(on_step)
    return losses


def equal(first: nn.Module, second: nn.Module) -> bool:
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


def test_training_learns_two_opposite_tasks(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(steps=120, ema=0.9)
    before = trainer.validate()
    losses = run(trainer)
    after = trainer.validate()
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])
    assert before["matched"] == pytest.approx(before["shuffled"])  # it starts at zero
    assert after["matched"] < 0.7 * before["matched"]
    assert after["matched"] < 0.9 * after["shuffled"]  # the description makes the difference


def test_gradients_reach_every_parameter(make_trainer: MakeTrainer) -> None:
    sampling = Sampling(tasks=2, sequences=2, static_only=0, with_examples=1, examples_only=0)
    trainer = make_trainer(steps=3, sampling=sampling)
    run(trainer)
    dead = [
        name
        for name, parameter in trainer.network.named_parameters()
        if parameter.grad is None or not parameter.grad.abs().sum() > 0
    ]
    # Attention does not change when all its keys are moved alike.
    assert [name for name in dead if "bias" not in name] == []


@pytest.mark.parametrize("cache_bytes", [0, 100_000_000])
def test_an_interrupted_run_ends_as_an_uninterrupted_one(
    make_trainer: MakeTrainer, cache_bytes: int
) -> None:
    whole = make_trainer(out="whole.safetensors", cache_bytes=cache_bytes)
    losses = run(whole)
    settings = {"out": "parts.safetensors", "cache_bytes": cache_bytes, "save_every_seconds": -1.0}
    first = run(make_trainer(**settings), stop_at=7)
    resumed = make_trainer(**settings)
    rest = run(resumed)
    assert len(first) == 7 and len(rest) == 6  # the seventh step was not saved
    assert [*first[:6], *rest] == losses
    assert equal(whole.network, resumed.network)
    digests = [load_checkpoint(t.out).network for t in (whole, resumed)]
    assert equal(*digests)


def test_the_same_seed_gives_the_same_hypernetwork(make_trainer: MakeTrainer) -> None:
    first, second = make_trainer(out="1.safetensors"), make_trainer(out="2.safetensors")
    other = make_trainer(out="3.safetensors", seed=1)
    assert run(first) == run(second) != run(other)
    assert equal(first.network, second.network)


def test_cached_lower_layers_change_nothing(make_trainer: MakeTrainer) -> None:
    cached = run(make_trainer(out="1.safetensors", cache_bytes=100_000_000))
    fresh = run(make_trainer(out="2.safetensors"))
    assert cached == pytest.approx(fresh, rel=1e-4)


def test_a_finished_run_stays_finished(make_trainer: MakeTrainer) -> None:
    run(make_trainer(steps=3))
    assert run(make_trainer(steps=3)) == []


def test_state_of_other_settings_is_refused(make_trainer: MakeTrainer) -> None:
    run(make_trainer(steps=2))
    with pytest.raises(TrainingError, match="other settings"):
        make_trainer(steps=2, seed=5).run()


def test_state_of_other_data_is_refused(
    make_trainer: MakeTrainer, prepared: Sequence[PreparedTask]
) -> None:
    run(make_trainer(steps=2))
    other = make_trainer(steps=2, validation=prepared[:1])
    with pytest.raises(TrainingError, match="other settings: data"):
        other.run()


def test_a_gradient_that_is_no_number_changes_no_weight(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(steps=5)
    before = {name: p.clone() for name, p in trainer.network.named_parameters()}
    nan = torch.tensor(float("nan"))
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda *_, **__: nan)
    with pytest.raises(TrainingError, match="gradient nan"):
        trainer.run()
    assert all(torch.equal(before[name], p) for name, p in trainer.network.named_parameters())


def test_a_loss_that_is_no_number_stops_the_run(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(steps=50, learning_rate=1e30, warmup=0.0, save_every_seconds=-1.0)
    with pytest.raises(TrainingError, match="loss is") as caught:
        trainer.run()
    assert "--learning-rate" in caught.value.hint
    assert not trainer.out.exists()


def test_the_log_and_what_the_checkpoint_says(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(steps=4, evaluate_every=2)
    run(trainer)
    with trainer.out.with_suffix(".csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["step"]) for row in rows] == [2, 4, 4]
    training = load_checkpoint(trainer.out).training
    assert (training["steps"], training["tasks"], training["families"]) == (4, 2, 2)
    assert training["validation"]["matched"] > 0
    json.dumps(training, allow_nan=False)
    assert training["recipe"]["seed"] == 0


def test_a_limit_of_time_ends_the_run(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(steps=10**6, minutes=0.02)
    losses = run(trainer)
    assert 0 < len(losses) < 10**4
    assert trainer.progress() == 1


def test_the_sampler_is_a_function_of_seed_and_step(prepared: Sequence[PreparedTask]) -> None:
    sampling = Sampling(tasks=2, sequences=3)

    def keys(seed: int, number: int) -> list[str]:
        step = Sampler(prepared, sampling=sampling, seed=seed).step(number)
        return [sequence.key for sequence in step.sequences]

    assert keys(0, 5) == keys(0, 5)
    assert len({tuple(keys(seed, number)) for seed in (0, 1) for number in (5, 6)}) == 4


def test_what_the_hypernetwork_reads_is_never_a_target(prepared: Sequence[PreparedTask]) -> None:
    sampler = Sampler(prepared, sampling=Sampling(tasks=2, sequences=4), seed=0)
    read = {s.key for task in prepared for s in task.sequences[: task.conditioning]}
    assert read
    for number in range(50):
        assert read.isdisjoint(s.key for s in sampler.step(number).sequences)


def test_targets_are_the_answers_tokens_shifted() -> None:
    batch = pad(
        [
            TokenSequence(key="a", prompt=(5, 6), answer=(7, 8)),
            TokenSequence(key="b", prompt=(5,), answer=(9,)),
        ]
    )
    assert batch.token_ids.tolist() == [[5, 6, 7, 8], [5, 9, 0, 0]]
    assert batch.targets.tolist() == [[IGNORE, 7, 8, IGNORE], [9, IGNORE, IGNORE, IGNORE]]

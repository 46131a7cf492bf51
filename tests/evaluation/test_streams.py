"""Streams of tasks, from one end of the benchmark to the other, on a tiny model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.streams import ARMS, QUICK, Stream, StreamOptions, draw
from hyperplug.errors import ConfigError, TrainingError
from hyperplug.evaluation.stream_learners import GrowingGenerator
from tests.evaluation.conftest import World
from tests.miniature import WordHashEmbedder, task_line, write_tasks

WORDS = ("red", "raw", "rim")


@pytest.fixture
def options(tmp_path: Path) -> StreamOptions:
    """Three tasks that are new to the tiny hypernetwork, and one that it knows."""
    lines = [task_line(f"say-{w}", answer=w) | {"labels": [w, "none"]} for w in WORDS]
    known = [task_line("agree", answer="yes") | {"labels": ["yes", "no"]}]
    return StreamOptions(
        tasks=write_tasks(tmp_path / "tasks.jsonl", lines),
        known=write_tasks(tmp_path / "known.jsonl", known),
        out=tmp_path / "out",
        **QUICK,
    )


def run(options: StreamOptions, world: World) -> dict[str, Any]:
    return Stream(options, settings=world.settings, embedder=WordHashEmbedder()).run()


def test_every_arm_is_measured(options: StreamOptions, world: World) -> None:
    found = run(options, world)
    assert list(found["arms"]) == list(ARMS)
    assert sorted(found["tasks"]) == sorted(f"say-{w}" for w in WORDS)
    for name, arm in found["arms"].items():
        (order,) = arm["orders"]
        stages = 1 if name.startswith("joint") else 3
        assert [len(stage) for stage in order["stages"]] == [3 // stages] * stages
        # Before the stream and after it everything is measured, else what is seen and next.
        assert [len(row) for row in order["marks"]] == ([3, 3] if stages == 1 else [3, 2, 3, 3])
        assert order["loss"]["acc"] > 0
        if name not in ("lora", "model", "joint-lora"):  # the base alone answers what is no task
            assert order["own"]["after"] == order["own"]["before"]
        assert (arm["mean"]["loss"]["forgetting"] is None) == (stages == 1)
    # A LoRA of a task never changes: only what is retrieved could.
    retrieval = found["arms"]["retrieval"]["orders"][0]
    last = retrieval["marks"][-1]
    for number, (task,) in enumerate(retrieval["stages"], start=1):
        assert retrieval["marks"][number][task] == last[task]
    plot = options.out / "plot.png"
    draw(found, plot)
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_learners_learn_and_the_penalty_keeps_what_is_known(
    options: StreamOptions, world: World
) -> None:
    arms = ("lora", "model", "retrieval", "generator", "keeping")
    longer = replace(options, arms=arms, steps=25, rows=4, model_rate=1e-3, keep_strength=30.0)
    found = {name: arm["orders"][0] for name, arm in run(longer, world)["arms"].items()}
    for name, order in found.items():
        before = sum(mark["loss"] for mark in order["marks"][0].values()) / 3
        assert order["loss"]["learned"] < before, name
    lost = {
        name: order["known"]["after"]["loss"] - order["known"]["before"]["loss"]
        for name, order in found.items()
    }
    assert lost["keeping"] < 0.5 * lost["generator"]


def test_what_is_done_is_not_done_again(
    options: StreamOptions, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = replace(options, arms=("replaying", "lora"))
    whole = run(replace(chosen, out=options.out.with_name("whole")), world)
    learn = GrowingGenerator.learn
    calls: list[Path] = []

    def stopped(self: GrowingGenerator, tasks: Any, file: Path) -> None:
        calls.append(file)
        if len(calls) == 3:
            raise KeyboardInterrupt
        learn(self, tasks, file)

    monkeypatch.setattr(GrowingGenerator, "learn", stopped)
    with pytest.raises(KeyboardInterrupt):
        run(chosen, world)
    rest = run(chosen, world)
    assert [file.stem for file in calls] == ["learner-1", "learner-2", "learner-3", "learner-3"]
    for arm in chosen.arms:
        first, second = (found["arms"][arm]["orders"][0] for found in (whole, rest))
        assert first["marks"] == second["marks"]
        assert first["loss"] == second["loss"]


def test_orders_are_those_of_the_seed(options: StreamOptions, world: World) -> None:
    stream = Stream(options, settings=world.settings, embedder=WordHashEmbedder())
    orders = [[t.id for (t,) in stream.stages("lora", number)] for number in range(6)]
    assert orders == [[t.id for (t,) in stream.stages("model", n)] for n in range(6)]
    assert len({*map(tuple, orders)}) > 1
    for task in stream.tasks:
        asked = {(q.prompt, q.answer) for q in task.questions}
        assert asked.isdisjoint((s.prompt, s.answer) for s in task.prepared.sequences)
        assert task.prepared.descriptions[0].pooled.tolist() != task.sentence.tolist()


def test_mistakes(options: StreamOptions, world: World) -> None:
    with pytest.raises(ConfigError, match="unknown arm"):
        replace(options, arms=("magic",))
    with pytest.raises(TrainingError, match="has 3 classification tasks"):
        run(replace(options, tasks_count=4), world)
    run(replace(options, arms=("retrieval",)), world)
    with pytest.raises(ConfigError, match="other settings"):
        run(replace(options, arms=("retrieval",), steps=3), world)

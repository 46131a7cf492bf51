"""A benchmark from end to end on a tiny model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from hyperplug.entities import Example
from hyperplug.errors import BaseMismatchError, ConfigError, InvalidTaskFileError
from hyperplug.evaluation.answers import Answerer
from hyperplug.evaluation.arms import parse_arms
from hyperplug.evaluation.benchmark import BenchmarkProgress, run_benchmark
from hyperplug.evaluation.options import BenchmarkOptions
from hyperplug.evaluation.result import BenchmarkResult, read_result
from hyperplug.hypernet.loading import load_frozen, load_tokenizer
from hyperplug.hypernet.prepare import choose_modules
from tests.evaluation.conftest import World
from tests.miniature import WordHashEmbedder, base_folder, task_line, write_tasks


class Recorder(BenchmarkProgress):
    """Remembers what it was told; interrupts the run after so many batches."""

    def __init__(self, *, stop_after: int | None = None) -> None:
        self.lines: list[str] = []
        self.counts: list[tuple[int, int]] = []
        self.arms: list[str] = []
        self._stop_after = stop_after

    def say(self, line: str) -> None:
        self.lines.append(line)

    def answered(self, done: int, total: int) -> None:
        self.counts.append((done, total))

    def finished(self, arm: str) -> None:
        self.arms.append(arm)
        if len(self.arms) == self._stop_after:
            raise KeyboardInterrupt


def run(world: World, progress: BenchmarkProgress | None = None, **options: Any) -> BenchmarkResult:
    return run_benchmark(
        BenchmarkOptions(tasks=world.tasks, **options),
        settings=world.settings,
        embedder=WordHashEmbedder(),
        progress=progress,
    )


@pytest.fixture(scope="session")
def result(world: World) -> BenchmarkResult:
    return run(world)


def test_the_written_result_has_the_promised_layout(world: World, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "result.json"
    recorder = Recorder()
    result = run(world, recorder, out=out, limit_examples=4, seed=3)
    content = json.loads(out.read_text())
    assert set(content["arms"]) == {"base", "prompt", "static-part", "hypernet", "shuffled"}
    for arm in content["arms"].values():
        assert {"mean", "family_mean", "low", "high", "n", "prompt_tokens", "tasks"} <= set(arm)
        assert arm["low"] <= arm["family_mean"] <= arm["high"] and arm["n"] == 12
        assert set(arm["tasks"]) == {"agree", "refuse", "greet"}
        assert all(0 <= score <= 100 for score in arm["tasks"].values())
        assert arm["mean"] == pytest.approx(sum(arm["tasks"].values()) / 3, abs=0.01)
        families = (arm["tasks"]["agree"], (arm["tasks"]["refuse"] + arm["tasks"]["greet"]) / 2)
        assert arm["family_mean"] == pytest.approx(sum(families) / 2, abs=0.01)
    assert (content["tasks"], content["families"]) == (3, 2)
    assert (content["examples"], content["examples_total"], content["seed"]) == (4, 12, 3)
    assert content["seconds"] > 0 and content["hardware"]
    assert content["versions"]["torch"] == torch.__version__
    assert content["settings"]["dtype"] == "float32"
    assert read_result(out).as_dict() == content == result.as_dict()
    assert recorder.counts[-1] == (60, 60)
    assert list(out.parent.iterdir()) == [out]


def test_adapters_carry_what_was_trained(result: BenchmarkResult) -> None:
    scores = {task.id: task.scores for task in result.tasks}
    for task in ("agree", "refuse"):
        assert scores[task]["hypernet"] == 100
        assert scores[task]["base"] == scores[task]["prompt"] == 0
    # Its partner is "agree": the only other family.
    assert scores["refuse"]["shuffled"] == 0
    gain = result.differences()["hypernet - shuffled"]
    assert gain.low <= gain.mean <= gain.high and gain.mean > 0


def test_the_same_seed_gives_the_same_scores(world: World, result: BenchmarkResult) -> None:
    assert run(world).tasks == result.tasks


def test_an_interrupted_run_goes_on(world: World, tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    first = Recorder(stop_after=2)
    with pytest.raises(KeyboardInterrupt):
        run(world, first, out=out, limit_examples=2)
    assert not out.exists()
    partial = next(tmp_path.iterdir())
    with partial.open("a") as file:
        file.write('{"key": "half')  # killed while writing
    second = Recorder()
    result = run(world, second, out=out, limit_examples=2)
    assert sorted(first.arms + second.arms) == sorted(result.names)
    assert "Going on where the last run was interrupted" in second.lines
    assert second.counts[-1] == (30, 30)
    assert result.tasks == run(world, limit_examples=2).tasks
    assert list(tmp_path.iterdir()) == [out]


def test_a_record_of_other_settings_is_not_gone_on_with(world: World, tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    with pytest.raises(KeyboardInterrupt):
        run(world, Recorder(stop_after=2), out=out, limit_examples=2)
    recorder = Recorder()
    run(world, recorder, out=out, limit_examples=3, arms=parse_arms("base"))
    assert recorder.arms == ["base"] and recorder.counts[-1] == (9, 9)


def test_answers_are_kept_on_request(world: World, tmp_path: Path) -> None:
    answers = tmp_path / "answers.jsonl"
    run(
        world,
        out=tmp_path / "r.json",
        answers=answers,
        arms=parse_arms("hypernet"),
        limit_examples=2,
    )
    lines = [json.loads(line) for line in answers.read_text().splitlines()]
    assert {line["id"] for line in lines} == {"agree", "refuse", "greet"}
    agree = next(line for line in lines if line["id"] == "agree")
    assert [example["expected"] for example in agree["examples"]] == ["yes", "yes"]
    assert [example["answers"]["hypernet"] for example in agree["examples"]] == ["yes", "yes"]


def test_arms_without_an_adapter_need_no_hypernetwork(world: World, tmp_path: Path) -> None:
    settings = replace(world.settings, hypernet=tmp_path / "none.safetensors")
    result = run_benchmark(
        BenchmarkOptions(tasks=world.tasks, arms=parse_arms("base,prompt"), limit_examples=1),
        settings=settings,
    )
    assert result.about["hypernet"] is None and result.differences() == {}


def test_a_folder_with_splits_is_measured_on_its_test_split(world: World, tmp_path: Path) -> None:
    for split in ("train", "test"):
        write_tasks(tmp_path / f"{split}.jsonl", [task_line(split, answer="a", examples=2)])
    result = run(replace(world, tasks=tmp_path), arms=parse_arms("base"))
    assert [task.id for task in result.tasks] == ["test"]


def test_mistakes_are_named(world: World, tmp_path: Path) -> None:
    for options in ({"limit_tasks": 0}, {"limit_examples": -1}, {"arms": ()}, {"out": tmp_path}):
        with pytest.raises(ConfigError) as caught:
            run(world, **options)
        assert caught.value.hint
    with pytest.raises(ConfigError, match="cannot write"):
        run(world, out=world.tasks / "result.json", limit_examples=1)
    twice = write_tasks(tmp_path / "twice.jsonl", [task_line("a", answer="x")] * 2)
    with pytest.raises(InvalidTaskFileError, match="two tasks with the id 'a'"):
        run(replace(world, tasks=twice))
    one = write_tasks(tmp_path / "one.jsonl", [task_line("a", answer="x")])
    with pytest.raises(ConfigError, match="leave that arm out"):
        run(replace(world, tasks=one))
    other = base_folder(tmp_path / "other", seed=1)
    with pytest.raises(BaseMismatchError):
        run(replace(world, settings=replace(world.settings, base=str(other))))
    with pytest.raises(ConfigError, match="not a benchmark result"):
        read_result(one)


def answerer(world: World) -> Answerer:
    modules = choose_modules(world.base.spec, top_layers=1)
    frozen = load_frozen(world.base, modules, device=torch.device("cpu"), dtype=torch.float32)
    return Answerer(frozen, load_tokenizer(world.base))


def test_long_prompts_lose_their_beginning(world: World) -> None:
    model = answerer(world)
    prompt = model.prompt("a" * 300 + "z" * 250, max_new_tokens=4)
    tokenizer = load_tokenizer(world.base)
    assert tokenizer.decode(prompt.ids) == "aa" + "z" * 250  # context is 256
    assert prompt.max_new_tokens == 4
    short = model.prompt("short", max_new_tokens=4)
    together = model.answer(model.read([prompt, short]), None)
    assert together == [model.answer(model.read([p]), None)[0] for p in (prompt, short)]


def test_room_for_an_answer_follows_the_expected_ones(world: World) -> None:
    model = answerer(world)
    assert model.new_tokens([Example(input="", output="a")]) == 4
    assert model.new_tokens([Example(input="", output="a" * n) for n in (3, 19)]) == 30
    assert model.new_tokens([Example(input="", output="a" * 500)]) == 64

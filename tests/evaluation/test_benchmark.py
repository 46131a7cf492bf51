"""A benchmark from end to end on a tiny model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from hyperplug.errors import BaseMismatchError, ConfigError, InvalidTaskFileError
from hyperplug.evaluation.answers import Answerer
from hyperplug.evaluation.arms import ALL_ARMS, Arm
from hyperplug.evaluation.benchmark import BenchmarkProgress, run_benchmark
from hyperplug.evaluation.options import BenchmarkOptions
from hyperplug.evaluation.report import by_metric, markdown, write_report
from hyperplug.evaluation.result import BenchmarkResult, TaskScores, read_result
from hyperplug.hypernet.loading import load_frozen, load_tokenizer
from hyperplug.hypernet.prepare import choose_modules
from tests.evaluation.conftest import World
from tests.miniature import WordHashEmbedder, base_folder, task_line, write_tasks


class Recorder(BenchmarkProgress):
    """Remembers what it was told; interrupts the run after so many tasks."""

    def __init__(self, *, stop_after: int | None = None) -> None:
        self.lines: list[str] = []
        self.counts: list[tuple[int, int]] = []
        self.tasks: list[str] = []
        self._stop_after = stop_after

    def say(self, line: str) -> None:
        self.lines.append(line)

    def answered(self, done: int, total: int) -> None:
        self.counts.append((done, total))

    def finished(self, scores: TaskScores) -> None:
        self.tasks.append(scores.id)
        if len(self.tasks) == self._stop_after:
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
    assert set(content["arms"]) == {"base", "prompt", "static", "hypernet", "shuffled"}
    for arm in content["arms"].values():
        assert set(arm) == {"mean", "family_mean", "tasks"}
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
        assert scores[task][Arm.HYPERNET] == 100
        assert scores[task][Arm.BASE] == scores[task][Arm.PROMPT] == 0
    # Its partner is "agree": the only other family.
    assert scores["refuse"][Arm.SHUFFLED] == 0
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
        file.write('{"id": "half')  # killed while writing
    second = Recorder()
    result = run(world, second, out=out, limit_examples=2)
    assert len(second.tasks) == 1 and not set(second.tasks) & set(first.tasks)
    assert any("2 of 3 tasks are done" in line for line in second.lines)
    assert second.counts[-1] == (30, 30)
    assert result.tasks == run(world, limit_examples=2).tasks
    assert list(tmp_path.iterdir()) == [out]


def test_a_record_of_other_settings_is_not_gone_on_with(world: World, tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    with pytest.raises(KeyboardInterrupt):
        run(world, Recorder(stop_after=2), out=out, limit_examples=2)
    recorder = Recorder()
    run(world, recorder, out=out, limit_examples=3, arms=(Arm.BASE,))
    assert len(recorder.tasks) == 3


def test_answers_are_kept_on_request(world: World, tmp_path: Path) -> None:
    answers = tmp_path / "answers.jsonl"
    run(world, out=tmp_path / "r.json", answers=answers, arms=(Arm.HYPERNET,), limit_examples=2)
    lines = [json.loads(line) for line in answers.read_text().splitlines()[1:]]
    assert {line["id"] for line in lines} == {"agree", "refuse", "greet"}
    agree = next(line for line in lines if line["id"] == "agree")
    assert [example["expected"] for example in agree["examples"]] == ["yes", "yes"]
    assert [example["answers"]["hypernet"] for example in agree["examples"]] == ["yes", "yes"]


def test_arms_without_an_adapter_need_no_hypernetwork(world: World, tmp_path: Path) -> None:
    settings = replace(world.settings, hypernet=tmp_path / "none.safetensors")
    result = run_benchmark(
        BenchmarkOptions(tasks=world.tasks, arms=(Arm.BASE, Arm.PROMPT), limit_examples=1),
        settings=settings,
    )
    assert result.about["hypernet"] is None and result.differences() == {}


def test_a_folder_with_splits_is_measured_on_its_test_split(world: World, tmp_path: Path) -> None:
    for split in ("train", "test"):
        write_tasks(tmp_path / f"{split}.jsonl", [task_line(split, answer="a", examples=2)])
    result = run(replace(world, tasks=tmp_path), arms=(Arm.BASE,))
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
    return Answerer(frozen.model, load_tokenizer(world.base))


def test_a_batch_answers_as_one_by_one(world: World) -> None:
    model = answerer(world)
    prompts = ["short", "a somewhat longer prompt " * 3, "x" * 60, "y"]
    together = model.answer(prompts, max_new_tokens=6)
    alone = [model.answer([prompt], max_new_tokens=6)[0] for prompt in prompts]
    assert together == alone
    assert len(set(alone)) > 1


def test_many_and_long_prompts_are_cut_to_what_fits(world: World) -> None:
    model = answerer(world)
    prompts: Sequence[str] = [f"prompt {n}" for n in range(40)] + ["z" * 400]
    answers = model.answer(prompts, max_new_tokens=4)
    assert len(answers) == 41
    assert answers[40] == model.answer(["z" * 252], max_new_tokens=4)[0]  # context is 256
    assert answers[:2] == model.answer(prompts[:2], max_new_tokens=4)


def test_room_for_an_answer_follows_the_expected_ones(world: World) -> None:
    from hyperplug.entities import Example

    model = answerer(world)
    assert model.new_tokens([Example(input="", output="a")]) == 4
    assert model.new_tokens([Example(input="", output="a" * n) for n in (3, 19)]) == 30
    assert model.new_tokens([Example(input="", output="a" * 500)]) == 64


def test_the_report_has_a_table_and_a_plot(result: BenchmarkResult, tmp_path: Path) -> None:
    text = markdown(result)
    for arm in ALL_ARMS:
        assert f"| {arm.value} | {result.family_mean(arm):.1f} | {result.mean(arm):.1f} |" in text
    assert "3 tasks of 2 families, 16 examples, seed 0" in text
    assert "exact_match (2 tasks) | rougeL (1 tasks)" in by_metric(result)
    pytest.importorskip("matplotlib")
    table, image = write_report(result, tmp_path, name="evaluation")
    assert table.read_text().startswith(text)
    assert "evaluation.png" in table.read_text()
    assert image.read_bytes().startswith(b"\x89PNG")
    assert sorted(tmp_path.iterdir()) == [table, image]

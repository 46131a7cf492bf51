"""All arms at once, each with the file that it needs, on a tiny model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hyperplug.config import Settings
from hyperplug.errors import ConfigError
from hyperplug.evaluation import unrelated
from hyperplug.evaluation.arms import ALL_ARMS, parse_arms
from hyperplug.evaluation.benchmark import run_benchmark
from hyperplug.evaluation.comparisons import PAIRS, Estimate, TaskScores, differences, gaps
from hyperplug.evaluation.lora_tasks import LoraOptions
from hyperplug.evaluation.meta import MetaOptions, Method, train_start
from hyperplug.evaluation.options import ARTEFACTS, BenchmarkOptions
from hyperplug.evaluation.result import BenchmarkResult, read_result
from hyperplug.evaluation.train_loras import train_loras
from hyperplug.hypernet.options import TrainingOptions
from hyperplug.hypernet.recipe import train_hypernet
from tests.evaluation.conftest import World
from tests.miniature import WordHashEmbedder, task_line, toy_corpus, write_tasks

SMALL: dict[str, Any] = {"steps": 120, "learning_rate": 3e-3, "top_layers": 2}
STATIC: dict[str, Any] = {"static_rank": 4, "generated_rank": 0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Everything:
    """A benchmark of all arms, in memory and as written."""

    result: BenchmarkResult
    file: Path
    settings: Settings


@pytest.fixture(scope="module")
def everything(world: World, tmp_path_factory: pytest.TempPathFactory) -> Everything:
    folder = tmp_path_factory.mktemp("arms")
    corpus = toy_corpus(folder / "train.jsonl")
    lines = [
        task_line("agree", answer="yes", family="one", start=18),
        task_line("refuse", answer="no", family="two", start=18),
        task_line("greet", answer="hey", family="two"),
    ]
    tasks = write_tasks(folder / "tasks.jsonl", lines)
    networks = {
        "static": STATIC,
        "static_prompt": STATIC | {"in_prompt": 1.0},
        "t2l": {"network": "text-to-lora-s", "learning_rate": 1e-3},
    }
    files: dict[str, Any] = {name: folder / f"{name}.safetensors" for name in ARTEFACTS}
    for name, options in networks.items():
        train_hypernet(
            TrainingOptions(tasks=corpus, out=files[name], **SMALL | options),
            settings=world.settings,
            embedder=WordHashEmbedder(),
        )
    for name, own in (("loras", corpus), ("oracle", tasks)):
        train_loras(
            LoraOptions(
                tasks=own,
                out=files[name],
                rank=4,
                top_layers=2,
                learning_rate=2e-2,
                compiled="off",
                hold_out=2,
            ),
            settings=world.settings,
            embedder=WordHashEmbedder(),
        )
    for method in Method:
        budget: dict[str, Any] = {"rank": 4, "top_layers": 2, "steps": 10, "tasks_at_once": 2}
        train_start(
            MetaOptions(
                loras=LoraOptions(tasks=corpus, out=files[method.value], **budget), method=method
            ),
            settings=world.settings,
            embedder=WordHashEmbedder(),
        )
    files["train_tasks"] = corpus
    out = folder / "result.json"
    result = run_benchmark(
        BenchmarkOptions(
            tasks=tasks,
            arms=parse_arms("all", given=ARTEFACTS),
            limit_examples=2,
            unrelated=True,
            out=out,
            **files,
        ),
        settings=world.settings,
        embedder=WordHashEmbedder(),
    )
    return Everything(result=result, file=out, settings=world.settings)


def test_every_arm_answers_every_task(everything: Everything) -> None:
    result = everything.result
    assert set(result.names) == {arm.name for arm in ALL_ARMS}
    for task in result.tasks:
        assert set(task.scores) == set(result.names)
        assert all(0 <= score <= 100 for score in task.scores.values())
    assert read_result(everything.file).as_dict() == result.as_dict()


def test_every_question_of_the_project_has_a_difference(everything: Everything) -> None:
    assert set(everything.result.differences()) == {pair.name for pair in PAIRS}
    wanted = {pair.name: pair.wanted for pair in PAIRS if pair.wanted is not None}
    assert wanted == {
        "hypernet - shuffled": 15,
        "hypernet - static": 6,
        "hypernet - prompt": 25,
        "hypernet - static-prompt": -1,
        "hypernet-prompt - static-prompt": 2,
        "hypernet - t2l": 3,
        "rephrased - hypernet": -1,
    }


def test_adapters_of_the_task_itself_do_it(everything: Everything) -> None:
    scores = {task.id: task.scores for task in everything.result.tasks}
    for arm in ("oracle", "nearest", "hypernet"):
        assert scores["agree"][arm] == scores["refuse"][arm] == 100
    assert scores["greet"]["oracle"] == 100  # no training task's LoRA could
    assert scores["agree"]["base"] == 0
    # One adapter for two opposite tasks on the same inputs cannot do both.
    assert scores["agree"]["static"] + scores["refuse"]["static"] <= 100


def test_what_is_trained_on_a_tasks_examples_does_it(everything: Everything) -> None:
    scores = {task.id: task.scores for task in everything.result.tasks}
    assert {scores[task]["lora"] for task in scores} == {100}
    assert scores["agree"]["refined"] == scores["refuse"]["refined"] == 100
    seconds = everything.result.adapt_seconds
    assert seconds["refined"] > seconds["hypernet"] > 0
    assert "prompt" not in seconds


def test_prompts_are_as_long_as_what_is_in_them(everything: Everything) -> None:
    tokens = everything.result.prompt_tokens
    assert tokens["base"] == tokens["hypernet"] == tokens["oracle"]
    assert tokens["base"] < tokens["prompt"] == tokens["static-prompt"] < tokens["shots-1"]
    assert tokens["shots-1"] < tokens["shots-4"] == tokens["rag"]
    saved = everything.result.tokens_saved()
    assert saved["static-prompt - hypernet"] == pytest.approx(tokens["prompt"] - tokens["base"])


def test_what_was_used_is_written_down(everything: Everything) -> None:
    about = everything.result.about["checkpoints"]
    assert {"hypernet", "static", "static_prompt", "t2l", "loras", "oracle"} <= set(about)
    assert about["static"]["training"]["steps"] == 120
    assert about["oracle"]["loras"] == 3
    assert set(everything.result.decisions) == {"agree", "refuse", "greet"}
    assert sum(everything.result.decision_shares().values()) == pytest.approx(1)


def test_unrelated_questions_are_asked_under_one_adapter_a_family(everything: Everything) -> None:
    found = everything.result.unrelated
    assert found is not None and found.questions == len(unrelated.QUESTIONS)
    assert set(found.mounted) == {"agree", "greet"}
    assert 0 <= found.base <= 100
    assert set(found.standing) == {
        "static-part",
        "static",
        "static-prompt",
        "mean",
        "lora-sequential",
        "full-sequential",
    }
    assert found.loss == pytest.approx(found.base - sum(found.mounted.values()) / 2)


# -- figures -------------------------------------------------------------------------


def scores(family: str, **arms: float) -> TaskScores:
    return TaskScores(id=str(arms), family=family, metric="exact_match", examples=1, scores=arms)


def only(found: dict[str, Estimate]) -> Estimate:
    (estimate,) = found.values()
    return estimate


def test_a_difference_is_over_families_and_paired() -> None:
    """Ten points everywhere, over families that differ by far more."""
    tasks = [scores(str(n), hypernet=10.0 * n + 10, base=10.0 * n) for n in range(8)]
    found = only(differences(tasks, ("hypernet", "base"), seed=0))
    assert (found.mean, found.low, found.high) == pytest.approx((10, 10, 10))
    many = [scores("0", hypernet=100.0, base=n) for n in (0.0, 20.0)] + [
        scores("1", hypernet=10.0, base=10.0)
    ]
    assert only(differences(many, ("hypernet", "base"), seed=0)).mean == pytest.approx(45)


def test_a_difference_is_over_the_tasks_that_both_answered() -> None:
    tasks = [scores("0", hypernet=50.0, oracle=60.0), scores("1", hypernet=0.0)]
    found = only(differences(tasks, ("hypernet", "oracle"), seed=0))
    assert (found.mean, found.families, found.tasks) == (-10, 1, 1)
    assert differences(tasks[1:], ("hypernet", "oracle"), seed=0) == {}


def test_a_gap_is_a_ratio_of_means() -> None:
    tasks = [
        scores("0", base=0.0, hypernet=40.0, oracle=80.0),
        scores("1", base=20.0, hypernet=20.0, oracle=40.0),
    ]
    found = only(gaps(tasks, ("base", "hypernet", "oracle"), seed=0))
    assert found.mean == pytest.approx((30 - 10) / (60 - 10)) and found.wanted == 0.60


@pytest.mark.parametrize("oracle", [(50.0, 50.0), (40.0, 45.0), (10.0, 90.0)])
def test_there_is_no_gap_without_a_better_oracle(oracle: tuple[float, float]) -> None:
    tasks = [
        scores(str(n), base=50.0, hypernet=40.0, oracle=score) for n, score in enumerate(oracle)
    ]
    assert gaps(tasks, ("base", "hypernet", "oracle"), seed=0) == {}


def test_an_oracle_that_was_trained_on_the_questions_is_refused(everything: Everything) -> None:
    for limit, seed in ((3, 0), (2, 1), (None, 0)):
        options = BenchmarkOptions(
            tasks=everything.file.with_name("tasks.jsonl"),
            arms=parse_arms("oracle"),
            oracle=everything.file.with_name("oracle.safetensors"),
            limit_examples=limit,
            seed=seed,
        )
        with pytest.raises(ConfigError, match="the oracle's LoRAs spared 2") as caught:
            run_benchmark(options, settings=everything.settings, embedder=WordHashEmbedder())
        assert "--hold-out" in caught.value.hint

"""A result told to people: tables, plots and samples."""

from __future__ import annotations

from pathlib import Path

import pytest

from hyperplug.errors import ConfigError
from hyperplug.evaluation.arms import find_arm
from hyperplug.evaluation.comparisons import TaskScores
from hyperplug.evaluation.report import (
    arms_table,
    breakdown,
    budgets_table,
    differences_table,
    gaps_table,
    markdown,
    write_report,
)
from hyperplug.evaluation.result import BenchmarkResult, Unrelated
from hyperplug.evaluation.samples import samples

ABOUT = {
    "versions": {"torch": "2.13.0"},
    "hardware": "2 cores of a test",
    "settings": {"dtype": "float32"},
    "base": {},
    "hypernet": None,
    "checkpoints": {
        "static_prompt": {
            "parameters": 1234567,
            "rank": 16,
            "training": {"tasks": 3, "steps": 600, "seconds": 120, "hardware": "a laptop"},
            "fingerprint": "0123456789abcdef",
        },
        "oracle": {"loras": 22},
    },
}


def scores(number: int, **arms: float) -> TaskScores:
    return TaskScores(
        id=f"task-{number}",
        family=f"family-{number // 2}",
        metric="exact_match" if number % 2 else "rougeL",
        category="" if number == 3 else "Tone",
        examples=5,
        scores=arms,
    )


def result(*tasks: TaskScores, arms: tuple[str, ...]) -> BenchmarkResult:
    return BenchmarkResult(
        arms=tuple(find_arm(name) for name in arms),
        tasks=tasks,
        seed=0,
        seconds=90,
        about=ABOUT,
        prompt_tokens={"hypernet": 30.0, "prompt": 130.0},
        decisions={"task-0": "NOVEL", "task-1": "NOVEL", "task-2": "NEAREST"},
        unrelated=Unrelated(questions=24, base=50.0, mounted={"task-0": 48.0, "task-2": 49.0}),
    )


FOUR = result(
    scores(0, base=0, prompt=10, hypernet=40, shuffled=5, oracle=80),
    scores(1, base=10, prompt=10, hypernet=60, shuffled=5, oracle=90),
    scores(2, base=0, prompt=20, hypernet=10, shuffled=20),
    scores(3, base=20, prompt=20, hypernet=30, shuffled=0),
    arms=("base", "prompt", "hypernet", "shuffled", "oracle"),
)


def row(text: str, name: str) -> list[str]:
    """Returns the cells of the row of that name."""
    line = next(line for line in text.splitlines() if line.startswith(f"| {name} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_an_arm_has_its_means_and_how_many_tasks_they_are_over() -> None:
    assert row(arms_table(FOUR), "hypernet")[1] == "35.0"
    assert row(arms_table(FOUR), "hypernet")[3:6] == ["35.0", "4", "30"]
    assert row(arms_table(FOUR), "oracle")[1:5] == ["85.0", "85.0 to 85.0", "85.0", "2 of 4"]


def test_a_difference_says_whether_it_reached_what_was_wanted() -> None:
    table = differences_table(FOUR)
    assert row(table, "hypernet - shuffled")[1:4] == ["+27.5", "+10.0 to +45.0", "+15.0: reached"]
    assert row(table, "hypernet - prompt")[1:4] == ["+20.0", "+0.0 to +40.0", "+25.0: missed"]
    assert row(table, "hypernet - base")[3] == ""


def test_gaps_are_over_the_oracles_tasks() -> None:
    # base 5, hypernet 50, oracle 85, over the one family that has an oracle
    assert row(gaps_table(FOUR), "hypernet")[1] == "0.56"
    assert row(gaps_table(FOUR), "hypernet")[3] == "0.60: missed"
    assert gaps_table(result(scores(0, base=1, hypernet=2), arms=("base", "hypernet"))) == ""


def test_scores_are_shown_apart_by_category_and_metric() -> None:
    assert breakdown(FOUR, "category").splitlines()[0] == "| arm | Tone (3) | other (1) |"
    assert row(breakdown(FOUR, "category"), "hypernet") == ["hypernet", "36.7", "30.0"]
    assert row(breakdown(FOUR, "metric"), "oracle") == ["oracle", "90.0", "80.0"]


def test_every_checkpoint_says_what_it_cost() -> None:
    table = budgets_table(FOUR)
    told = ["1,234,567", "16", "3", "600", "", "2", "a laptop", "0123456789ab"]
    assert row(table, "static-prompt")[1:] == told
    assert row(table, "oracle")[1] == "22 LoRAs"


def test_the_text_has_every_figure() -> None:
    text = markdown(FOUR)
    assert "4 tasks of 2 families, 20 examples, seed 0" in text
    assert "Prompt tokens saved, prompt - hypernet: 100 on average." in text
    assert "The policy decided: NEAREST 33 %, NOVEL 67 %." in text
    assert "of 2 tasks it loses 1.5 points on average" in text


def test_the_report_has_plots_and_names_them(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    page, *images = write_report(FOUR, tmp_path, name="test")
    assert [image.name for image in images] == [
        *("test-arms.png", "test-categories.png", "test-families.png"),
    ]
    for image in images:
        assert image.read_bytes().startswith(b"\x89PNG")
        assert f"({image.name})" in page.read_text()
    assert sorted(tmp_path.iterdir()) == sorted([page, *images])


def test_a_report_without_controls_has_no_plot_of_them(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    few = result(scores(0, base=1), scores(2, base=2), arms=("base",))
    paths = write_report(few, tmp_path, name="few")
    assert [path.name for path in paths] == ["few.md", "few-arms.png", "few-categories.png"]


def test_samples_show_where_an_adapter_helps_and_where_not(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    answers = tmp_path / "answers.jsonl"
    answers.write_text(
        '{"id": "task-1", "description": "Say | yes.", "scores": {"base": 10, "hypernet": 60}, '
        '"examples": [{"input": "a\\nb", "expected": "yes", '
        '"answers": {"base": "", "hypernet": "yes"}}]}\n',
        encoding="utf-8",
    )
    text = samples(answers, FOUR)
    assert "## Where hypernet gains most over base" in text
    assert "> Say \\| yes." in text and "Scores: base 10, hypernet 60." in text
    assert "| a b | answer |" in text
    assert "| base | (nothing) |" in text and "| hypernet | yes |" in text
    paths = write_report(FOUR, tmp_path, name="told", answers=answers)
    assert paths[-1].read_text() == text
    assert "[Samples of answers](told-samples.md)" in paths[0].read_text()


@pytest.mark.parametrize("content", ["no JSON", '{"id": 1}', None])
def test_another_file_than_answers_is_refused(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "wrong.jsonl"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ConfigError, match="no answers of a benchmark") as caught:
        samples(file, FOUR)
    assert "--answers" in caught.value.hint

"""The command that measures and writes the lookup policy's thresholds."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from hyperplug.hypernet.checkpoint import load_checkpoint
from tests.cli.conftest import Hyperplug, TinyModels, only_line
from tests.miniature import task_line, write_tasks


def test_calibrate_measures_reports_and_writes(
    hyperplug: Hyperplug, tiny: TinyModels, tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    hypernet = Path(shutil.copy(tiny.hypernet, tmp_path / "hypernet.safetensors"))
    before = load_checkpoint(hypernet)
    held_out = write_tasks(tmp_path / "held-out.jsonl", [task_line("deny", answer="no")])
    out, report = tmp_path / "calibration.json", tmp_path / "report"
    command = ["calibrate", "--tasks", str(held_out), "--train-tasks", str(tiny.corpus)]
    command += ["--base", str(tiny.base), "--hypernet", str(hypernet), "--limit-examples", "2"]
    command += ["--json", str(out), "--report", str(report), "--device", "cpu"]
    ran = hyperplug(*command)
    assert ran.status == 0, ran.err
    assert ran.out.startswith("| border | value | before | why |\n| --- ")
    assert load_checkpoint(hypernet).thresholds == before.thresholds
    result = json.loads(out.read_text())
    assert result["before"] == {
        "near": before.thresholds.near,
        "support": before.thresholds.support,
    }
    assert result["tasks"] == 1 and result["pairs"] == len(result["measured_pairs"]) == 4
    assert {pair["source"] for pair in result["measured_pairs"]} == {"task", "wording"}
    assert result["near_curve"][-1]["coverage"] == 1
    chances = [point["chance"] for point in result["harm_curve"]]
    assert chances == sorted(chances, reverse=True)
    images = [report / "calibration-near.png", report / "calibration-support.png"]
    assert all(image.read_bytes().startswith(b"\x89PNG") for image in images)
    text = (report / "calibration.md").read_text()
    assert ran.out in text and all(image.name in text for image in images)
    ran = hyperplug(*command, "--write")
    assert ran.status == 0 and str(hypernet) in only_line(ran.err, start="Wrote the thresholds")
    after = load_checkpoint(hypernet)
    assert after.fingerprint == before.fingerprint
    assert {"near": after.thresholds.near, "support": after.thresholds.support} == result[
        "thresholds"
    ]
    assert after.training["calibration"]["tasks"] == 1
    models = ["--base", str(tiny.base), "--hypernet", str(hypernet)]
    generate = ("generate-adapter", "--description", "Say no.", "--json")
    adapter = json.loads(hyperplug(*generate, *models).out)
    metrics = adapter["metrics"]
    steps = [step for step in after.promises if step.support <= metrics["support"]]
    promise = steps[-1] if steps else after.promises[0]
    assert (metrics["predicted_gain"], metrics["confidence"]) == (promise.gain, promise.confidence)
    told = only_line(
        hyperplug("show-adapter", adapter["name"], *models).out, start="predicted gain "
    )
    assert f"{promise.gain:+.2f} nats a token (confidence {promise.confidence:.0%}:" in told


def test_calibrate_wants_tasks_and_shares(
    hyperplug: Hyperplug, tiny: TinyModels, tmp_path: Path
) -> None:
    tasks = ("--train-tasks", str(tiny.corpus))
    assert hyperplug("calibrate", *tasks).status == 2
    command = ("calibrate", "--tasks", str(tiny.corpus), *tasks)
    assert hyperplug(*command, "--near-risk", "1").status == 2
    missing = hyperplug("calibrate", "--tasks", str(tmp_path / "none.jsonl"), *tasks, *tiny.options)
    assert missing.status == 1
    assert only_line(missing.err, start="Hint: ")

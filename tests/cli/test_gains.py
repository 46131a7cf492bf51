"""What the command line says of an adapter that was checked on its task's examples."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hyperplug.config import load_settings
from hyperplug.registry import open_registry
from tests.cli.conftest import Hyperplug, TinyModels, only_line

TEXT = "Write it in capitals."


@pytest.fixture
def examples(tmp_path: Path) -> Path:
    """Six examples, one a line."""
    path = tmp_path / "examples.jsonl"
    lines = [{"input": f"word {n}", "output": f"WORD {n}"} for n in range(6)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def shown(hyperplug: Hyperplug, tiny: TinyModels, name: str = "shout") -> dict[str, Any]:
    metrics: dict[str, Any] = json.loads(
        hyperplug("show-adapter", name, "--json", *tiny.options).out
    )["metrics"]
    return metrics


def mark_as_harming(home: Path, name: str) -> None:
    with open_registry(settings=load_settings(home=home)) as registry:
        adapter = registry.store.get_adapter(name, namespace="default")
        assert adapter is not None
        figures = {"gain": -0.5, "loss_base": 1.0, "loss_adapter": 1.5, "checked_examples": 6.0}
        registry.store.set_metrics(adapter.id, figures)


def test_show_tells_the_gain(hyperplug: Hyperplug, tiny: TinyModels, examples: Path) -> None:
    command = ("register-task", "shout", TEXT, "--examples", str(examples))
    assert hyperplug(*command, *tiny.options).status == 0
    metrics = shown(hyperplug, tiny)
    assert metrics["checked_examples"] == 6
    assert metrics["gain"] == pytest.approx(metrics["loss_base"] - metrics["loss_adapter"])
    line = only_line(hyperplug("show-adapter", "shout", *tiny.options).out, start="gain ")
    assert f"{metrics['gain']:+.2f} (loss {metrics['loss_base']:.2f} without it" in line
    assert "on 6 examples" in line


def test_no_check(hyperplug: Hyperplug, tiny: TinyModels, examples: Path) -> None:
    command = ("generate-adapter", "--description", TEXT, "--examples", str(examples), "--json")
    made = json.loads(hyperplug(*command, "--no-check", *tiny.options).out)
    assert set(made["metrics"]) == {"support"}
    out = hyperplug("show-adapter", made["name"], *tiny.options).out
    assert only_line(out, start="gain ").split() == ["gain", "-"]
    assert "gain" in json.loads(hyperplug(*command, *tiny.options).out)["metrics"]


def test_an_adapter_that_harms_is_told_until_it_is_forced(
    hyperplug: Hyperplug, tiny: TinyModels, home: Path
) -> None:
    command = ("register-task", "shout", TEXT, *tiny.options)
    name = hyperplug(*command).out.strip()
    mark_as_harming(home, name)
    again = hyperplug(*command)
    assert (again.status, again.out) == (0, f"{name}\n")
    warning = only_line(again.err, start="Warning: ")
    assert f"{name} makes answers worse than the base model's: 0.50 nats a token" in warning
    assert "--force" in again.err
    assert "harms, not used" in hyperplug("show-adapter", "shout", *tiny.options).out
    forced = hyperplug("generate-adapter", "shout", "--force", *tiny.options)
    assert forced.status == 0 and "Warning" not in forced.err
    assert shown(hyperplug, tiny)["forced"] == 1
    assert "harms, used all the same" in hyperplug("show-adapter", "shout", *tiny.options).out


def test_a_file_of_tasks_tells_which_adapters_harm(
    hyperplug: Hyperplug, tiny: TinyModels, home: Path, tmp_path: Path
) -> None:
    path = tmp_path / "tasks.jsonl"
    lines = [{"name": name, "description": f"{TEXT} {name}"} for name in ("one", "two")]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    command = ("register-task", "--from-file", str(path), *tiny.options)
    first, second = hyperplug(*command).out.split()
    mark_as_harming(home, second)
    ran = hyperplug(*command)
    assert ran.status == 0 and ran.out.split() == [first, second]
    assert second in only_line(ran.err, start="Warning: ")
    assert "Warning" not in hyperplug(*command, "--force").err

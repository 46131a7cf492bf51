"""train-hypernet --extend, as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Hyperplug, TinyModels, only_line
from tests.miniature import task_line, write_tasks


@pytest.fixture
def news(tmp_path: Path) -> Path:
    """A task that the tiny hypernetwork does not know."""
    return write_tasks(tmp_path / "news.jsonl", [task_line("shrug", answer="hm")])


def extend(hyperplug: Hyperplug, tiny: TinyModels, news: Path, *options: str) -> Path:
    out = news.with_name("extended.safetensors")
    command = ("train-hypernet", "--tasks", str(news), "--out", str(out), "--steps", "2")
    given = ("--extend", str(tiny.hypernet), "--base", str(tiny.base), "--device", "cpu")
    ran = hyperplug(*command, *given, *options, "--json")
    assert ran.status == 0, ran.err
    told = json.loads(ran.out)
    assert told["training"]["extends"]["training"]["steps"] == 3
    return out


def exported(hyperplug: Hyperplug, folder: Path, *options: str) -> bytes:
    assert hyperplug("export-adapter", "old", str(folder), *options).status == 0
    (file,) = folder.rglob("adapter_model.safetensors")
    return file.read_bytes()


def test_stored_adapters_stay_when_a_registry_takes_the_extended_network(
    hyperplug: Hyperplug, tiny: TinyModels, news: Path, tmp_path: Path
) -> None:
    assert hyperplug("register-task", "old", "Say yes to all.", *tiny.options).status == 0
    show = ("show-adapter", "old", "--json")
    before = json.loads(hyperplug(*show, *tiny.options).out)
    data = exported(hyperplug, tmp_path / "before", *tiny.options)
    out = extend(hyperplug, tiny, news, "--keep", "registry", "--keep-strength", "3")
    options = ("--base", str(tiny.base), "--hypernet", str(out))
    assert hyperplug("register-task", "new", "Shrug at all.", *options).status == 0
    after = json.loads(hyperplug(*show, *options).out)
    assert (after["name"], after["digest"]) == (before["name"], before["digest"])
    assert exported(hyperplug, tmp_path / "after", *options) == data
    new = json.loads(hyperplug("show-adapter", "new", "--json", *options).out)
    assert new["hypernet_fingerprint"] != after["hypernet_fingerprint"]


def test_every_option_together(hyperplug: Hyperplug, tiny: TinyModels, news: Path) -> None:
    more = ("--keep", str(tiny.corpus), "--keep-strength", "0.5", "--replay", "2")
    extend(hyperplug, tiny, news, *more, "--new-atoms", "2")


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (("--extend", "HYPERNET", "--atoms", "8"), "Error: atoms is 8, but "),
        (("--extend", "HYPERNET", "--keep", "registry"), "Error: the registry has no tasks"),
        (("--extend", "HYPERNET", "--replay", "2"), "Error: none of the tasks to keep has"),
        (("--replay", "2"), "Error: replay is 2, but no checkpoint is extended"),
        (("--keep", "registry"), "Error: keep is registry, but no checkpoint is extended"),
    ],
)
def test_mistakes_are_told_in_a_line(
    hyperplug: Hyperplug,
    tiny: TinyModels,
    news: Path,
    options: tuple[str, ...],
    line: str,
) -> None:
    given = [str(tiny.hypernet) if option == "HYPERNET" else option for option in options]
    out = news.with_name("extended.safetensors")
    command = ("train-hypernet", "--tasks", str(news), "--out", str(out), "--base", str(tiny.base))
    ran = hyperplug(*command, *given, "--steps", "2", "--device", "cpu")
    assert ran.status in (1, 2)
    only_line(ran.err, start=line)
    assert not out.exists()

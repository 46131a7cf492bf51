"""Adapters from the command line: made, shown, handed on, checked and refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.cli.conftest import Hyperplug, TinyModels, only_line

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"


@pytest.fixture
def exported(hyperplug: Hyperplug, tiny: TinyModels, tmp_path: Path) -> Path:
    """A PEFT folder made by the command line."""
    assert hyperplug("register-task", "shout", "Write it in capitals.", *tiny.options).status == 0
    folder = tmp_path / "exported"
    ran = hyperplug("export-adapter", "shout", str(folder), *tiny.options)
    assert (ran.status, ran.out) == (0, f"{folder}\n")
    return folder


def test_register_prints_the_adapter_that_show_finds(
    hyperplug: Hyperplug, tiny: TinyModels
) -> None:
    name = hyperplug("register-task", "shout", "Write it in capitals.", *tiny.options).out.strip()
    by_task = json.loads(hyperplug("show-adapter", "shout", "--json", *tiny.options).out)
    by_name = json.loads(hyperplug("show-adapter", name, "--json", *tiny.options).out)
    assert by_task == by_name
    assert by_task["name"] == name
    assert by_task["rank"] == 4
    assert 2**20 <= by_task["id"] < 2**31
    assert (Path(by_task["path"]) / WEIGHTS).is_file()
    assert hyperplug("list-adapters", "--task", "shout").out.startswith(name)
    assert hyperplug("list-adapters", "--task", "nope").status == 1


def test_generating_is_done_once(hyperplug: Hyperplug, tiny: TinyModels) -> None:
    command = ("generate-adapter", "--description", "Write it in capitals.", "--json")
    first, second = (json.loads(hyperplug(*command, *tiny.options).out) for _ in range(2))
    assert first == second
    assert len(json.loads(hyperplug("list-adapters", "--json").out)) == 1


@pytest.mark.parametrize(
    "arguments", [(), ("task", "--description", "d"), ("task", "--examples", "f.jsonl")]
)
def test_generate_wants_a_task_or_a_description(
    arguments: tuple[str, ...], hyperplug: Hyperplug
) -> None:
    assert hyperplug("generate-adapter", *arguments).status == 2


def test_exported_folder_comes_back_in(
    exported: Path, hyperplug: Hyperplug, tiny: TinyModels
) -> None:
    assert {file.name for file in exported.iterdir()} >= {WEIGHTS, CONFIG}
    checked = hyperplug("validate-adapter", str(exported), "--json", *tiny.options)
    assert json.loads(checked.out)["rank"] == 4
    assert hyperplug("register-task", "other", "Say it twice.", "--no-generate").status == 0
    ran = hyperplug("import-adapter", str(exported), "--task", "other", "--json", *tiny.options)
    imported = json.loads(ran.out)
    assert imported["origin"] == "imported"
    assert imported["name"].startswith("other@")
    shown = json.loads(hyperplug("show-adapter", "other", "--json", *tiny.options).out)
    assert shown["digest"] == json.loads(checked.out)["digest"]


def _edit_weights(change: Callable[[dict[str, np.ndarray]], object]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        tensors = {name: value.copy() for name, value in load_file(folder / WEIGHTS).items()}
        change(tensors)
        save_file(tensors, folder / WEIGHTS)

    return edit


def _nan(tensors: dict[str, np.ndarray]) -> None:
    next(iter(tensors.values()))[0, 0] = np.nan


def _narrow(tensors: dict[str, np.ndarray]) -> None:
    name = next(name for name in tensors if "lora_A" in name)
    tensors[name] = tensors[name][:, :-1].copy()


def _missing(tensors: dict[str, np.ndarray]) -> None:
    tensors.pop(next(iter(tensors)))


def _pickle(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / "adapter_model.bin").write_bytes(b"\x80\x02}q\x00.")


def _symlink(folder: Path) -> None:
    target = folder.parent / "elsewhere.safetensors"
    shutil.move(folder / WEIGHTS, target)
    (folder / WEIGHTS).symlink_to(target)


def _truncated(folder: Path) -> None:
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[: len(data) // 2])


def _no_config(folder: Path) -> None:
    (folder / CONFIG).unlink()


@pytest.mark.parametrize(
    "spoil",
    [
        _edit_weights(_nan),
        _edit_weights(_narrow),
        _edit_weights(_missing),
        _pickle,
        _symlink,
        _truncated,
        _no_config,
        shutil.rmtree,
    ],
    ids=["nan", "narrow", "missing", "pickle", "symlink", "truncated", "no-config", "no-folder"],
)
def test_spoilt_folders_are_refused_and_change_nothing(
    spoil: Callable[[Path], None], exported: Path, hyperplug: Hyperplug, tiny: TinyModels
) -> None:
    spoil(exported)
    before = hyperplug("list-adapters", "--json").out
    for command in (("validate-adapter",), ("import-adapter", "--task", "shout")):
        ran = hyperplug(command[0], str(exported), *command[1:], *tiny.options)
        assert ran.status in (1, 2)
        assert ran.out == ""
        assert only_line(ran.err, start="Error: ")
        assert only_line(ran.err, start="Hint: ")
    assert hyperplug("list-adapters", "--json").out == before


def test_rank_over_the_servers_maximum_is_refused(
    exported: Path, hyperplug: Hyperplug, tiny: TinyModels
) -> None:
    ran = hyperplug("validate-adapter", str(exported), "--max-rank", "2", *tiny.options)
    assert ran.status == 1
    assert "rank" in ran.err


def test_hypernetwork_of_another_base_is_refused_before_anything_is_written(
    hyperplug: Hyperplug, tiny: TinyModels
) -> None:
    ran = hyperplug("register-task", "shout", "Write it in capitals.", "--base", str(tiny.base))
    assert ran.status == 1
    assert "train-hypernet" in only_line(ran.err, start="Hint: ")
    assert json.loads(hyperplug("list-tasks", "--json").out) == []


def test_hypernetwork_that_is_none_is_refused(
    hyperplug: Hyperplug, tiny: TinyModels, tmp_path: Path
) -> None:
    junk = tmp_path / "junk.safetensors"
    junk.write_bytes(b"not a checkpoint")
    for file, status in ((junk, 1), (tmp_path / "absent", 2)):
        ran = hyperplug(
            "register-task", "t", "Do.", "--base", str(tiny.base), "--hypernet", str(file)
        )
        assert ran.status == status
        assert only_line(ran.err, start="Hint: ")


def test_damaged_adapter_in_the_database_is_made_again_or_told(
    exported: Path, hyperplug: Hyperplug, tiny: TinyModels, home: Path
) -> None:
    _spoil_database(home / "registry.db")
    shutil.rmtree(home / "library")
    again = hyperplug("export-adapter", "shout", str(exported.parent / "again"), *tiny.options)
    assert again.status == 0
    repaired = (exported.parent / "again" / WEIGHTS).read_bytes()
    assert repaired == (exported / WEIGHTS).read_bytes()


def _spoil_database(file: Path) -> None:
    import sqlite3

    with sqlite3.connect(file) as connection:
        (table, column), *_ = (
            (name, row[1])
            for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            for row in connection.execute(f"PRAGMA table_info({name})")
            if name == "adapters" and row[2].upper() == "BLOB"
        )
        connection.execute(f"UPDATE {table} SET {column} = substr({column}, 1, 1000)")


def test_prepare_base_says_where_and_what(hyperplug: Hyperplug, tiny: TinyModels) -> None:
    ran = hyperplug("prepare-base", str(tiny.base))
    assert (ran.status, ran.out) == (0, f"{tiny.base}\n")
    about = json.loads(hyperplug("prepare-base", str(tiny.base), "--json").out)
    assert about["architecture"] == "LlamaForCausalLM"
    missing = hyperplug("prepare-base", "./no-such-folder")
    assert missing.status == 1
    assert only_line(missing.err, start="Hint: ")


def test_evaluate_writes_what_the_specification_says(
    hyperplug: Hyperplug, tiny: TinyModels, tmp_path: Path
) -> None:
    out = tmp_path / "result.json"
    command = ("evaluate", "--tasks", str(tiny.corpus), "--json", str(out), "--seed", "3")
    ran = hyperplug(*command, "--limit-tasks", "2", "--limit-examples", "1", *tiny.options)
    assert ran.status == 0, ran.err
    result = json.loads(out.read_text())
    assert set(result["arms"]) == {"base", "prompt", "static-part", "hypernet", "shuffled"}
    assert (result["tasks"], result["examples"], result["seed"]) == (2, 1, 3)
    for arm in result["arms"].values():
        assert len(arm["tasks"]) == 2
        assert 0 <= arm["mean"] <= 100
    assert {"versions", "hardware", "seconds"} <= set(result)
    assert "hypernet" in ran.out
    assert hyperplug("evaluate", "--tasks", str(tiny.corpus), "--arms", "nope").status == 2

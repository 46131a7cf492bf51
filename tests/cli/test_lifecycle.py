"""The life of tasks and adapters from the command line."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.conftest import Hyperplug, TinyModels, only_line

CAPITALS, LOWER = "Write it in capitals.", "Write it in lower case letters, please."


def registered(hyperplug: Hyperplug, tiny: TinyModels, text: str = CAPITALS) -> str:
    """Returns the name of the adapter of a new task `shout`."""
    ran = hyperplug("register-task", "shout", text, *tiny.options)
    assert ran.status == 0, ran.err
    return ran.out.strip()


def updated(hyperplug: Hyperplug, tiny: TinyModels) -> str:
    """Returns the name of its adapter after a change."""
    ran = hyperplug("update-task", "shout", "--description", LOWER, *tiny.options)
    assert ran.status == 0, ran.err
    return ran.out.strip()


def test_an_update_makes_a_new_version_and_a_rollback_goes_back(
    hyperplug: Hyperplug, tiny: TinyModels
) -> None:
    first = registered(hyperplug, tiny)
    second = updated(hyperplug, tiny)
    assert first != second
    shown = json.loads(hyperplug("show-task", "shout", "--json").out)
    assert (shown["description"], shown["revision"]) == (LOWER, 2)
    assert [revision["description"] for revision in shown["revisions"]] == [CAPITALS]
    versions = {a["name"]: (a["version"], a["parent"]) for a in shown["adapters"]}
    assert versions == {first: (1, None), second: (2, first)}
    assert [alias["adapter"] for alias in shown["aliases"]] == [second]
    base = tiny.options[:2]
    assert hyperplug("rollback-adapter", "shout", *base).out == f"{first}\n"
    assert hyperplug("show-adapter", "shout", *tiny.options).out.split()[1] == first
    assert hyperplug("rollback-adapter", "shout", *base).status == 1
    assert hyperplug("promote-adapter", second, *base).out == f"{second}\n"
    history = json.loads(hyperplug("history", "shout", "--json", *base).out)
    assert [change["adapter"] for change in history] == [first, second, second]
    assert [change["undone"] for change in history] == [False, True, False]
    assert all("@" in change["created_by"] for change in history)


def test_an_update_wants_something_to_change(hyperplug: Hyperplug, tiny: TinyModels) -> None:
    registered(hyperplug, tiny)
    assert hyperplug("update-task", "shout").status == 2
    ran = hyperplug("update-task", "nope", "--tag", "x", *tiny.options)
    assert "no task 'nope'" in only_line(ran.err, start="Error: ")
    assert hyperplug("update-task", "shout", "--tag", "x", "--no-generate").status == 0
    assert json.loads(hyperplug("show-task", "shout", "--json").out)["tags"] == ["x"]


def test_an_alias_serves_beside_the_current_one(hyperplug: Hyperplug, tiny: TinyModels) -> None:
    first = registered(hyperplug, tiny)
    base = tiny.options[:2]
    assert hyperplug("promote-adapter", first, "--alias", "stable", *base).status == 0
    second = updated(hyperplug, tiny)
    by_alias = json.loads(hyperplug("show-adapter", "shout@stable", "--json", *tiny.options).out)
    assert by_alias["name"] == first
    assert hyperplug("promote-adapter", "shout@stable", *base).out == f"{first}\n"
    ran = hyperplug("promote-adapter", second, "--alias", "0a1b2c3d", *base)
    assert "looks like the digest" in only_line(ran.err, start="Error: ")
    ran = hyperplug("show-adapter", "shout@nope", *tiny.options)
    assert "no alias 'nope'" in only_line(ran.err, start="Error: ")


def test_removing_restoring_purging(hyperplug: Hyperplug, tiny: TinyModels) -> None:
    name = registered(hyperplug, tiny)
    assert hyperplug("remove-task", "shout", "--yes").status == 0
    assert hyperplug("show-task", "shout").status == 1
    assert hyperplug("list-tasks").out == ""
    assert hyperplug("list-tasks", "--removed").out.startswith("shout")
    assert hyperplug("list-adapters").out == ""
    assert hyperplug("restore-task", "shout").status == 0
    assert hyperplug("list-adapters").out.startswith(name)
    assert hyperplug("purge-task", "shout", "--yes").status == 1
    assert hyperplug("remove-task", "shout", "--yes").status == 0
    assert hyperplug("purge-task", "shout", stdin=b"n\n").status == 1
    assert hyperplug("purge-task", "shout", "--yes").status == 0
    assert hyperplug("restore-task", "shout").status == 1


def test_garbage_is_collected(hyperplug: Hyperplug, tiny: TinyModels) -> None:
    name = registered(hyperplug, tiny)
    folder = Path(json.loads(hyperplug("show-adapter", name, "--json", *tiny.options).out)["path"])
    hyperplug("remove-task", "shout", "--yes")
    assert hyperplug("gc").out == ""
    would = json.loads(hyperplug("gc", "--grace-days", "0", "--dry-run", "--json").out)
    assert would["tasks"] == ["shout"]
    assert folder.is_dir()
    ran = hyperplug("gc", "--grace-days", "0")
    assert ran.out.splitlines() == ["task shout", f"folder default/{name}"]
    assert not folder.exists()


def test_pinned_and_aliased_versions_stay(hyperplug: Hyperplug, tiny: TinyModels) -> None:
    first = registered(hyperplug, tiny)
    second = updated(hyperplug, tiny)
    assert hyperplug("pin-adapter", first, *tiny.options[:2]).status == 0
    collect = ("gc", "--grace-days", "0", "--keep-versions", "0")
    assert hyperplug(*collect).out == ""
    hyperplug("pin-adapter", first, "--unpin", *tiny.options[:2])
    assert f"adapter {first}" in hyperplug(*collect).out
    assert hyperplug("list-adapters").out.startswith(second)


def test_listing_by_lines_pages_and_words(hyperplug: Hyperplug) -> None:
    for number in range(4):
        text = f"Do thing number {number} with care."
        hyperplug("register-task", f"task-{number}", text, "--no-generate")
    lines = hyperplug("list-tasks", "--nl", "--limit", "2").out.splitlines()
    assert [json.loads(line)["name"] for line in lines] == ["task-0", "task-1"]
    lines = hyperplug("list-tasks", "--nl", "--after", "task-1").out.splitlines()
    assert [json.loads(line)["name"] for line in lines] == ["task-2", "task-3"]
    assert hyperplug("list-tasks", "--search", "NUMBER 3").out.startswith("task-3")
    assert hyperplug("list-tasks", "--search", "%").out == ""


def test_adapters_are_exported_in_bulk_and_only_the_news_is_written(
    hyperplug: Hyperplug, tiny: TinyModels, tmp_path: Path
) -> None:
    first = registered(hyperplug, tiny)
    target = tmp_path / "out"
    assert hyperplug("export-adapters", str(target), *tiny.options).out == f"{first}\n"
    assert (target / first / "adapter_config.json").is_file()
    assert hyperplug("export-adapters", str(target), *tiny.options).out == ""
    second = updated(hyperplug, tiny)
    assert hyperplug("export-adapters", str(target), *tiny.options).out == f"{second}\n"
    by_task = ("export-adapters", str(tmp_path / "tasks"), "--by-task", *tiny.options)
    hyperplug("rollback-adapter", "shout", *tiny.options[:2])
    assert hyperplug(*by_task).out == f"{first}\n"
    hyperplug("promote-adapter", second, *tiny.options[:2])
    assert hyperplug(*by_task).out == f"{second}\n"
    origin = json.loads((tmp_path / "tasks" / "shout" / "hyperplug.json").read_text())
    assert origin["name"] == second
    assert [path.name for path in (tmp_path / "tasks").iterdir()] == ["shout"]
    url = f"file://{tmp_path}/by-url"
    everything = ("export-adapters", url, "--all", *tiny.options)
    assert set(hyperplug(*everything).out.split()) == {first, second}
    assert hyperplug(*everything).out == ""
    ran = hyperplug("export-adapters", "nosuch://user:s3cret@x/y", *tiny.options)
    assert "cannot export" in only_line(ran.err, start="Error: ")
    assert "s3cret" not in ran.err


def test_a_whole_directory_is_imported(
    hyperplug: Hyperplug, tiny: TinyModels, tmp_path: Path
) -> None:
    first = registered(hyperplug, tiny)
    target = tmp_path / "out"
    hyperplug("export-adapters", str(target), *tiny.options)
    (target / "broken").mkdir()
    (target / "broken" / "adapter_config.json").write_text("{")
    there = ("--namespace", "two", *tiny.options)
    hyperplug("register-task", "shout", CAPITALS, "--no-generate", *there)
    ran = hyperplug("import-adapters", str(target), *there)
    assert (ran.status, ran.out) == (1, f"{first}\n")
    assert "1 adapters imported, 1 bad folders" in ran.err
    assert f"{target}/broken: " in ran.err


def test_an_import_on_hold_serves_after_approval(
    hyperplug: Hyperplug, tiny: TinyModels, tmp_path: Path
) -> None:
    registered(hyperplug, tiny)
    hyperplug("export-adapter", "shout", str(tmp_path / "out"), *tiny.options)
    hyperplug("register-task", "copy", LOWER, "--no-generate")
    folder = str(tmp_path / "out")
    ran = hyperplug("import-adapter", folder, "--task", "copy", "--hold", *tiny.options)
    name = ran.out.strip()
    assert ran.status == 0
    assert "imported, held" in hyperplug("list-adapters", "--task", "copy").out
    base = tiny.options[:2]
    ran = hyperplug("promote-adapter", name, *base)
    assert "quarantine" in only_line(ran.err, start="Error: ")
    assert hyperplug("show-adapter", "copy", *tiny.options).status == 1
    assert hyperplug("approve-adapter", name, *base).out == f"{name}\n"
    assert hyperplug("promote-adapter", name, *base).status == 0
    assert hyperplug("show-adapter", "copy", *tiny.options).out.split()[1] == name


def test_a_registry_is_copied(hyperplug: Hyperplug, tiny: TinyModels, tmp_path: Path) -> None:
    name = registered(hyperplug, tiny)
    here = json.loads(hyperplug("doctor", "--json", *tiny.options).out)
    found = next(finding for finding in here if finding["name"] == "registry")
    url = found["detail"].split(",")[0]
    target = f"sqlite:///{tmp_path / 'copy.db'}"
    ran = hyperplug("db", "copy", url, target)
    assert ran.status == 0, ran.err
    assert "adapters\t1" in ran.out
    assert hyperplug("list-adapters", "--registry", target).out.startswith(name)
    assert hyperplug("db", "downgrade", "0001", "--yes", "--registry", target).out == "0001\n"
    assert hyperplug("list-adapters", "--registry", target).status == 1
    assert hyperplug("db", "upgrade", "--registry", target).status == 0
    assert hyperplug("list-adapters", "--registry", target).out.startswith(name)

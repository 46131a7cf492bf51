"""Upkeep of a registry: new embedders and hypernetworks, garbage, damage and repair."""

from __future__ import annotations

import sqlite3
from datetime import timedelta
from pathlib import Path

import pytest

from hyperplug.entities import AdapterState, TaskDraft
from hyperplug.errors import CorruptAdapterError, RegistryError
from hyperplug.registry import Registry

SENTIMENT = "Decide whether a product review is positive or negative. Answer with one word."
HEADLINE = "Write a short headline for the news paragraph."


def database(registry: Registry) -> Path:
    """Returns the path of the registry's SQLite file."""
    return registry.settings.home / "registry.db"


def execute(registry: Registry, statement: str) -> None:
    """Runs SQL behind the registry's back."""
    with sqlite3.connect(database(registry)) as connection:
        connection.execute(statement)
    connection.close()


def test_an_update_is_resolved_by_its_new_text(registry: Registry) -> None:
    _, first = registry.register_task("task", SENTIMENT)
    task, second = registry.update_task("task", description=HEADLINE)
    assert first is not None and second is not None
    assert (task.revision, second.version, second.parent) == (2, 2, first.name)
    found = registry.resolve(HEADLINE)
    assert (found.task, found.adapter) == (task, second)
    assert registry.resolve(first.name).adapter == first
    assert registry.rollback("task") == registry.get_adapter(first.name)
    again, third = registry.update_task("task", description=f" {HEADLINE} ")
    assert again.revision == 2
    assert third is not None and third.name == first.name  # nothing new was said


def test_a_damaged_old_version_is_made_again_from_what_the_task_said_then(
    registry: Registry,
) -> None:
    _, first = registry.register_task("task", SENTIMENT)
    assert first is not None and first.path is not None
    registry.update_task("task", description=HEADLINE)
    execute(registry, f"UPDATE adapters SET data = x'00' WHERE id = {first.id}")
    registry.library.remove(first)
    again = registry.published(first)
    assert again.path == first.path
    assert registry.store.adapter_bytes(first)


def test_what_cannot_be_made_again_is_put_in_quarantine(registry: Registry, tmp_path: Path) -> None:
    registry.register_task("task", SENTIMENT)
    folder = registry.export("task", tmp_path / "out")
    registry.register_task("copy", HEADLINE, generate=False)
    imported = registry.import_(folder, task_name="copy")
    execute(registry, f"UPDATE adapters SET data = x'00' WHERE id = {imported.id}")
    registry.library.remove(imported)
    with pytest.raises(CorruptAdapterError):
        registry.resolve("copy")
    assert registry.get_adapter("copy").state is AdapterState.DAMAGED
    damages = [damage for damage in registry.examine(repair=True) if damage]
    assert [(damage.what, damage.repaired) for damage in damages] == [
        (f"adapter {imported.name}", False)
    ]


def test_everything_is_examined_and_repaired(registry: Registry) -> None:
    drafts = [TaskDraft(name=f"t{n}", description=f"{SENTIMENT} ({n})") for n in range(3)]
    made = [outcome.adapter for outcome in registry.register_tasks(drafts)]
    assert [damage for damage in registry.examine() if damage] == []
    first, second, third = made
    assert first and second and third and third.path
    execute(registry, f"UPDATE adapters SET data = x'00' WHERE id = {first.id}")
    execute(
        registry,
        "UPDATE task_embeddings SET embedding = zeroblob(length(embedding)) WHERE task_id ="
        " (SELECT id FROM tasks WHERE name = 't1')",
    )
    (third.path / "adapter_config.json").write_text("{}")
    names = {"adapter " + first.name, "task t1", f"folder default/{third.name}"}
    assert {damage.what for damage in registry.examine() if damage} == names
    repaired = [damage for damage in registry.examine(repair=True) if damage]
    assert {damage.what for damage in repaired if damage.repaired} == names
    assert [damage for damage in registry.examine() if damage] == []


def test_another_embedder_comes_in_beside_the_old_one(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    drafts = [TaskDraft(name=f"t{n}", description=f"{SENTIMENT} ({n})") for n in range(70)]
    assert all(outcome.error is None for outcome in registry.register_tasks(drafts, generate=False))
    old = registry.embedder.id
    assert list(registry.reembed()) == []
    monkeypatch.setattr(registry.embedder, "id", "newer")
    steps = registry.reembed()
    assert next(steps) == (64, 70)
    del steps  # interrupted
    assert registry.store.embedding_counts(namespace="default") == {old: 70, "newer": 64}
    assert list(registry.reembed()) == [(6, 6)]
    assert registry.find(f"{SENTIMENT} (5)", limit=1)[0].task.name == "t5"
    with pytest.raises(RegistryError, match="in use"):
        registry.drop_embeddings("newer")
    assert registry.drop_embeddings(old) == 70


def test_another_hypernetwork_makes_new_versions(registry: Registry) -> None:
    _, first = registry.register_task("one", SENTIMENT)
    registry.register_task("two", HEADLINE, generate=False)
    assert first is not None
    execute(
        registry,
        "INSERT INTO hypernets SELECT 'older', base_fingerprint, embedder_id, rank,"
        " target_modules, created_at FROM hypernets",
    )
    execute(registry, "UPDATE adapters SET hypernet_fingerprint = 'older', generation_key = 'x'")
    execute(registry, "UPDATE adapters SET name = 'one@00000000', digest = '00'")
    outcomes = list(registry.regenerate(alias="candidate"))
    assert [(o.task.name, o.adapter is not None, o.error) for o in outcomes] == [
        ("one", True, None),
        ("two", True, None),
    ]
    assert registry.get_adapter("one").name == "one@00000000"
    candidate = registry.get_adapter("one@candidate")
    assert (candidate.version, candidate.parent) == (2, "one@00000000")
    assert all(o.adapter is None for o in registry.regenerate(alias="candidate"))
    registry.promote("one@candidate")
    assert registry.resolve("one").adapter == registry.published(candidate)


def test_garbage_goes_after_its_time(registry: Registry) -> None:
    _, adapter = registry.register_task("task", SENTIMENT)
    assert adapter is not None and adapter.path is not None
    registry.resolve("Translate the sentence to French, please, and nothing else.")
    registry.remove_task("task")
    registry.collect_garbage()
    assert adapter.path.is_dir()
    garbage = registry.collect_garbage(grace=timedelta(0), auto_unused=timedelta(days=1))
    assert garbage.tasks == ("task",)
    assert garbage.folders == (f"default/{adapter.name}",)
    assert not adapter.path.exists()
    assert len(registry.list_tasks()) == 1
    assert registry.collect_garbage(auto_unused=timedelta(0)).tasks == ()
    assert registry.list_tasks() == []
    assert len(registry.collect_garbage(grace=timedelta(0)).tasks) == 1

"""Edge cases of generating, keeping and deleting adapters, by several processes at once."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hyperplug.entities import AdapterState, AdapterWeights, Decision, OnNovel, Thresholds
from hyperplug.errors import (
    CheckpointError,
    CorruptAdapterError,
    HyperplugError,
    NovelTaskError,
    RegistryError,
    SchemaVersionError,
)
from hyperplug.registry import Registry
from hyperplug.store import Store, open_store
from tests.adapters.samples import foreign, weights
from tests.edge_cases.conftest import OpenRegistry, SeededGenerator
from tests.store.samples import EMBEDDER, add, execute, new_adapter, put_identities, vector

SUMS, MOTTO = "Add two numbers", "Why just fly by my gym?"
AT_ONCE = timedelta(0)


def generator(registry: Registry) -> SeededGenerator:
    """Returns the stand-in for the hypernetwork of a registry."""
    found = registry.generator
    assert isinstance(found, SeededGenerator)
    return found


def age(path: Path) -> None:
    """Makes a folder look a year old."""
    a_year_ago = time.time() - 365 * 86_400
    os.utime(path, (a_year_ago, a_year_ago))


def test_edge_27_a_folder_outlives_its_task_until_its_time_is_over(registry: Registry) -> None:
    _, adapter = registry.register_task("sums", SUMS)
    assert adapter is not None and adapter.path is not None
    age(adapter.path)
    registry.collect_garbage(grace=AT_ONCE)
    registry.remove_task("sums")
    registry.collect_garbage()
    assert adapter.path.is_dir()
    foretold = registry.collect_garbage(grace=AT_ONCE, dry_run=True)
    assert foretold.tasks == ("sums",) and adapter.path.is_dir()
    done = registry.collect_garbage(grace=AT_ONCE)
    assert done.folders == (f"default/{adapter.name}",) and not adapter.path.exists()


def test_edge_27_a_version_outlives_its_place_until_its_time_is_over(
    store: Store, url: str
) -> None:
    put_identities(store)
    task = add(store, "sums")
    old, new = (store.put_adapter(new_adapter(task, seed=n), alias=None) for n in range(2))
    store.set_alias(task.id, adapter_id=old.id)
    execute(url, "UPDATE adapters SET created_at = '2020-01-01 00:00:00'")
    store.set_alias(task.id, adapter_id=new.id)  # a moment ago: servers may still hold the old
    now = datetime.now(UTC)
    assert store.drop_old_versions(keep=1, before=now - timedelta(days=1)) == []
    dropped = store.drop_old_versions(keep=1, before=now + timedelta(days=1))
    assert [adapter.name for adapter in dropped] == [old.name]


def test_edge_27_a_pinned_version_is_never_collected(registry: Registry) -> None:
    _, old = registry.register_task("sums", SUMS)
    registry.update_task("sums", description="Subtract two numbers")
    assert old is not None and old.path is not None
    registry.pin(old.name)
    age(old.path)
    assert registry.collect_garbage(grace=AT_ONCE, keep_versions=0).adapters == ()
    assert old.path.is_dir()
    registry.pin(old.name, pinned=False)
    assert registry.collect_garbage(grace=AT_ONCE, keep_versions=0).adapters == (old.name,)
    assert not old.path.exists()


def meeting(monkeypatch: pytest.MonkeyPatch, *, same_bytes: bool) -> None:
    """Lets two generators wait for each other, so that both generate."""
    barrier, seeds = threading.Barrier(2), iter(range(100))

    def generate(self: SeededGenerator, description: str, examples: Any = ()) -> AdapterWeights:
        self.made.append(description)
        barrier.wait(timeout=20)
        return weights(0 if same_bytes else next(seeds))

    monkeypatch.setattr(SeededGenerator, "generate", generate)


@pytest.mark.parametrize("same_bytes", [True, False])
def test_edge_28_two_replicas_that_generate_at_once_leave_one_adapter(
    open_tiny: OpenRegistry, url: str, same_bytes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    replicas = [open_tiny(registry_url=url) for _ in range(2)]
    meeting(monkeypatch, same_bytes=same_bytes)
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda registry: registry.resolve(SUMS), replicas))
    assert [generator(registry).made for registry in replicas] == [[SUMS], [SUMS]]
    assert found[0].adapter == found[1].adapter
    assert len(replicas[0].list_adapters()) == len(replicas[0].list_tasks()) == 1


def test_edge_29_equal_requests_at_once_generate_once(registry: Registry) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: registry.resolve(SUMS).adapter, range(24)))
    assert len({adapter.digest for adapter in found if adapter}) == 1 and None not in found
    assert generator(registry).made == [SUMS]


def test_edge_29_the_failure_of_the_first_is_not_that_of_the_others(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, began, calls = SeededGenerator.generate, threading.Event(), iter(range(100))

    def failing_first(self: SeededGenerator, *text: Any) -> AdapterWeights:
        if next(calls) == 0:
            began.set()
            time.sleep(0.2)
            raise CheckpointError("out of memory")
        return whole(self, *text)

    monkeypatch.setattr(SeededGenerator, "generate", failing_first)
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(registry.resolve, SUMS)
        began.wait()
        others = [pool.submit(registry.resolve, SUMS) for _ in range(3)]
    assert isinstance(first.exception(), CheckpointError)
    found = [other.result().adapter for other in others]
    assert found[0] is not None and found == [found[0]] * 3


@contextmanager
def _lost(path: Path) -> Iterator[None]:
    """Takes the database's folder away, as a lost disk would, but not the library."""
    for file in path.parent.glob("registry.db*"):
        file.rename(file.with_name(f"gone-{file.name}"))
    path.mkdir()
    try:
        yield
    finally:
        path.rmdir()
        for file in path.parent.glob("gone-*"):
            file.rename(file.with_name(file.name.removeprefix("gone-")))


def test_edge_37_published_folders_do_not_need_the_registry(registry: Registry) -> None:
    _, adapter = registry.register_task("sums", SUMS)
    assert adapter is not None
    registry.close()
    with _lost(registry.settings.home / "registry.db"):
        started = time.monotonic()
        with pytest.raises(RegistryError):
            registry.resolve("sums")
        assert time.monotonic() - started < 10
        assert registry.library.path(adapter) == adapter.path
    assert registry.resolve("sums").adapter == adapter


def test_edge_38_a_second_writer_waits_and_readers_do_not(sqlite_url: str) -> None:
    store = open_store(sqlite_url)
    other = sqlite3.connect(sqlite_url.removeprefix("sqlite:///"), isolation_level=None)
    assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    other.execute("BEGIN IMMEDIATE")
    with ThreadPoolExecutor(1) as pool:
        written = pool.submit(add, store, "sums")
        time.sleep(0.3)
        assert store.count_tasks(namespace="default") == 0  # at once, and before the write
        assert not written.done()
        other.execute("COMMIT")
        assert written.result().name == "sums"
    other.close()
    store.close()


def test_edge_38_a_registry_of_another_version_is_refused_and_left_alone(url: str) -> None:
    open_store(url).close()
    execute(url, "UPDATE hyperplug_schema SET version_num = '9999'")
    with pytest.raises(SchemaVersionError, match="newer") as caught:
        open_store(url)
    assert caught.value.hint
    assert execute(url, "SELECT version_num FROM hyperplug_schema") == [("9999",)]


def test_edge_39_vectors_of_another_encoder_are_not_compared(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.register_task("sums", SUMS)
    monkeypatch.setattr(registry.embedder, "id", "letters:2")
    assert registry.find(SUMS) == []
    assert registry.store.embedding_counts(namespace="default") == {"letters": 1}
    assert list(registry.reembed()) == [(1, 1)]
    assert registry.find(SUMS)[0].score == pytest.approx(1, abs=1e-5)


def test_edge_39_a_vector_of_another_length_is_refused(store: Store) -> None:
    add(store, "sums", 1, 0, 0)
    with pytest.raises(RegistryError, match="gave 2 numbers"):
        add(store, "motto", 1, 0)
    with pytest.raises(RegistryError, match="gave 2 numbers"):
        store.nearest(vector(1, 0), embedder_id=EMBEDDER, namespace="default", limit=1)


def test_edge_40_another_hypernetwork_makes_a_new_version_and_the_old_one_stays(
    registry: Registry,
) -> None:
    _, first = registry.register_task("sums", SUMS)
    assert first is not None and first.hypernet_fingerprint == "e" * 64
    made_by = generator(registry)
    made_by.spec = replace(made_by.spec, fingerprint="f" * 64)
    registry.store.put_hypernet(made_by.spec)
    assert registry.resolve("sums").adapter == first
    (outcome,) = registry.regenerate()
    second = outcome.adapter
    assert second is not None and outcome.error is None
    lineage = (second.version, second.parent, second.hypernet_fingerprint, second.embedder_id)
    assert lineage == (2, first.name, "f" * 64, "letters")
    assert registry.resolve(first.name).adapter == first
    made_by.spec = replace(made_by.spec, fingerprint="e" * 64)
    execute(registry.settings.registry_url, "UPDATE adapters SET data = x'00'")
    registry.library.remove(first)
    assert registry.resolve(first.name).adapter == first  # made again by what made it
    registry.library.remove(second)
    with pytest.raises(CorruptAdapterError):  # another made this one
        registry.resolve(second.name)


def test_edge_41_what_was_stored_first_stands_though_generated_again_differs(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = registry.resolve(SUMS).adapter
    assert first is not None
    monkeypatch.setattr(SeededGenerator, "generate", lambda *_: weights(99))
    assert registry.generate(first.task_name) == first
    execute(registry.settings.registry_url, "UPDATE adapters SET data = x'00'")
    registry.library.remove(first)
    with pytest.raises(CorruptAdapterError):  # other bytes do not take its place unnoticed
        registry.resolve(first.name)


def test_edge_42_the_same_or_nearly_the_same_text_fills_nothing(registry: Registry) -> None:
    found = registry.resolve(SUMS)
    assert found.decision is Decision.NOVEL
    for text in (SUMS.upper(), f"  {SUMS}\n", SUMS.replace(" ", "\u00a0\t"), f"{SUMS}!"):
        assert registry.resolve(text).adapter == found.adapter
    assert len(registry.list_tasks()) == len(registry.list_adapters()) == 1


def test_edge_42_tasks_that_came_by_themselves_can_be_made_to_expire(registry: Registry) -> None:
    registry.register_task("motto", MOTTO)
    automatic = registry.resolve(SUMS)
    assert automatic.task is not None and automatic.task.tags == ("auto",)
    registry.collect_garbage(auto_unused=timedelta(days=1))
    assert len(registry.list_tasks()) == 2
    registry.collect_garbage(auto_unused=AT_ONCE)
    assert [task.name for task in registry.list_tasks()] == ["motto"]


def test_edge_43_the_border_is_the_one_calibrated_with_the_encoder(registry: Registry) -> None:
    registry.register_task("sums", SUMS)
    text = "Add three numbers"
    score = registry.find(text)[0].score
    decisions = []
    for near in (score - 1e-3, score + 1e-3):
        generator(registry).thresholds = Thresholds(near=near, support=2.0)
        assert registry.thresholds().near == near
        decisions.append(registry.resolve(text).decision)
    assert decisions == [Decision.NEAREST, Decision.BASE]


def test_edge_43_of_two_tasks_as_near_the_older_one_serves_each_time(store: Store) -> None:
    for name in ("first", "second", "third"):
        add(store, name, 1, 1, 0)
    for limit in (1, 2, 3):
        found = store.nearest(
            np.array([1, 1, 0]), embedder_id=EMBEDDER, namespace="default", limit=limit
        )
        assert [match.task.name for match in found] == ["first", "second", "third"][:limit]


@pytest.mark.parametrize("policy", [OnNovel.BASE, OnNovel.NEAREST, OnNovel.ERROR])
def test_edge_55_text_generates_only_where_the_policy_says_so(
    registry: Registry, policy: OnNovel
) -> None:
    registry.register_task("motto", MOTTO)
    before = list(generator(registry).made)
    if policy is OnNovel.ERROR:
        with pytest.raises(NovelTaskError):
            registry.resolve(SUMS, on_novel=policy)
    else:
        wanted = Decision.BASE if policy is OnNovel.BASE else Decision.NEAREST
        assert registry.resolve(SUMS, on_novel=policy).decision is wanted
    assert generator(registry).made == before
    assert [task.name for task in registry.list_tasks()] == ["motto"]


def test_edge_61_the_base_never_answers_in_silence(registry: Registry) -> None:
    _, adapter = registry.register_task("sums", SUMS)
    assert adapter is not None
    registry.store.set_metrics(adapter.id, {"gain": -0.5, "checked_examples": 8})
    harmed = registry.resolve("sums")
    assert (harmed.decision, harmed.adapter) == (Decision.BASE, None)
    assert adapter.name in harmed.reason
    novel = registry.resolve(MOTTO, on_novel=OnNovel.BASE)
    assert (novel.decision, novel.adapter, novel.score < 0.9) == (Decision.BASE, None, True)
    with pytest.raises(NovelTaskError, match=r"nearest scores 0\.\d+, 0\.90 is needed"):
        registry.resolve(MOTTO, on_novel=OnNovel.ERROR)
    for name in ("sums@00000000", "sums@nosuch"):
        with pytest.raises(HyperplugError):
            registry.resolve(name)


def test_edge_64_damage_is_final_and_has_a_reason(registry: Registry, tmp_path: Path) -> None:
    registry.register_task("sums", SUMS, generate=False)
    adapter = registry.import_(foreign(tmp_path / "peft"), task_name="sums")
    execute(registry.settings.registry_url, "UPDATE adapters SET data = x'00'")
    registry.library.remove(adapter)
    for _ in range(2):
        with pytest.raises(CorruptAdapterError):
            registry.resolve("sums")
    found = registry.get_adapter("sums")
    assert (found.state, found.state_reason) == (AdapterState.DAMAGED, "its bytes are damaged")
    with pytest.raises(CorruptAdapterError, match="in quarantine: its bytes are damaged"):
        registry.promote(adapter.name, alias="candidate")
    assert generator(registry).made == []  # it was imported: nothing else takes its place


def test_edge_64_a_generation_that_fails_leaves_no_adapter_and_says_why(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: Any) -> AdapterWeights:
        raise CheckpointError("the hypernetwork is damaged")

    with monkeypatch.context() as patch:
        patch.setattr(SeededGenerator, "generate", failing)
        with pytest.raises(CheckpointError, match="is damaged"):
            registry.resolve(SUMS)
        assert registry.list_adapters() == []
        outcomes = list(registry.regenerate())
        assert [str(outcome.error) for outcome in outcomes] == ["the hypernetwork is damaged"]
    assert registry.resolve(SUMS).adapter is not None

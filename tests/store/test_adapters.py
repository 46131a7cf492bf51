"""Adapters, aliases and identities in both databases."""

from __future__ import annotations

import dataclasses
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from hyperplug.entities import NewAdapter, Origin
from hyperplug.errors import (
    AdapterNotFoundError,
    CorruptAdapterError,
    RegistryError,
    TaskNotFoundError,
)
from hyperplug.store import Store
from tests.store import worker
from tests.store.samples import (
    BASE,
    EMBEDDER,
    HYPERNET,
    MODULES,
    add,
    execute,
    new_adapter,
    new_task,
    put_identities,
    vector,
    weights,
)

OTHER_BASE = dataclasses.replace(BASE, fingerprint="d" * 64)


@pytest.fixture(autouse=True)
def _identities(store: Store) -> None:
    put_identities(store)


def test_identities_come_back_and_can_be_put_twice(store: Store) -> None:
    put_identities(store)
    found = store.get_base_model(BASE.fingerprint)
    assert found == BASE
    assert found is not None
    assert list(found.module_shapes) == list(BASE.module_shapes)
    assert store.get_base_model("unknown") is None


def test_an_adapter_comes_back_as_it_went_in(store: Store) -> None:
    task = add(store, "sum")
    wanted = dataclasses.replace(new_adapter(task, key="k"), metrics={"loss": 0.5})
    adapter = store.put_adapter(wanted)
    digest = wanted.weights.digest
    assert adapter.name == f"sum@{digest[:8]}"
    assert (adapter.digest, adapter.rank, adapter.alpha) == (digest, 4, 4.0)
    assert (adapter.target_modules, adapter.origin) == (MODULES, Origin.GENERATED)
    assert adapter.base_fingerprint == BASE.fingerprint
    assert adapter.hypernet_fingerprint == HYPERNET.fingerprint
    assert (adapter.size_bytes, adapter.metrics) == (20_000, {"loss": 0.5})
    assert adapter.created_at.tzinfo is not None
    assert adapter.path is None
    assert store.get_adapter(adapter.name, namespace="default") == adapter
    assert store.find_generated("k", namespace="default") == adapter
    assert store.adapter_bytes(adapter) == wanted.weights.data


def test_ids_start_above_those_of_vllm_and_are_never_reused(store: Store) -> None:
    first = store.put_adapter(new_adapter(add(store, "a"), seed=1))
    assert first.id >= 2**20
    store.remove_task("a", namespace="default")
    second = store.put_adapter(new_adapter(add(store, "b"), seed=2))
    assert second.id > first.id


@pytest.mark.parametrize("bad_id", [2**20 - 1, 0, -1, 2**31])
def test_the_database_refuses_ids_out_of_range(store: Store, url: str, bad_id: int) -> None:
    store.put_adapter(new_adapter(add(store, "a")))
    with pytest.raises(Exception, match=r"id_range|out of range"):
        execute(url, f"UPDATE adapters SET id = {bad_id}")


def test_the_last_id_is_int32s_last(store: Store, url: str) -> None:
    task = add(store, "a")
    last = 2**31 - 1
    if url.startswith("sqlite"):
        execute(url, f"UPDATE sqlite_sequence SET seq = {last - 1} WHERE name = 'adapters'")
    else:
        execute(url, f"ALTER SEQUENCE adapter_ids RESTART WITH {last}")
    assert store.put_adapter(new_adapter(task, seed=1)).id == last
    with pytest.raises(RegistryError, match=r"no adapter id .*left"):
        store.put_adapter(new_adapter(task, seed=2))
    assert len(store.list_adapters(namespace="default")) == 1


def test_the_first_writer_of_a_generation_key_wins(store: Store) -> None:
    task = add(store, "a")
    first = store.put_adapter(new_adapter(task, seed=1, key="k"))
    second = store.put_adapter(new_adapter(task, seed=2, key="k"))
    assert second == first
    assert store.adapter_bytes(second) == weights(1).data
    assert store.list_adapters(namespace="default") == [first]


def test_threads_with_one_generation_key_leave_one_row(store: Store) -> None:
    task = add(store, "a")
    with ThreadPoolExecutor(8) as pool:
        stored = list(
            pool.map(
                lambda seed: store.put_adapter(new_adapter(task, seed=seed, key="k")), range(16)
            )
        )
    assert len({adapter.digest for adapter in stored}) == 1
    assert store.list_adapters(namespace="default") == [stored[0]]


def test_processes_with_one_generation_key_leave_one_row(store: Store, url: str) -> None:
    add(store, "a")
    start_at = str(time.time() + 2.5)
    racers = [worker.start("generate", url, "a", str(seed), start_at) for seed in range(3)]
    digests = {worker.finish(racer) for racer in racers}
    assert len(digests) == 1
    rows = store.list_adapters(namespace="default")
    assert [row.digest for row in rows] == list(digests)


def test_a_key_is_of_one_namespace(store: Store) -> None:
    first = store.put_adapter(new_adapter(add(store, "a"), key="k"))
    second = store.put_adapter(new_adapter(add(store, "a", namespace="two"), key="k"))
    assert first.id != second.id
    assert first.name == second.name
    assert store.list_adapters(namespace="two") == [second]
    assert store.get_adapter(first.name, namespace="two") == second
    assert store.get_adapter(first.name, namespace="three") is None
    assert store.find_generated("k", namespace="three") is None


def test_importing_again_returns_the_standing_row(store: Store) -> None:
    task = add(store, "a")
    first = store.put_adapter(new_adapter(task))
    assert store.put_adapter(new_adapter(task)) == first


def test_an_imported_adapter_is_found_by_key_once_generated(store: Store) -> None:
    task = add(store, "a")
    imported = store.put_adapter(new_adapter(task))
    assert store.put_adapter(new_adapter(task, key="k")).id == imported.id
    found = store.find_generated("k", namespace="default")
    assert found is not None
    assert found.id == imported.id


def test_a_name_never_changes_its_weights_or_base(store: Store, url: str) -> None:
    task = add(store, "a")
    store.put_base_model(OTHER_BASE)
    store.put_adapter(new_adapter(task))
    with pytest.raises(RegistryError, match="already stands for"):
        store.put_adapter(new_adapter(task, base=OTHER_BASE.fingerprint))
    # Another digest with the same first eight digits.
    digest = weights().digest
    execute(url, f"UPDATE adapters SET digest = '{digest[:8] + 'f' * 56}'")
    with pytest.raises(RegistryError, match="already stands for"):
        store.put_adapter(new_adapter(task))


def test_a_task_means_its_newest_adapter_unless_told_otherwise(store: Store) -> None:
    task = add(store, "a")
    assert store.current_adapter(task.id, base_fingerprint=BASE.fingerprint) is None
    first = store.put_adapter(new_adapter(task, seed=1))
    assert store.current_adapter(task.id, base_fingerprint=BASE.fingerprint) == first
    second = store.put_adapter(new_adapter(task, seed=2), alias=None)
    assert store.current_adapter(task.id, base_fingerprint=BASE.fingerprint) == first
    store.set_alias(task.id, adapter_id=second.id)
    assert store.current_adapter(task.id, base_fingerprint=BASE.fingerprint) == second
    store.put_adapter(new_adapter(task, seed=1))
    assert store.current_adapter(task.id, base_fingerprint=BASE.fingerprint) == first


def test_a_task_has_one_current_adapter_for_each_base(store: Store) -> None:
    task = add(store, "a")
    store.put_base_model(OTHER_BASE)
    here = store.put_adapter(new_adapter(task, seed=1))
    there = store.put_adapter(new_adapter(task, seed=2, base=OTHER_BASE.fingerprint))
    assert store.current_adapter(task.id, base_fingerprint=BASE.fingerprint) == here
    assert store.current_adapter(task.id, base_fingerprint=OTHER_BASE.fingerprint) == there


def test_aliases_stay_within_a_namespace(store: Store) -> None:
    adapter = store.put_adapter(new_adapter(add(store, "a")))
    stranger = add(store, "a", namespace="two")
    with pytest.raises(TaskNotFoundError):
        store.set_alias(stranger.id, adapter_id=adapter.id)
    with pytest.raises(AdapterNotFoundError):
        store.set_alias(stranger.id, adapter_id=adapter.id + 99)
    with pytest.raises(TaskNotFoundError):
        store.put_adapter(dataclasses.replace(new_adapter(stranger), namespace="default"))


def shared_by_two(store: Store) -> tuple[NewAdapter, NewAdapter]:
    """Returns two tasks of one description, whose adapters have one key."""
    made = []
    for name in ("first", "second"):
        task, _ = store.add_task(
            new_task(name, "Same"), embedder_id=EMBEDDER, embedding=vector(1, 0, 0)
        )
        made.append(new_adapter(task, key="same"))
    return made[0], made[1]


def test_removal_takes_what_no_other_task_uses(store: Store) -> None:
    keeper = store.put_adapter(new_adapter(add(store, "other"), seed=9))
    first, second = shared_by_two(store)
    shared = store.put_adapter(first)
    assert store.put_adapter(second) == shared
    task = store.get_task("first", namespace="default")
    assert task is not None
    own = store.put_adapter(new_adapter(task, seed=5))
    assert store.list_adapters(namespace="default", task_name="second") == [shared]
    assert store.list_adapters(namespace="default", task_name="first") == [shared, own]

    store.remove_task("first", namespace="default")
    assert store.list_adapters(namespace="default") == [keeper, shared]
    assert store.adapter_bytes(shared) == first.weights.data
    current = store.current_adapter(second.task_id, base_fingerprint=BASE.fingerprint)
    assert current == shared

    store.remove_task("second", namespace="default")
    assert store.list_adapters(namespace="default") == [keeper]


def test_an_adapter_without_its_task_is_refused(store: Store) -> None:
    task = add(store, "a")
    store.remove_task("a", namespace="default")
    with pytest.raises(TaskNotFoundError, match="'a' was removed"):
        store.put_adapter(new_adapter(task))
    assert store.list_adapters(namespace="default") == []


def test_an_adapter_without_its_base_is_refused(store: Store) -> None:
    task = add(store, "a")
    with pytest.raises(RegistryError, match="store the base model"):
        store.put_adapter(new_adapter(task, base="unknown"))
    assert store.list_adapters(namespace="default") == []


@pytest.mark.parametrize("damage", ["flipped", "truncated", "emptied"])
def test_damaged_bytes_are_detected_and_repaired(store: Store, url: str, damage: str) -> None:
    adapter = store.put_adapter(new_adapter(add(store, "a")))
    good = weights().data
    bad = {"flipped": b"\x00" + good[1:], "truncated": good[:-1], "emptied": b""}[damage]
    literal = f"x'{bad.hex()}'" if url.startswith("sqlite") else f"'\\x{bad.hex()}'::bytea"
    execute(url, f"UPDATE adapters SET data = {literal}")
    with pytest.raises(CorruptAdapterError, match=rf"a@{adapter.digest[:8]}.*do not match"):
        store.adapter_bytes(adapter)
    with pytest.raises(CorruptAdapterError):
        store.replace_adapter_bytes(adapter, weights(1).data)
    store.replace_adapter_bytes(adapter, good)
    assert store.adapter_bytes(adapter) == good


def test_bytes_that_do_not_match_their_digest_are_not_stored(store: Store) -> None:
    task = add(store, "a")
    bad = dataclasses.replace(weights(), data=b"other")
    with pytest.raises(CorruptAdapterError):
        store.put_adapter(dataclasses.replace(new_adapter(task), weights=bad))
    assert store.list_adapters(namespace="default") == []


def test_bytes_of_a_removed_adapter_are_not_found(store: Store) -> None:
    adapter = store.put_adapter(new_adapter(add(store, "a")))
    store.remove_task("a", namespace="default")
    store.purge_task("a", namespace="default")
    with pytest.raises(AdapterNotFoundError, match="no longer stored"):
        store.adapter_bytes(adapter)
    with pytest.raises(AdapterNotFoundError):
        store.replace_adapter_bytes(adapter, weights().data)


def test_metrics_are_merged(store: Store) -> None:
    adapter = store.put_adapter(new_adapter(add(store, "a")))
    store.set_metrics(adapter.id, {"loss": 1.0, "match": 2.0})
    store.set_metrics(adapter.id, {"loss": 0.5})
    found = store.get_adapter(adapter.name, namespace="default")
    assert found is not None
    assert found.metrics == {"loss": 0.5, "match": 2.0}
    with pytest.raises(RegistryError, match=r"not finite|is nan"):
        store.set_metrics(adapter.id, {"loss": float("nan")})
    with pytest.raises(AdapterNotFoundError):
        store.set_metrics(1, {"loss": 1.0})

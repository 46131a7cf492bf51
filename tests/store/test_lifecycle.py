"""The life of a task and its adapters: changes, versions, aliases, removal, and what stays."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from hyperplug.entities import AdapterState, Example, Task, TaskChange
from hyperplug.errors import (
    AdapterNotFoundError,
    CorruptAdapterError,
    DuplicateTaskError,
    RegistryError,
    TaskNotFoundError,
)
from hyperplug.naming import description_digest
from hyperplug.store import Store
from tests.store.samples import (
    BASE,
    EMBEDDER,
    add,
    execute,
    new_adapter,
    new_task,
    put_identities,
    vector,
)

NOW = datetime.now(UTC)
LATER = NOW + timedelta(days=1)


@pytest.fixture(autouse=True)
def identities(store: Store) -> None:
    put_identities(store)


def near(store: Store, *numbers: float) -> list[str]:
    """Returns the names of the tasks nearest to a vector."""
    found = store.nearest(vector(*numbers), embedder_id=EMBEDDER, namespace="default", limit=10)
    return [match.task.name for match in found]


def change(store: Store, name: str, text: str, *numbers: float) -> Task:
    """Returns a task with another description and vector."""
    wanted = TaskChange(description=text, description_digest=description_digest(text))
    return store.change_task(
        name, wanted, namespace="default", embedder_id=EMBEDDER, embedding=vector(*numbers)
    )


def current(store: Store, task: Task) -> str | None:
    """Returns the name of a task's current adapter."""
    adapter = store.current_adapter(task.id, base_fingerprint=BASE.fingerprint)
    return adapter.name if adapter else None


# Changes of a task


def test_a_changed_description_is_found_and_the_old_one_is_kept(store: Store) -> None:
    store.actor = "ann@host"
    task = add(store, "a", 1, 0, 0)
    add(store, "b", 0, 0, 1)
    assert near(store, 1, 0, 0)[0] == "a"
    changed = change(store, "a", "Another text", 0, 1, 0)
    assert (changed.id, changed.revision, changed.description) == (task.id, 2, "Another text")
    assert changed.updated_at is not None
    assert near(store, 0, 1, 0)[0] == "a"
    found = store.nearest(vector(1, 0, 0), embedder_id=EMBEDDER, namespace="default", limit=1)
    assert found[0].score == pytest.approx(0)
    assert store.find_task_by_text(description_digest("another TEXT"), namespace="default")
    assert not store.find_task_by_text(description_digest(task.description), namespace="default")
    (before,) = store.task_revisions(task.id)
    assert (before.revision, before.description) == (1, task.description)
    assert before.replaced_by == "ann@host"


def test_vectors_of_the_old_description_go_with_it(store: Store) -> None:
    task = add(store, "a", 1, 0, 0)
    store.put_embedding(task.id, embedder_id="other", embedding=vector(1, 0))
    change(store, "a", "Another text", 0, 1, 0)
    assert store.embedding_counts(namespace="default") == {EMBEDDER: 1}


def test_examples_and_tags_change_apart(store: Store) -> None:
    store.add_task(new_task("a", tags=("x", "y")), embedder_id=EMBEDDER, embedding=vector(1, 0, 0))

    def changed(wanted: TaskChange) -> Task:
        return store.change_task(
            "a", wanted, namespace="default", embedder_id=EMBEDDER, embedding=None
        )

    task = changed(TaskChange(tags=("y", "z")))
    assert (task.tags, task.revision) == (("y", "z"), 1)
    examples = (Example(input="1", output="2"),)
    task = changed(TaskChange(examples=examples))
    assert (task.examples, task.tags, task.revision) == (examples, ("y", "z"), 2)
    assert changed(TaskChange(examples=examples)).revision == 2
    assert near(store, 1, 0, 0) == ["a"]


# Versions and aliases


def test_adapters_of_a_task_are_numbered_and_know_where_they_come_from(store: Store) -> None:
    store.actor = "ann@host"
    task = add(store, "a")
    first = store.put_adapter(new_adapter(task, seed=1))
    changed = change(store, "a", "Another text", 0, 1, 0)
    second = store.put_adapter(new_adapter(changed, seed=2, key="k", parent=first.name))
    other = store.put_adapter(new_adapter(add(store, "b"), seed=3))
    assert (first.version, first.task_revision, first.parent) == (1, 1, None)
    assert (second.version, second.task_revision, second.parent) == (2, 2, first.name)
    assert other.version == 1
    assert {first.created_by, second.created_by} == {"ann@host"}
    assert store.adapter_bytes(first)  # the old one is kept


def test_promoting_and_rolling_back_go_along_the_history(store: Store) -> None:
    task = add(store, "a")
    one, two, three = (store.put_adapter(new_adapter(task, seed=n), alias=None) for n in (1, 2, 3))
    assert current(store, task) is None
    for adapter in (one, two, three, three):
        store.set_alias(task.id, adapter_id=adapter.id)
    where = {"base_fingerprint": BASE.fingerprint}
    assert store.roll_back(task.id, **where) == two
    assert current(store, task) == two.name
    assert store.roll_back(task.id, **where) == one
    with pytest.raises(AdapterNotFoundError, match="no earlier adapter"):
        store.roll_back(task.id, **where)
    assert current(store, task) == one.name
    store.set_alias(task.id, adapter_id=three.id)
    assert store.roll_back(task.id, **where) == one
    changes = store.alias_history(task.id, **where)
    assert [(c.adapter, c.previous, c.undone) for c in changes] == [
        (one.name, None, False),
        (two.name, one.name, True),
        (three.name, two.name, True),
        (three.name, one.name, True),
    ]


def test_aliases_are_independent_and_can_be_taken_away(store: Store) -> None:
    task = add(store, "a")
    one = store.put_adapter(new_adapter(task, seed=1))
    two = store.put_adapter(new_adapter(task, seed=2), alias="candidate")
    where = {"base_fingerprint": BASE.fingerprint}
    assert store.aliases(task.id, **where) == {"candidate": two, "current": one}
    assert store.aliased_adapter(task.id, alias="candidate", **where) == two
    store.remove_alias(task.id, alias="candidate", **where)
    assert store.aliases(task.id, **where) == {"current": one}
    with pytest.raises(AdapterNotFoundError, match="no alias 'candidate'"):
        store.remove_alias(task.id, alias="candidate", **where)
    assert store.roll_back(task.id, alias="candidate", **where) == two
    assert store.aliased_adapter(task.id, alias="candidate", **where) == two


def test_a_rollback_passes_over_what_is_gone_or_in_quarantine(store: Store) -> None:
    task = add(store, "a")
    one, two, three = (store.put_adapter(new_adapter(task, seed=n)) for n in (1, 2, 3))
    store.set_adapter_state(two.id, AdapterState.DAMAGED, reason="odd")
    assert store.roll_back(task.id, base_fingerprint=BASE.fingerprint) == one
    assert current(store, task) == one.name
    del three


def test_an_adapter_in_quarantine_is_not_promoted(store: Store) -> None:
    task = add(store, "a")
    adapter = store.put_adapter(new_adapter(task), alias=None)
    held = store.set_adapter_state(adapter.id, AdapterState.HELD, reason="damaged")
    assert (held.state, held.state_reason) == (AdapterState.HELD, "damaged")
    with pytest.raises(CorruptAdapterError, match=r"quarantine: damaged.*approve-adapter"):
        store.set_alias(task.id, adapter_id=adapter.id)
    store.set_adapter_state(adapter.id, AdapterState.READY)
    store.set_alias(task.id, adapter_id=adapter.id)
    assert current(store, task) == adapter.name


# Removal


def test_a_removed_task_can_be_restored_with_all_it_had(store: Store) -> None:
    task = add(store, "a", 1, 0, 0)
    adapter = store.put_adapter(new_adapter(task))
    assert near(store, 1, 0, 0) == ["a"]
    assert store.remove_task("a", namespace="default").deleted_at is not None
    assert near(store, 1, 0, 0) == []
    assert store.get_task("a", namespace="default") is None
    assert store.get_adapter(adapter.name, namespace="default") is None
    assert store.list_adapters(namespace="default") == []
    assert store.count_tasks(namespace="default") == 0
    assert [t.name for t in store.list_tasks(namespace="default", removed=True)] == ["a"]
    assert store.restore_task("a", namespace="default") == task
    assert near(store, 1, 0, 0) == ["a"]
    assert current(store, task) == adapter.name
    assert store.get_adapter(adapter.name, namespace="default") == adapter


def test_a_name_taken_meanwhile_stands_in_the_way_of_restoring(store: Store) -> None:
    add(store, "a", 1, 0, 0)
    store.remove_task("a", namespace="default")
    second = add(store, "a", 0, 1, 0)
    with pytest.raises(DuplicateTaskError, match="another task is called 'a'"):
        store.restore_task("a", namespace="default")
    store.remove_task("a", namespace="default")
    assert store.restore_task("a", namespace="default").id == second.id
    with pytest.raises(TaskNotFoundError, match="no removed task 'none'"):
        store.restore_task("none", namespace="default")


def test_the_same_text_again_takes_the_adapter_of_the_removed_task(store: Store) -> None:
    adapter = store.put_adapter(new_adapter(add(store, "a"), key="k"))
    store.remove_task("a", namespace="default")
    again = add(store, "a")
    assert store.find_generated("k", namespace="default") == adapter
    assert store.put_adapter(new_adapter(again, key="k")) == adapter
    store.purge_task("a", namespace="default")
    assert current(store, again) == adapter.name
    assert store.adapter_bytes(adapter)


def test_purging_spares_pinned_adapters_and_live_tasks(store: Store) -> None:
    task = add(store, "a")
    pinned = store.pin_adapter(store.put_adapter(new_adapter(task, seed=1)).id)
    assert pinned.pinned
    store.put_adapter(new_adapter(task, seed=2))
    store.remove_task("a", namespace="default")
    store.purge_task("a", namespace="default")
    assert store.adapter_bytes(pinned)
    add(store, "b")
    with pytest.raises(TaskNotFoundError):
        store.purge_task("b", namespace="default")
    assert store.purge_removed(LATER) == []
    store.remove_task("b", namespace="default")
    assert store.purge_removed(NOW - timedelta(days=1)) == []
    assert [t.name for t in store.purge_removed(LATER)] == ["b"]


def test_old_versions_go_unless_something_leads_to_them(store: Store) -> None:
    task = add(store, "a")
    made = [store.put_adapter(new_adapter(task, seed=n)) for n in range(5)]
    store.set_alias(task.id, adapter_id=made[0].id, alias="stable")
    store.pin_adapter(made[1].id)
    assert store.drop_old_versions(keep=1, before=NOW - timedelta(days=1)) == []
    doomed = [made[2].name]
    found = store.drop_old_versions(keep=2, before=LATER, dry_run=True)
    assert [a.name for a in found] == doomed
    assert [a.name for a in store.drop_old_versions(keep=2, before=LATER)] == doomed
    assert len(store.list_adapters(namespace="default")) == 4


# Listing and embedders


def test_listing_goes_by_pages_and_searches(store: Store) -> None:
    for name in ("alpha", "beta", "gamma_x", "delta"):
        add(store, name)
    ids = [task.id for task in store.list_tasks(namespace="default")]
    page = store.list_tasks(namespace="default", after_id=ids[1], limit=1)
    assert [task.name for task in page] == ["gamma_x"]

    def searched(text: str) -> list[str]:
        return [t.name for t in store.list_tasks(namespace="default", search=text)]

    assert searched("ALPH") == ["alpha"]
    assert searched("what BETA says") == ["beta"]
    assert searched("%") == []
    assert searched("_") == ["gamma_x"]


def test_tasks_that_an_embedder_has_not_seen(store: Store) -> None:
    first, second = add(store, "a"), add(store, "b")
    store.put_embeddings([(first.id, vector(1, 0))], embedder_id="new")

    def unseen() -> list[Task]:
        return store.tasks_without_embedding(embedder_id="new", namespace="default", limit=9)

    assert unseen() == [second]
    store.put_embeddings([(second.id, vector(0, 1)), (10**6, vector(1, 0))], embedder_id="new")
    assert unseen() == []
    assert store.embedding_counts(namespace="default") == {EMBEDDER: 2, "new": 2}
    assert store.drop_embeddings(embedder_id=EMBEDDER, namespace="default") == 2
    assert store.embedding_counts(namespace="default") == {"new": 2}


def test_bulk_registration_tells_for_each_task_what_came_of_it(store: Store) -> None:
    add(store, "a")
    tasks = [new_task("b"), new_task("a"), new_task("a", "Other"), new_task("b", "Other")]
    outcomes = store.add_tasks(
        tasks, embedder_id=EMBEDDER, embeddings=[vector(1, 0, 0)] * len(tasks)
    )
    assert [o if isinstance(o, RegistryError | DuplicateTaskError) else o[1] for o in outcomes][
        :2
    ] == [True, False]
    assert isinstance(outcomes[2], DuplicateTaskError)
    assert isinstance(outcomes[3], DuplicateTaskError)
    assert store.count_tasks(namespace="default") == 2


def test_every_write_is_counted(store: Store, url: str) -> None:
    before = store.changes()
    add(store, "a")
    assert store.changes() == before + 1
    assert len(store.identity()) == 32
    assert execute(url, "SELECT count(*) FROM registry") == [(1,)]

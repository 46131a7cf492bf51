"""Tasks in both databases."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from hyperplug.entities import Example, NewTask
from hyperplug.errors import DuplicateTaskError, RegistryError, TaskNotFoundError
from hyperplug.naming import description_digest
from hyperplug.store import Store
from tests.store.samples import EMBEDDER, add, execute, new_task, vector


def test_a_task_comes_back_as_it_went_in(store: Store) -> None:
    description = "Traduis « l'été » en 日本語 🎌\nen deux lignes"
    wanted = NewTask(
        namespace="tenant",
        name="translate",
        description=description,
        description_digest=description_digest(description),
        examples=(Example(input="été\n", output="夏"), Example(input="", output="''; DROP TABLE")),
        tags=("z", "a", "z"),
    )
    task, created = store.add_task(wanted, embedder_id=EMBEDDER, embedding=vector(1, 2))
    assert created
    assert task == store.get_task("translate", namespace="tenant")
    assert (task.namespace, task.name, task.description) == ("tenant", "translate", description)
    assert task.examples == wanted.examples
    assert task.tags == ("z", "a")
    assert task.created_at.tzinfo == UTC
    assert abs(datetime.now(UTC) - task.created_at) < timedelta(minutes=1)


def test_same_name_and_text_is_the_same_task(store: Store) -> None:
    first = add(store, "sum", 1, 0)
    again, created = store.add_task(
        new_task("sum", "DO what  sum says "), embedder_id=EMBEDDER, embedding=vector(0, 1)
    )
    assert (again, created) == (first, False)
    assert store.count_tasks(namespace="default") == 1
    best = store.nearest(vector(1, 0), embedder_id=EMBEDDER, namespace="default", limit=1)
    assert best[0].score == pytest.approx(1)


def test_same_name_with_other_text_is_refused(store: Store) -> None:
    first = add(store, "sum")
    with pytest.raises(DuplicateTaskError, match=r"sum.*another description.*update-task"):
        store.add_task(new_task("sum", "Other"), embedder_id=EMBEDDER, embedding=vector(1, 0, 0))
    assert store.list_tasks(namespace="default") == [first]


def test_registering_again_with_another_embedder_adds_its_vector(store: Store) -> None:
    task = add(store, "sum", 1, 0, 0)
    store.add_task(new_task("sum"), embedder_id="other", embedding=vector(0, 1))
    found = store.nearest(vector(0, 1), embedder_id="other", namespace="default", limit=3)
    assert [match.task for match in found] == [task]
    assert found[0].score == pytest.approx(1)


def test_nothing_is_half_registered_when_its_vector_is_bad(store: Store) -> None:
    add(store, "good", 1, 0, 0)
    for bad in (vector(), vector(0, 0, 0), vector(1, float("nan"), 0), vector(1, 0)):
        with pytest.raises(RegistryError):
            store.add_task(new_task("bad"), embedder_id=EMBEDDER, embedding=bad)
    assert store.get_task("bad", namespace="default") is None


def test_namespaces_do_not_see_each_other(store: Store) -> None:
    here = add(store, "sum", namespace="one")
    there = add(store, "sum", namespace="two")
    assert here.id != there.id
    assert store.list_tasks(namespace="one") == [here]
    assert store.get_task("sum", namespace="three") is None
    digest = description_digest(here.description)
    assert store.find_task_by_text(digest, namespace="two") == there
    assert store.find_task_by_text(digest, namespace="three") is None
    with pytest.raises(TaskNotFoundError):
        store.remove_task("sum", namespace="three")
    store.remove_task("sum", namespace="one")
    assert store.get_task("sum", namespace="two") == there
    assert (store.count_tasks(namespace="one"), store.count_tasks(namespace="two")) == (0, 1)


def test_listing_filters_by_tag_and_goes_by_pages(store: Store) -> None:
    for name, tags in (("c", ("x",)), ("a", ("x", "y")), ("d", ()), ("b", ("x%",))):
        store.add_task(new_task(name, tags=tags), embedder_id=EMBEDDER, embedding=vector(1, 0))

    def names(tag: str | None = None, limit: int | None = None, offset: int = 0) -> list[str]:
        listed = store.list_tasks(namespace="default", tag=tag, limit=limit, offset=offset)
        return [task.name for task in listed]

    assert names() == ["c", "a", "d", "b"]
    assert names(tag="x") == ["c", "a"]
    assert names(tag="x", limit=1, offset=1) == ["a"]
    assert names(tag="%") == []
    assert names(limit=2) == ["c", "a"]
    assert names(offset=3) == ["b"]
    assert names(limit=0) == []


def test_the_oldest_of_equal_descriptions_is_found(store: Store) -> None:
    for name in ("first", "second"):
        store.add_task(new_task(name, "Same"), embedder_id=EMBEDDER, embedding=vector(1, 0))
    found = store.find_task_by_text(description_digest("  sAME "), namespace="default")
    assert found is not None
    assert found.name == "first"
    store.remove_task("first", namespace="default")
    found = store.find_task_by_text(description_digest("same"), namespace="default")
    assert found is not None
    assert found.name == "second"


def test_purging_takes_tags_and_vectors_and_frees_the_name(store: Store, url: str) -> None:
    store.add_task(new_task("sum", tags=("x",)), embedder_id=EMBEDDER, embedding=vector(1, 0))
    task = store.get_task("sum", namespace="default")
    assert task is not None
    store.remove_task("sum", namespace="default")
    store.purge_task("sum", namespace="default")
    for table in ("tasks", "task_tags", "task_embeddings"):
        assert execute(url, f"SELECT count(*) FROM {table}") == [(0,)]
    again, created = store.add_task(
        new_task("sum", "Now another text"), embedder_id=EMBEDDER, embedding=vector(1, 0)
    )
    assert created
    assert again.id > task.id


def test_removing_an_unknown_task_says_so(store: Store) -> None:
    with pytest.raises(TaskNotFoundError, match=r"'ghost'.*list-tasks"):
        store.remove_task("ghost", namespace="default")


def test_text_that_the_database_cannot_hold_is_a_registry_error(store: Store) -> None:
    task = NewTask(namespace="default", name="x", description="\ud800", description_digest="0")
    with pytest.raises(RegistryError, match="UTF-8"):
        store.add_task(task, embedder_id=EMBEDDER, embedding=vector(1, 0))
    assert store.count_tasks(namespace="default") == 0

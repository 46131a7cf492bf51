"""Edge cases of tenants, imports, secrets and injected text."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from hyperplug.adapters.peft_format import PROVENANCE_FILE
from hyperplug.entities import AdapterState, Decision, OnNovel, Origin
from hyperplug.errors import CorruptAdapterError, HyperplugError
from hyperplug.registry import Registry, open_registry
from hyperplug.store import Store
from tests.adapters.samples import foreign, weights
from tests.edge_cases.conftest import OpenRegistry
from tests.store.samples import add, new_task, vector

SECRET = "Summarise the merger talks between Acme and Initech"


def test_edge_56_an_import_that_is_held_serves_nobody_until_it_is_approved(
    registry: Registry, tmp_path: Path
) -> None:
    registry.register_task("sums", "Add two numbers")
    before = registry.resolve("sums").adapter
    folder = foreign(tmp_path / "peft", weights(7))
    held = registry.import_(folder, task_name="sums", hold=True)
    assert held.state is AdapterState.HELD and held.state_reason
    assert registry.resolve("sums").adapter == before
    for use in (
        lambda: registry.resolve(held.name),
        lambda: registry.promote(held.name),
        lambda: registry.import_(folder, task_name="sums"),  # again, and not held
    ):
        with pytest.raises(CorruptAdapterError, match="approve-adapter"):
            use()
    assert not registry.library.is_there(held)
    registry.approve(held.name)
    assert registry.resolve("sums").adapter == before  # approved is not yet promoted
    registry.promote(held.name)
    served = registry.resolve("sums").adapter
    assert served is not None and served.digest == held.digest


def test_edge_56_an_adapter_tells_where_it_came_from(
    open_tiny: OpenRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYPERPLUG_ACTOR", "alice@example")
    registry = open_tiny()
    registry.register_task("sums", "Add two numbers")
    made = registry.get_adapter("sums")
    adapter = registry.import_(foreign(tmp_path / "peft"), task_name="sums")
    assert (adapter.origin, adapter.parent) == (Origin.IMPORTED, made.name)
    assert adapter.created_by == "alice@example"
    assert adapter.path is not None
    written = json.loads((adapter.path / PROVENANCE_FILE).read_text())
    assert (written["origin"], written["sha256"]) == ("imported", weights().digest)
    assert registry.alias_history("sums")[-1].created_by == "alice@example"


def test_edge_58_no_tenant_reads_what_another_one_wrote(
    open_tiny: OpenRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    theirs, ours = open_tiny(namespace="theirs"), open_tiny(namespace="ours")
    _, adapter = theirs.register_task("talks", SECRET)
    assert adapter is not None and adapter.path is not None
    for file in adapter.path.iterdir():  # folders lie where every server can read them
        assert SECRET.encode() not in file.read_bytes()
    assert SECRET not in repr(adapter)
    assert not (ours.find(SECRET) or ours.list_tasks(search="merger") or ours.list_adapters())
    assert ours.resolve(SECRET, on_novel=OnNovel.NEAREST).decision is Decision.BASE
    ours.register_task("talks", "Add two numbers")
    for name in (adapter.name, "talks@00000000"):
        with pytest.raises(HyperplugError) as caught:
            ours.resolve(name)
        assert "Acme" not in str(caught.value)
    with pytest.raises(HyperplugError) as caught:
        theirs.register_task("talks", "Another text under that name")
    assert "Acme" not in str(caught.value)
    assert "Acme" not in caplog.text


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:s3cret@127.0.0.1:1/none",
        "postgresql://127.0.0.1:1/none?user=me&password=s3cret",
        "postgresql://me:s3cret@[nonsense/none",
        "oracle://me:s3cret@localhost/none",
    ],
)
def test_edge_59_the_registrys_password_is_in_no_error_and_no_log(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with pytest.raises(HyperplugError) as caught:
        open_registry(url)
    assert "s3cret" not in str(caught.value) + repr(caught.value) + caplog.text


@pytest.mark.postgres
def test_edge_59_an_open_registry_does_not_show_its_password(
    open_tiny: OpenRegistry, postgres_url: str
) -> None:
    url = postgres_url.replace("postgres:@", "postgres:s3cret@")
    assert "s3cret" in url
    registry = open_tiny(registry_url=url)
    shown = f"{registry!r} {registry.settings!r} {registry.store!r} {registry.store.url}"
    assert "s3cret" not in shown and "***" in shown


@pytest.mark.parametrize("text", ["%", "_", "s_ms", "' OR '1'='1", "\\", "[a-z]", "$.a", "*"])
def test_edge_60_filters_are_compared_as_text(store: Store, text: str) -> None:
    add(store, "sums")
    assert (
        store.list_tasks(search=text, namespace="default")
        == store.list_tasks(tag=text, namespace="default")
        == []
    )
    assert store.list_adapters(task_name=text, namespace="default") == []
    assert (
        store.get_task(text, namespace="default") is None and store.count_tasks(namespace=text) == 0
    )
    written = new_task("odd", f"It holds {text} as text")
    task, _ = store.add_task(written, embedder_id="e", embedding=vector(1, 0))
    assert store.list_tasks(search=text, namespace="default") == [task]
    assert task.description == written.description


def test_edge_60_statements_in_text_are_text(store: Store) -> None:
    statement = "'; DROP TABLE tasks; --"
    description = f'{statement} =HYPERLINK("http://x") {{"a": 1}}'
    task, _ = store.add_task(new_task("odd", description), embedder_id="e", embedding=vector(1, 0))
    assert store.list_tasks(namespace="default", search=statement.lower()) == [task]
    with pytest.raises(HyperplugError):
        store.remove_task(statement, namespace="default")
    assert store.get_task("odd", namespace="default") == task

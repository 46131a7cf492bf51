"""The registry on real parts: SQLite, the encoder, the shipped hypernetwork."""

from __future__ import annotations

import json
import shutil
import sqlite3
import threading
from pathlib import Path

import numpy as np
import pytest

from hyperplug.adapters.peft_format import unpack
from hyperplug.entities import Adapter, Decision, Example, Resolution, TaskDraft
from hyperplug.errors import (
    AdapterNotFoundError,
    BaseMismatchError,
    BaseModelError,
    CheckpointError,
    ConfigError,
    CorruptAdapterError,
    DuplicateTaskError,
    HyperplugError,
    InvalidAdapterError,
    InvalidDescriptionError,
    InvalidNameError,
    NovelTaskError,
    TaskNotFoundError,
)
from hyperplug.registry import Registry
from tests.registry.conftest import OpenWith

SENTIMENT = "Decide whether a product review is positive or negative. Answer with one word."
HEADLINE = "Write a short headline for the news paragraph."


def test_register_generates_and_publishes(registry: Registry) -> None:
    task, adapter = registry.register_task("sentiment", SENTIMENT, tags=["reviews"])
    assert (task.name, task.tags) == ("sentiment", ("reviews",))
    assert adapter is not None and adapter.path is not None
    assert adapter.name == f"sentiment@{adapter.digest[:8]}"
    assert 2**20 <= adapter.id < 2**31
    config = json.loads((adapter.path / "adapter_config.json").read_text())
    assert config["r"] == config["lora_alpha"] == adapter.rank
    assert sorted(p.name for p in adapter.path.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "hyperplug.json",
    ]


def test_register_again_is_idempotent_and_other_text_is_refused(registry: Registry) -> None:
    first, adapter = registry.register_task("sentiment", SENTIMENT)
    again, same = registry.register_task("sentiment", f"  {SENTIMENT.upper()} ")
    assert (again.id, same) == (first.id, adapter)
    with pytest.raises(DuplicateTaskError, match="sentiment"):
        registry.register_task("sentiment", HEADLINE)
    assert registry.get_task("sentiment").description == SENTIMENT


def test_one_adapter_for_one_description(registry: Registry) -> None:
    _, first = registry.register_task("sentiment", SENTIMENT)
    _, second = registry.register_task("mood", SENTIMENT)
    assert first == second
    assert len(registry.list_adapters()) == 1


def test_descriptions_and_examples_make_different_adapters(registry: Registry) -> None:
    _, plain = registry.register_task("sentiment", SENTIMENT)
    _, other = registry.register_task("headline", HEADLINE)
    _, shown = registry.register_task(
        "sentiment-shown", SENTIMENT, examples=[Example(input="I love it", output="positive")]
    )
    assert plain and other and shown
    assert len({plain.digest, other.digest, shown.digest}) == 3


def test_resolve_exact(registry: Registry) -> None:
    _, adapter = registry.register_task("sentiment", SENTIMENT)
    assert adapter is not None
    for asked in ("sentiment", adapter.name, SENTIMENT, SENTIMENT.lower() + "\n"):
        resolution = registry.resolve(asked)
        assert resolution.decision is Decision.EXACT
        assert resolution.score == 1.0
        assert resolution.adapter == adapter


def test_resolve_nearest(registry: Registry) -> None:
    registry.register_task("headline", HEADLINE)
    _, adapter = registry.register_task("sentiment", SENTIMENT)
    resolution = registry.resolve(
        "Decide if a product review is positive or negative, answering with a single word."
    )
    assert resolution.decision is Decision.NEAREST
    assert resolution.adapter == adapter
    assert registry.generator.thresholds.near <= resolution.score < 1


def test_resolve_novel_then_exact(registry: Registry) -> None:
    registry.register_task("headline", HEADLINE)
    first = registry.resolve(SENTIMENT)
    assert first.decision is Decision.NOVEL
    assert first.task is not None and first.task.tags == ("auto",)
    second = registry.resolve(SENTIMENT)
    assert second.decision is Decision.EXACT
    assert second.adapter == first.adapter


def test_resolve_base_outside_support(registry: Registry) -> None:
    resolution = registry.resolve("zxqv 7731 blorp fnord")
    assert resolution.decision is Decision.BASE
    assert resolution.adapter is None and resolution.task is None
    assert registry.list_tasks() == []


def test_on_novel_policies(registry: Registry) -> None:
    registry.register_task("headline", HEADLINE)
    assert registry.resolve(SENTIMENT, on_novel="nearest").decision is Decision.NEAREST
    assert registry.resolve(SENTIMENT, on_novel="base").decision is Decision.BASE
    with pytest.raises(NovelTaskError):
        registry.resolve(SENTIMENT, on_novel="error")
    with pytest.raises(ConfigError, match="on_novel"):
        registry.resolve(SENTIMENT, on_novel="guess")
    assert len(registry.list_tasks()) == 1


def test_min_score_overrides_the_border(registry: Registry) -> None:
    registry.register_task("headline", HEADLINE)
    text = "Make a headline for this paragraph of news."
    assert registry.resolve(text, on_novel="base", min_score=0.1).decision is Decision.NEAREST
    assert registry.resolve(text, on_novel="base", min_score=1.0).decision is Decision.BASE


def test_task_registered_without_generation_gets_its_adapter_when_asked(
    registry: Registry,
) -> None:
    _, adapter = registry.register_task("sentiment", SENTIMENT, generate=False)
    assert adapter is None
    assert registry.resolve("sentiment").adapter is not None


def test_find_orders_by_score(registry: Registry) -> None:
    registry.register_task("sentiment", SENTIMENT, generate=False)
    registry.register_task("headline", HEADLINE, generate=False)
    matches = registry.find("Write a headline.", limit=5)
    assert [match.task.name for match in matches] == ["headline", "sentiment"]
    assert matches[0].score > matches[1].score
    with pytest.raises(ConfigError):
        registry.find("Write a headline.", limit=0)


def test_equal_requests_at_once_generate_once(registry: Registry) -> None:
    barrier, results = threading.Barrier(8), list[Resolution]()

    def ask() -> None:
        barrier.wait()
        results.append(registry.resolve(SENTIMENT))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({_adapter(result).id for result in results}) == 1
    assert len(registry.list_adapters()) == 1 and len(registry.list_tasks()) == 1


def test_namespaces_do_not_meet(registry: Registry, other_tenant: Registry) -> None:
    _, adapter = registry.register_task("sentiment", SENTIMENT)
    assert adapter is not None
    assert other_tenant.list_tasks() == [] and other_tenant.find(SENTIMENT) == []
    with pytest.raises(AdapterNotFoundError):
        other_tenant.resolve(adapter.name)
    _, theirs = other_tenant.register_task("sentiment", SENTIMENT)
    assert theirs is not None and theirs.id != adapter.id and theirs.path != adapter.path


def test_bulk_goes_on_after_bad_tasks(registry: Registry) -> None:
    drafts = [
        TaskDraft(name="sentiment", description=SENTIMENT),
        TaskDraft(name="bad name!", description=SENTIMENT),
        TaskDraft(name="empty", description="   "),
        TaskDraft(name="sentiment", description=HEADLINE),
        TaskDraft(name="headline", description=HEADLINE),
    ]
    outcomes = sorted(registry.register_tasks(drafts), key=lambda outcome: outcome.index)
    assert [type(o.error).__name__ if o.error else "ok" for o in outcomes] == [
        "ok",
        InvalidNameError.__name__,
        InvalidDescriptionError.__name__,
        DuplicateTaskError.__name__,
        "ok",
    ]
    assert [task.name for task in registry.list_tasks()] == ["sentiment", "headline"]


def test_library_is_rebuilt_from_the_store(registry: Registry) -> None:
    _, adapter = registry.register_task("sentiment", SENTIMENT)
    assert adapter is not None and adapter.path is not None
    shutil.rmtree(registry.library.root)
    path = _adapter(registry.resolve("sentiment")).path
    assert path == adapter.path and (path / "adapter_model.safetensors").is_file()


def test_corrupted_generated_adapter_is_made_again(registry: Registry) -> None:
    _, adapter = registry.register_task("sentiment", SENTIMENT)
    assert adapter is not None
    _corrupt(registry)
    shutil.rmtree(registry.library.root)
    assert _adapter(registry.resolve("sentiment")).digest == adapter.digest
    assert registry.store.adapter_bytes(adapter)


def test_corrupted_imported_adapter_is_reported(registry: Registry, tmp_path: Path) -> None:
    registry.register_task("sentiment", SENTIMENT)
    folder = registry.export("sentiment", tmp_path / "export")
    registry.register_task("mine", HEADLINE, generate=False)
    imported = registry.import_(folder, task_name="mine")
    _corrupt(registry)
    shutil.rmtree(registry.library.root)
    with pytest.raises(CorruptAdapterError):
        registry.resolve(imported.name)


def test_export_import_round_trip(registry: Registry, tmp_path: Path) -> None:
    _, adapter = registry.register_task("sentiment", SENTIMENT)
    assert adapter is not None
    folder = registry.export("sentiment", tmp_path / "export")
    registry.register_task("copy", HEADLINE, generate=False)
    imported = registry.import_(folder, task_name="copy")
    assert imported.origin == "imported"
    before = unpack(registry.store.adapter_bytes(adapter))
    after = unpack(registry.store.adapter_bytes(imported))
    assert before.keys() == after.keys()
    for module, (a, b) in before.items():
        np.testing.assert_allclose(b @ a, after[module][1] @ after[module][0], atol=1e-3)
    with pytest.raises(InvalidAdapterError):
        registry.import_(tmp_path, task_name="copy")


def test_remove_task(registry: Registry) -> None:
    _, adapter = registry.register_task("sentiment", SENTIMENT)
    assert adapter is not None
    registry.remove_task("sentiment")
    with pytest.raises(TaskNotFoundError):
        registry.get_task("sentiment")
    with pytest.raises(TaskNotFoundError):
        registry.remove_task("sentiment")
    with pytest.raises(AdapterNotFoundError):
        registry.resolve(adapter.name)


@pytest.mark.parametrize("text", ["", "   ", "x" * 1_000_000, "bad\x00text", "lone \ud800"])
def test_bad_descriptions_leave_nothing_behind(registry: Registry, text: str) -> None:
    with pytest.raises(InvalidDescriptionError):
        registry.register_task("sentiment", text)
    with pytest.raises(InvalidDescriptionError):
        registry.resolve(text)
    assert registry.list_tasks() == []


def test_wrong_parts_are_named(open_with: OpenWith, tmp_path: Path) -> None:
    cases: list[tuple[dict[str, str], type[HyperplugError]]] = [
        ({"base": str(tmp_path / "nowhere")}, BaseModelError),
        ({"hypernet": str(_damaged(tmp_path))}, CheckpointError),
    ]
    for change, error in cases:
        with open_with(**change) as registry, pytest.raises(error) as caught:
            registry.register_task("sentiment", SENTIMENT)
        assert caught.value.hint
        assert registry.store.count_tasks(namespace="default") == 0


def test_hypernetwork_of_another_base_is_refused(
    open_with: OpenWith, registry: Registry, tmp_path: Path
) -> None:
    other = tmp_path / "other-base"
    shutil.copytree(registry.base.folder, other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"vocab_size": 1}))
    with open_with(base=str(other)) as opened, pytest.raises(BaseMismatchError):
        opened.register_task("sentiment", SENTIMENT)


def _adapter(resolution: Resolution) -> Adapter:
    assert resolution.adapter is not None
    return resolution.adapter


def _damaged(folder: Path) -> Path:
    path = folder / "damaged.safetensors"
    path.write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00not a header....")
    return path


def _corrupt(registry: Registry) -> None:
    path = registry.settings.registry_url.removeprefix("sqlite:///")
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE adapters SET data = zeroblob(length(data))")
    connection.close()

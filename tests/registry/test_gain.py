"""A registered task's adapter is checked on its examples, and not used if it harms."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hyperplug.adapters.peft_format import unpack
from hyperplug.basemodel import BaseModel, read_spec
from hyperplug.entities import Decision, Example, TaskDraft, Thresholds
from hyperplug.errors import BaseModelError
from hyperplug.hypernet.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from hyperplug.hypernet.generate import Generator
from hyperplug.hypernet.loading import load_frozen
from hyperplug.hypernet.model import Hypernet, HypernetConfig
from hyperplug.hypernet.prepare import choose_modules
from hyperplug.registry import Registry, open_registry
from tests.miniature import WordHashEmbedder, base_folder, settings

DESCRIPTION = "Answer every question with the word that is wanted."
WRONG = "P" * 8  # what the random base model would rather say
NEAR = "Answer every question with the word that is needed."


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    """A random Llama of three layers."""
    folder = base_folder(tmp_path_factory.mktemp("base") / "llama")
    return BaseModel(folder=folder, spec=read_spec(folder))


@pytest.fixture(scope="module")
def generator(base: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> Generator:
    """A hypernetwork whose every adapter makes the base model say "yes"."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    modules = choose_modules(base.spec, top_layers=2)
    shapes = [base.spec.module_shapes[path] for path in modules]
    network = Hypernet(
        HypernetConfig(
            base_fingerprint=base.spec.fingerprint,
            embedder_id=WordHashEmbedder.id,
            embedding_size=WordHashEmbedder.dimension,
            target_modules=modules,
            in_features=tuple(shape.in_features for shape in shapes),
            out_features=tuple(shape.out_features for shape in shapes),
            static_rank=8,
            generated_rank=2,
            atoms=4,
            code_size=32,
        )
    )
    _learn_yes(network, base)
    path = tmp_path_factory.mktemp("hypernet") / "yes.safetensors"
    embedder = WordHashEmbedder()
    known = torch.from_numpy(embedder.embed([DESCRIPTION]))
    thresholds = Thresholds(near=0.8, support=0.1)
    save_checkpoint(path, Checkpoint(network=network, support=known, thresholds=thresholds))
    return Generator(load_checkpoint(path), embedder=embedder)


def _learn_yes(network: Hypernet, base: BaseModel) -> None:
    from hyperplug.hypernet.data import CorpusTask, tokenise
    from hyperplug.hypernet.loading import load_tokenizer
    from hyperplug.hypernet.losses import AnswerLoss

    modules = network.config.target_modules
    frozen = load_frozen(base, modules, device=torch.device("cpu"), dtype=torch.float32)
    task = CorpusTask(
        id="yes", family="yes", descriptions=("yes",), metric="exact_match", examples=answers("yes")
    )
    sequences = tokenise(load_tokenizer(base), task, max_tokens=256, max_answer_tokens=16)
    losses = AnswerLoss(frozen, states=None)
    optimizer = torch.optim.Adam([*network.static_a, *network.static_b], lr=0.05)
    for _ in range(120):
        loss = losses(network.static(), sequences).mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert float(loss.detach()) < 3


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def registry(
    request: pytest.FixtureRequest, base: BaseModel, generator: Generator, tmp_path: Path
) -> Iterator[Registry]:
    """An empty registry on the tiny models."""
    url = str(request.getfixturevalue(f"{request.param}_url"))
    chosen = replace(settings(tmp_path / "home", base=base.folder), registry_url=url)
    with open_registry(settings=chosen) as registry:
        registry.store.put_base_model(base.spec)
        registry.store.put_hypernet(generator.spec)
        loaded = {"_base": base, "_encoder": WordHashEmbedder(), "_generator": generator}
        registry._models.__dict__.update(loaded)
        yield registry


def answers(output: str, count: int = 6) -> tuple[Example, ...]:
    return tuple(Example(input=f"question {n}", output=output) for n in range(count))


def metrics(registry: Registry, name: str) -> Mapping[str, float]:
    return registry.get_adapter(name).metrics


def test_the_gain_is_stored_with_the_adapter(registry: Registry) -> None:
    _, adapter = registry.register_task("good", DESCRIPTION, examples=answers("yes"))
    assert adapter is not None and adapter.path is not None
    found = adapter.metrics
    assert found == metrics(registry, "good")
    assert found["gain"] == pytest.approx(found["loss_base"] - found["loss_adapter"])
    assert found["gain"] > 1 and found["checked_examples"] == 6
    resolution = registry.resolve("good")
    assert (resolution.decision, resolution.reason) == (Decision.EXACT, "")
    assert resolution.adapter == adapter


def test_an_adapter_that_harms_is_not_used(registry: Registry) -> None:
    _, adapter = registry.register_task("bad", DESCRIPTION, examples=answers(WRONG))
    assert adapter is not None and adapter.metrics["gain"] < 0
    for asked in ("bad", DESCRIPTION, NEAR):
        resolution = registry.resolve(asked)
        assert resolution.decision is Decision.BASE
        assert resolution.task is None and resolution.adapter is None
        assert f"adapter {adapter.name} makes answers worse" in resolution.reason
        assert "on 6 of the task's examples" in resolution.reason
    by_own_name = registry.resolve(adapter.name)
    assert by_own_name.decision is Decision.EXACT and by_own_name.adapter == adapter
    once = registry.resolve(NEAR, force=True)
    assert once.decision is Decision.NEAREST and once.adapter == adapter
    assert registry.resolve("bad").decision is Decision.BASE


def test_forcing_lasts(registry: Registry) -> None:
    registry.register_task("bad", DESCRIPTION, examples=answers(WRONG))
    _, forced = registry.register_task("bad", DESCRIPTION, examples=answers(WRONG), force=True)
    assert forced is not None and forced.metrics["gain"] < 0
    assert registry.resolve("bad").adapter == forced
    registry.generate("bad")
    assert registry.resolve("bad").decision is Decision.EXACT


def test_no_check_and_no_examples_leave_no_gain(registry: Registry) -> None:
    _, plain = registry.register_task("plain", "Say the first word.")
    _, unchecked = registry.register_task("bad", DESCRIPTION, examples=answers(WRONG), check=False)
    assert plain is not None and unchecked is not None
    assert set(plain.metrics) == set(unchecked.metrics) == {"support"}
    assert "_gain_check" not in registry._models.__dict__  # no base model was loaded for it
    assert registry.resolve("bad").decision is Decision.EXACT
    assert registry.generate("bad").metrics["gain"] < 0  # now it is
    assert registry.resolve("bad").decision is Decision.BASE


def test_a_lookup_never_loads_the_base_model(registry: Registry) -> None:
    registry.register_task("bad", DESCRIPTION, examples=answers(WRONG), generate=False)
    assert registry.resolve("bad").decision is Decision.EXACT
    assert registry.resolve("Say the first word.", examples=answers("a")).adapter is not None
    assert "_gain_check" not in registry._models.__dict__


def test_bulk_registering_loads_the_base_model_once(registry: Registry) -> None:
    drafts = [
        TaskDraft(name=f"task-{n}", description=f"{DESCRIPTION} Number {n}.", examples=answers(o))
        for n, o in enumerate(("yes", WRONG, "yes"))
    ]
    outcomes = list(registry.register_tasks(drafts[:1]))
    check = registry._models.gain_check
    outcomes += registry.register_tasks(drafts[1:])
    gains = [outcome.adapter.metrics["gain"] for outcome in outcomes if outcome.adapter]
    assert [gain > 0 for gain in gains] == [True, False, True]
    assert registry._models.gain_check is check


def test_examples_of_a_description_without_a_name(registry: Registry) -> None:
    adapter = registry.generate_for(DESCRIPTION, examples=answers(WRONG))
    assert adapter.metrics["gain"] < 0
    assert registry.resolve(DESCRIPTION).decision is Decision.BASE
    assert registry.generate_for(DESCRIPTION, force=True).metrics["forced"] == 1
    assert registry.resolve(DESCRIPTION).decision is Decision.EXACT


def test_imported_adapters_are_taken_as_they_are(registry: Registry, tmp_path: Path) -> None:
    registry.register_task("bad", DESCRIPTION, examples=answers(WRONG), check=False)
    folder = registry.export("bad", tmp_path / "exported")
    registry.register_task("other", "Say the first word.", examples=answers(WRONG), generate=False)
    assert unpack(next(folder.glob("*.safetensors")).read_bytes())
    registry.import_(folder, task_name="other")
    _, imported = registry.register_task("other", "Say the first word.", examples=answers(WRONG))
    assert imported is not None and dict(imported.metrics) == {}


def test_without_a_base_model_to_load_a_warning_says_so(
    registry: Registry, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    registry._models.__dict__["_base"] = replace(registry.base, folder=empty)
    with pytest.raises(BaseModelError):
        _ = registry._models.gain_check
    with caplog.at_level(logging.WARNING, logger="hyperplug"):
        for number in range(2):
            name = f"task-{number}"
            _, adapter = registry.register_task(
                name, f"{DESCRIPTION} {number}", examples=answers("yes")
            )
            assert adapter is not None and "gain" not in adapter.metrics
    assert caplog.text.count("are not checked") == 1

"""Training on from a checkpoint: what is new is learned, what is known is kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hyperplug.basemodel import BaseModel
from hyperplug.errors import ConfigError, TrainingError
from hyperplug.hypernet.batches import PreparedTask, Sampling, make_sampler
from hyperplug.hypernet.checkpoint import Checkpoint, load_checkpoint
from hyperplug.hypernet.data import read_corpus
from hyperplug.hypernet.encoding import EncodedDescription, EncodedExamples, collate
from hyperplug.hypernet.extension import Extension, extend, known_descriptions, with_new_atoms
from hyperplug.hypernet.frozen import FrozenBase
from hyperplug.hypernet.keeping import Keeper, relative_change
from hyperplug.hypernet.loading import load_frozen, load_tokenizer
from hyperplug.hypernet.model import AdapterNetwork, Hypernet, HypernetConfig, LoraBatch
from hyperplug.hypernet.prepare import prepare_tasks
from hyperplug.hypernet.train import Trainer
from hyperplug.hypernet.words import load_vocabulary
from tests.hypernet.conftest import CONFIG, LIMITS
from tests.hypernet.test_training import equal, run
from tests.miniature import WordHashEmbedder, task_line, write_tasks

Learn = Callable[..., Trainer]


@pytest.fixture(scope="module")
def news(base: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> Sequence[PreparedTask]:
    """A task that nobody knows yet."""
    path = tmp_path_factory.mktemp("news") / "tasks.jsonl"
    corpus = read_corpus(write_tasks(path, [task_line("shrug", answer="hm")]))
    return prepare_tasks(
        corpus.tasks,
        tokenizer=load_tokenizer(base),
        embedder=WordHashEmbedder(),
        vocabulary=load_vocabulary(base),
        limits=LIMITS,
    )


@pytest.fixture(scope="module")
def known(
    base: BaseModel,
    modules: tuple[str, ...],
    config: HypernetConfig,
    prepared: Sequence[PreparedTask],
    tmp_path_factory: pytest.TempPathFactory,
) -> Checkpoint:
    """A network that tells two tasks apart."""
    out = tmp_path_factory.mktemp("known") / "hypernet.safetensors"
    frozen = load_frozen(base, modules, device=torch.device("cpu"), dtype=torch.float32)
    trainer = Trainer(
        config=replace(CONFIG, steps=120, ema=0.9),
        network=config,
        base=frozen,
        train=prepared,
        validation=prepared,
        out=out,
    )
    trainer.run()
    return load_checkpoint(out)


@pytest.fixture
def learn(frozen: FrozenBase, news: Sequence[PreparedTask], tmp_path: Path) -> Learn:
    """Makes a trainer that learns what is new from a start."""

    def learn_(
        start: Extension, *, out: str = "extended.safetensors", **changes: object
    ) -> Trainer:
        return Trainer(
            config=replace(CONFIG, **({"steps": 60, "ema": 0.9} | changes)),  # type: ignore[arg-type]
            network=start.network.config,
            base=frozen,
            train=news,
            validation=news,
            out=tmp_path / out,
            extension=start,
        )

    return learn_


def descriptions(tasks: Sequence[PreparedTask]) -> list[EncodedDescription]:
    return [description for task in tasks for description in task.descriptions]


def adapters(network: AdapterNetwork, kept: Sequence[EncodedDescription]) -> list[LoraBatch]:
    size = network.config.embedding_size
    nothing = [EncodedExamples.none(size)] * len(kept)
    with torch.no_grad():
        loras: list[LoraBatch] = network(collate(kept, nothing, embedding_size=size))
    return loras


def change(checkpoint: Path, start: Checkpoint, kept: Sequence[EncodedDescription]) -> float:
    now = adapters(load_checkpoint(checkpoint).network, kept)
    return float(relative_change(now, adapters(start.network, kept)).mean())


def test_the_change_is_that_of_the_products() -> None:
    generator = torch.Generator().manual_seed(0)

    def loras() -> list[LoraBatch]:
        return [
            LoraBatch(
                a=torch.randn(2, 3, size, generator=generator),
                b=torch.randn(2, 5, 3, generator=generator),
            )
            for size in (4, 7)
        ]

    now, before = loras(), loras()
    squares = [
        ((x.b @ x.a - y.b @ y.a).square().sum((1, 2)), (y.b @ y.a).square().sum((1, 2)))
        for x, y in zip(now, before, strict=True)
    ]
    wanted = sum(c for c, _ in squares) / sum(s for _, s in squares)
    assert torch.allclose(relative_change(now, before), torch.as_tensor(wanted), rtol=1e-5)
    # The same product by other factors is no change.
    turned = [LoraBatch(a=2 * x.a, b=x.b / 2) for x in now]
    assert torch.allclose(relative_change(turned, now), torch.zeros(2), atol=1e-5)
    zero = [LoraBatch(a=x.a, b=0 * x.b) for x in now]
    assert relative_change(now, zero).tolist() == [0.0, 0.0]


def test_what_is_kept_hardly_changes_while_the_new_task_is_learned(
    known: Checkpoint, prepared: Sequence[PreparedTask], learn: Learn
) -> None:
    kept = descriptions(prepared)
    losses: dict[str, tuple[float, float]] = {}
    for name, strength in (("free", 0.0), ("kept", 10.0)):
        trainer = learn(extend(known, kept=[kept], strength=strength), out=f"{name}.safetensors")
        before = trainer.validate()["matched"]
        run(trainer)
        losses[name] = before, trainer.validate()["matched"]
    folder = trainer.out.parent
    free, held = (change(folder / f"{name}.safetensors", known, kept) for name in losses)
    assert held < 0.1 * free
    assert all(after < 0.7 * before for before, after in losses.values())


def test_what_the_checkpoint_was_trained_on_is_kept_without_being_given(
    known: Checkpoint, prepared: Sequence[PreparedTask], learn: Learn
) -> None:
    for name, strength in (("free", 0.0), ("kept", 10.0)):
        run(learn(extend(known, strength=strength), out=f"{name}.safetensors"))
    folder = learn(extend(known, strength=0.0)).out.parent
    for group in (known_descriptions(known), descriptions(prepared)):
        free, held = (change(folder / f"{n}.safetensors", known, group) for n in ("free", "kept"))
        assert held < 0.5 * free


def test_new_atoms_change_nothing_at_the_start(
    known: Checkpoint, prepared: Sequence[PreparedTask]
) -> None:
    assert isinstance(known.network, Hypernet)
    kept = descriptions(prepared)
    grown = with_new_atoms(known.network, 3)
    assert grown.config.atoms == known.network.config.atoms + 3
    pairs = zip(adapters(grown, kept), adapters(known.network, kept), strict=True)
    for new, old in pairs:
        assert torch.allclose(new.a, old.a, atol=1e-6)
        assert torch.allclose(new.b, old.b, atol=1e-6)
    assert equal(grown, with_new_atoms(known.network, 3))
    assert not equal(grown, with_new_atoms(known.network, 3, seed=1))


def test_new_atoms_are_learned(known: Checkpoint, learn: Learn) -> None:
    start = extend(known, strength=1.0, new_atoms=3)
    trainer = learn(start, steps=5)
    run(trainer)
    network = load_checkpoint(trainer.out).network
    assert isinstance(network, Hypernet)
    shape = (network.config.generated_rank, network.config.atoms, -1)
    for head in (network.mix_a, network.mix_b):
        assert head.weight.view(shape)[:, -3:].abs().sum() > 0


def test_the_new_checkpoint_knows_old_and_new(
    known: Checkpoint, news: Sequence[PreparedTask], learn: Learn
) -> None:
    trainer = learn(extend(known, strength=1.0), steps=2)
    run(trainer)
    found = load_checkpoint(trainer.out)
    assert found.fingerprint != known.fingerprint
    assert torch.equal(found.support[: len(known.support)], known.support)
    assert len(found.support) == len(known.support) + len(news[0].descriptions)
    assert found.thresholds == known.thresholds
    extends = found.training["extends"]
    assert (extends["fingerprint"], extends["keep_strength"]) == (known.fingerprint, 1.0)
    assert extends["training"]["tasks"] == 2
    assert "changed" in trainer.out.with_suffix(".csv").read_text(encoding="utf-8")


def test_an_interrupted_run_ends_as_an_uninterrupted_one(
    known: Checkpoint, prepared: Sequence[PreparedTask], learn: Learn
) -> None:
    def start() -> Extension:
        kept = descriptions(prepared)
        return extend(known, kept=[kept], strength=3.0, replayed=prepared, new_atoms=1)

    whole = learn(start(), out="whole.safetensors", steps=10)
    losses = run(whole)
    settings = {"out": "parts.safetensors", "steps": 10, "save_every_seconds": -1.0}
    first = run(learn(start(), **settings), stop_at=6)
    resumed = learn(start(), **settings)
    rest = run(resumed)
    assert [*first[:5], *rest] == losses
    assert equal(whole.network, resumed.network)


def test_a_run_that_extends_another_checkpoint_is_not_resumed(
    known: Checkpoint, learn: Learn
) -> None:
    run(learn(extend(known, strength=1.0), steps=2))
    with pytest.raises(TrainingError, match="other settings: keep_strength"):
        learn(extend(known, strength=2.0), steps=2).run()


def test_a_quarter_of_a_step_is_replayed(
    prepared: Sequence[PreparedTask], news: Sequence[PreparedTask]
) -> None:
    sampling = Sampling(tasks=8, sequences=2)
    sampler = make_sampler(news, replayed=prepared, sampling=sampling, seed=0)
    names = [s.key.split("/")[0] for s in sampler.step(3).sequences]
    assert names.count("shrug") == 12
    assert {*names[12:]} <= {"agree", "refuse"}
    with pytest.raises(ConfigError, match="no place"):
        make_sampler(news, replayed=prepared, sampling=replace(sampling, tasks=1), seed=0)


def test_each_group_has_its_share_of_a_step(
    known: Checkpoint, prepared: Sequence[PreparedTask]
) -> None:
    groups = [known_descriptions(known), descriptions(prepared)]
    keeper = Keeper(known.network, groups, strength=1.0)
    assert keeper.descriptions == len(groups[0]) + len(groups[1])
    assert float(keeper.penalty(known.network, step=0)) == 0.0
    assert keeper.changed(known.network) == 0.0

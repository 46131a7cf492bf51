"""The files that arms take their adapters from, loaded and checked against the base model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hyperplug.adapters.peft_format import model_order
from hyperplug.basemodel import BaseModel
from hyperplug.embedding import Embedder
from hyperplug.entities import BaseModelSpec
from hyperplug.errors import BaseMismatchError, CheckpointError
from hyperplug.evaluation.loras import LoraBank, load_loras
from hyperplug.evaluation.options import BenchmarkOptions
from hyperplug.hypernet.checkpoint import shipped_checkpoint
from hyperplug.hypernet.data import CorpusTask, read_corpus
from hyperplug.hypernet.generate import Generator, load_fitting, vocabulary_for
from hyperplug.hypernet.prepare import choose_modules
from hyperplug.hypernet.splits import split_file

COMPARED = ("static", "static_prompt", "t2l")
BANKS = ("loras", "oracle", "maml", "reptile")


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """A trained network that makes adapters.

    Attributes:
        training: what its checkpoint says of its training: steps, minutes, tokens, ...
    """

    generator: Generator
    file: str
    parameters: int
    training: Mapping[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """Returns what it is, as JSON values."""
        return {
            "fingerprint": self.generator.spec.fingerprint,
            "file": self.file,
            "parameters": self.parameters,
            "rank": self.generator.spec.rank,
            "training": dict(self.training),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Artefacts:
    """What was given to the arms.

    Attributes:
        embedder: None if no arm reads a description.
        networks: by name of the option, "hypernet", "static", ...; likewise `banks`.
        train_tasks: what the policy's registry holds.
    """

    base: BaseModel
    embedder: Embedder | None = None
    networks: Mapping[str, Network] = field(default_factory=dict)
    banks: Mapping[str, LoraBank] = field(default_factory=dict)
    train_tasks: tuple[CorpusTask, ...] = ()

    @property
    def target_modules(self) -> tuple[str, ...]:
        """All projections that some adapter touches, in model order; never none."""
        paths = {p for n in self.networks.values() for p in n.generator.spec.target_modules}
        paths |= {path for bank in self.banks.values() for path in bank.target_modules}
        return model_order(paths) or choose_modules(self.base.spec, top_layers=1)

    def as_dict(self) -> dict[str, Any]:
        """Returns which checkpoints were used and the budget of each, as JSON values."""
        found: dict[str, Any] = {name: n.as_dict() for name, n in self.networks.items()}
        for name, bank in self.banks.items():
            found[name] = {
                "loras": len(bank.ids),
                "rank": bank.rank,
                "training": dict(bank.training),
            }
        return found


def load_artefacts(
    options: BenchmarkOptions, *, base: BaseModel, embedder: Embedder | None, hypernet: Path | None
) -> Artefacts:
    """Returns what the options' arms need, and nothing else.

    Args:
        hypernet: the checkpoint that is measured; None for the shipped one.

    Raises:
        CheckpointError: if a file is unusable or was trained with another text encoder.
        BaseMismatchError: if one was trained for another base model.
    """
    wanted = {arm.option for arm in options.arms}
    networks = {name: getattr(options, name) for name in COMPARED if name in wanted}
    if options.needs_hypernet:
        networks["hypernet"] = hypernet
    banks = {name: getattr(options, name) for name in BANKS if name in wanted}
    train_tasks = options.train_tasks if "train_tasks" in wanted else None
    return Artefacts(
        base=base,
        embedder=embedder,
        networks={
            name: _network(path, embedder=embedder, base=base)
            for name, path in networks.items()
            if embedder is not None
        },
        banks={
            name: _bank(path, embedder=embedder, base=base.spec) for name, path in banks.items()
        },
        train_tasks=_train_tasks(train_tasks),
    )


def _network(path: Path | None, *, embedder: Embedder, base: BaseModel) -> Network:
    checkpoint = load_fitting(path, embedder=embedder, base=base.spec)
    vocabulary = vocabulary_for(checkpoint, base)
    return Network(
        generator=Generator(checkpoint, embedder=embedder, vocabulary=vocabulary),
        file=(path or shipped_checkpoint()).name,
        parameters=sum(parameter.numel() for parameter in checkpoint.network.parameters()),
        training=checkpoint.training,
    )


def _bank(path: Path, *, embedder: Embedder | None, base: BaseModelSpec) -> LoraBank:
    bank = load_loras(path)
    if bank.base_fingerprint != base.fingerprint:
        raise BaseMismatchError(
            f"the LoRAs in {path.name} were not trained for base model {base.id}",
            hint=f"train them with: hyperplug train-loras --base {base.id}",
        )
    if embedder is not None and bank.embedder_id != embedder.id:
        raise CheckpointError(
            f"the LoRAs in {path.name} were described with the text encoder "
            f"{bank.embedder_id}, not {embedder.id}",
            hint="set HYPERPLUG_EMBEDDER to that encoder",
        )
    return bank


def _train_tasks(path: Path | None) -> tuple[CorpusTask, ...]:
    return () if path is None else read_corpus(split_file(path, "train") or path).tasks

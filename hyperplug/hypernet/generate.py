"""Adapters from descriptions: the hypernetwork in use."""

from __future__ import annotations

import bisect
import copy
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hyperplug.adapters.peft_format import pack
from hyperplug.basemodel import BaseModel
from hyperplug.embedding import Embedder
from hyperplug.entities import (
    AdapterWeights,
    BaseModelSpec,
    Example,
    HypernetSpec,
    Promise,
    Thresholds,
)
from hyperplug.errors import BaseMismatchError, CheckpointError
from hyperplug.hypernet.checkpoint import Checkpoint, load_checkpoint, shipped_checkpoint
from hyperplug.hypernet.encoding import (
    MAX_EXAMPLES,
    collate,
    encode_descriptions,
    encode_examples,
)
from hyperplug.hypernet.model import Hypernet, LoraBatch, TaskInput
from hyperplug.hypernet.words import Vocabulary, load_vocabulary


class Generator:
    """Makes adapters for one base model from descriptions and examples.

    Attributes:
        spec: identity of the hypernetwork.
        thresholds: the lookup policy's defaults that were calibrated with it.
    """

    def __init__(
        self, checkpoint: Checkpoint, *, embedder: Embedder, vocabulary: Vocabulary | None = None
    ) -> None:
        if checkpoint.network.reads_words and vocabulary is None:
            raise CheckpointError(
                "this hypernetwork reads words, and the base model keeps no vocabulary that "
                "hyperplug knows",
                hint="train one with: hyperplug train-hypernet --no-words",
            )
        self._vocabulary = vocabulary
        self.spec: HypernetSpec = checkpoint.spec
        self.thresholds: Thresholds = checkpoint.thresholds
        self._network = checkpoint.network
        self._support: NDArray[np.float32] = checkpoint.support.float().numpy()
        self._promises = checkpoint.promises
        self._embedder = embedder
        self._lock = threading.Lock()  # one generation at a time: they share the cores

    def reading_with(self, embedder: Embedder) -> Generator:
        """Returns the same hypernetwork with another view of its text encoder."""
        other = copy.copy(self)
        other._embedder = embedder
        return other

    def support(self, embedding: NDArray[np.float32]) -> float:
        """Returns the cosine of a task embedding to the nearest training description."""
        return float(np.max(self._support @ embedding))

    def promise(self, support: float) -> Promise | None:
        """Returns what to expect of an adapter of that support; None if it was not calibrated."""
        reached = bisect.bisect_right(self._promises, support, key=lambda step: step.support)
        return self._promises[max(0, reached - 1)] if self._promises else None

    def generate(self, description: str, examples: Sequence[Example] = ()) -> AdapterWeights:
        """Returns the adapter for a description, in one forward pass.

        The first 16 examples are read; more are ignored. The same input gives the same
        bytes on the same hardware.
        """
        return pack(
            _slots(self._network.config.target_modules, self.loras(description, examples)),
            alpha=float(self.spec.rank),
        )

    def static(self) -> AdapterWeights:
        """Returns the part of every adapter that does not depend on the task."""
        with self._lock, torch.inference_mode():
            loras = self._network.static()
        return pack(_slots(self._network.config.target_modules, loras), alpha=float(self.spec.rank))

    def loras(self, description: str | None, examples: Sequence[Example] = ()) -> list[LoraBatch]:
        """Returns the adapter as tensors of a batch of one, one `LoraBatch` a module."""
        with self._lock, torch.inference_mode():
            loras: list[LoraBatch] = self._network(self._encoded(description, examples))
        return loras

    def code_decoder(self, description: str, examples: Sequence[Example] = ()) -> CodeDecoder:
        """Returns the task code for a description, and what makes an adapter of a code.

        Raises:
            CheckpointError: if the network has no task codes.
        """
        if not isinstance(self._network, Hypernet):
            raise CheckpointError(
                "this network has no task codes", hint="refine the adapter itself"
            )
        with self._lock, torch.no_grad():
            self._network.requires_grad_(False)  # only the code is trained
            task = self._encoded(description, examples)
            code = self._network.encode(task)
        return CodeDecoder(network=self._network, task=task, code=code)

    def _encoded(self, description: str | None, examples: Sequence[Example]) -> TaskInput:
        texts = [] if description is None else [description]
        encoded = encode_descriptions(self._embedder, texts, vocabulary=self._vocabulary)
        shown = encode_examples(
            self._embedder, examples[:MAX_EXAMPLES], vocabulary=self._vocabulary
        )
        return collate(encoded or [None], [shown], embedding_size=self._embedder.dimension)


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeDecoder:
    """A task code, (1, code), and the network that makes adapters of such codes."""

    network: Hypernet
    task: TaskInput
    code: Tensor

    def decode(self, code: Tensor) -> list[LoraBatch]:
        """Returns the adapter of a code; gradients flow to the code."""
        return self.network.decode(code, task=self.task)


def load_generator(path: Path | None, *, embedder: Embedder, base: BaseModel) -> Generator:
    """Returns the generator of a checkpoint; None takes the shipped one.

    Raises:
        CheckpointError: if the file is unusable or was trained with another encoder.
        BaseMismatchError: if it was trained for another base model.
    """
    checkpoint = load_fitting(path, embedder=embedder, base=base.spec)
    return Generator(checkpoint, embedder=embedder, vocabulary=vocabulary_for(checkpoint, base))


def vocabulary_for(checkpoint: Checkpoint, base: BaseModel) -> Vocabulary | None:
    """Returns the base model's vocabulary if the checkpoint's network reads words."""
    return load_vocabulary(base) if checkpoint.network.reads_words else None


def load_fitting(path: Path | None, *, embedder: Embedder, base: BaseModelSpec) -> Checkpoint:
    """Returns the checkpoint itself; raises as `load_generator`."""
    source = path or shipped_checkpoint()
    checkpoint = load_checkpoint(source)
    check_base(checkpoint, source, base)
    check_embedder(checkpoint, source, embedder.id)
    return checkpoint


def check_base(checkpoint: Checkpoint, source: Path, base: BaseModelSpec) -> None:
    """Raises BaseMismatchError if the checkpoint was trained for another base model."""
    spec = checkpoint.spec
    if spec.base_fingerprint != base.fingerprint:
        raise BaseMismatchError(
            f"hypernetwork {source.name} was not trained for base model {base.id} "
            f"(it expects {spec.base_fingerprint[:12]}, this one is {base.fingerprint[:12]})",
            hint="train one with: hyperplug train-hypernet --base "
            f"{base.id}, and give it as --hypernet or HYPERPLUG_HYPERNET",
        )


def check_embedder(checkpoint: Checkpoint, source: Path, embedder_id: str) -> None:
    """Raises CheckpointError if the checkpoint was trained with another text encoder."""
    wanted = checkpoint.spec.embedder_id
    if wanted != embedder_id:
        raise CheckpointError(
            f"hypernetwork {source.name} reads the text encoder {wanted}, not {embedder_id}",
            hint="set HYPERPLUG_EMBEDDER to that encoder",
        )


def _slots(
    paths: Sequence[str], loras: Sequence[LoraBatch]
) -> dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Returns the factors of the only task of a batch by module path."""
    return {
        path: (lora.a[0].float().numpy(), lora.b[0].float().numpy())
        for path, lora in zip(paths, loras, strict=True)
    }

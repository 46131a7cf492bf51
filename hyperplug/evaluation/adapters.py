"""The adapter that each arm applies to a task."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from hyperplug.adapters.peft_format import unpack
from hyperplug.embedding import Embedder
from hyperplug.entities import AdapterWeights, Decision, Example
from hyperplug.errors import ConfigError
from hyperplug.evaluation.answers import Answerer
from hyperplug.evaluation.arms import Arm, Source, Words
from hyperplug.evaluation.artefacts import Artefacts
from hyperplug.evaluation.loras import LoraBank
from hyperplug.evaluation.selection import junk_description, rephrased_description
from hyperplug.evaluation.serving import Served, ServingPolicy
from hyperplug.evaluation.tuning import Tuner
from hyperplug.hypernet.data import CorpusTask
from hyperplug.hypernet.generate import Generator
from hyperplug.hypernet.model import LoraBatch

_MERGED = 3
# Cosines of the nearest three differ by hundredths: the weights should differ by halves.
_TEMPERATURE = 0.1
_NETWORK_OF = {
    Source.HYPERNET: "hypernet",
    Source.POLICY: "hypernet",
    Source.SHARED_PART: "hypernet",
    Source.STATIC: "static",
    Source.STATIC_PROMPT: "static_prompt",
    Source.T2L: "t2l",
}
_SHARED = (
    Source.SHARED_PART,
    Source.STATIC,
    Source.STATIC_PROMPT,
    Source.MEAN,
    Source.MAML,
    Source.REPTILE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """What generators may be given, by task id.

    Attributes:
        shown: examples of the task that are not asked.
        partners: the task that shuffled arms take descriptions from.
        partners_shown: examples of that task.
        stored: examples of the task that are not asked, for prompts to draw from.
        sequence: the measured tasks, in the order in which some arms learn them.
    """

    seed: int
    shown: Mapping[str, Sequence[Example]]
    partners: Mapping[str, CorpusTask]
    partners_shown: Mapping[str, Sequence[Example]]
    stored: Mapping[str, Sequence[Example]] = field(default_factory=dict)
    sequence: Sequence[CorpusTask] = ()


class AdapterMaker:
    """Makes or fetches adapters, one `LoraBatch` for each module of `modules`.

    Those that a network generates are rounded as a file would round them.
    """

    def __init__(
        self,
        artefacts: Artefacts,
        conditions: Conditions,
        *,
        modules: Sequence[str],
        tuner: Tuner | None = None,
    ) -> None:
        self._artefacts = artefacts
        self._conditions = conditions
        self._modules = modules
        self._tuner = tuner
        self._tuned: dict[tuple[Arm, str], list[LoraBatch]] = {}
        self._models: dict[Arm, Answerer] = {}
        self._kept: dict[Source, list[LoraBatch]] = {}
        self._decided: dict[str, Served] = {}

    def covers(self, arm: Arm, task: CorpusTask) -> bool:
        """Returns whether the arm has an adapter for the task."""
        return arm.adapter is not Source.ORACLE or task.id in self._banks["oracle"].ids

    def loras(self, arm: Arm, tasks: Sequence[CorpusTask]) -> list[LoraBatch] | None:
        """Returns the adapters of tasks: a batch of them, or of one if all share it.

        None if the base model answers alone.
        """
        if arm.adapter in (Source.NONE, Source.WEIGHTS):
            return None
        if arm.is_refined:
            return _stacked([self._trained(arm, task) for task in tasks])
        if arm.adapter is Source.SEQUENTIAL:
            if arm.adapter not in self._kept:
                self._kept[arm.adapter] = self._sequential(arm)
            return self._kept[arm.adapter]
        if arm.adapter in _SHARED:
            if arm.adapter not in self._kept:
                self._kept[arm.adapter] = self._shared(arm.adapter)
            return self._kept[arm.adapter]
        return _stacked([self._own(arm, task) for task in tasks])

    def model(self, arm: Arm) -> Answerer | None:
        """Returns the model that answers for an arm; None for the frozen base model."""
        if arm.adapter is not Source.WEIGHTS:
            return None
        if arm not in self._models:
            self._models[arm] = self._training(arm).tune_weights(
                self._lessons(arm), steps=arm.steps
            )
        return self._models[arm]

    def decision(self, task: CorpusTask) -> Decision:
        """Returns what the policy decides for a task's description."""
        return self._served(task.descriptions[0]).decision

    def _own(self, arm: Arm, task: CorpusTask) -> list[LoraBatch] | None:
        if arm.adapter is Source.ORACLE:
            bank = self._banks["oracle"]
            return self._placed(bank.loras(task.id), bank.target_modules)
        if arm.adapter in (Source.NEAREST, Source.MERGE):
            count = 1 if arm.adapter is Source.NEAREST else _MERGED
            bank = self._banks["loras"]
            weights = nearest_weights(bank, self._embedder, task.descriptions[0], count=count)
            return self._placed(bank.merged(weights), bank.target_modules)
        if arm.adapter is Source.POLICY:
            served = self._served(task.descriptions[0]).description
            return None if served is None else self._generated("hypernet", served, ())
        examples = self._conditions.partners_shown if arm.swapped else self._conditions.shown
        return self._generated(
            _NETWORK_OF[arm.adapter],
            self._words(arm.words, task),
            tuple(examples.get(task.id, ()))[: arm.examples],
        )

    def _trained(self, arm: Arm, task: CorpusTask) -> list[LoraBatch]:
        """Returns an adapter refined on the task's examples; each is trained once."""
        key = (arm, task.id)
        if key not in self._tuned:
            start = None
            if arm.adapter is not Source.SCRATCH:
                start = self.loras(replace(arm, steps=0), [task])
            examples = tuple(self._conditions.shown.get(task.id, ()))[: arm.examples]
            self._tuned[key] = self._training(arm).tune(
                arm.adapter, start, examples, steps=arm.steps
            )
        return self._tuned[key]

    def _sequential(self, arm: Arm) -> list[LoraBatch]:
        """Returns one adapter after it was trained on all tasks, one after another."""
        loras: list[LoraBatch] | None = None
        for examples in self._lessons(arm):
            loras = self._training(arm).tune(arm.adapter, loras, examples, steps=arm.steps)
        if loras is None:
            raise ConfigError(f"arm {arm.name!r} has no task to learn", hint="leave it out")
        return loras

    def _lessons(self, arm: Arm) -> Iterator[tuple[Example, ...]]:
        """Yields what is learned of each task, the description in the prompt."""
        for task in self._conditions.sequence:
            shown = tuple(self._conditions.shown.get(task.id, ()))[: arm.examples]
            yield tuple(described(example, task.descriptions[0]) for example in shown)

    def _training(self, arm: Arm) -> Tuner:
        if self._tuner is None:
            raise ConfigError(f"arm {arm.name!r} has to train", hint="leave it out")
        return self._tuner

    def _words(self, words: Words, task: CorpusTask) -> str | None:
        if words is Words.NONE:
            return None
        if words is Words.SHUFFLED:
            return self._conditions.partners[task.id].descriptions[0]
        if words is Words.JUNK:
            return junk_description(task, seed=self._conditions.seed)
        return rephrased_description(task) if words is Words.REPHRASED else task.descriptions[0]

    def _generated(
        self, network: str, description: str | None, examples: Sequence[Example]
    ) -> list[LoraBatch]:
        generator = self._artefacts.networks[network].generator
        return self._rounded(generator, generator.loras(description, examples))

    def _shared(self, source: Source) -> list[LoraBatch]:
        if source in (Source.MAML, Source.REPTILE):
            bank = self._banks[source.value]
            return self._placed(bank.loras(bank.ids[0]), bank.target_modules)
        if source is Source.MEAN:
            bank = self._banks["loras"]
            return self._placed(bank.mean(), bank.target_modules)
        generator = self._artefacts.networks[_NETWORK_OF[source]].generator
        weights = generator.static()
        return self._placed(_unpacked(weights), weights.target_modules)

    def _rounded(self, generator: Generator, loras: Sequence[LoraBatch]) -> list[LoraBatch]:
        halves = [LoraBatch(a=x.a.half().float(), b=x.b.half().float()) for x in loras]
        return self._placed(halves, generator.spec.target_modules)

    def _placed(self, loras: Sequence[LoraBatch], paths: Sequence[str]) -> list[LoraBatch]:
        """Returns an adapter with a zero one for each module that it does not touch."""
        if tuple(paths) == tuple(self._modules):
            return list(loras)
        found = dict(zip(paths, loras, strict=True))
        rank = loras[0].a.shape[1]
        shapes = self._artefacts.base.spec.module_shapes
        return [
            found[path]
            if path in found
            else LoraBatch(
                a=torch.zeros(1, rank, shapes[path].in_features),
                b=torch.zeros(1, shapes[path].out_features, rank),
            )
            for path in self._modules
        ]

    @property
    def _banks(self) -> Mapping[str, LoraBank]:
        return self._artefacts.banks

    @property
    def _embedder(self) -> Embedder:
        if self._artefacts.embedder is None:
            raise ConfigError("this arm needs the text encoder", hint="set HYPERPLUG_EMBEDDER")
        return self._artefacts.embedder

    @functools.cached_property
    def _policy(self) -> ServingPolicy:
        return ServingPolicy(
            self._artefacts.train_tasks,
            generator=self._artefacts.networks["hypernet"].generator,
            embedder=self._embedder,
        )

    def _served(self, description: str) -> Served:
        if description not in self._decided:
            self._decided[description] = self._policy.serve(description)
        return self._decided[description]


def nearest_weights(
    bank: LoraBank, embedder: Embedder, description: str, *, count: int
) -> dict[str, float]:
    """Returns the LoRAs with the nearest descriptions and their weights, which sum to 1."""
    scores = bank.embeddings @ embedder.embed([description])[0]  # (n,)
    order = np.argsort(-scores, kind="stable")[:count]
    powers = np.exp((scores[order] - scores[order[0]]) / _TEMPERATURE)
    weights = powers / powers.sum()
    return {bank.ids[row]: float(weight) for row, weight in zip(order, weights, strict=True)}


def described(example: Example, description: str) -> Example:
    """Returns an example as a prompt has it that says the task."""
    return replace(example, input=f"{description}\n\n{example.input}")


def _unpacked(weights: AdapterWeights) -> list[LoraBatch]:
    """Returns the factors of each module in model order, alpha / rank folded in."""
    multiplier = weights.alpha / weights.rank
    pairs = unpack(weights.data)
    return [
        LoraBatch(a=torch.from_numpy(a)[None], b=torch.from_numpy(b * multiplier)[None])
        for a, b in (pairs[path] for path in weights.target_modules)
    ]


def _stacked(adapters: Sequence[list[LoraBatch] | None]) -> list[LoraBatch] | None:
    """Returns adapters of one task each as one batch; no adapter is one of zeros."""
    some = next((adapter for adapter in adapters if adapter is not None), None)
    if some is None:
        return None
    nothing = [LoraBatch(a=torch.zeros_like(x.a), b=torch.zeros_like(x.b)) for x in some]
    filled = [nothing if adapter is None else adapter for adapter in adapters]
    return [
        LoraBatch(
            a=torch.cat([adapter[slot].a for adapter in filled]),
            b=torch.cat([adapter[slot].b for adapter in filled]),
        )
        for slot in range(len(some))
    ]

"""A registry's calls that train: from a generated adapter to a better one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from hyperplug.adapters.validate import validate_bytes
from hyperplug.entities import (
    Adapter,
    AdapterWeights,
    Example,
    NewAdapter,
    Origin,
    Task,
)
from hyperplug.errors import AdapterNotFoundError, ConfigError, MissingExtraError
from hyperplug.naming import CURRENT
from hyperplug.policy import CHECKED_EXAMPLES, GAIN, LOSS_ADAPTER, LOSS_BASE
from hyperplug.registry.examine import ExamineCalls

if TYPE_CHECKING:
    from hyperplug.hypernet.refine import Refined, RefineProgress, Refiner, RefineRecipe

LOSS_START = "loss_start"
BEST_STEP = "best_step"


class Training(StrEnum):
    """What is trained."""

    ADAPTER = "adapter"
    """All factors of the current adapter."""
    CODE = "code"
    """The task code that the hypernetwork makes an adapter of."""
    SCRATCH = "scratch"
    """An ordinary LoRA, from scratch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """What training brought.

    Attributes:
        adapter: the new version; None if no step was better than the start, or the base
            model where there was no start.
        refined: the figures, on held-back examples.
        promoted: whether the task means the new version now.
    """

    adapter: Adapter | None
    refined: Refined
    promoted: bool


class LearningCalls(ExamineCalls):
    """Trains adapters of registered tasks."""

    def learn(
        self,
        task_name: str,
        *,
        examples: Sequence[Example] | None = None,
        training: Training = Training.ADAPTER,
        recipe: RefineRecipe | None = None,
        rank: int = 16,
        promote: bool = True,
        on_step: Callable[[RefineProgress], None] = lambda _: None,
    ) -> Learned:
        """Trains on a task's examples, and stores a new version if it is better than its parent.

        A quarter of the examples is held back: they choose the best step, and decide whether
        the new version is stored at all. It is promoted only if it is better on them than
        the adapter that the task means now.

        Args:
            examples: in place of the task's own.
            rank: of a LoRA from scratch.
            promote: False stores the new version without an alias.

        Raises:
            TaskNotFoundError: if there is no such task.
            AdapterNotFoundError: if it has no adapter to refine.
            ConfigError: for too few examples.
            TrainingError: if a loss is no number.
        """
        try:
            from hyperplug.hypernet.refine import RefineRecipe
        except ModuleNotFoundError as exc:
            raise MissingExtraError(exc.name or "torch", extra="local") from exc
        task = self.get_task(task_name)
        chosen = task.examples if examples is None else tuple(examples)
        if not chosen:
            raise ConfigError(
                f"task {task.name!r} has no examples",
                hint="give some: --examples FILE.jsonl, or update-task --examples",
            )
        recipe = recipe or RefineRecipe()
        parent = self._supply.current(task)
        match training:
            case Training.SCRATCH:
                refiner = self._refiner(self.generator.spec.target_modules)
                refined = refiner.train(rank, chosen, recipe=recipe, on_step=on_step)
            case Training.CODE:
                refiner = self._refiner(self.generator.spec.target_modules)
                # Without examples: those it reads would be those it is trained and judged on.
                decoder = self.generator.code_decoder(task.description)
                refined = refiner.refine_code(decoder, chosen, recipe=recipe, on_step=on_step)
            case Training.ADAPTER:
                start = self._start(task, parent)
                refiner = self._refiner(start.target_modules)
                refined = refiner.refine(start, chosen, recipe=recipe, on_step=on_step)
        adapter, better = None, False
        if refined.weights is not None:
            better = training is Training.ADAPTER or self._beats(refined, parent, chosen, recipe)
            adapter = self._stored(
                task,
                refined,
                weights=refined.weights,
                origin=Origin.TRAINED if training is Training.SCRATCH else Origin.REFINED,
                parent=parent,
                seed=recipe.seed,
                alias=CURRENT if promote and better else None,
            )
            adapter = self.published(adapter)
        if refined.state is not None:
            refined.state.unlink(missing_ok=True)
        return Learned(adapter=adapter, refined=refined, promoted=promote and better)

    def _refiner(self, modules: Sequence[str]) -> Refiner:
        from hyperplug.hypernet.refine import load_refiner

        return load_refiner(self.base, modules, states=self.settings.home / "training")

    def _start(self, task: Task, parent: Adapter | None) -> AdapterWeights:
        if parent is None:
            raise AdapterNotFoundError(
                f"task {task.name!r} has no adapter to start from",
                hint=f"first run: hyperplug generate-adapter {task.name}",
            )
        return self._weights(parent)

    def _weights(self, adapter: Adapter) -> AdapterWeights:
        data, _ = self._supply.content(adapter)
        return AdapterWeights(
            data=data,
            digest=adapter.digest,
            rank=adapter.rank,
            alpha=adapter.alpha,
            target_modules=adapter.target_modules,
        )

    def _beats(
        self,
        refined: Refined,
        parent: Adapter | None,
        examples: Sequence[Example],
        recipe: RefineRecipe,
    ) -> bool:
        """Returns whether it is better than the adapter that the task means now, or the base."""
        if parent is None:
            return refined.after < refined.base
        weights = self._weights(parent)
        refiner = self._refiner(weights.target_modules)
        return refined.after < refiner.loss(weights, examples, recipe=recipe)

    def _stored(
        self,
        task: Task,
        refined: Refined,
        *,
        weights: AdapterWeights,
        origin: Origin,
        parent: Adapter | None,
        seed: int,
        alias: str | None,
    ) -> Adapter:
        base = self.base.spec
        validate_bytes(weights.data, base=base, max_rank=weights.rank, alpha=weights.alpha)
        return self.store.put_adapter(
            NewAdapter(
                namespace=self._namespace,
                task_id=task.id,
                task_name=task.name,
                weights=weights,
                origin=origin,
                base_fingerprint=base.fingerprint,
                metrics={
                    GAIN: refined.base - refined.after,
                    LOSS_BASE: refined.base,
                    LOSS_ADAPTER: refined.after,
                    LOSS_START: refined.before,
                    BEST_STEP: float(refined.best_step),
                    CHECKED_EXAMPLES: float(refined.held_back),
                },
                task_revision=task.revision,
                parent=parent.name if parent is not None else None,
                seed=seed,
            ),
            alias=alias,
        )

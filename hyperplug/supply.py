"""Supplies the adapters of tasks: generated once, stored, published as folders."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from hyperplug.adapters.library import Library
from hyperplug.adapters.validate import validate_bytes, validate_folder
from hyperplug.entities import (
    Adapter,
    AdapterState,
    AdapterWeights,
    NewAdapter,
    Origin,
    Task,
)
from hyperplug.errors import AdapterNotFoundError, CorruptAdapterError, HyperplugError
from hyperplug.models import Models
from hyperplug.naming import CURRENT, generation_key
from hyperplug.policy import CONFIDENCE, FORCED, GAIN, PREDICTED_GAIN, SUPPORT
from hyperplug.store import Store

_log = logging.getLogger(__name__)


class AdapterSupply:
    """Makes, stores and publishes the adapters of one namespace. Safe for threads."""

    def __init__(self, *, store: Store, library: Library, models: Models, namespace: str) -> None:
        self._store = store
        self._library = library
        self._models = models
        self._namespace = namespace
        self._generating = threading.Lock()
        self._can_check = True

    def ensure(self, task: Task) -> Adapter:
        """Returns the task's current adapter for the base in use, generating the first."""
        return self.current(task) or self.generate(task)

    def current(self, task: Task) -> Adapter | None:
        """Returns the task's current adapter for the base in use, if it has one."""
        fingerprint = self._models.base.spec.fingerprint
        return self._store.current_adapter(task.id, base_fingerprint=fingerprint)

    def aliased(self, task: Task, alias: str) -> Adapter:
        """Returns the adapter that an alias of the task leads to. Raises AdapterNotFoundError."""
        fingerprint = self._models.base.spec.fingerprint
        adapter = self._store.aliased_adapter(task.id, base_fingerprint=fingerprint, alias=alias)
        if adapter is None:
            raise AdapterNotFoundError(
                f"task {task.name!r} has no alias {alias!r} on this base model",
                hint=f"see: hyperplug show-task {task.name}",
            )
        return adapter

    def generate(self, task: Task, *, alias: str = CURRENT) -> Adapter:
        """Returns the adapter the present hypernetwork makes of the task; stored once.

        The alias of the task leads to it from then on.
        """
        spec = self._models.generator.spec
        key = generation_key(
            task.description,
            task.examples,
            hypernet_fingerprint=spec.fingerprint,
            base_fingerprint=spec.base_fingerprint,
        )
        with self._generating:  # the second of two equal requests finds the first's adapter
            standing = self._store.find_generated(key, namespace=self._namespace)
            if standing is not None:
                if standing.state is AdapterState.DAMAGED:
                    standing = self._repaired(standing)
                self._store.set_alias(task.id, adapter_id=standing.id, alias=alias)
                return standing
            before = self.current(task)
            weights = self._models.generator.generate(task.description, task.examples)
            validate_bytes(
                weights.data,
                base=self._models.base.spec,
                max_rank=weights.rank,
                alpha=weights.alpha,
            )
            return self._store.put_adapter(
                NewAdapter(
                    namespace=self._namespace,
                    task_id=task.id,
                    task_name=task.name,
                    weights=weights,
                    origin=Origin.GENERATED,
                    base_fingerprint=spec.base_fingerprint,
                    hypernet_fingerprint=spec.fingerprint,
                    generation_key=key,
                    task_revision=task.revision,
                    parent=before.name if before is not None else None,
                    embedder_id=spec.embedder_id,
                    metrics=self._expected(task.description),
                ),
                alias=alias,
            )

    def _expected(self, description: str) -> dict[str, float]:
        """Returns how near a description is to what the hypernetwork was trained on, and what
        that lets expect."""
        generator = self._models.generator
        support = generator.support(self._models.embedder.embed([description])[0])
        promise = generator.promise(support)
        if promise is None:
            return {SUPPORT: support}
        return {
            SUPPORT: support,
            PREDICTED_GAIN: promise.gain,
            CONFIDENCE: promise.confidence,
        }

    def checked(self, adapter: Adapter, *, task: Task) -> Adapter:
        """Returns the adapter with its gain over the base model on the task's examples.

        It is measured once, for what the present hypernetwork makes of a task with
        examples. If the base model cannot be loaded, a warning says so, and the adapter
        stays unchecked.
        """
        if not task.examples or GAIN in adapter.metrics or not self._is_of_present(adapter):
            return adapter
        return self._with_metrics(adapter, self._gain(task))

    def forced(self, adapter: Adapter) -> Adapter:
        """Returns the adapter marked to be used even if it harms."""
        return self._with_metrics(adapter, {} if adapter.metrics.get(FORCED) else {FORCED: 1.0})

    def import_(self, folder: Path, *, task: Task, max_rank: int, hold: bool) -> Adapter:
        """Stores a PEFT folder as the task's current adapter, after checking all of it.

        With `hold` it is put in quarantine instead, until somebody approves it.
        """
        base = self._models.base.spec
        report = validate_folder(folder, base=base, max_rank=max_rank)
        before = self.current(task)
        return self._store.put_adapter(
            NewAdapter(
                namespace=self._namespace,
                task_id=task.id,
                task_name=task.name,
                weights=report.weights,
                origin=Origin.IMPORTED,
                base_fingerprint=base.fingerprint,
                parent=before.name if before is not None else None,
                state=AdapterState.HELD if hold else AdapterState.READY,
                state_reason="imported and not approved yet" if hold else "",
            ),
            alias=None if hold else CURRENT,
        )

    def published(self, adapter: Adapter) -> Adapter:
        """Returns the adapter with the path of its folder, rebuilt from the store if need be.

        Raises:
            CorruptAdapterError: if it is in quarantine, and cannot be made again.
        """
        if adapter.state is AdapterState.DAMAGED:
            adapter = self._repaired(adapter)
        if adapter.state is AdapterState.HELD:
            raise CorruptAdapterError(
                f"adapter {adapter.name!r} is in quarantine: {adapter.state_reason}",
                hint=f"to use it, run: hyperplug approve-adapter {adapter.name}",
            )
        path = self._library.path(adapter)
        if path is None:
            data, base_id = self.content(adapter)
            path = self._library.publish(adapter, data, base_id=base_id)
        return replace(adapter, path=path)

    def export(self, adapter: Adapter, folder: Path) -> Path:
        """Writes the adapter as a plain PEFT folder and returns the folder."""
        data, base_id = self.content(adapter)
        return self._library.export(adapter, data, folder, base_id=base_id)

    def content(self, adapter: Adapter) -> tuple[bytes, str]:
        """Returns the adapter's bytes, repaired if need be, and its base model's name."""
        return self._bytes(adapter), self._base_id(adapter)

    def _is_of_present(self, adapter: Adapter) -> bool:
        made_by = adapter.hypernet_fingerprint
        return made_by is not None and made_by == self._models.generator.spec.fingerprint

    def _gain(self, task: Task) -> dict[str, float]:
        """Returns the figures of a check; none if the task's examples or the base forbid one."""
        if not self._can_check:
            return {}
        try:
            check = self._models.gain_check
        except HyperplugError as exc:
            self._can_check = False  # said once, not for every task of a file
            _log.warning("Generated adapters are not checked: %s", exc)
            return {}
        gain = check.measure(task.description, task.examples)
        return {} if gain is None else gain.metrics

    def _with_metrics(self, adapter: Adapter, more: Mapping[str, float]) -> Adapter:
        if not more:
            return adapter
        self._store.set_metrics(adapter.id, more)
        return replace(adapter, metrics={**adapter.metrics, **more})

    def _bytes(self, adapter: Adapter) -> bytes:
        """Returns the adapter's bytes, made again if the stored ones are damaged.

        Damaged ones that cannot be made again are put in quarantine.
        """
        try:
            return self._store.adapter_bytes(adapter)
        except CorruptAdapterError as exc:
            _log.error("%s", exc.message)
            weights = self._again(adapter)
            if weights is None or weights.digest != adapter.digest:
                self._store.set_adapter_state(
                    adapter.id, AdapterState.DAMAGED, reason="its bytes are damaged"
                )
                raise
            self._store.replace_adapter_bytes(adapter, weights.data)
            return weights.data

    def _repaired(self, adapter: Adapter) -> Adapter:
        """Returns a damaged adapter ready again, if it can be made again or is whole by now.

        Raises:
            CorruptAdapterError: if neither.
        """
        self._bytes(adapter)
        return self._store.set_adapter_state(adapter.id, AdapterState.READY)

    def _again(self, adapter: Adapter) -> AdapterWeights | None:
        """Returns a generated adapter's weights anew, if its hypernetwork is at hand."""
        task = self._store.get_task(adapter.task_name, namespace=self._namespace)
        if adapter.origin is not Origin.GENERATED or task is None:
            return None
        try:
            generator = self._models.generator
        except HyperplugError:  # it cannot be made again; the corruption is the news
            return None
        if generator.spec.fingerprint != adapter.hypernet_fingerprint:
            return None
        description, examples = task.description, task.examples
        for before in self._store.task_revisions(task.id):
            if before.revision == adapter.task_revision:
                description, examples = before.description, before.examples
        return generator.generate(description, examples)

    def _base_id(self, adapter: Adapter) -> str:
        spec = self._store.get_base_model(adapter.base_fingerprint)
        return spec.id if spec is not None else ""

"""Small real values for the store's tests."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import create_engine

from hyperplug.entities import (
    AdapterWeights,
    BaseModelSpec,
    HypernetSpec,
    ModuleShape,
    NewAdapter,
    NewTask,
    Origin,
    Task,
)
from hyperplug.naming import DEFAULT_NAMESPACE, description_digest
from hyperplug.store import Store
from hyperplug.store.engine import parse_url

EMBEDDER = "tiny-encoder"
MODULES = ("model.layers.0.self_attn.q_proj", "model.layers.0.mlp.down_proj")
BASE = BaseModelSpec(
    id="example/tiny",
    revision="main",
    architecture="LlamaForCausalLM",
    fingerprint="b" * 64,
    module_shapes={
        MODULES[0]: ModuleShape(in_features=16, out_features=16),
        MODULES[1]: ModuleShape(in_features=32, out_features=16),
    },
)
HYPERNET = HypernetSpec(
    fingerprint="e" * 64,
    base_fingerprint=BASE.fingerprint,
    embedder_id=EMBEDDER,
    rank=4,
    target_modules=MODULES,
)


def vector(*numbers: float) -> NDArray[np.float32]:
    """Returns a float32 vector."""
    return np.array(numbers, dtype=np.float32)


def new_task(
    name: str,
    description: str = "",
    *,
    namespace: str = DEFAULT_NAMESPACE,
    tags: tuple[str, ...] = (),
) -> NewTask:
    """Returns a task to register; its description is unlike that of any other name."""
    text = description or f"Do what {name} says"
    return NewTask(
        namespace=namespace,
        name=name,
        description=text,
        description_digest=description_digest(text),
        tags=tags,
    )


def add(store: Store, name: str, *numbers: float, namespace: str = DEFAULT_NAMESPACE) -> Task:
    """Returns a task registered with that vector."""
    task, _ = store.add_task(
        new_task(name, namespace=namespace),
        embedder_id=EMBEDDER,
        embedding=vector(*(numbers or (1, 0, 0))),
    )
    return task


def put_identities(store: Store) -> None:
    """Stores the sample base model and hypernetwork."""
    store.put_base_model(BASE)
    store.put_hypernet(HYPERNET)


def weights(seed: int = 0, *, size_bytes: int = 20_000) -> AdapterWeights:
    """Returns weights of random bytes: the store does not look into them."""
    data = np.random.default_rng(seed).bytes(size_bytes)
    return AdapterWeights(
        data=data,
        digest=hashlib.sha256(data).hexdigest(),
        rank=4,
        alpha=4.0,
        target_modules=MODULES,
    )


def new_adapter(
    task: Task,
    *,
    seed: int = 0,
    key: str | None = None,
    base: str = BASE.fingerprint,
    parent: str | None = None,
) -> NewAdapter:
    """Returns an adapter to store for a task: generated if it has a key, else imported."""
    return NewAdapter(
        namespace=task.namespace,
        task_id=task.id,
        task_name=task.name,
        weights=weights(seed),
        origin=Origin.IMPORTED if key is None else Origin.GENERATED,
        base_fingerprint=base,
        hypernet_fingerprint=None if key is None else HYPERNET.fingerprint,
        generation_key=key,
        parent=parent,
    )


def execute(url: str, statement: str) -> list[tuple[object, ...]]:
    """Runs SQL behind the store's back and returns the rows, if it has any."""
    engine = create_engine(parse_url(url))
    try:
        with engine.begin() as connection:
            result = connection.exec_driver_sql(statement)
            return [tuple(row) for row in result] if result.returns_rows else []
    finally:
        engine.dispose()

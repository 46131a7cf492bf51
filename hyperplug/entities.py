"""The values that cross module borders: frozen, slotted, keyword-only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path


class Decision(StrEnum):
    """How a request was matched to an adapter."""

    EXACT = "exact"
    NEAREST = "nearest"
    NOVEL = "novel"
    BASE = "base"


class OnNovel(StrEnum):
    """What to do with a description that is near no registered task."""

    GENERATE = "generate"
    NEAREST = "nearest"
    BASE = "base"
    ERROR = "error"


class Origin(StrEnum):
    """Where an adapter's weights came from."""

    GENERATED = "generated"
    TRAINED = "trained"
    REFINED = "refined"
    IMPORTED = "imported"


class AdapterState(StrEnum):
    """Whether an adapter may be used; all but READY are in quarantine: kept, and not used."""

    READY = "ready"
    HELD = "held"
    """Imported, and waiting for somebody to approve it."""
    DAMAGED = "damaged"
    """Its bytes do not match its digest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One input–output pair of a task."""

    input: str
    output: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleShape:
    """Size of one linear projection of a base model."""

    in_features: int
    out_features: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseModelSpec:
    """Identity of a frozen base model.

    Attributes:
        id: hub id or path as the user wrote it; for display only.
        revision: hub revision, or "" for a local folder.
        architecture: the class named in its config, "LlamaForCausalLM".
        fingerprint: hex digest over architecture, shapes and weights; the identity.
        module_shapes: every adaptable projection by its full path,
            "model.layers.0.self_attn.q_proj", in model order.
    """

    id: str
    revision: str
    architecture: str
    fingerprint: str
    module_shapes: Mapping[str, ModuleShape]


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """Borders of the lookup policy, in cosine similarity.

    Attributes:
        near: a registered task at least this near serves the request (NEAREST).
        support: a novel description at least this near to what the hypernetwork
            was trained on is generated for (NOVEL); below, the base answers (BASE).
    """

    near: float
    support: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """What to expect of an adapter before anybody has tried it.

    Attributes:
        support: from this nearness to the training descriptions on, up to the next promise's.
        gain: expected drop of the answer loss, in nats a token, against the base model alone.
        confidence: chance that there is a drop at all, 0 to 1.
    """

    support: float
    gain: float
    confidence: float


@dataclass(frozen=True, slots=True, kw_only=True)
class HypernetSpec:
    """Identity of a hypernetwork checkpoint.

    Attributes:
        fingerprint: hex digest of its weights and configuration.
        base_fingerprint: the base model that it was trained for.
        embedder_id: the text encoder that it reads.
        rank: rank of the adapters it writes, static part included.
        target_modules: full paths of the projections it adapts, in model order.
    """

    fingerprint: str
    base_fingerprint: str
    embedder_id: str
    rank: int
    target_modules: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A registered description of what the model should do.

    Attributes:
        revision: counts the changes of description and examples, from 1.
        updated_at: when it was last changed; None if never.
        deleted_at: when it was removed; None while it serves.
    """

    id: int
    namespace: str
    name: str
    description: str
    examples: tuple[Example, ...]
    tags: tuple[str, ...]
    created_at: datetime
    revision: int = 1
    updated_at: datetime | None = None
    deleted_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRevision:
    """What a task said before it was changed.

    Attributes:
        replaced_by: who changed it.
    """

    revision: int
    description: str
    examples: tuple[Example, ...]
    replaced_at: datetime
    replaced_by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskDraft:
    """A task as a user wrote it: nothing is checked yet."""

    name: str
    description: str
    examples: tuple[Example, ...] = ()
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class NewTask:
    """A task about to be registered; name and description already checked."""

    namespace: str
    name: str
    description: str
    description_digest: str
    examples: tuple[Example, ...] = ()
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskChange:
    """What is to change of a task, already checked; None leaves a part as it is."""

    description: str | None = None
    description_digest: str | None = None
    examples: tuple[Example, ...] | None = None
    tags: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """One immutable set of LoRA weights for one base model.

    Attributes:
        id: integer in [2^20, 2^31) by which runtimes know it.
        name: "<task>@<first 8 hex digits of digest>".
        digest: SHA-256 hex of its safetensors bytes.
        alpha: LoRA alpha; the multiplier a runtime applies is alpha / rank.
        target_modules: full paths of the adapted projections.
        base_fingerprint: the base model it fits.
        hypernet_fingerprint: what generated it; None for trained or imported ones.
        metrics: figures measured on it, by name.
        version: its number among the adapters of its task, from 1.
        task_revision: the revision of the task that it was made from.
        parent: name of the adapter that was in its place before; None for the first.
        embedder_id: the text encoder that its hypernetwork read; None if none did.
        seed: of the training that made it; None if nothing was drawn.
        created_by: who made it, "user@host".
        state: whether it may be used; `state_reason` says why not.
        pinned: kept whatever is collected.
        path: its published PEFT folder; None until it is published.
    """

    id: int
    namespace: str
    name: str
    task_name: str
    digest: str
    rank: int
    alpha: float
    target_modules: tuple[str, ...]
    origin: Origin
    base_fingerprint: str
    hypernet_fingerprint: str | None
    size_bytes: int
    metrics: Mapping[str, float]
    created_at: datetime
    version: int = 1
    task_revision: int = 1
    parent: str | None = None
    embedder_id: str | None = None
    seed: int | None = None
    created_by: str = ""
    state: AdapterState = AdapterState.READY
    state_reason: str = ""
    pinned: bool = False
    path: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterWeights:
    """LoRA weights before they have a name: the safetensors bytes and what they mean.

    Attributes:
        data: a safetensors file with PEFT's tensor names.
        digest: SHA-256 hex of `data`.
    """

    data: bytes = field(repr=False)
    digest: str
    rank: int
    alpha: float
    target_modules: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class NewAdapter:
    """An adapter about to be stored.

    Attributes:
        generation_key: digest over description, examples, hypernetwork and base; at
            most one adapter a namespace has it. None for trained or imported ones.
        task_revision: what it was made from; None for the task's present one.
        parent: name of the adapter whose place it takes.
    """

    namespace: str
    task_id: int
    task_name: str
    weights: AdapterWeights
    origin: Origin
    base_fingerprint: str
    hypernet_fingerprint: str | None = None
    generation_key: str | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    task_revision: int | None = None
    parent: str | None = None
    embedder_id: str | None = None
    seed: int | None = None
    state: AdapterState = AdapterState.READY
    state_reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AliasChange:
    """One change of an alias of a task.

    Attributes:
        adapter: name of the adapter that it led to from then on; None if it was taken away.
        previous: name of the one before; None if there was none, or it is gone.
        undone: whether a rollback took the change back.
    """

    task_name: str
    alias: str
    adapter: str | None
    previous: str | None
    created_at: datetime
    created_by: str
    undone: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """A registered task and its cosine similarity to what was asked for."""

    task: Task
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """Milliseconds that each step of a resolution took; 0 where it was not needed.

    Generating includes registering the task that an adapter is for.
    """

    embed_ms: float = 0.0
    lookup_ms: float = 0.0
    generate_ms: float = 0.0
    publish_ms: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolution:
    """What the lookup policy decided for one name or free text.

    Attributes:
        text: the name or description that was asked for.
        score: cosine to the task served (1 for EXACT); for NOVEL and BASE, to the
            nearest registered task, 0 in an empty registry.
        support: nearness to the hypernetwork's training tasks; None if not computed.
        task: the task that serves the request; None for BASE.
        adapter: its adapter, published (`adapter.path` is a PEFT folder); None for BASE.
        reason: why the base answers although a task was found; else "".
    """

    text: str
    decision: Decision
    score: float
    support: float | None
    task: Task | None
    adapter: Adapter | None
    timings: Timings
    reason: str = ""

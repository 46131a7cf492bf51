"""The training recipe: from a corpus and a base model to a checkpoint.

The defaults are those with which the checkpoint that comes with hyperplug was trained.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch

from hyperplug.basemodel import BaseModel, resolve_base
from hyperplug.config import Settings
from hyperplug.embedding import Embedder
from hyperplug.entities import BaseModelSpec
from hyperplug.errors import TrainingError
from hyperplug.hypernet.batches import Sampling
from hyperplug.hypernet.checkpoint import Checkpoint, load_checkpoint
from hyperplug.hypernet.corpus import PreparationProgress, prepare_corpus
from hyperplug.hypernet.data import CorpusTask
from hyperplug.hypernet.forecast import Forecast, forecast
from hyperplug.hypernet.frozen import FrozenBase, can_compile
from hyperplug.hypernet.generate import check_embedder
from hyperplug.hypernet.kept import extension_of, load_start
from hyperplug.hypernet.loading import load_frozen, pick_device, pick_dtype
from hyperplug.hypernet.model import HypernetConfig
from hyperplug.hypernet.networks import NetworkConfig, count_parameters
from hyperplug.hypernet.options import (
    DEFAULT_MINUTES,
    DEFAULT_RATE,
    EXTENDING_RATE,
    TrainingOptions,
    check_options,
    unwritable,
)
from hyperplug.hypernet.prepare import choose_modules
from hyperplug.hypernet.prepared import SUFFIX, PreparedCorpus
from hyperplug.hypernet.states import LowerStates, keep_states, states_file
from hyperplug.hypernet.text_to_lora_shape import TextToLoraConfig, Variant, matched_size
from hyperplug.hypernet.train import Report, TrainConfig, Trainer
from hyperplug.hypernet.workers import join_workers, own_device

_UNLIMITED_STEPS = 10**6
_EXTENDING_WARMUP = 0.1  # extensions are short
# So many tasks tell how long the sequences of a corpus are.
_SAMPLED = 32
# Compiling takes some minutes; a shorter run is over before it has paid.
_WORTH_COMPILING_STEPS = 300
_WORTH_COMPILING_MINUTES = 8.0


class TrainingProgress(PreparationProgress):
    """Told how a training run goes; does nothing. Override what you want to show."""

    def stepped(self, report: Report) -> None:
        """An optimizer step is done."""


def train_hypernet(
    options: TrainingOptions,
    *,
    settings: Settings,
    embedder: Embedder | None = None,
    kept: Sequence[CorpusTask] = (),
    progress: TrainingProgress | None = None,
) -> Checkpoint:
    """Returns the trained hypernetwork, which is also written to `options.out`.

    Args:
        settings: which base model and text encoder to use, and where the cache is.
        embedder: used in place of the settings' text encoder.
        kept: tasks to keep when a checkpoint is extended, in place of `options.keep`.

    Raises:
        ConfigError: if an option makes no sense or the output cannot be written.
        InvalidTaskFileError: if there is no usable task.
        BaseModelError: if the base model cannot be had or adapted.
        TrainingError: if training cannot start or go on.
    """
    check_options(options)
    device = own_device(pick_device(options.device))
    workers = join_workers(device, tasks=options.tasks_per_step)
    progress = progress if progress and workers.is_first else TrainingProgress()
    base = resolve_base(settings.base, cache=settings.cache, progress=progress.say)
    start = load_start(options.extend, base.spec) if options.extend else None
    modules = _modules(options, base.spec, start)
    corpus = prepare_corpus(
        options, settings=settings, base=base, embedder=embedder, progress=progress
    )
    extension = None
    if start is not None and options.extend is not None:
        check_embedder(start, options.extend, corpus.embedder_id)
        extension = extension_of(
            start,
            options,
            base=base,
            settings=settings,
            embedder=embedder,
            kept=kept,
            progress=progress,
        )
    progress.say(f"Loading base model {base.spec.id}")
    dtype = pick_dtype(options.dtype, device)
    frozen = load_frozen(base, modules, device=device, dtype=dtype)
    with contextlib.ExitStack() as stack:
        states = _lower_states(options, frozen, base, workers.rank)
        if states is not None:
            stack.callback(states.close)
        stack.enter_context(_plain_failures(options.out))
        trainer = Trainer(
            config=_train_config(options),
            network=_shape(options, base.spec, corpus, start),
            base=frozen,
            train=corpus.train,
            validation=corpus.validation,
            out=options.out,
            states=states,
            workers=workers,
            corpus=corpus.settings,
            extension=extension,
        )
        trainer.run(progress.stepped)
    return load_checkpoint(options.out)


def forecast_training(
    options: TrainingOptions, *, settings: Settings, embedder: Embedder | None = None
) -> Forecast:
    """Returns what `train_hypernet` would need, from a sample of the tasks.

    Raises:
        ConfigError, InvalidTaskFileError, BaseModelError, TrainingError: as it would.
    """
    check_options(options)
    base = resolve_base(settings.base, cache=settings.cache)
    start = load_start(options.extend, base.spec) if options.extend else None
    if options.tasks.suffix != SUFFIX:
        plain = replace(options, composed=0, rewordings=0)
        options = replace(plain, limit_tasks=min(_SAMPLED, options.limit_tasks or _SAMPLED))
    corpus = prepare_corpus(options, settings=settings, base=base, embedder=embedder)
    device = pick_device(options.device)
    sizes = [len(s) for task in corpus.train for s in task.sequences]
    return forecast(
        base,
        _shape(options, base.spec, corpus, start),
        _train_config(options),
        mean_tokens=sum(sizes) / len(sizes),
        cache_bytes=int(options.cache_gib * 2**30) if device.type == "cpu" else 0,
        device=device,
        dtype=pick_dtype(options.dtype, device),
    )


def _modules(
    options: TrainingOptions, base: BaseModelSpec, start: Checkpoint | None
) -> tuple[str, ...]:
    if start is not None:
        return start.spec.target_modules
    return choose_modules(base, modules=options.modules, top_layers=options.top_layers or None)


def _shape(
    options: TrainingOptions,
    base: BaseModelSpec,
    corpus: PreparedCorpus,
    start: Checkpoint | None,
) -> NetworkConfig:
    if start is None:
        return network_config(options, base, corpus, _modules(options, base, start))
    config: HypernetConfig = start.network.config
    return replace(config, atoms=config.atoms + options.new_atoms)


def _lower_states(
    options: TrainingOptions, frozen: FrozenBase, base: BaseModel, rank: int
) -> LowerStates | None:
    file = None
    if options.cache_dir is not None:
        file = states_file(options.cache_dir, frozen, fingerprint=base.spec.fingerprint)
        file = file.with_stem(f"{file.stem}-{rank}") if rank else file
    return keep_states(frozen, gib=options.cache_gib, file=file)


def _train_config(options: TrainingOptions) -> TrainConfig:
    unlimited = options.steps is None and options.minutes is None
    ours = options.network == "hypernet"
    extending = options.extend is not None
    sampling = Sampling(tasks=options.tasks_per_step, sequences=options.sequences_per_task)
    config = TrainConfig(
        steps=options.steps or _UNLIMITED_STEPS,
        minutes=DEFAULT_MINUTES if unlimited else options.minutes or 0.0,
        seed=options.seed,
        learning_rate=options.learning_rate or (EXTENDING_RATE if extending else DEFAULT_RATE),
        warmup=_EXTENDING_WARMUP if extending else TrainConfig().warmup,
        # Text-to-LoRA has no static part to train alone, and dropout instead of noise.
        sampling=sampling if ours else replace(sampling, static_only=0.0, with_examples=0.0),
        noise=TrainConfig().noise if ours else 0.0,
        evaluate_every=options.evaluate_every,
        save_every_seconds=options.save_every,
    )
    return replace(config, compiled=_should_compile(options.compiled, config))


def _should_compile(wanted: str, config: TrainConfig) -> bool:
    if wanted != "auto":
        return wanted == "on"
    long = config.steps >= _WORTH_COMPILING_STEPS and not (
        0 < config.minutes < _WORTH_COMPILING_MINUTES
    )
    return long and can_compile()


def network_config(
    options: TrainingOptions, base: BaseModelSpec, corpus: PreparedCorpus, modules: tuple[str, ...]
) -> NetworkConfig:
    """Returns the shape of the network that the options ask for."""
    shapes = [base.module_shapes[path] for path in modules]
    shared: dict[str, Any] = {
        "base_fingerprint": base.fingerprint,
        "embedder_id": corpus.embedder_id,
        "embedding_size": corpus.embedding_size,
        "target_modules": modules,
        "in_features": tuple(shape.in_features for shape in shapes),
        "out_features": tuple(shape.out_features for shape in shapes),
        "scale": options.scale,
    }
    ours = HypernetConfig(
        static_rank=options.static_rank,
        generated_rank=options.generated_rank,
        atoms=options.atoms,
        word_size=corpus.word_size if options.words and options.generated_rank else 0,
        **shared,
    )
    if options.network == "hypernet":
        return ours
    matched = options.network == "text-to-lora-matched"
    variant = "M" if matched else cast(Variant, options.network[-1].upper())
    theirs = TextToLoraConfig(variant=variant, rank=ours.rank, **shared)
    return matched_size(theirs, parameters=count_parameters(ours)) if matched else theirs


@contextmanager
def _plain_failures(out: Path) -> Iterator[None]:
    """Turns a full disk or memory into an error with a remedy."""
    try:
        yield
    except OSError as exc:
        if exc.errno is None:
            raise
        raise unwritable(out, exc) from exc
    except RuntimeError as exc:
        if isinstance(exc, torch.OutOfMemoryError) or "can't allocate memory" in str(exc):
            raise TrainingError(
                "the base model and its training do not fit into memory",
                hint="lower --max-tokens or --cache-gib, or take a smaller base model",
            ) from exc
        raise

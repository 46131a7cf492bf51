"""What a training run is told to do. The defaults made the checkpoint that is shipped."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from pathlib import Path

from hyperplug.errors import ConfigError
from hyperplug.hypernet.prepare import DEFAULT_MODULES

DEFAULT_MINUTES = 90.0
# From trained weights the rate of fresh ones breaks more in its first steps than the penalty mends.
DEFAULT_RATE = 2e-3
EXTENDING_RATE = 2e-4
DEFAULT_KEEP_STRENGTH = 100.0
# A Text-to-LoRA network of the paper's sizes L, M or S, or of about our own's parameters.
NETWORKS = (
    "hypernet",
    "text-to-lora-l",
    "text-to-lora-m",
    "text-to-lora-s",
    "text-to-lora-matched",
)
_POSITIVE = (
    "steps",
    "minutes",
    "learning_rate",
    "scale",
    "tasks_per_step",
    "sequences_per_task",
    "atoms",
    "max_tokens",
    "max_answer_tokens",
    "examples_per_task",
    "limit_tasks",
    "evaluate_every",
)
_NOT_NEGATIVE = (
    "top_layers",
    "static_rank",
    "generated_rank",
    "cache_gib",
    "save_every",
    "composed",
    "rewordings",
    "keep_strength",
    "replay",
    "new_atoms",
)
# What makes the network; one that is extended has it already.
_SHAPE = (
    "network",
    "scale",
    "top_layers",
    "modules",
    "static_rank",
    "generated_rank",
    "atoms",
    "words",
)
_OF_EXTENDING = ("keep", "keep_strength", "replay", "new_atoms")


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusOptions:
    """What to train on, and what of it.

    Attributes:
        tasks: a file of task lines, a folder, or a file that `prepare-tasks` made; see
            `read_training_tasks`.
        validation: likewise; None for the corpus's own split or held-out families.
        max_tokens: longer examples are left out; likewise `max_answer_tokens`.
        in_prompt: share of the examples that carry the description in the prompt.
        composed: how many tasks to make of each by asking for another answer format.
        rewordings: how many further wordings of its descriptions to make.
        include_noncommercial: also train on tasks from which no checkpoint may be shipped.
        limit_tasks: train on so many only, drawn at random.
    """

    tasks: Path
    validation: Path | None = None
    seed: int = 0
    max_tokens: int = 192
    max_answer_tokens: int = 48
    examples_per_task: int = 48
    in_prompt: float = 0.25
    composed: int = 1
    rewordings: int = 2
    include_noncommercial: bool = False
    limit_tasks: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingOptions(CorpusOptions):
    """What to train on, for how long, and the network's shape.

    Attributes:
        out: the checkpoint to write; an interrupted run is resumed from a file beside it.
        extend: go on from this checkpoint, in its shape ...
        keep: ... and hold what it makes for the descriptions of these tasks too (a corpus,
            prepared tasks, or a file that `register-task` reads), besides those that it was
            trained on: of them it has the sentence vectors alone, which say less.
        keep_strength: weight of the penalty on what changes for kept descriptions; 0 for
            none, None for `DEFAULT_KEEP_STRENGTH`.
        replay: how many examples of each task in `keep` are trained on again.
        new_atoms: how many atoms to add to every dictionary.
        network: one of `NETWORKS`.
        steps: end after so many optimizer steps; None for no limit.
        minutes: end after so much training time; None for no limit, or for
            `DEFAULT_MINUTES` if `steps` is None too.
        learning_rate: None for `DEFAULT_RATE`, or `EXTENDING_RATE` when extending.
        top_layers: how many of the last layers to adapt; 0 for all. The lower ones need
            no backward pass, and their output is kept.
        modules: last parts of the names of the projections to adapt.
        static_rank: rank of the part that all tasks share; likewise `generated_rank`, of
            which 0 gives a multi-task LoRA.
        scale: multiplier of the adapters.
        words: let the hypernetwork point at the words of its texts.
        tasks_per_step: how many tasks an optimizer step sees, and how many examples of each.
        cache_gib: at most so much of the lower layers' output is kept ...
        cache_dir: ... in files there, for later runs too; None for this run only.
        save_every: seconds between saves; a kill loses no more.
        compiled: "auto", "on" or "off": compile the base model.
        device: "auto", or a torch device; likewise `dtype`.
    """

    out: Path
    extend: Path | None = None
    keep: Path | None = None
    keep_strength: float | None = None
    replay: int = 0
    new_atoms: int = 0
    network: str = "hypernet"
    steps: int | None = None
    minutes: float | None = None
    learning_rate: float | None = None
    scale: float = 2.0
    top_layers: int = 12
    modules: tuple[str, ...] = DEFAULT_MODULES
    static_rank: int = 8
    generated_rank: int = 8
    atoms: int = 48
    words: bool = True
    tasks_per_step: int = 16
    sequences_per_task: int = 2
    cache_gib: float = 8.0
    cache_dir: Path | None = None
    evaluate_every: int = 500
    save_every: float = 120.0
    compiled: str = "auto"
    device: str = "auto"
    dtype: str = "auto"


def check_options(options: CorpusOptions) -> None:
    """Raises ConfigError for an option that makes no sense or an output file out of reach."""
    for name in _POSITIVE:
        value = getattr(options, name, None)
        if value is not None and not value > 0:
            raise ConfigError(f"{name} is {value}", hint="give a number above 0")
    for name in _NOT_NEGATIVE:
        value = getattr(options, name, None)
        if value is not None and not value >= 0:
            raise ConfigError(f"{name} is {value}", hint="give 0 or more")
    if not 0 <= options.in_prompt <= 1:
        raise ConfigError(f"in_prompt is {options.in_prompt}", hint="give a share, 0 to 1")
    if isinstance(options, TrainingOptions):
        _check_choices(options)
        _check_extending(options)
        check_output(options.out)


def check_output(out: Path) -> None:
    """Raises ConfigError unless a file can be written there."""
    if out.is_dir():
        raise ConfigError(f"{out} is a folder", hint="name a file, hypernet.safetensors")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise unwritable(out, exc) from exc
    if not os.access(out.parent, os.W_OK):
        raise ConfigError(f"{out.parent} is not writable", hint="choose another --out")


def _check_choices(options: TrainingOptions) -> None:
    if options.network not in NETWORKS:
        raise ConfigError(
            f"unknown network {options.network!r}", hint=f"choose among {', '.join(NETWORKS)}"
        )
    if options.compiled not in ("auto", "on", "off"):
        raise ConfigError(f"compiled is {options.compiled!r}", hint="give auto, on or off")
    if options.static_rank + options.generated_rank == 0:
        raise ConfigError("both ranks are 0", hint="give --static-rank or --generated-rank")


def _check_extending(options: TrainingOptions) -> None:
    defaults = {field.name: field.default for field in fields(TrainingOptions)}
    given = {name for name in defaults if getattr(options, name) != defaults[name]}
    if options.extend is None:
        for name in filter(given.__contains__, _OF_EXTENDING):
            raise ConfigError(
                f"{name} is {getattr(options, name)}, but no checkpoint is extended",
                hint="name the one to go on from: --extend FILE",
            )
        return
    for name in filter(given.__contains__, _SHAPE):
        raise ConfigError(
            f"{name} is {getattr(options, name)}, but {options.extend} has its shape already",
            hint="leave that option out, or train a new network without --extend",
        )
    if options.out.resolve() == options.extend.resolve():
        raise ConfigError(
            f"{options.out} is the checkpoint that is extended",
            hint="name another --out: what is extended stays as it is",
        )


def unwritable(out: Path, exc: OSError) -> ConfigError:
    """Returns the error for an output file that the system refuses."""
    return ConfigError(
        f"cannot write {out}: {exc.strerror or exc}", hint="choose another --out or free the disk"
    )

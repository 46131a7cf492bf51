"""What a training run is told to do. The defaults made the checkpoint that is shipped."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from hyperplug.errors import ConfigError
from hyperplug.hypernet.prepare import DEFAULT_MODULES

DEFAULT_MINUTES = 90.0
_POSITIVE = (
    "steps",
    "minutes",
    "learning_rate",
    "generated_rank",
    "atoms",
    "max_tokens",
    "max_answer_tokens",
    "examples_per_task",
    "limit_tasks",
    "evaluate_every",
)
_NOT_NEGATIVE = ("top_layers", "static_rank", "cache_gib")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingOptions:
    """What to train on, for how long, and the hypernetwork's shape.

    Attributes:
        tasks: a file of task lines, or a folder; see `read_training_tasks`.
        validation: likewise; None for the corpus's own split or held-out families.
        out: the checkpoint to write; an interrupted run is resumed from a file beside it.
        steps: end after so many optimizer steps; None for no limit.
        minutes: end after so much training time; None for no limit, or for
            `DEFAULT_MINUTES` if `steps` is None too.
        top_layers: how many of the last layers to adapt; 0 for all. The lower ones need
            no backward pass, and their output is kept in memory.
        modules: last parts of the names of the projections to adapt.
        max_tokens: longer examples are left out; likewise `max_answer_tokens`.
        in_prompt: share of the examples that carry the description in the prompt.
        include_noncommercial: also train on tasks from which no checkpoint may be shipped.
        device: "auto", or a torch device; likewise `dtype`.
    """

    tasks: Path
    out: Path
    validation: Path | None = None
    steps: int | None = None
    minutes: float | None = None
    seed: int = 0
    learning_rate: float = 2e-3
    top_layers: int = 12
    modules: tuple[str, ...] = DEFAULT_MODULES
    static_rank: int = 8
    generated_rank: int = 8
    atoms: int = 32
    max_tokens: int = 192
    max_answer_tokens: int = 48
    examples_per_task: int = 100
    in_prompt: float = 0.1
    include_noncommercial: bool = False
    limit_tasks: int | None = None
    cache_gib: float = 4.0
    evaluate_every: int = 500
    device: str = "auto"
    dtype: str = "auto"


def check_options(options: TrainingOptions) -> None:
    """Raises ConfigError for an option that makes no sense or an output file out of reach."""
    for name in _POSITIVE:
        value = getattr(options, name)
        if value is not None and not value > 0:
            raise ConfigError(f"{name} is {value}", hint="give a number above 0")
    for name in _NOT_NEGATIVE:
        if not getattr(options, name) >= 0:
            raise ConfigError(f"{name} is {getattr(options, name)}", hint="give 0 or more")
    if not 0 <= options.in_prompt <= 1:
        raise ConfigError(f"in_prompt is {options.in_prompt}", hint="give a share, 0 to 1")
    if options.out.is_dir():
        raise ConfigError(f"{options.out} is a folder", hint="name a file, hypernet.safetensors")
    try:
        options.out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise unwritable(options.out, exc) from exc
    if not os.access(options.out.parent, os.W_OK):
        raise ConfigError(f"{options.out.parent} is not writable", hint="choose another --out")


def unwritable(out: Path, exc: OSError) -> ConfigError:
    """Returns the error for an output file that the system refuses."""
    return ConfigError(
        f"cannot write {out}: {exc.strerror or exc}", hint="choose another --out or free the disk"
    )

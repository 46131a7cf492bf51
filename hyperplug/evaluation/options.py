"""What a benchmark is told to measure."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hyperplug.errors import ConfigError
from hyperplug.evaluation.arms import ALL_ARMS, DEFAULT_ARMS, Arm, check_arms

ARTEFACTS = (
    "static",
    "static_prompt",
    "t2l",
    "loras",
    "oracle",
    "maml",
    "reptile",
    "train_tasks",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkOptions:
    """What to measure.

    Attributes:
        tasks: a file of task lines, or a folder of them; of a folder with a file
            `test.jsonl` (or `.gz`) only that file.
        limit_tasks: how many tasks at most, spread over families; None for all.
        limit_examples: how many examples of a task at most; None for all.
        static: checkpoint of a multi-task LoRA; `static_prompt` likewise, of one trained
            with the description in the prompt.
        t2l: checkpoint of a Text-to-LoRA network.
        loras: LoRAs of training tasks.
        oracle: LoRAs of the measured tasks; those without one are left out of that arm.
        maml: a LoRA from which few steps suffice, meta-trained; `reptile` likewise.
        train_tasks: what the policy's registry holds.
        unrelated: also ask simple general questions, with and without adapters.
        out: JSON file for the result; answers are kept beside it until the run is
            complete, and an interrupted run goes on from there.
        answers: JSON-lines file for every answer given.
        device: "auto", or a torch device.
        dtype: "float32", as the server computes on a CPU; "auto" for the fastest.
    """

    tasks: Path
    arms: tuple[Arm, ...] = DEFAULT_ARMS
    limit_tasks: int | None = None
    limit_examples: int | None = None
    static: Path | None = None
    static_prompt: Path | None = None
    t2l: Path | None = None
    loras: Path | None = None
    oracle: Path | None = None
    maml: Path | None = None
    reptile: Path | None = None
    train_tasks: Path | None = None
    unrelated: bool = False
    seed: int = 0
    out: Path | None = None
    answers: Path | None = None
    device: str = "auto"
    dtype: str = "float32"

    @property
    def given(self) -> frozenset[str]:
        """Names of the files for arms that are given."""
        return frozenset(name for name in ARTEFACTS if getattr(self, name) is not None)

    @property
    def needs_hypernet(self) -> bool:
        """Whether the hypernetwork is to be loaded."""
        return self.unrelated or any(arm.needs_hypernet for arm in self.arms)


def check_options(options: BenchmarkOptions) -> None:
    """Raises ConfigError for an option that makes no sense."""
    if not options.arms:
        names = ", ".join(arm.name for arm in ALL_ARMS)
        raise ConfigError("no arm is given", hint=f"choose among {names}")
    check_arms(options.arms, given=options.given)
    for name in ("limit_tasks", "limit_examples"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ConfigError(f"{name} is {value}", hint="give 1 or more, or leave it out")
    for path in (options.out, options.answers):
        if path is not None and path.is_dir():
            raise ConfigError(f"{path} is a folder", hint="name a file")
    if options.answers is not None and options.out is None:
        raise ConfigError("answers are kept beside a result file", hint="give --json OUT too")

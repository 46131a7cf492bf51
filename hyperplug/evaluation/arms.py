"""The arms of a benchmark: what each puts into the prompt and which adapter it applies."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from enum import StrEnum

from hyperplug.errors import ConfigError
from hyperplug.evaluation.selection import MAX_SHOWN


class Source(StrEnum):
    """Where an arm's adapter comes from."""

    NONE = "none"
    HYPERNET = "hypernet"
    SHARED_PART = "shared part"
    STATIC = "static"
    STATIC_PROMPT = "static-prompt"
    T2L = "t2l"
    MEAN = "mean"
    NEAREST = "nearest"
    MERGE = "merge"
    ORACLE = "oracle"
    SCRATCH = "scratch"
    MAML = "maml"
    REPTILE = "reptile"
    SEQUENTIAL = "sequential"
    WEIGHTS = "weights"
    POLICY = "policy"


class Words(StrEnum):
    """Which description a generator reads."""

    NONE = "none"
    OWN = "own"
    REPHRASED = "rephrased"
    SHUFFLED = "shuffled"
    JUNK = "junk"


# The option that gives an arm its adapters, and what it has to hold.
_NEEDS = {
    Source.STATIC: ("static", "the checkpoint of a multi-task LoRA"),
    Source.STATIC_PROMPT: ("static_prompt", "a multi-task LoRA trained with --in-prompt 1"),
    Source.T2L: ("t2l", "the checkpoint of a Text-to-LoRA network"),
    Source.MEAN: ("loras", "LoRAs of training tasks, from train-loras"),
    Source.NEAREST: ("loras", "LoRAs of training tasks, from train-loras"),
    Source.MERGE: ("loras", "LoRAs of training tasks, from train-loras"),
    Source.ORACLE: ("oracle", "LoRAs of the evaluated tasks, from train-loras"),
    Source.MAML: ("maml", "a start from train-start --method maml"),
    Source.REPTILE: ("reptile", "a start from train-start --method reptile"),
    Source.POLICY: ("train_tasks", "the tasks that the hypernetwork was trained on"),
}
_WITHOUT_TEXT = (
    Source.NONE,
    Source.MEAN,
    Source.ORACLE,
    Source.SCRATCH,
    Source.MAML,
    Source.REPTILE,
    Source.SEQUENTIAL,
    Source.WEIGHTS,
)
_STANDING = (
    Source.SHARED_PART,
    Source.STATIC,
    Source.STATIC_PROMPT,
    Source.MEAN,
    Source.SEQUENTIAL,
    Source.WEIGHTS,
)
_OF_A_HYPERNET = (Source.HYPERNET, Source.SHARED_PART, Source.POLICY)


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """A way to have a task done.

    Attributes:
        meaning: what it does, in a few words.
        words: which description its generator reads.
        examples: how many examples its generator reads.
        swapped: whether those are another task's.
        described: whether the description is in the prompt.
        shots: how many examples are in the prompt, as earlier turns.
        retrieved: how many of the task's stored examples are there, the nearest to the input.
        steps: for how many steps at most it is trained on `examples` examples of a task.
    """

    name: str
    meaning: str
    adapter: Source = Source.NONE
    words: Words = Words.OWN
    examples: int = 0
    swapped: bool = False
    described: bool = False
    shots: int = 0
    retrieved: int = 0
    steps: int = 0

    @property
    def needs_hypernet(self) -> bool:
        """Whether its adapter comes from the hypernetwork that is measured."""
        return self.adapter in _OF_A_HYPERNET

    @property
    def needs_embedder(self) -> bool:
        """Whether descriptions or inputs have to be encoded."""
        return self.retrieved > 0 or self.adapter not in _WITHOUT_TEXT

    @property
    def standing(self) -> bool:
        """Whether the same adapter or weights answer all tasks, and whatever is none."""
        return not self.is_refined and self.adapter in _STANDING

    @property
    def is_refined(self) -> bool:
        """Whether each task has an adapter that was trained on its own examples alone."""
        return self.steps > 0 and self.adapter not in (Source.SEQUENTIAL, Source.WEIGHTS)

    @property
    def option(self) -> str | None:
        """The name of the option that it cannot do without."""
        return _NEEDS[self.adapter][0] if self.adapter in _NEEDS else None

    @property
    def needs_partner(self) -> bool:
        """Whether it takes something from another task."""
        return self.swapped or self.words is Words.SHUFFLED


def _hypernet(name: str, meaning: str, words: Words = Words.OWN, examples: int = 0) -> Arm:
    return Arm(name=name, meaning=meaning, adapter=Source.HYPERNET, words=words, examples=examples)


def _shots(count: int) -> Arm:
    plural = "example" if count == 1 else "examples"
    return Arm(
        name=f"shots-{count}",
        meaning=f"description and {count} {plural} in the prompt, no adapter",
        described=True,
        shots=count,
    )


def _tuned(name: str, meaning: str, adapter: Source, *, steps: int = 20) -> Arm:
    return Arm(name=name, meaning=meaning, adapter=adapter, examples=8, steps=steps)


def _t2l(name: str, meaning: str, words: Words) -> Arm:
    return Arm(name=name, meaning=meaning, adapter=Source.T2L, words=words)


ALL_ARMS = (
    Arm(name="base", meaning="input alone, no adapter"),
    Arm(name="prompt", meaning="description in the prompt, no adapter", described=True),
    _shots(1),
    _shots(4),
    _shots(8),
    Arm(
        name="static-part",
        meaning="the part of the hypernetwork's adapters that all tasks share",
        adapter=Source.SHARED_PART,
    ),
    Arm(
        name="static",
        meaning="one LoRA trained on all training tasks (--static)",
        adapter=Source.STATIC,
    ),
    Arm(
        name="static-prompt",
        meaning="one LoRA trained and asked with the description in the prompt (--static-prompt)",
        adapter=Source.STATIC_PROMPT,
        described=True,
    ),
    _t2l("t2l", "adapter from the description by Text-to-LoRA (--t2l)", Words.OWN),
    _t2l("t2l-shuffled", "Text-to-LoRA given another task's description", Words.SHUFFLED),
    _t2l("t2l-junk", "Text-to-LoRA given a text that describes no task", Words.JUNK),
    Arm(name="mean", meaning="mean of training tasks' LoRAs (--loras)", adapter=Source.MEAN),
    Arm(
        name="nearest",
        meaning="LoRA of the training task with the nearest description (--loras)",
        adapter=Source.NEAREST,
    ),
    Arm(
        name="merge",
        meaning="weighted sum of the three nearest training tasks' LoRAs (--loras)",
        adapter=Source.MERGE,
    ),
    Arm(
        name="oracle",
        meaning="LoRA trained on the task's own examples (--oracle)",
        adapter=Source.ORACLE,
    ),
    _hypernet("hypernet", "adapter from the task's description"),
    _hypernet("hypernet-examples", "adapter from 8 examples alone", Words.NONE, 8),
    _hypernet("hypernet-both", "adapter from the description and 8 examples", Words.OWN, 8),
    replace(
        _hypernet("hypernet-prompt", "adapter from the description, which is in the prompt too"),
        described=True,
    ),
    _hypernet("rephrased", "adapter from another wording of the description", Words.REPHRASED),
    _hypernet("shuffled", "adapter from another task's description", Words.SHUFFLED),
    _hypernet("junk", "adapter from a text that describes no task", Words.JUNK),
    replace(
        _hypernet("examples-shuffled", "adapter from 8 examples of another task", Words.NONE, 8),
        swapped=True,
    ),
    _tuned("refined", "hypernet-both, refined on its 8 examples", Source.HYPERNET),
    _tuned("static-refined", "the one LoRA for all, refined on 8 examples", Source.STATIC),
    _tuned("lora", "LoRA trained from scratch on 8 examples", Source.SCRATCH, steps=80),
    _tuned("maml", "LoRA refined on 8 examples from a start by MAML (--maml)", Source.MAML),
    _tuned(
        "reptile", "LoRA refined on 8 examples from a start by Reptile (--reptile)", Source.REPTILE
    ),
    replace(
        _tuned(
            "lora-sequential",
            "one LoRA trained on 8 examples of each task in turn, the description in the prompt",
            Source.SEQUENTIAL,
        ),
        described=True,
    ),
    replace(
        _tuned("full-sequential", "likewise all weights of the model", Source.WEIGHTS),
        described=True,
    ),
    Arm(
        name="rag",
        meaning="description and the 4 nearest of up to 64 stored examples in the prompt",
        described=True,
        retrieved=4,
    ),
    Arm(
        name="policy",
        meaning="what the registry of all training tasks decides to serve (--train-tasks)",
        adapter=Source.POLICY,
    ),
)
_BY_NAME = {arm.name: arm for arm in ALL_ARMS}
DEFAULT_ARMS = tuple(
    _BY_NAME[name] for name in ("base", "prompt", "static-part", "hypernet", "shuffled")
)
_ALL = "all"


def parse_arms(text: str, *, given: Collection[str] = ()) -> tuple[Arm, ...]:
    """Returns the arms of a comma-separated list, each once, in the order given.

    "all" stands for every arm that has what it needs; "hypernet-both:4" for that arm with
    4 examples in place of 8.

    Args:
        given: names of the options that are given: "static", "train_tasks", ...

    Raises:
        ConfigError: for an unknown arm or an empty list.
    """
    arms: list[Arm] = []
    for name in (name.strip() for name in text.split(",")):
        if name == _ALL:
            arms += [arm for arm in ALL_ARMS if arm.option is None or arm.option in given]
        elif name:
            arms.append(find_arm(name))
    if not arms:
        raise ConfigError("no arm is given", hint=_choose())
    return tuple(dict.fromkeys(arms))


def find_arm(name: str) -> Arm:
    """Returns the arm of that name. Raises ConfigError if there is none."""
    stem, colon, count = name.partition(":")
    arm = _BY_NAME.get(stem)
    if arm is None:
        raise ConfigError(f"unknown arm {name!r}", hint=_choose())
    if not colon:
        return arm
    if not arm.examples:
        raise ConfigError(f"arm {stem!r} reads no examples", hint=f"leave out {':' + count!r}")
    if not (count.isdecimal() and 1 <= int(count) <= MAX_SHOWN):
        raise ConfigError(
            f"arm {name!r} has no number of examples", hint=f"give 1 to {MAX_SHOWN}: {stem}:4"
        )
    meaning = arm.meaning.replace(f"{arm.examples} examples", f"{int(count)} examples")
    return replace(arm, name=f"{stem}:{int(count)}", meaning=meaning, examples=int(count))


def check_arms(arms: Collection[Arm], *, given: Collection[str]) -> None:
    """Raises ConfigError for an arm whose adapters are not given."""
    for arm in arms:
        if arm.option is not None and arm.option not in given:
            flag = "--" + arm.option.replace("_", "-")
            raise ConfigError(
                f"arm {arm.name!r} needs {_NEEDS[arm.adapter][1]}",
                hint=f"give {flag} FILE, or leave that arm out",
            )


def _choose() -> str:
    return f"choose among all, {', '.join(_BY_NAME)}"

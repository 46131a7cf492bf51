"""What a benchmark asks: its tasks and examples, and who answers which prompts."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from hyperplug.entities import Example
from hyperplug.errors import ConfigError, InvalidTaskFileError
from hyperplug.evaluation import unrelated
from hyperplug.evaluation.adapters import Conditions
from hyperplug.evaluation.arms import Arm
from hyperplug.evaluation.decoding import Prompt
from hyperplug.evaluation.loras import LoraBank
from hyperplug.evaluation.options import BenchmarkOptions
from hyperplug.evaluation.plan import Row
from hyperplug.evaluation.prompts import PromptMaker, Regime, regime
from hyperplug.evaluation.selection import (
    MAX_STORED,
    select_examples,
    select_tasks,
    shown_examples,
    shuffled_partners,
)
from hyperplug.hypernet.data import CorpusTask, read_corpus
from hyperplug.hypernet.splits import split_file

_SHOWN_PROBLEMS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What is measured.

    Attributes:
        tasks: with the examples that are asked, and no others.
        conditions: what generators are given besides.
    """

    tasks: tuple[CorpusTask, ...]
    conditions: Conditions

    def check_oracle(self, bank: LoraBank | None, options: BenchmarkOptions) -> None:
        """Raises ConfigError unless the oracle's LoRAs are of these tasks, and were trained
        without the examples that are asked."""
        if bank is None:
            return
        limit = options.limit_examples
        again = f"hyperplug train-loras --tasks THESE_TASKS --hold-out {limit or 'N'}"
        if not {task.id for task in self.tasks} & set(bank.ids):
            raise ConfigError(
                "the oracle's LoRAs are of none of the measured tasks",
                hint=f"train them with: {again}",
            )
        spared = (bank.training.get("hold_out"), bank.training.get("seed"))
        if limit is None or spared != (limit, options.seed):
            raise ConfigError(
                f"the oracle's LoRAs spared {spared[0] or 'no'} examples of seed {spared[1]}, "
                f"and {limit or 'all'} of seed {options.seed} are asked",
                hint=f"give --limit-examples and --seed as to train-loras; or: {again}",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Prompts, and the arms that answer them."""

    key: str
    rows: tuple[Row, ...]
    arms: tuple[Arm, ...]


def choose_subject(options: BenchmarkOptions, say: Callable[[str], None]) -> Subject:
    """Returns the tasks and examples within the options' limits.

    Raises:
        InvalidTaskFileError: if there is no usable task, or two of one id.
        ConfigError: if an arm shows examples and a task has none left.
    """
    every = _read_tasks(options.tasks, say)
    chosen = select_tasks(every, limit=options.limit_tasks, seed=options.seed)
    asked = {task.id: _asked(task, options) for task in every}
    needs_partner = any(arm.needs_partner for arm in options.arms)
    partners = shuffled_partners(every, seed=options.seed) if needs_partner else {}
    shown = {t.id: shown_examples(t, asked[t.id], seed=options.seed) for t in every}
    subject = Subject(
        tasks=tuple(asked[task.id] for task in chosen),
        conditions=Conditions(
            seed=options.seed,
            shown=shown,
            partners=partners,
            stored=_stored(every, asked, options),
            sequence=tuple(asked[task.id] for task in chosen),
            partners_shown={id_: shown[partner.id] for id_, partner in partners.items()},
        ),
    )
    _check_shown(options.arms, subject)
    return subject


def list_works(
    subject: Subject, options: BenchmarkOptions, prompts: PromptMaker
) -> tuple[Work, ...]:
    """Returns everything that is asked, the arms with the same prompts together."""
    by_regime: dict[Regime, list[Arm]] = {}
    for arm in options.arms:
        by_regime.setdefault(regime(arm), []).append(arm)
    works = [
        Work(
            key=_key(wanted),
            rows=_rows(subject.tasks, partial(prompts.prompts, wanted=wanted)),
            arms=tuple(arms),
        )
        for wanted, arms in sorted(by_regime.items(), key=lambda entry: entry[0])
    ]
    if options.unrelated:
        standing = tuple(arm for arm in options.arms if arm.standing)
        works += _unrelated_works(subject, prompts, standing)
    return tuple(works)


def _key(wanted: Regime) -> str:
    kind = "described" if wanted.described else "stripped"
    retrieved = f"-retrieved-{wanted.retrieved}" if wanted.retrieved else ""
    return f"tasks-{kind}-{wanted.shots}{retrieved}"


def _stored(
    tasks: Iterable[CorpusTask], asked: Mapping[str, CorpusTask], options: BenchmarkOptions
) -> dict[str, tuple[Example, ...]]:
    """Returns what prompts may draw from, if some arm does so."""
    if not any(arm.retrieved for arm in options.arms):
        return {}
    return {
        task.id: shown_examples(task, asked[task.id], seed=options.seed, limit=MAX_STORED)
        for task in tasks
    }


def digest(subject: Subject) -> str:
    """Returns a digest over what is asked: tasks, examples, descriptions and partners."""
    hasher = hashlib.sha256()
    conditions = subject.conditions
    for task in subject.tasks:
        hasher.update(repr((task, conditions.shown[task.id])).encode())
        if task.id in conditions.stored:
            hasher.update(repr(conditions.stored[task.id]).encode())
        if task.id in conditions.partners:
            partner = conditions.partners[task.id]
            shown = conditions.partners_shown[task.id]
            hasher.update(repr((partner.descriptions, shown)).encode())
    return hasher.hexdigest()


def _unrelated_works(
    subject: Subject, prompts: PromptMaker, standing: tuple[Arm, ...]
) -> list[Work]:
    asked = partial(prompts.plain, max_new_tokens=unrelated.MAX_NEW_TOKENS)
    return [
        Work(
            key="unrelated-bare",
            rows=_rows([unrelated.asked_bare()], asked),
            arms=(unrelated.BARE, *standing),
        ),
        Work(
            key="unrelated-mounted",
            rows=_rows(unrelated.asked_under(subject.tasks), asked),
            arms=(unrelated.MOUNTED,),
        ),
    ]


def _rows(
    tasks: Iterable[CorpusTask], ask: Callable[[CorpusTask], Sequence[Prompt]]
) -> tuple[Row, ...]:
    return tuple(
        Row(task=task, index=index, prompt=prompt)
        for task in tasks
        for index, prompt in enumerate(ask(task))
    )


def _asked(task: CorpusTask, options: BenchmarkOptions) -> CorpusTask:
    return select_examples(task, limit=options.limit_examples, seed=options.seed)


def _check_shown(arms: Iterable[Arm], subject: Subject) -> None:
    """Raises ConfigError if an arm shows examples and every one of a task's is asked."""
    conditions = subject.conditions
    for arm in arms:
        if not (arm.examples or arm.shots or arm.retrieved):
            continue
        shown = conditions.partners_shown if arm.swapped else conditions.shown
        for task in subject.tasks:
            if not shown[task.id]:
                raise ConfigError(
                    f"arm {arm.name!r} shows examples that are not asked, and task "
                    f"{task.id!r} has none left for it",
                    hint="ask fewer with --limit-examples, or leave that arm out",
                )


def _read_tasks(path: Path, say: Callable[[str], None]) -> tuple[CorpusTask, ...]:
    corpus = read_corpus(split_file(path, "test") or path)
    for line in corpus.skipped[:_SHOWN_PROBLEMS]:
        say(f"Skipped {line}")
    if len(corpus.skipped) > _SHOWN_PROBLEMS:
        say(f"Skipped {len(corpus.skipped) - _SHOWN_PROBLEMS} more lines")
    twice = [id_ for id_, count in Counter(task.id for task in corpus.tasks).items() if count > 1]
    if twice:
        raise InvalidTaskFileError(
            f"{path} has two tasks with the id {twice[0]!r}", hint="give each an id of its own"
        )
    return corpus.tasks

"""More training tasks from the same data: other answer formats and other wordings.

A composed task asks for the answers of a task in another form, and its descriptions say which.
The input alone no longer tells the answer, so a generator must read the description. For
training only: a composed task belongs to the family of its task.
"""

from __future__ import annotations

import dataclasses
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from hyperplug.entities import Example
from hyperplug.hypernet.data import CorpusTask
from hyperplug.hypernet.formats import Form, fitting_forms
from hyperplug.hypernet.relabelling import (
    MOST_LABELS,
    Relabelling,
    listed,
    mapping_clause,
    relabellings,
)
from hyperplug.hypernet.wording import reworded

MOST_DESCRIPTIONS = 8
_CLAUSE_FIRST_SHARE = 0.2
_REWRITTEN_SHARE = 0.5
_OUTCOMES_SHARE = 0.35
_MOST_OUTCOMES = 4
_QUOTED_OUTCOMES = ("sentence", "prefix", "twice", "full-stop", "exclamation-mark")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Composition:
    """One answer format for one task: how answers change and how a description says so."""

    name: str
    apply: Callable[[str], str]
    describe: Callable[[str, random.Random], str]


def augment(
    tasks: Sequence[CorpusTask], *, composed_per_task: int, rewordings: int, seed: int
) -> tuple[CorpusTask, ...]:
    """Returns each task with more wordings, followed by its composed tasks.

    Args:
        composed_per_task: at most so many new tasks a task.
        rewordings: so many new wordings a task. Original wordings beyond what fits into eight
            in all are left out, the first one never.
    """
    augmented: list[CorpusTask] = []
    for task in tasks:
        richer = _with_rewordings(task, count=rewordings, seed=seed)
        augmented.append(richer)
        augmented.extend(composed(richer, count=composed_per_task, seed=seed))
    return tuple(augmented)


def composed(task: CorpusTask, *, count: int, seed: int) -> tuple[CorpusTask, ...]:
    """Returns up to `count` new tasks: the same inputs, the answers in another format.

    The formats are those that fit the answers, chosen by task id and seed; formats that
    replace labels and formats that wrap answers take turns.
    """
    labels = choice_labels(task)
    compositions = _interleaved(
        _relabelled(task, labels, random.Random(f"{seed}:{task.id}:labels")),
        _formed(task, labels, random.Random(f"{seed}:{task.id}:forms")),
        random.Random(f"{seed}:{task.id}:order"),
    )
    return tuple(_apply(task, labels, c, seed=seed) for c in compositions[:count])


def choice_labels(task: CorpusTask) -> tuple[str, ...]:
    """Returns the labels that cover all answers of a task; () if it is not a choice."""
    answers = {example.output.strip() for example in task.examples}
    stated = tuple(label.strip() for label in task.labels)
    if answers and answers <= set(stated) and len(set(stated)) == len(stated):
        return stated
    few = 2 <= len(answers) <= MOST_LABELS and len(answers) * 3 <= len(task.examples)
    return tuple(sorted(answers)) if few and "" not in answers else ()


def rewritten(description: str, mapping: Mapping[str, str]) -> str | None:
    """Returns the description with its label words replaced; None if that is not safe.

    Labels are replaced where they are quoted, and in a list that names them all ("yes or
    no"). Unsafe means that nothing was replaced, or that a label would stay behind.
    """
    plain = {label.casefold(): word for label, word in mapping.items()}
    if len(plain) != len(mapping):
        return None
    labels = sorted(mapping, key=len, reverse=True)
    word = "|".join(re.escape(label) for label in labels)
    item = rf"(?:\"(?:{word})\"|'(?:{word})'|(?<![\w-])(?:{word})(?![\w-]))"
    between = r"(?:, (?:or |and )?| or | and |/| vs\.? | versus )"

    def relabelled(match: re.Match[str]) -> str:
        inner = re.compile(rf"(?<![\w-])(?:{word})(?![\w-])", re.IGNORECASE)
        named = {found.casefold() for found in inner.findall(match.group())}
        if len(named) != len(plain) and match.group()[0] not in "\"'":
            return match.group()
        new = inner.sub(lambda found: plain[found.group().casefold()], match.group())
        evenly_quoted = new.count('"') in (0, 2 * len(inner.findall(match.group())))
        return new if evenly_quoted else new.replace('"', "")

    text = re.sub(rf"{item}(?:{between}{item})*", relabelled, description, flags=re.IGNORECASE)
    left = re.sub(r"\"[^\"]*\"", "", text)
    stale = [x for x in labels if x not in mapping.values() and _occurs(x, left)]
    return None if text == description or stale else text


def _with_rewordings(task: CorpusTask, *, count: int, seed: int) -> CorpusTask:
    originals = task.descriptions[: max(1, MOST_DESCRIPTIONS - count)]
    protected = choice_labels(task) or task.labels
    share = -(-count // len(originals))
    wordings = [
        reworded(description, count=share + 1, seed=seed, protected=protected)
        for description in originals
    ]
    turns = [w[i] for i in range(share + 1) for w in wordings if i < len(w)]
    new = [wording for wording in dict.fromkeys(turns) if wording not in originals]
    return dataclasses.replace(task, descriptions=(*originals, *new[:count]))


def _apply(
    task: CorpusTask, labels: Sequence[str], composition: _Composition, *, seed: int
) -> CorpusTask:
    rng = random.Random(f"{seed}:{task.id}:{composition.name}")
    examples = tuple(
        Example(input=e.input, output=composition.apply(e.output.strip())) for e in task.examples
    )
    descriptions = [composition.describe(d.strip(), rng) for d in task.descriptions]
    return dataclasses.replace(
        task,
        id=f"{task.id}+{composition.name}",
        descriptions=tuple(dict.fromkeys(descriptions)),
        examples=examples,
        metric="exact_match" if labels else task.metric,
        labels=tuple(composition.apply(label) for label in labels),
    )


def _relabelled(task: CorpusTask, labels: Sequence[str], rng: random.Random) -> list[_Composition]:
    avoid = " ".join(task.descriptions)
    return [_relabelling(labels, r) for r in relabellings(labels, avoid=avoid, rng=rng)]


def _relabelling(labels: Sequence[str], relabelling: Relabelling) -> _Composition:
    mapping = dict(zip(labels, relabelling.words, strict=True))

    def describe(description: str, rng: random.Random) -> str:
        new = None
        if not relabelling.inverted and rng.random() < _REWRITTEN_SHARE:
            new = rewritten(description, mapping)
        clause = mapping_clause(labels, relabelling, rewritten=new is not None, rng=rng)
        return _joined(new or description, clause, rng)

    return _Composition(name=relabelling.name, apply=mapping.__getitem__, describe=describe)


def _formed(task: CorpusTask, labels: Sequence[str], rng: random.Random) -> list[_Composition]:
    answers = [example.output.strip() for example in task.examples]
    forms = fitting_forms([*answers, *labels], category=task.category, rng=rng)
    return [_forming(labels, form) for form in forms if not (labels and form.lossy)]


def _forming(labels: Sequence[str], form: Form) -> _Composition:
    mapping = {label: form.apply(label) for label in labels}

    def describe(description: str, rng: random.Random) -> str:
        clause = rng.choice(form.clauses)
        if form.name in ("upper", "lower") and labels and rng.random() < _REWRITTEN_SHARE:
            description = rewritten(description, mapping) or description
        elif 2 <= len(labels) <= _MOST_OUTCOMES and rng.random() < _OUTCOMES_SHARE:
            clause = f"{clause} {_outcomes(labels, form)}"
        return _joined(description, clause, rng)

    return _Composition(name=form.name, apply=form.apply, describe=describe)


def _outcomes(labels: Sequence[str], form: Form) -> str:
    outputs = [form.apply(label) for label in labels]
    if form.name in _QUOTED_OUTCOMES and not any('"' in output for output in outputs):
        outputs = [f'"{output}"' for output in outputs]
    return f"So the output is {listed(outputs, last='or')}"


def _joined(description: str, clause: str, rng: random.Random) -> str:
    """Returns the description and the clause in one text, the clause sometimes first."""
    if rng.random() < _CLAUSE_FIRST_SHARE:
        return f"{_stopped(clause)} {description}"
    return f"{_stopped(description)} {clause}"


def _stopped(text: str) -> str:
    if text.endswith((".", "!", "?", '."', '!"')):
        return text
    return f"{text.removesuffix(':')}."


def _interleaved(
    first: list[_Composition], second: list[_Composition], rng: random.Random
) -> list[_Composition]:
    rng.shuffle(first)
    rng.shuffle(second)
    turns = [*zip(first, second, strict=False)]
    rest = first[len(turns) :] + second[len(turns) :]
    return [composition for turn in turns for composition in turn] + rest


def _occurs(label: str, text: str) -> bool:
    return re.search(rf"(?<![\w-]){re.escape(label)}(?![\w-])", text) is not None

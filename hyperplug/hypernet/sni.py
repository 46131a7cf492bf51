"""Super-NaturalInstructions in its own format, as tasks of a corpus.

In the public repository (Wang et al., 2022, arXiv:2204.07705) `tasks/<id>.json` holds a
task and `splits/<track>/<split>_tasks.txt` the ids of a split, one a line.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeGuard

from hyperplug.entities import Example
from hyperplug.errors import InvalidTaskFileError
from hyperplug.hypernet.tasks import Corpus, CorpusTask

SUFFIX = ".json"
INSTANCES_PER_TASK = 200

_TASKS = "tasks"
_AND = " + "
_LIST_SUFFIX = "_tasks.txt"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# A task with so few answers over so many instances, or so small a share of different
# ones, is a choice among labels.
_FEW_ANSWERS, _OVER_INSTANCES = 12, 20
_SMALL_SHARE = 0.2
_MOST_LABELS = 100
_UNUSABLE = "the input is no text, or no output is a text that says something"
_CATEGORIES = {"text to code": "code", "code to text": "code", "question answering": "qa"}

_NONCOMMERCIAL = re.compile(r"\bnc\b|non.?commercial|\b(research|academic)\b.*\bonly\b")
_SHAREALIKE = re.compile(r"\bsa\b|share.?alike")
_PERMISSIVE = re.compile(
    r"\bapache\b|\bmit\b|\bbsd\b|\bcc0\b|\bpublic domain\b"
    r"|\b(cc|creative commons|licenses) (by|attribution)\b(?! (nd|no.?deriv))"
)


def is_task_list(path: Path) -> bool:
    """Returns whether `path` lists tasks of a `tasks` folder beside its `splits` folder."""
    return path.name.endswith(_LIST_SUFFIX) and path.is_file() and _listed_folder(path).is_dir()


def task_list(folder: Path, split: str) -> Path | None:
    """Returns the English track's list of a split, or None if there is none.

    Args:
        folder: the repository's root, or its `tasks`.
        split: "train" or "test"; the repository has no others.
    """
    root = folder.parent if folder.name == _TASKS else folder
    path = root / "splits" / "default" / f"{split}{_LIST_SUFFIX}"
    return path if is_task_list(path) else None


def listed_files(path: Path) -> list[Path]:
    """Returns the task files that a list names, in its order; they may not exist.

    Raises:
        InvalidTaskFileError: if the list cannot be read.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as exc:
        raise InvalidTaskFileError(
            f"cannot read {path}: {exc}", hint="give a list of task names, one a line"
        ) from exc
    names = dict.fromkeys(Path(line.strip()).name for line in lines if line.strip())
    return [_listed_folder(path) / f"{name.removesuffix(SUFFIX)}{SUFFIX}" for name in names]


def read_task_file(path: Path, *, instances: int = INSTANCES_PER_TASK, seed: int = 0) -> Corpus:
    """Returns the task in a file, or none and the reason.

    Its family is the datasets it was made from. An instance's answer is its first reference
    output that is not empty.

    Args:
        instances: take so many at most, drawn at random.

    Raises:
        InvalidTaskFileError: if there is no such file or it cannot be opened.
    """
    try:
        content = path.read_bytes()
    except OSError as exc:
        raise InvalidTaskFileError(
            f"cannot read {path}: {exc.strerror}", hint="give a file with a JSON object"
        ) from exc
    try:
        fields = _object(content)
        found = [_example(instance) for instance in _instances(fields)]
        usable = list(dict.fromkeys(example for example in found if example is not None))
        lost = f"{found.count(None)} of {len(found)} instances: {_UNUSABLE}"
        if not usable:
            raise ValueError(lost)
        drawn = random.Random(f"{seed}/{path.stem}").sample(usable, min(instances, len(usable)))
        task = _task(path.stem, fields, answers=[e.output for e in usable], examples=drawn)
    except ValueError as exc:
        return Corpus(tasks=(), skipped=(f"{path.name}: {exc}",))
    return Corpus(tasks=(task,), skipped=(f"{path.name}: {lost}",) if None in found else ())


def licence_class(licences: Sequence[str]) -> str:
    """Returns what licence texts allow together, by a simple reading; the strictest counts."""
    plain = [re.sub(r"[^a-z0-9]+", " ", text.lower()) for text in licences]
    if any(_NONCOMMERCIAL.search(text) for text in plain):
        return "noncommercial"
    if any(_SHAREALIKE.search(text) for text in plain):
        return "sharealike"
    permissive = bool(plain) and all(_PERMISSIVE.search(text) for text in plain)
    return "permissive" if permissive else "unknown"


def join_families(tasks: Sequence[CorpusTask]) -> list[CorpusTask]:
    """Returns the tasks with one family for all that share a dataset, be it through others.

    A task made from two datasets binds the tasks of the one to those of the other.
    """
    bound: dict[str, set[str]] = {}
    for task in tasks:
        names = set(task.family.split(_AND))
        names = names.union(*(bound.get(name, set()) for name in names))
        bound.update(dict.fromkeys(names, names))
    families = [_AND.join(sorted(bound[task.family.split(_AND)[0]])) for task in tasks]
    return [replace(t, family=family) for t, family in zip(tasks, families, strict=True)]


def _listed_folder(path: Path) -> Path:
    return path.absolute().parent.parent.parent / _TASKS


def _task(
    name: str, fields: dict[str, Any], *, answers: Sequence[str], examples: Sequence[Example]
) -> CorpusTask:
    descriptions = _texts(fields, "Definition")
    if not descriptions:
        raise ValueError("Definition is missing or empty")
    sources = _texts(fields, "Source")
    categories = [text.lower() for text in _texts(fields, "Categories")]
    labels = _labels(answers)
    return CorpusTask(
        id=name,
        family=_AND.join(sorted({source.lower() for source in sources})) or name,
        descriptions=descriptions,
        metric="exact_match" if labels else "rougeL",
        examples=tuple(examples),
        source=", ".join(sources),
        licence_class=licence_class(_texts(fields, "Instance License")),
        labels=labels if 2 <= len(labels) <= _MOST_LABELS else (),
        category=_CATEGORIES.get(categories[0], categories[0]) if categories else "",
    )


def _labels(answers: Sequence[str]) -> tuple[str, ...]:
    """Returns the different answers of a choice, the first seen first; else none."""
    different = tuple(dict.fromkeys(answers))
    few = len(different) <= _FEW_ANSWERS and len(answers) >= _OVER_INSTANCES
    return different if few or len(different) < _SMALL_SHARE * len(answers) else ()


def _object(content: bytes) -> dict[str, Any]:
    if content.startswith(_BYTE_ORDER_MARK):
        raise ValueError("starts with a byte order mark; save it as plain UTF-8")
    try:
        fields = json.loads(content.decode("utf-8"))
    except UnicodeDecodeError as exc:
        raise ValueError(f"not UTF-8 (byte {exc.start})") from exc
    except json.JSONDecodeError as exc:
        raise ValueError(f"broken JSON: {exc}") from exc
    except RecursionError as exc:
        raise ValueError("broken JSON: nested too deeply") from exc
    if not isinstance(fields, dict):
        raise ValueError(f"holds a JSON {type(fields).__name__}, not an object")
    return fields


def _instances(fields: dict[str, Any]) -> list[Any]:
    instances = fields.get("Instances")
    if instances is None or instances == []:
        raise ValueError("Instances is missing or empty")
    if not isinstance(instances, list):
        raise ValueError("Instances is not a list")
    return instances


def _example(instance: Any) -> Example | None:
    if not isinstance(instance, dict) or not _is_text(instance.get("input")):
        return None
    outputs = instance.get("output")
    references = outputs if isinstance(outputs, list) else [outputs]
    answers = (text.strip() for text in references if _is_text(text))
    answer = next((text for text in answers if text), None)
    return None if answer is None else Example(input=instance["input"], output=answer)


def _texts(fields: dict[str, Any], name: str) -> tuple[str, ...]:
    """Returns a field's texts that say something; old files have one text and no list."""
    value = fields.get(name)
    texts = [] if value is None else value if isinstance(value, list) else [value]
    if not all(_is_text(text) for text in texts):
        raise ValueError(f"{name} is neither a text nor a list of texts")
    return tuple(dict.fromkeys(text.strip() for text in texts if text.strip()))


def _is_text(value: Any) -> TypeGuard[str]:
    """Returns whether a value is text that can be encoded: JSON allows lone surrogates."""
    if not isinstance(value, str):
        return False
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True

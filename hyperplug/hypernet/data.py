"""Training and evaluation tasks: reading them, and turning them into token sequences."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hyperplug.entities import Example
from hyperplug.errors import InvalidTaskFileError
from hyperplug.hypernet.sni import (
    INSTANCES_PER_TASK,
    SUFFIX,
    is_task_list,
    join_families,
    listed_files,
    read_task_file,
)
from hyperplug.hypernet.tasks import Corpus as Corpus
from hyperplug.hypernet.tasks import CorpusTask as CorpusTask

IGNORE = -100
METRICS = ("exact_match", "rougeL")
_SUFFIXES = (".jsonl", ".jsonl.gz", SUFFIX)


def read_corpus(path: Path, *, instances_per_task: int = INSTANCES_PER_TASK) -> Corpus:
    """Returns the tasks of a file, of a folder of such files, or of those that a list names.

    A file of JSON lines, plain or gzip, has a task a line with `id`, `descriptions` (or
    `description`) and `examples` ([{"input", "output"}]); `family`, `metric`, `source` and
    `licence_class` are optional. A `.json` file is a task of Super-NaturalInstructions, and
    `splits/<track>/<split>_tasks.txt` of its repository names such files.

    Args:
        instances_per_task: of a Super-NaturalInstructions file, take so many examples at
            most, drawn at random.

    Raises:
        InvalidTaskFileError: if the path is missing or holds no usable task.
    """
    tasks: list[CorpusTask] = []
    skipped: list[str] = []
    for file in _files(path):
        try:
            found = _read_file(file, instances_per_task)
        except InvalidTaskFileError as exc:
            if file == path:
                raise
            skipped.append(exc.message)
            continue
        tasks += found.tasks
        skipped += found.skipped
    if not tasks:
        raise InvalidTaskFileError(
            f"no usable task in {path}",
            problems=tuple(skipped),
            hint='each line is a JSON object with "id", "descriptions" and "examples", or each '
            'file one with "Definition" and "Instances"',
        )
    return Corpus(tasks=tuple(join_families(tasks)), skipped=tuple(skipped))


def _files(path: Path) -> list[Path]:
    if is_task_list(path):
        return listed_files(path)
    if not path.is_dir():
        return [path]
    found = sorted(p for p in path.iterdir() if p.name.endswith(_SUFFIXES))
    return found if found or not (path / "tasks").is_dir() else _files(path / "tasks")


def _read_file(path: Path, instances_per_task: int) -> Corpus:
    if path.suffix == SUFFIX:
        return read_task_file(path, instances=instances_per_task)
    tasks: list[CorpusTask] = []
    skipped: list[str] = []
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        try:
            tasks.append(_parse(json.loads(line)))
        except (ValueError, KeyError, TypeError, AttributeError) as exc:
            skipped.append(f"{path.name}:{number}: {type(exc).__name__}: {exc}")
    return Corpus(tasks=tuple(tasks), skipped=tuple(skipped))


def shippable(task: CorpusTask) -> bool:
    """Returns whether a checkpoint trained on the task may be shipped under Apache-2.0."""
    return task.licence_class != "noncommercial" and "nl2bash" not in task.source.lower()


def chat_prompt(tokenizer: Any, input_text: str, *, description: str | None = None) -> str:
    """Returns the prompt a chat server makes of one user message.

    Args:
        description: put before the input, for the in-prompt regime; None strips it.
    """
    content = input_text if description is None else f"{description}\n\n{input_text}"
    if getattr(tokenizer, "chat_template", None) is None:
        return f"{content}\n"
    messages = [{"role": "user", "content": content}]
    prompt: str = tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True
    )
    return prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenSequence:
    """A tokenised example: prompt ids, then answer ids closed by the end token."""

    key: str
    prompt: tuple[int, ...]
    answer: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.prompt) + len(self.answer)


def tokenise(
    tokenizer: Any,
    task: CorpusTask,
    *,
    max_tokens: int,
    max_answer_tokens: int,
    limit: int | None = None,
    description: str | None = None,
) -> list[TokenSequence]:
    """Returns the task's examples as sequences, leaving out those that are too long."""
    examples = task.examples[:limit]
    prompts = [chat_prompt(tokenizer, e.input, description=description) for e in examples]
    end = tokenizer.eos_token or ""
    prompt_ids = tokenizer(prompts, add_special_tokens=False)["input_ids"]
    answer_ids = tokenizer([e.output.strip() + end for e in examples], add_special_tokens=False)[
        "input_ids"
    ]
    regime = "" if description is None else f"#{zlib.crc32(description.encode()):08x}"
    return [
        TokenSequence(key=f"{task.id}/{index}{regime}", prompt=tuple(prompt), answer=tuple(answer))
        for index, (prompt, answer) in enumerate(zip(prompt_ids, answer_ids, strict=True))
        if len(answer) <= max_answer_tokens and len(prompt) + len(answer) <= max_tokens
    ]


def _lines(path: Path) -> Iterator[str]:
    opener = gzip.open if path.name.endswith(".gz") else open
    try:
        with opener(path, "rt", encoding="utf-8") as file:
            yield from file
    except (OSError, UnicodeDecodeError, EOFError) as exc:
        raise InvalidTaskFileError(
            f"cannot read {path}: {exc}", hint="give a JSON-lines file, plain or .gz"
        ) from exc


def _parse(content: Any) -> CorpusTask:
    descriptions = content.get("descriptions") or [content["description"]]
    examples = tuple(Example(input=e["input"], output=e["output"]) for e in content["examples"])
    metric = content.get("metric", "exact_match")
    _check(all(isinstance(d, str) and d.strip() for d in descriptions), "an empty description")
    _check(bool(examples), "no examples")
    _check(
        all(isinstance(e.input, str) and isinstance(e.output, str) for e in examples),
        "an example that is not text",
    )
    _check(metric in METRICS, f"metric {metric!r} is none of {', '.join(METRICS)}")
    return CorpusTask(
        id=str(content["id"]),
        family=str(content.get("family") or content["id"]),
        descriptions=tuple(descriptions),
        metric=metric,
        examples=examples,
        source=str(content.get("source", "")),
        licence_class=str(content.get("licence_class", "unknown")),
        labels=tuple(str(label) for label in content.get("labels") or ()),
        category=str(content.get("category", "")),
    )


def _check(condition: bool, problem: str) -> None:
    if not condition:
        raise ValueError(problem)


def family_groups(tasks: Sequence[CorpusTask]) -> dict[str, list[CorpusTask]]:
    """Returns the tasks by family."""
    groups: dict[str, list[CorpusTask]] = {}
    for task in tasks:
        groups.setdefault(task.family, []).append(task)
    return groups

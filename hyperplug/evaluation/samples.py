"""Some tasks with what each arm answered: where adapters help most, and where least."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hyperplug.errors import ConfigError
from hyperplug.evaluation.result import BenchmarkResult
from hyperplug.evaluation.tables import cell, table

_BEST, _WORST = 4, 4
_EXAMPLES = 2
_INPUT, _ANSWER = 240, 160


def samples(answers: Path, result: BenchmarkResult) -> str:
    """Returns a page with the tasks that gain most and least over the base model.

    Args:
        answers: the file in which the benchmark kept every answer.

    Raises:
        ConfigError: if it is something else.
    """
    try:
        lines = [json.loads(line) for line in answers.read_text(encoding="utf-8").splitlines()]
        shown = list(_tasks(lines, result))
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise ConfigError(
            f"{answers} holds no answers of a benchmark: {type(exc).__name__}",
            hint="write it with: hyperplug evaluate --answers FILE",
        ) from exc
    return "\n\n".join(("# Samples of answers", *shown)) + "\n"


def _tasks(lines: Sequence[Mapping[str, Any]], result: BenchmarkResult) -> Iterator[str]:
    first = "hypernet" if "hypernet" in result.names else result.names[-1]
    second = "base" if "base" in result.names else result.names[0]
    gains = {
        line["id"]: line["scores"][first] - line["scores"][second]
        for line in lines
        if {first, second} <= line["scores"].keys()
    }
    ranked = sorted(gains, key=lambda id_: (-gains[id_], id_))
    best = ranked[:_BEST]
    worst = [id_ for id_ in ranked[::-1] if id_ not in best][:_WORST]
    by_id = {line["id"]: line for line in lines}
    for title, ids in (("gains most", best), ("gains least", worst)):
        if ids:
            yield f"## Where {first} {title} over {second}"
            yield from (_task(by_id[id_], result.names) for id_ in ids)


def _task(line: Mapping[str, Any], arms: Sequence[str]) -> str:
    scores = ", ".join(f"{arm} {line['scores'][arm]:.0f}" for arm in arms if arm in line["scores"])
    parts = [
        f"### {line['id']}",
        f"> {cell(line['description'], limit=600)}",
        f"Scores: {scores}.",
        *(_example(example, arms) for example in line["examples"][:_EXAMPLES]),
    ]
    return "\n\n".join(parts)


def _example(example: Mapping[str, Any], arms: Sequence[str]) -> str:
    rows = [("**expected**", cell(example["expected"], limit=_ANSWER))]
    rows += [
        (arm, cell(example["answers"][arm], limit=_ANSWER) or "(nothing)")
        for arm in arms
        if arm in example["answers"]
    ]
    return table((cell(example["input"], limit=_INPUT), "answer"), rows)

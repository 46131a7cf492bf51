"""What the demo prints. Text in, lines out; no I/O."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hyperplug.demo.client import STEPS, Answer
from hyperplug.demo.script import Request

_COLUMN = 46
_HEADINGS = ("embed", "look up", "generate", "publish", "load", "answer")


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """A request, its answer, and the base model's answer to the same text."""

    request: Request
    answer: Answer
    base: Answer


def table(exchanges: Sequence[Exchange]) -> Iterator[str]:
    """Yields the lines of the table of requests; times are in milliseconds."""
    rows: list[tuple[str, ...]] = [("request", "decision", "score", "adapter", *_HEADINGS)]
    for exchange in exchanges:
        answer = exchange.answer
        times = [answer.step_ms.get(step, 0.0) for step in STEPS] + [answer.answer_ms]
        rows.append(
            (
                exchange.request.title,
                answer.decision.upper(),
                "" if answer.score is None else f"{answer.score:.2f}",
                _cut(answer.adapter, 28) or "(none)",
                *(_milliseconds(value) for value in times),
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for number, row in enumerate(rows):
        cells = [
            cell.ljust(width) if place < 4 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()
        if number == 0:
            yield "  ".join("-" * width for width in widths)


def side_by_side(exchanges: Sequence[Exchange]) -> Iterator[str]:
    """Yields each text, once, with the base model's answer beside the adapter's."""
    for exchange in {(e.request.model, e.request.text): e for e in exchanges}.values():
        request, answer = exchange.request, exchange.answer
        yield f"{request.model}"
        yield f"  > {request.text}"
        served = "base again" if not answer.adapter else answer.adapter
        left = ["base model", *_wrapped(exchange.base.text)]
        right = [_cut(served, _COLUMN), *_wrapped(answer.text)]
        for place in range(max(len(left), len(right))):
            one = left[place] if place < len(left) else ""
            other = right[place] if place < len(right) else ""
            yield f"    {one:<{_COLUMN}} | {other}".rstrip()
        yield ""


def next_steps(home: Path) -> Iterator[str]:
    """Yields what to try after the demo."""
    yield "Try next (with .venv/bin on your PATH):"
    yield f'  hyperplug --home {home} register-task shout "Write the text in capital letters."'
    yield f"  hyperplug --home {home} list-adapters"
    yield f'  hyperplug --home {home} find-task "Is this review good or bad?"'
    yield f"  hyperplug --home {home} export-adapter sentiment my-adapter   # for any PEFT runtime"
    yield f"  hyperplug --home {home} serve --port 8000                     # then, elsewhere:"
    yield "  curl localhost:8000/v1/chat/completions -H 'Content-Type: application/json' -d \\"
    yield '    \'{"model": "sentiment", "messages": [{"role": "user", "content": "Loved it!"}]}\''


def _wrapped(text: str) -> list[str]:
    lines = textwrap.wrap(" ".join(text.split()), _COLUMN - 2, max_lines=3, placeholder=" …")
    return [f"  {line}" for line in lines] or ["  (nothing)"]


def _cut(text: str, width: int) -> str:
    """Returns a name cut in its middle: the digest at its end is worth showing."""
    if len(text) <= width:
        return text
    return f"{text[: width - 13]}…{text[-12:]}"


def _milliseconds(value: float) -> str:
    if value == 0:
        return "-"
    return f"{value:.1f}" if value < 10 else f"{value:.0f}"

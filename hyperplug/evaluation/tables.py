"""Cells and rows of Markdown tables."""

from __future__ import annotations

from collections.abc import Sequence


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def signed(points: float) -> str:
    """Returns a difference of scores: "+3.2"."""
    return f"{points:+.1f}"


def percent(share: float) -> str:
    """Returns a share of one: "25 %"."""
    return f"{100 * share:.0f} %"


def cell(text: str, *, limit: int) -> str:
    """Returns a text on one line, cut to so many characters, that no table breaks on."""
    line = " ".join(text.split()).replace("|", "\\|")
    return line if len(line) <= limit else f"{line[: limit - 1]}…"

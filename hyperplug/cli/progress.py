"""Progress of long work: a bar on a terminal, else a line a minute, on stderr."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any, Self

import click

from hyperplug.cli.output import say

_SECONDS_BETWEEN_LINES = 60.0


class Meter:
    """A bar of a known length with a remark beside it."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._label = ""
        self._remark = ""
        self._on_terminal = sys.stderr.isatty()
        self._next_line = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.clear()

    def clear(self) -> None:
        """Ends the bar, so that a line can be printed below it."""
        if self._bar is not None:
            self._bar.render_finish()
            self._bar = None
            say("")

    def show(self, label: str, done: int, total: int, remark: str = "") -> None:
        """Moves the bar to `done` of `total`; a new label begins a new bar."""
        self._remark = remark
        if not self._on_terminal:
            self._line(label, done, total)
            return
        if self._bar is None or self._label != label:
            self.clear()
            self._label = label
            self._bar = click.progressbar(
                length=total,
                label=label,
                file=sys.stderr,
                show_eta=False,
                item_show_func=lambda _: self._remark,
            )
        self._bar.update(done - self._bar.pos, done)

    def _line(self, label: str, done: int, total: int) -> None:
        now = time.monotonic()
        if now >= self._next_line or 0 < total <= done:
            self._next_line = now + _SECONDS_BETWEEN_LINES
            share = f"{100 * done / total:.1f} %  " if total > 0 else ""
            say(f"{label}: {share}{self._remark}".rstrip())


class Progress(Meter):
    """Shows how many things are done, at what rate, and the time left."""

    def __init__(self, label: str) -> None:
        super().__init__()
        self._name = label
        self._started = time.monotonic()

    def update(self, done: int, total: int) -> None:
        """Shows that so many of all are done; a total of 0 is not known, as of a pipe."""
        seconds = max(time.monotonic() - self._started, 1e-6)
        rate = f"{done / seconds:,.0f}/s"
        if total <= 0:
            self.show(self._name, done, total, f"{done:,}, {rate}")
            return
        left = seconds * (total - done) / done if done else float("inf")
        remark = f"{done:,} of {total:,}, {rate}, {duration(left)} left"
        self.show(self._name, done, total, remark)


def duration(seconds: float) -> str:
    """Returns a time for people to read; "?" if it is not known."""
    if seconds == float("inf"):
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"

"""Progress of training and measuring: a bar on a terminal, else a line a minute."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any, Self

import click

from hyperplug.cli.output import say
from hyperplug.evaluation.benchmark import BenchmarkProgress
from hyperplug.evaluation.train_loras import LoraProgress, LoraReport
from hyperplug.hypernet.measuring import CalibrationProgress
from hyperplug.hypernet.recipe import TrainingProgress
from hyperplug.hypernet.train import Report

_BAR_STEPS = 1000
_SECONDS_BETWEEN_LINES = 60.0


class _Meter:
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
        if now >= self._next_line or done >= total:
            self._next_line = now + _SECONDS_BETWEEN_LINES
            say(f"{label}: {100 * done / max(1, total):.1f} %  {self._remark}".rstrip())


class TrainingMeter(_Meter, TrainingProgress):
    """Shows loss, tokens a second and the time left."""

    def say(self, line: str) -> None:
        """Prints a line."""
        self.clear()
        say(line)

    def prepared(self, done: int, total: int) -> None:
        """Shows how many tasks are ready."""
        self.show("Preparing tasks", done, total)

    def stepped(self, report: Report) -> None:
        """Shows how training goes."""
        remark = (
            f"step {report.step}, loss {report.loss:.3f}, {report.tokens_per_second:.0f} tokens/s, "
            f"{_duration(report.seconds_left)} left"
        )
        self.show("Training", round(report.progress * _BAR_STEPS), _BAR_STEPS, remark)


class LoraMeter(_Meter, LoraProgress):
    """Shows which group of tasks is in training, its loss, and the time left."""

    def say(self, line: str) -> None:
        """Prints a line."""
        self.clear()
        say(line)

    def stepped(self, report: LoraReport) -> None:
        """Shows how training goes."""
        remark = (
            f"group {report.group} of {report.groups}, step {report.step}, "
            f"loss {report.loss:.3f}, {report.tokens_per_second:.0f} tokens/s, "
            f"{_duration(report.seconds_left)} left"
        )
        self.show("Training LoRAs", round(report.done * _BAR_STEPS), _BAR_STEPS, remark)


class CalibrationMeter(_Meter, CalibrationProgress):
    """Shows how many tasks are measured."""

    def say(self, line: str) -> None:
        """Prints a line."""
        self.clear()
        say(line)

    def measured(self, done: int, total: int) -> None:
        """Shows how many of the tasks are measured."""
        self.show("Measuring tasks", done, total)


class BenchmarkMeter(_Meter, BenchmarkProgress):
    """Shows how many answers are given, and the time left."""

    def __init__(self) -> None:
        super().__init__()
        self._begun: tuple[float, int] | None = None
        self._last = ""

    def say(self, line: str) -> None:
        """Prints a line."""
        self.clear()
        say(line)

    def answered(self, done: int, total: int) -> None:
        """Shows how many of the answers are given."""
        now = time.monotonic()
        if self._begun is None:
            self._begun = (now, done)
        began, before = self._begun
        left = (now - began) / (done - before) * (total - done) if done > before else float("inf")
        self.show("Answering", done, total, f"{_duration(left)} left{self._last}")

    def finished(self, arm: str) -> None:
        """Shows which arm answered last."""
        self._last = f"; {arm}"


def _duration(seconds: float) -> str:
    if seconds == float("inf"):
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"

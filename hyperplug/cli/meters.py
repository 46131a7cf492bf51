"""Progress of training and measuring: a bar on a terminal, else a line a minute."""

from __future__ import annotations

import time

from hyperplug.cli.output import say
from hyperplug.cli.progress import Meter, duration
from hyperplug.evaluation.benchmark import BenchmarkProgress
from hyperplug.evaluation.train_loras import LoraProgress, LoraReport
from hyperplug.hypernet.measuring import CalibrationProgress
from hyperplug.hypernet.recipe import TrainingProgress
from hyperplug.hypernet.train import Report

_BAR_STEPS = 1000


class TrainingMeter(Meter, TrainingProgress):
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
            f"{duration(report.seconds_left)} left"
        )
        self.show("Training", round(report.progress * _BAR_STEPS), _BAR_STEPS, remark)


class LoraMeter(Meter, LoraProgress):
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
            f"{duration(report.seconds_left)} left"
        )
        self.show("Training LoRAs", round(report.done * _BAR_STEPS), _BAR_STEPS, remark)


class CalibrationMeter(Meter, CalibrationProgress):
    """Shows how many tasks are measured."""

    def say(self, line: str) -> None:
        """Prints a line."""
        self.clear()
        say(line)

    def measured(self, done: int, total: int) -> None:
        """Shows how many of the tasks are measured."""
        self.show("Measuring tasks", done, total)


class BenchmarkMeter(Meter, BenchmarkProgress):
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
        self.show("Answering", done, total, f"{duration(left)} left{self._last}")

    def finished(self, arm: str) -> None:
        """Shows which arm answered last."""
        self._last = f"; {arm}"

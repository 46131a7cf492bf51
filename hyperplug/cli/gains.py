"""Whether an adapter helps its task: options for the check, and what it found."""

from __future__ import annotations

from typing import Any

import click

from hyperplug.cli.output import say
from hyperplug.entities import Adapter
from hyperplug.policy import (
    CHECKED_EXAMPLES,
    CONFIDENCE,
    FORCED,
    GAIN,
    LOSS_ADAPTER,
    LOSS_BASE,
    PREDICTED_GAIN,
    harm,
)

TOLD_METRICS = (
    *(GAIN, LOSS_BASE, LOSS_ADAPTER, CHECKED_EXAMPLES, FORCED),
    *(PREDICTED_GAIN, CONFIDENCE),
)


def check_options(command: Any) -> Any:
    """Adds the options of commands that generate adapters."""
    options = [
        click.option(
            "--no-check", is_flag=True, help="Do not check the adapter on the task's examples."
        ),
        click.option("--force", is_flag=True, help="Use the adapter even if it harms."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def gain_line(adapter: Adapter) -> str:
    """Returns what the check found, "-" if there was none."""
    metrics = adapter.metrics
    if GAIN not in metrics:
        return "-"
    line = (
        f"{metrics[GAIN]:+.2f} (loss {metrics[LOSS_BASE]:.2f} without it, "
        f"{metrics[LOSS_ADAPTER]:.2f} with it, on {metrics[CHECKED_EXAMPLES]:.0f} examples)"
    )
    if metrics[GAIN] < 0:
        line += "; harms, not used" if harm(adapter) else "; harms, used all the same"
    return line


def promise_line(adapter: Adapter) -> str:
    """Returns what was to be expected of the adapter, "-" if nothing is known."""
    metrics = adapter.metrics
    if PREDICTED_GAIN not in metrics:
        return "-"
    return (
        f"{metrics[PREDICTED_GAIN]:+.2f} nats a token "
        f"(confidence {metrics[CONFIDENCE]:.0%}: of held-out tasks this near, so many gained)"
    )


def tell_harm(adapter: Adapter | None) -> None:
    """Warns of an adapter that is not used because it harms."""
    reason = harm(adapter) if adapter is not None else ""
    if reason:
        say(f"Warning: {reason}.")
        say("The base model answers in its place. To use the adapter all the same: --force")

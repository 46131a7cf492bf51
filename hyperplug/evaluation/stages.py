"""Benchmarks of several stages, each a process of the `hyperplug` command."""

from __future__ import annotations

import subprocess
import sys

import click


def run(*arguments: object) -> None:
    """Runs a hyperplug command and says which; ends with its exit code if it fails."""
    command = [sys.executable, "-m", "hyperplug", *map(str, arguments)]
    click.echo(" ".join(command[1:]), err=True)
    done = subprocess.run(command)
    if done.returncode:
        sys.exit(done.returncode)

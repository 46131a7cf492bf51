"""The first thing a user sees: it is quick, complete, and says how to go on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import click
import pytest

from hyperplug.cli.main import cli
from tests.cli.conftest import Hyperplug

HEAVY = (
    "torch",
    "transformers",
    "sentence_transformers",
    "peft",
    "vllm",
    "matplotlib",
    "sqlalchemy",
    "numpy",
)
PRINTING_DATA = {
    "prepare-tasks",
    "train-loras",
    "train-start",
    "register-task",
    "find-task",
    "list-tasks",
    "show-task",
    "generate-adapter",
    "list-adapters",
    "show-adapter",
    "export-adapter",
    "export-adapters",
    "gc",
    "history",
    "import-adapter",
    "import-adapters",
    "refine-adapter",
    "regenerate",
    "train-adapter",
    "update-task",
    "validate-adapter",
    "prepare-base",
    "train-hypernet",
    "evaluate",
    "calibrate",
    "db upgrade",
    "db current",
    "db check",
    "db copy",
    "doctor",
}


def commands() -> dict[str, click.Command]:
    """Returns every command by its full name."""
    found: dict[str, click.Command] = {}
    for name, command in cli.commands.items():
        if isinstance(command, click.Group):
            found |= {f"{name} {inner}": value for inner, value in command.commands.items()}
        else:
            found[name] = command
    return found


def test_help_answers_in_half_a_second() -> None:
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "hyperplug", "--help"], check=True, stdout=subprocess.DEVNULL
        )
        seconds.append(time.perf_counter() - started)
    assert min(seconds) < 0.5


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import json, sys\n"
        "from hyperplug.cli.main import run\n"
        "assert run(['--help']) == 0\n"
        "print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    imported = set(json.loads(done.stdout.splitlines()[-1]))
    assert "hyperplug" in imported
    assert imported.isdisjoint(HEAVY)


def test_public_names_are_there_and_cost_nothing_until_used() -> None:
    code = (
        "import sys, hyperplug\n"
        f"assert not set({HEAVY!r}) & set(sys.modules)\n"
        "assert all(getattr(hyperplug, name) for name in hyperplug.__all__)\n"
        "import hyperplug.resolver\n"
        "assert callable(hyperplug.lookup)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", sorted(commands()))
def test_every_command_says_what_it_does_and_takes_the_registry(name: str) -> None:
    command = commands()[name]
    assert command.help
    assert "..." not in command.get_short_help_str(limit=60)
    options = {option for parameter in command.params for option in parameter.opts}
    if name in PRINTING_DATA:
        assert "--json" in options
    if name not in ("demo", "completion", "db copy"):
        assert {"--registry", "--namespace", "--home"} <= options


def test_commands_of_the_specification_are_all_there() -> None:
    rest = {
        "approve-adapter",
        "completion",
        "db downgrade",
        "demo",
        "pin-adapter",
        "promote-adapter",
        "purge-task",
        "reembed",
        "remove-task",
        "restore-task",
        "rollback-adapter",
        "serve",
    }
    assert set(commands()) == PRINTING_DATA | rest


def test_wrong_usage_is_told_apart_from_errors(hyperplug: Hyperplug) -> None:
    assert hyperplug("no-such-command").status == 2
    assert hyperplug("register-task", "name-alone").status == 2
    assert hyperplug("find-task", "x", "--limit", "0").status == 2
    assert hyperplug("--version").out.startswith("hyperplug, version ")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script_is_printed(shell: str, hyperplug: Hyperplug) -> None:
    ran = hyperplug("completion", shell)
    assert ran.status == 0
    assert "_HYPERPLUG_COMPLETE" in ran.out


def test_completion_completes() -> None:
    asked = {
        "_HYPERPLUG_COMPLETE": "bash_complete",
        "COMP_WORDS": "hyperplug reg",
        "COMP_CWORD": "1",
    }
    done = subprocess.run(
        [sys.executable, "-m", "hyperplug"],
        env={**os.environ, **asked},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "register-task" in done.stdout

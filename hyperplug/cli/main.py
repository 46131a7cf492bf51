"""The group of commands, and how their errors reach the user."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import click

from hyperplug import __version__
from hyperplug.cli import (
    adapters,
    bulk,
    calibration,
    completion,
    database,
    doctor,
    evaluation,
    learning,
    loras,
    serving,
    tasks,
    training,
    upkeep,
    versions,
)
from hyperplug.cli.context import registry_options
from hyperplug.cli.output import INTERRUPTED, fail
from hyperplug.errors import (
    HyperplugError,
    InvalidAdapterError,
    InvalidTaskFileError,
    MissingExtraError,
)

_COMMANDS = (
    bulk.register_task,
    tasks.find_task,
    tasks.list_tasks,
    tasks.show_task,
    tasks.update_task,
    tasks.remove_task,
    tasks.restore_task,
    tasks.purge_task,
    adapters.generate_adapter,
    training.refine_adapter,
    training.train_adapter,
    adapters.list_adapters,
    adapters.show_adapter,
    adapters.export_adapter,
    adapters.import_adapter,
    adapters.export_adapters,
    adapters.import_adapters,
    adapters.validate_adapter,
    versions.promote_adapter,
    versions.rollback_adapter,
    versions.history,
    versions.pin_adapter,
    versions.approve_adapter,
    upkeep.reembed,
    upkeep.regenerate,
    upkeep.collect,
    serving.serve,
    serving.prepare_base,
    serving.demo,
    learning.prepare_tasks,
    learning.train_hypernet,
    loras.train_loras,
    loras.train_start,
    evaluation.evaluate,
    calibration.calibrate,
    database.db,
    doctor.doctor,
    completion.completion,
)

# Modules of optional packages that commands import where they need them.
_EXTRAS = {
    "matplotlib": "evaluation",
    "peft": "local",
    "sentence_transformers": "local",
    "torch": "local",
    "transformers": "local",
    "vllm": "vllm",
}


class _InOrder(click.Group):
    """Lists the commands in the order in which one needs them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(
    cls=_InOrder,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit status: 0 done, 1 error, 2 wrong usage, 3 nothing found, 130 interrupted.",
)
@click.version_option(__version__, prog_name="hyperplug")
@registry_options
def cli() -> None:
    """From a task description to an answer served through its adapter.

    Settings also come from HYPERPLUG_REGISTRY, HYPERPLUG_HOME, HYPERPLUG_NAMESPACE,
    HYPERPLUG_BASE, HYPERPLUG_HYPERNET, HYPERPLUG_EMBEDDER and HYPERPLUG_CACHE.
    """


for _command in _COMMANDS:
    cli.add_command(_command)


def run(arguments: Sequence[str]) -> int:
    """Returns the exit status; a user's mistake ends in a line or two, never in a traceback."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        status = cli.main(list(arguments), prog_name="hyperplug", standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.Exit as exc:
        return exc.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("\nInterrupted.", err=True)
        return INTERRUPTED
    except click.ClickException as exc:
        exc.show()
        return exc.exit_code
    except HyperplugError as exc:
        return _told(exc)
    except ModuleNotFoundError as exc:
        if exc.name not in _EXTRAS:
            raise
        return _told(MissingExtraError(exc.name, extra=_EXTRAS[exc.name]))
    except BrokenPipeError:
        # Whoever read our output has left; Python would complain when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as exc:
        where = f": {exc.filename}" if exc.filename else ""
        return fail(f"{exc.strerror or exc}{where}", hint="check the path, its rights and the disk")
    return status if isinstance(status, int) else 0


def _told(error: HyperplugError) -> int:
    """Prints an error for people, and returns the exit status that goes with it."""
    problems: tuple[str, ...] = ()
    if isinstance(error, InvalidTaskFileError | InvalidAdapterError):
        problems = error.problems
    return fail(error.message, hint=error.hint, details=problems, status=error.exit_code)

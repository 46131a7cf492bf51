"""The reference of all commands, in Markdown: python -m hyperplug.cli.reference."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import click

from hyperplug.cli.main import cli

_WIDTH = 96


def reference() -> str:
    """Returns the help of every command, as `docs/commands.md` has it."""
    settings = {**cli.context_settings, "max_content_width": _WIDTH}
    root = click.Context(cli, info_name="hyperplug", terminal_width=_WIDTH, **settings)
    parts = [
        "# Commands",
        "Made by `make docs` from the commands' own help. Options of `hyperplug` may stand before "
        "or after the command's name.",
        f"```\n{cli.get_help(root)}\n```",
    ]
    for context in _contexts(root, cli):
        parts.append(f"## {context.command_path}")
        parts.append(f"```\n{context.command.get_help(context)}\n```")
    return "\n\n".join(parts) + "\n"


def _contexts(parent: click.Context, group: click.Group) -> Iterator[click.Context]:
    for name, command in group.commands.items():
        context = click.Context(command, info_name=name, parent=parent, **command.context_settings)
        if isinstance(command, click.Group):
            yield from _contexts(context, command)
        else:
            yield context


if __name__ == "__main__":
    sys.stdout.write(reference())

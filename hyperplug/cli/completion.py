"""Shell completion."""

from __future__ import annotations

import click


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the completion script of a shell.

    \b
    bash   eval "$(hyperplug completion bash)"             in ~/.bashrc
    zsh    eval "$(hyperplug completion zsh)"              in ~/.zshrc
    fish   hyperplug completion fish > ~/.config/fish/completions/hyperplug.fish
    """
    from click.shell_completion import get_completion_class

    root = context.find_root()
    kind = get_completion_class(shell)
    if kind is None:
        raise click.ClickException(f"click cannot complete for {shell}")
    script = kind(root.command, {}, "hyperplug", "_HYPERPLUG_COMPLETE").source()
    click.echo(script)

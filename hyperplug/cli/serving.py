"""Commands that run a model server, and what it needs beforehand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from hyperplug.cli.context import (
    Globals,
    hypernet_option,
    json_option,
    pass_globals,
    registry_options,
)
from hyperplug.cli.output import print_json, say


@click.command(
    "serve",
    # "-h" and whatever else is not ours belongs to vLLM.
    context_settings={"ignore_unknown_options": True, "help_option_names": ["--help"]},
)
@click.argument("base", required=False)
@click.argument("vllm_flags", nargs=-1, type=click.UNPROCESSED)
@registry_options
@hypernet_option
@pass_globals
def serve(shared: Globals, base: str | None, vllm_flags: tuple[str, ...]) -> None:
    """Serve a base model and its tasks with vLLM.

    Requests name their task, and its adapter is loaded while the server runs.
    Flags that are not listed here go to vLLM and beat what hyperplug would choose:

    \b
      hyperplug serve HuggingFaceTB/SmolLM2-135M-Instruct --port 8001 --api-key KEY
    """
    from hyperplug_vllm import serve as server

    flags = list(vllm_flags)
    if base is not None and base.startswith("-"):  # no BASE was given
        flags, base = [base, *flags], None
    server.main(base, flags, settings=shared.settings(), progress=say)


@click.command("prepare-base")
@click.argument("base", required=False)
@registry_options
@json_option
@pass_globals
def prepare_base(shared: Globals, base: str | None, as_json: bool) -> None:
    """Put a base model into the cache.

    Prints the folder in which it is.
    """
    from hyperplug.basemodel import resolve_base

    settings = replace(shared, base=base or shared.base).settings()
    model = resolve_base(settings.base, cache=settings.cache, progress=say)
    if as_json:
        print_json(
            {
                "id": model.spec.id,
                "folder": model.folder,
                "fingerprint": model.spec.fingerprint,
                "architecture": model.spec.architecture,
                "projections": len(model.spec.module_shapes),
            }
        )
    else:
        click.echo(str(model.folder))


@click.command("demo")
@click.option(
    "--home",
    type=click.Path(path_type=Path),
    default=Path("demo-home"),
    show_default=True,
    help="Folder of the demo's registry, library and server log.",
)
def demo(home: Path) -> None:
    """Show everything at work."""
    from hyperplug.demo.run import run_demo

    run_demo(home=home)

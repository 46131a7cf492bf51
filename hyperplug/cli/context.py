"""What all commands share: the options that choose a registry, and opening it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from hyperplug.config import Settings
    from hyperplug.registry import Registry

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True, kw_only=True)
class Globals:
    """What was chosen before or after the command's name; the later one wins."""

    registry: str | None = None
    namespace: str | None = None
    home: str | None = None
    base: str | None = None
    hypernet: str | None = None

    def settings(self) -> Settings:
        """Returns the settings in force for a command."""
        from hyperplug.config import load_settings

        return load_settings(
            registry_url=self.registry,
            home=self.home,
            base=self.base,
            hypernet=self.hypernet,
            namespace=self.namespace,
        )

    def open(self) -> Registry:
        """Returns the registry in force for a command."""
        from hyperplug.registry import open_registry

        # The encoder takes under a second to load; its bar would be noise.
        os.environ.setdefault("TQDM_DISABLE", "1")

        return open_registry(settings=self.settings())


pass_globals = click.make_pass_decorator(Globals, ensure=True)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
lines_option = click.option(
    "--nl", "as_lines", is_flag=True, help="Print JSON, one object a line, as they are read."
)


def registry_options(function: Function) -> Function:
    """Adds the options that choose a registry and what part of it to work in."""
    for name, metavar, text in (
        ("home", "DIR", "Folder of the registry and the adapter library."),
        ("namespace", "NS", "Tenant to work in."),
        ("registry", "URL", "SQLAlchemy URL  [default: SQLite in the home folder]."),
    ):
        function = _option(name, metavar, text)(function)
    return function


def base_option(function: Function) -> Function:
    """Adds the option that chooses the base model."""
    return _option("base", "BASE", "Base model: hub id or folder.")(function)


def hypernet_option(function: Function) -> Function:
    """Adds the option that chooses the hypernetwork."""
    text = "Hypernetwork checkpoint  [default: the shipped one]."
    return _option("hypernet", "FILE", text)(function)


def model_options(function: Function) -> Function:
    """Adds both."""
    return base_option(hypernet_option(function))


def _option(name: str, metavar: str, text: str) -> Callable[[Function], Function]:
    def remember(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
        if value is not None:
            chosen = context.find_object(Globals) or Globals()
            changes: dict[str, Any] = {name: value}
            context.obj = replace(chosen, **changes)

    return click.option(
        f"--{name}", metavar=metavar, help=text, callback=remember, expose_value=False
    )

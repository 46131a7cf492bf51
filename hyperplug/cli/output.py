"""What commands print: data on stdout, all else on stderr."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from hyperplug.entities import Adapter, Task

INTERRUPTED = 130  # as shells have it for a process ended by Ctrl-C


def print_json(data: Any) -> None:
    """Prints data as indented JSON; entities become objects."""
    click.echo(json.dumps(_plain(data), indent=2))


def print_lines(items: Iterable[Any]) -> None:
    """Prints each item as a line of JSON, as it comes."""
    for item in items:
        click.echo(json.dumps(_plain(item)))


def print_table(rows: Sequence[Sequence[str]], *, header: Sequence[str]) -> None:
    """Prints aligned columns, the header only where a person reads."""
    shown = [tuple(header), *rows] if sys.stdout.isatty() else list(rows)
    for line in aligned(shown):
        click.echo(line)


def aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yields the rows with their columns padded to one width."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        yield "  ".join(cells).rstrip()


def print_fields(fields: Mapping[str, Any]) -> None:
    """Prints one thing as aligned lines of field and value."""
    for line in aligned([(name, _line(value)) for name, value in fields.items()]):
        click.echo(line)


def say(message: str) -> None:
    """Prints a line for people, on stderr."""
    click.echo(message, err=True)


def fail(message: str, *, hint: str = "", details: Sequence[str] = (), status: int = 1) -> int:
    """Prints an error with its remedy, on stderr; returns the exit status."""
    say(f"Error: {message}")
    for detail in details:
        say(f"  - {detail}")
    if hint:
        say(f"Hint: {hint}")
    return status


def stdin_text() -> str:
    """Returns the standard input. Raises InvalidDescriptionError if it is no UTF-8."""
    from hyperplug.errors import InvalidDescriptionError

    try:
        return sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as exc:
        raise InvalidDescriptionError(
            "the description is not valid UTF-8", hint="save the text as UTF-8"
        ) from exc


def agreed(question: str) -> bool:
    """Returns whether the user says yes; the end of the input is a no."""
    say(f"{question} [y/N] ")
    return sys.stdin.readline().strip().lower() in ("y", "yes")


@contextmanager
def working(what: str) -> Iterator[None]:
    """Shows on a terminal what is being done for more than a second, until it is done."""
    shown = sys.stderr.isatty()
    if shown:
        click.echo(f"{what} …", err=True, nl=False)
    try:
        yield
    finally:
        if shown:
            click.echo("\r\033[K", err=True, nl=False)


def short(text: str, *, width: int = 60) -> str:
    """Returns the text on one line, cut to `width` characters."""
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 1] + "…"


def local_time(moment: datetime) -> str:
    """Returns a moment in the user's time zone, to the minute."""
    return moment.astimezone().strftime("%Y-%m-%d %H:%M")


def task_summary(task: Task) -> dict[str, Any]:
    """Returns a task as JSON shows it."""
    return {
        "name": task.name,
        "namespace": task.namespace,
        "description": task.description,
        "examples": task.examples,
        "tags": task.tags,
        "created_at": task.created_at,
        "revision": task.revision,
        "updated_at": task.updated_at,
        "deleted_at": task.deleted_at,
    }


def adapter_summary(adapter: Adapter) -> dict[str, Any]:
    """Returns what is worth showing of an adapter."""
    layers = {int(p) for m in adapter.target_modules for p in m.split(".") if p.isdigit()}
    return {
        "name": adapter.name,
        "id": adapter.id,
        "namespace": adapter.namespace,
        "task": adapter.task_name,
        "version": adapter.version,
        "task_revision": adapter.task_revision,
        "parent": adapter.parent,
        "state": adapter.state,
        "state_reason": adapter.state_reason,
        "pinned": adapter.pinned,
        "origin": adapter.origin,
        "rank": adapter.rank,
        "alpha": adapter.alpha,
        "modules": sorted({module.rsplit(".", 1)[-1] for module in adapter.target_modules}),
        "layers": sorted(layers),
        "size_bytes": adapter.size_bytes,
        "digest": adapter.digest,
        "base_fingerprint": adapter.base_fingerprint,
        "hypernet_fingerprint": adapter.hypernet_fingerprint,
        "embedder": adapter.embedder_id,
        "seed": adapter.seed,
        "metrics": adapter.metrics,
        "created_at": adapter.created_at,
        "created_by": adapter.created_by,
        "path": adapter.path,
    }


def _line(value: Any) -> str:
    if isinstance(value, datetime):
        return local_time(value)
    if isinstance(value, list | tuple):
        return " ".join(map(str, value)) or "-"
    if isinstance(value, Mapping):
        return " ".join(f"{key}={item}" for key, item in value.items()) or "-"
    return "-" if value is None else " ".join(str(value).split())


def _plain(value: Any) -> Any:
    """Returns what `json` can write in place of entities, paths and times."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return {field.name: _plain(getattr(value, field.name)) for field in fields}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, datetime):
        return value.isoformat()
    return str(value) if isinstance(value, Path) else value

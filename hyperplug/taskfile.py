"""Task and example files: JSON lines, plain or gzip, read one line at a time.

A task line is `{"name": "…", "description": "…", "examples": [{"input": "…", "output": "…"}],
"tags": ["…"]}`, of which examples and tags may be left out; other fields are passed over. An
example line is `{"input": "…", "output": "…"}`.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path

from hyperplug.entities import Example, TaskDraft
from hyperplug.errors import ConfigError, InvalidTaskFileError

MAX_LINE_BYTES = 1_000_000
_GZIP_MAGIC = b"\x1f\x8b"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_TASK_HINT = 'each line is a JSON object with "name" and "description"'
_EXAMPLE_HINT = 'each line is a JSON object with "input" and "output"'


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of a task file: the task, or what is wrong with the line.

    Attributes:
        number: counted from 1, blank lines included.
        bytes_read: how far into the file on disk reading has come; 0 for a pipe.
    """

    number: int
    bytes_read: int
    task: TaskDraft | None = None
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _RawLine:
    number: int
    bytes_read: int
    content: bytes | None  # None for a line that is too long to keep


class _BadLineError(Exception):
    """A line is unusable; says why. Never leaves this module."""


def read_tasks(path: Path) -> Iterator[Line]:
    """Yields the lines of a task file that are not blank, the bad ones with their problem.

    Raises:
        ConfigError: if the file cannot be read.
        InvalidTaskFileError: if it holds nothing, or damaged gzip data.
    """
    empty = True
    for line in _lines(path):
        empty = False
        try:
            task = _task(_fields(line))
        except _BadLineError as exc:
            yield Line(number=line.number, bytes_read=line.bytes_read, problem=str(exc))
        else:
            yield Line(number=line.number, bytes_read=line.bytes_read, task=task)
    if empty:
        raise InvalidTaskFileError(f"{path} holds no tasks", hint=_TASK_HINT)


def read_examples(path: Path) -> tuple[Example, ...]:
    """Returns the examples of a file, all of them or none.

    Raises:
        ConfigError: if the file cannot be read.
        InvalidTaskFileError: with all its bad lines, or if it holds nothing.
    """
    examples: list[Example] = []
    problems: list[str] = []
    for line in _lines(path):
        try:
            examples.append(_example(_fields(line)))
        except _BadLineError as exc:
            problems.append(f"line {line.number}: {exc}")
    if problems or not examples:
        raise InvalidTaskFileError(
            f"{path} has bad lines" if problems else f"{path} holds no examples",
            problems=tuple(problems),
            hint=_EXAMPLE_HINT,
        )
    return tuple(examples)


def file_size(path: Path) -> int:
    """Returns the size in bytes of a file, 0 if there is none or it is a pipe."""
    return path.stat().st_size if path.is_file() else 0


def _lines(path: Path) -> Iterator[_RawLine]:
    """Yields the lines that are not blank; of a line that is too long only the number."""
    with _opened(path) as (content, on_disk):
        number = 0
        while chunk := content.readline(MAX_LINE_BYTES + 1):
            number += 1
            if number == 1:
                chunk = chunk.removeprefix(_BYTE_ORDER_MARK)
            too_long = len(chunk.rstrip(b"\r\n")) > MAX_LINE_BYTES
            while too_long and chunk and not chunk.endswith(b"\n"):
                chunk = content.readline(MAX_LINE_BYTES)
            if too_long or chunk.strip():
                yield _RawLine(
                    number=number,
                    bytes_read=on_disk.tell() if on_disk.seekable() else 0,
                    content=None if too_long else chunk,
                )


@contextmanager
def _opened(path: Path) -> Iterator[tuple[BufferedIOBase, BufferedIOBase]]:
    """Yields the file's content, decompressed if need be, and the file on disk."""
    try:
        with path.open("rb") as on_disk:
            compressed = on_disk.peek(2)[:2] == _GZIP_MAGIC
            yield (gzip.GzipFile(fileobj=on_disk) if compressed else on_disk), on_disk
    except (EOFError, gzip.BadGzipFile, zlib.error) as exc:
        raise InvalidTaskFileError(
            f"{path} holds damaged gzip data", hint="compress the file again"
        ) from exc
    except (OSError, ValueError) as exc:  # ValueError: a NUL or a lone surrogate in the path
        reason = (isinstance(exc, OSError) and exc.strerror) or exc
        raise ConfigError(
            f"cannot read {path}: {reason}", hint="give a file of JSON lines"
        ) from exc


def _fields(line: _RawLine) -> dict[str, object]:
    if line.content is None:
        raise _BadLineError(f"longer than {MAX_LINE_BYTES:,} bytes")
    try:
        parsed = json.loads(line.content.decode("utf-8"))
    except UnicodeDecodeError as exc:
        raise _BadLineError(f"not UTF-8 at byte {exc.start + 1}; save the file as UTF-8") from exc
    except json.JSONDecodeError as exc:
        raise _BadLineError(f"not JSON: {exc.msg} at column {exc.colno}") from exc
    except (ValueError, RecursionError) as exc:  # too many digits, too many brackets
        raise _BadLineError(f"not usable JSON: {exc}") from exc
    if not isinstance(parsed, dict):
        raise _BadLineError(f"a JSON {_kind(parsed)}, not an object")
    return parsed


def _task(fields: dict[str, object]) -> TaskDraft:
    examples = _list(fields, "examples")
    tags = _list(fields, "tags")
    return TaskDraft(
        name=_text(fields, "name"),
        description=_text(fields, "description"),
        examples=tuple(_nested_example(entry, n) for n, entry in enumerate(examples, start=1)),
        tags=tuple(_tag(tag) for tag in tags),
    )


def _nested_example(entry: object, number: int) -> Example:
    if not isinstance(entry, dict):
        raise _BadLineError(f"example {number} is a {_kind(entry)}, not an object")
    try:
        return _example(entry)
    except _BadLineError as exc:
        raise _BadLineError(f"example {number}: {exc}") from exc


def _example(fields: dict[str, object]) -> Example:
    return Example(input=_text(fields, "input"), output=_text(fields, "output"))


def _tag(value: object) -> str:
    if not isinstance(value, str):
        raise _BadLineError(f"a tag is a {_kind(value)}, not a text")
    return value


def _text(fields: dict[str, object], key: str) -> str:
    if key not in fields:
        raise _BadLineError(f'"{key}" is missing')
    value = fields[key]
    if not isinstance(value, str):
        raise _BadLineError(f'"{key}" is a {_kind(value)}, not a text')
    return value


def _list(fields: dict[str, object], key: str) -> list[object]:
    value = fields.get(key)
    if value is None:
        return []
    if not isinstance(value, list):
        raise _BadLineError(f'"{key}" is a {_kind(value)}, not a list')
    return value


def _kind(value: object) -> str:
    """Returns what JSON calls a value's type."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    kinds = {str: "text", int: "number", float: "number", list: "list", dict: "object"}
    return kinds.get(type(value), type(value).__name__)

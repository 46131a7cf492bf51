"""What a request asks for: which task its header or its `model` names. No I/O."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from urllib.parse import unquote

from hyperplug.errors import InvalidDescriptionError
from hyperplug.naming import is_name, split_adapter_name, split_alias_name

PREFIX = "hyperplug:"
HEADER = b"x-hyperplug-task"


class TargetKind(StrEnum):
    """How the text of a target is to be read."""

    TASK = "task"
    ADAPTER = "adapter"
    TEXT = "text"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A task that a request names.

    Attributes:
        from_header: an unknown name in the header is an error, while an unknown `model`
            is vLLM's to answer.
    """

    kind: TargetKind
    text: str
    from_header: bool = False


def header_target(value: bytes) -> Target:
    """Returns what the header `X-Hyperplug-Task` names.

    A value that could be a task name is one; anything else, and whatever follows
    "hyperplug:", is a description. Values are UTF-8, percent-encoded or not.

    Raises:
        InvalidDescriptionError: if the value is not UTF-8.
    """
    try:
        text = unquote(value.decode("utf-8"), errors="strict").strip()
    except UnicodeDecodeError as exc:
        raise InvalidDescriptionError(
            "the header X-Hyperplug-Task is not valid UTF-8",
            hint="percent-encode the UTF-8 text",
        ) from exc
    return Target(kind=_kind(text), text=text.removeprefix(PREFIX), from_header=True)


def model_target(model: object) -> Target | None:
    """Returns what a request's `model` names, or None if it can be none of ours."""
    if not isinstance(model, str):
        return None
    kind = _kind(model)
    if kind is TargetKind.TEXT and not model.startswith(PREFIX):
        return None
    return Target(kind=kind, text=model.removeprefix(PREFIX))


def _kind(text: str) -> TargetKind:
    if split_adapter_name(text) or split_alias_name(text):
        return TargetKind.ADAPTER
    return TargetKind.TASK if is_name(text) else TargetKind.TEXT


def parse_body(body: bytes) -> dict[str, Any] | None:
    """Returns a request's JSON object, or None if it is none: vLLM will say so."""
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def body_with_model(content: dict[str, Any], model: str) -> bytes:
    """Returns the request's JSON with another `model`."""
    return json.dumps({**content, "model": model}).encode("ascii")

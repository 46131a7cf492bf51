"""What a request asks for: which task its header, body or `model` names. No I/O."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any
from urllib.parse import unquote

from hyperplug.errors import InvalidDescriptionError
from hyperplug.naming import is_name, split_adapter_name, split_alias_name
from hyperplug_vllm.request_options import (
    FIELD,
    RequestOptions,
    system_prompt,
    without_system_prompt,
)

PREFIX = "hyperplug:"
AUTO = "hyperplug"
"""The `model` whose task is what the system prompt describes."""
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
        explicit: whether the header or the body's object "hyperplug" names it: there an
            unknown name is an error, while an unknown `model` is vLLM's to answer.
        options: what else the request asks for.
    """

    kind: TargetKind
    text: str
    explicit: bool = False
    options: RequestOptions = field(default_factory=RequestOptions)


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
    return named_target(text)


def named_target(text: str) -> Target:
    """Returns what a name or description means that a request gives on purpose."""
    return Target(kind=_kind(text), text=text.removeprefix(PREFIX), explicit=True)


def system_target(content: Mapping[str, Any]) -> Target:
    """Returns the task that a body's system prompt describes.

    Raises:
        InvalidDescriptionError: if the body has no system prompt.
    """
    text = system_prompt(content)
    if not text:
        raise InvalidDescriptionError(
            f"model {AUTO!r} takes the system prompt as the task's description, and there is none",
            hint=f'add one, or name the task: "{FIELD}": {{"task": "…"}}',
        )
    return Target(kind=TargetKind.TEXT, text=text, explicit=True)


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


def body_for_vllm(content: dict[str, Any], *, model: str | None, strip_system: bool) -> bytes:
    """Returns the request's JSON as vLLM is to read it: without our object.

    Args:
        model: in place of its own; None leaves that.
        strip_system: take the system prompt out.
    """
    kept = without_system_prompt(content) if strip_system else dict(content)
    kept.pop(FIELD, None)
    if model is not None:
        kept["model"] = model
    return json.dumps(kept).encode("ascii")

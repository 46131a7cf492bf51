"""What a request's body says besides `model`: the object "hyperplug", and its system prompt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hyperplug.drafts import check_examples
from hyperplug.entities import Example, OnNovel
from hyperplug.errors import ConfigError, InvalidDescriptionError

FIELD = "hyperplug"
_KEYS = ("task", "examples", "on_novel", "min_score", "strip_system")
_MAX_EXAMPLES = 64
_HINT = f"known are: {', '.join(_KEYS)}"
_SYSTEM_ROLES = ("system", "developer")


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestOptions:
    """The object "hyperplug" of a body, checked.

    Attributes:
        task: a name, "task@alias", an adapter's name or a description; None takes `model`.
        examples: condition the adapter of a novel description.
        on_novel: in place of the server's own setting.
        min_score: in place of the calibrated border of NEAREST.
        strip_system: take the system prompt out of what the model reads.
    """

    task: str | None = None
    examples: tuple[Example, ...] = ()
    on_novel: OnNovel | None = None
    min_score: float | None = None
    strip_system: bool = False


def read_options(content: Mapping[str, Any]) -> RequestOptions:
    """Returns what the body's object "hyperplug" asks for; empty options without one.

    Raises:
        ConfigError: if it is no object, has an unknown key or a value of the wrong type.
        InvalidDescriptionError: for examples that are none, or too many.
    """
    given = content.get(FIELD)
    if given is None:
        return RequestOptions()
    if not isinstance(given, Mapping):
        example = f'{{"{FIELD}": {{"task": "…"}}}}'
        raise ConfigError(f'"{FIELD}" is not an object', hint=f"send {example}")
    for key in given:
        if key not in _KEYS:
            raise ConfigError(f'"{FIELD}" has an unknown key {str(key)[:40]!r}', hint=_HINT)
    task = given.get("task")
    if not isinstance(task, str | None):
        raise _wrong("task", "a name or a description")
    return RequestOptions(
        task=task,
        examples=_examples(given.get("examples")),
        on_novel=_on_novel(given.get("on_novel")),
        min_score=_score(given.get("min_score")),
        strip_system=_flag(given.get("strip_system")),
    )


def _wrong(key: str, wanted: str) -> ConfigError:
    return ConfigError(f'"{FIELD}": {key} is not {wanted}', hint=f"send {wanted}")


def _examples(given: object) -> tuple[Example, ...]:
    if given is None:
        return ()
    if not isinstance(given, list) or not all(isinstance(one, Mapping) for one in given):
        raise _wrong("examples", 'a list of {"input": "…", "output": "…"}')
    if len(given) > _MAX_EXAMPLES:
        raise InvalidDescriptionError(
            f"{len(given)} examples, over the limit of {_MAX_EXAMPLES} a request",
            hint="the hypernetwork reads the first 16; keep the best",
        )
    pairs = [(one.get("input"), one.get("output")) for one in given]
    if not all(isinstance(text, str) for pair in pairs for text in pair):
        raise _wrong("examples", 'a list of {"input": "…", "output": "…"}')
    return check_examples(Example(input=str(a), output=str(b)) for a, b in pairs)


def _on_novel(given: object) -> OnNovel | None:
    if given is None:
        return None
    try:
        return OnNovel(str(given))
    except ValueError as exc:
        raise _wrong("on_novel", f"one of {', '.join(OnNovel)}") from exc


def _score(given: object) -> float | None:
    if given is None:
        return None
    if isinstance(given, bool) or not isinstance(given, int | float) or not -1 <= given <= 1:
        raise _wrong("min_score", "a cosine between -1 and 1")
    return float(given)


def _flag(given: object) -> bool:
    if not isinstance(given, bool | None):
        raise _wrong("strip_system", "true or false")
    return bool(given)


def system_prompt(content: Mapping[str, Any]) -> str:
    """Returns the system prompt of a chat, Responses or Messages body; "" if it has none."""
    parts = [_text(content.get("instructions")), _text(content.get("system"))]
    for key in ("messages", "input"):
        messages = content.get(key)
        if isinstance(messages, list):
            parts += [_text(one.get("content")) for one in messages if _is_system(one)]
    return "\n".join(part for part in parts if part).strip()


def without_system_prompt(content: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the body without its system prompt."""
    kept = {key: value for key, value in content.items() if key not in ("instructions", "system")}
    for key in ("messages", "input"):
        messages = kept.get(key)
        if isinstance(messages, list):
            kept[key] = [one for one in messages if not _is_system(one)]
    return kept


def _is_system(message: object) -> bool:
    return isinstance(message, Mapping) and message.get("role") in _SYSTEM_ROLES


def _text(content: object) -> str:
    """Returns the text of a message's content: a string, or a list of parts."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    found = [part.get("text") for part in content if isinstance(part, Mapping)]
    return "\n".join(text for text in found if isinstance(text, str))

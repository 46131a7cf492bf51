"""Checks a task as a user wrote it before anything is done with it."""

from __future__ import annotations

from collections.abc import Iterable

from hyperplug.entities import Example, NewTask, TaskDraft
from hyperplug.errors import InvalidDescriptionError
from hyperplug.naming import (
    MAX_EXAMPLES,
    check_description,
    check_name,
    description_digest,
    is_encodable,
)


def check_draft(draft: TaskDraft, *, namespace: str) -> NewTask:
    """Returns the task in normal form.

    Raises:
        InvalidNameError: for a bad name or tag.
        InvalidDescriptionError: for a bad description or examples.
    """
    description = check_description(draft.description)
    return NewTask(
        namespace=namespace,
        name=check_name(draft.name),
        description=description,
        description_digest=description_digest(description),
        examples=check_examples(draft.examples),
        tags=check_tags(draft.tags),
    )


def check_tags(tags: Iterable[str]) -> tuple[str, ...]:
    """Returns the tags, each once. Raises InvalidNameError."""
    return tuple(dict.fromkeys(check_name(tag, kind="tag") for tag in tags))


def check_examples(examples: Iterable[Example]) -> tuple[Example, ...]:
    """Returns the examples. Raises InvalidDescriptionError for too many or non-text."""
    checked = tuple(examples)
    if len(checked) > MAX_EXAMPLES:
        raise InvalidDescriptionError(
            f"{len(checked)} examples, over the limit of {MAX_EXAMPLES}",
            hint="the hypernetwork reads the first 16; keep the best",
        )
    for number, example in enumerate(checked, start=1):
        if not (isinstance(example.input, str) and isinstance(example.output, str)):
            raise InvalidDescriptionError(
                f"example {number} is not a pair of texts", hint='give "input" and "output"'
            )
        if not (is_encodable(example.input) and is_encodable(example.output)):
            raise InvalidDescriptionError(
                f"example {number} is not valid UTF-8", hint="save the text as UTF-8"
            )
    return checked

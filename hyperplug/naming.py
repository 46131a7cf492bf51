"""Grammar of names and normal form of descriptions. Pure functions, no I/O."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Sequence

from hyperplug.entities import Example
from hyperplug.errors import InvalidDescriptionError, InvalidNameError

DEFAULT_NAMESPACE = "default"
CURRENT = "current"
"""The alias that a task's bare name stands for."""
MAX_NAME_LENGTH = 63
MAX_DESCRIPTION_BYTES = 16_384
MAX_EXAMPLES = 1_000
DIGEST_LENGTH = 8

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9_-]*[a-z0-9])?\Z")
_ADAPTER_NAME = re.compile(r"(?P<task>[a-z0-9][a-z0-9_-]{0,62})@(?P<digest>[0-9a-f]{8})\Z")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def check_name(name: str, *, kind: str = "task name") -> str:
    """Returns `name` if it is legal.

    Legal are 1 to 63 of a-z, 0-9, "-" and "_", with a letter or digit at both ends. That
    is what every file system, URL and runtime takes unescaped; it leaves "@" to separate
    the digest and ":" and "," to those who use them.

    Raises:
        InvalidNameError: for anything else, with a legal suggestion.
    """
    if not isinstance(name, str) or len(name) > MAX_NAME_LENGTH or not _NAME.match(name):
        shown = repr(name if len(str(name)) <= 80 else str(name)[:77] + "...")
        suggestion = slugify(str(name)[:500])
        hint = f"use 1-{MAX_NAME_LENGTH} of a-z, 0-9, '-' and '_'"
        if suggestion:
            hint += f", for example {suggestion!r}"
        raise InvalidNameError(f"{kind} {shown} is not allowed", hint=hint)
    return name


def is_name(text: str) -> bool:
    """Returns whether `text` could be a task name."""
    return len(text) <= MAX_NAME_LENGTH and _NAME.match(text) is not None


def slugify(text: str, *, max_length: int = MAX_NAME_LENGTH) -> str:
    """Returns the nearest legal name to `text`, or "" if no letter or digit is left."""
    ascii_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    slug = re.sub(r"[^a-z0-9_]+", "-", ascii_text.lower())
    return slug[:max_length].strip("-_")


def adapter_name(task_name: str, digest: str) -> str:
    """Returns the immutable name of the adapter of `task_name` with that digest."""
    return f"{task_name}@{digest[:DIGEST_LENGTH]}"


def split_adapter_name(name: str) -> tuple[str, str] | None:
    """Returns (task name, digest prefix) of an adapter name, or None if it is none."""
    match = _ADAPTER_NAME.match(name)
    return (match["task"], match["digest"]) if match else None


def split_alias_name(name: str) -> tuple[str, str] | None:
    """Returns (task name, alias) of "task@alias", or None if it is none."""
    task, separator, alias = name.partition("@")
    if not separator or split_adapter_name(name) or not (is_name(task) and is_name(alias)):
        return None
    return task, alias


def check_alias(alias: str) -> str:
    """Returns `alias` if it is legal: a name that cannot be taken for a digest.

    Raises:
        InvalidNameError: if it is not.
    """
    check_name(alias, kind="alias")
    if split_adapter_name(f"x@{alias}"):
        raise InvalidNameError(
            f"alias {alias!r} looks like the digest of an adapter",
            hint="choose a word, for example 'candidate'",
        )
    return alias


def check_description(description: str) -> str:
    """Returns the description in normal form: NFC, outer white space removed.

    Raises:
        InvalidDescriptionError: if it is empty, longer than 16 KiB of UTF-8, or holds
            control characters or unpaired surrogates.
    """
    if not isinstance(description, str):
        raise InvalidDescriptionError(
            f"description is {type(description).__name__}, not text", hint="pass a string"
        )
    text = description.strip()
    # Normalising takes time in the square of a run of combining marks: first, a bound.
    if len(text) > MAX_DESCRIPTION_BYTES:
        raise _too_long(len(text.encode("utf-8", "surrogatepass")))
    text = unicodedata.normalize("NFC", text).strip()
    if not text:
        raise InvalidDescriptionError(
            "the description is empty", hint="say in a sentence what the model should do"
        )
    try:
        size_bytes = len(text.encode("utf-8"))
    except UnicodeEncodeError as exc:
        raise InvalidDescriptionError(
            "the description is not valid UTF-8", hint="save the text as UTF-8"
        ) from exc
    if size_bytes > MAX_DESCRIPTION_BYTES:
        raise _too_long(size_bytes)
    if _CONTROL.search(text):
        raise InvalidDescriptionError(
            "the description holds control characters", hint="remove them; is it a binary file?"
        )
    return text


def is_encodable(text: str) -> bool:
    """Returns whether `text` has no unpaired surrogate, which no UTF-8 can hold."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _too_long(size_bytes: int) -> InvalidDescriptionError:
    return InvalidDescriptionError(
        f"the description has {size_bytes:,} bytes, over the limit of {MAX_DESCRIPTION_BYTES:,}",
        hint="describe the task in a few sentences; put data into examples",
    )


def description_digest(description: str) -> str:
    """Returns SHA-256 hex of a description, blind to case and runs of white space."""
    folded = " ".join(unicodedata.normalize("NFKC", description).casefold().split())
    return hashlib.sha256(folded.encode("utf-8")).hexdigest()


def generation_key(
    description: str,
    examples: Sequence[Example],
    *,
    hypernet_fingerprint: str,
    base_fingerprint: str,
) -> str:
    """Returns the digest under which a generated adapter is deduplicated."""
    hasher = hashlib.sha256(description_digest(description).encode())
    for example in examples:
        for part in (example.input, example.output):
            hasher.update(hashlib.sha256(part.encode("utf-8")).digest())
    hasher.update(f"|{hypernet_fingerprint}|{base_fingerprint}".encode())
    return hasher.hexdigest()


def auto_task_name(description: str) -> str:
    """Returns the name under which a novel description is registered by itself."""
    slug = slugify(description, max_length=40) or "task"
    return f"{slug}-{description_digest(description)[:8]}"

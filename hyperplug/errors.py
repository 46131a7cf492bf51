"""Every error hyperplug raises on purpose.

HyperplugError
 ├─ ConfigError               a setting, URL or file argument is unusable
 │   └─ MissingExtraError     an optional package is not installed
 ├─ InvalidNameError          a task, adapter or namespace name breaks the grammar
 ├─ InvalidDescriptionError   a description is empty, too long or not text
 ├─ InvalidTaskFileError      a task or examples file holds bad lines
 ├─ NotFoundError
 │   ├─ TaskNotFoundError
 │   └─ AdapterNotFoundError
 ├─ DuplicateTaskError        the name is taken by another description
 ├─ NovelTaskError            nothing near, and the policy says not to go on
 ├─ RegistryError             the registry cannot be reached, read or written
 │   └─ SchemaVersionError    its schema is older or newer than this code
 ├─ InvalidAdapterError       adapter weights or their folder are unusable
 │   └─ CorruptAdapterError   stored bytes no longer match their digest
 ├─ BaseModelError            the base model is missing or of an unknown shape
 │   └─ BaseMismatchError     an adapter or hypernetwork belongs to another base
 ├─ CheckpointError           a hypernetwork file is missing, damaged or foreign
 ├─ TrainingError             training cannot start or go on
 └─ ServerError               the model server did not start or answered wrongly
"""

from __future__ import annotations


def printable(text: str) -> str:
    """Returns `text` on one line: whatever could write to a terminal or forge a log line escaped.

    That is all that Python calls unprintable: line breaks, control and bidirectional
    characters, and unpaired surrogates, which no stream can encode.
    """
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii")
        for char in text
    )


class HyperplugError(Exception):
    """Root of all errors meant for the user: one line of what, one of what to do.

    Whatever text from outside they quote is made `printable`, so that they can be logged.

    Attributes:
        message: what went wrong, with the offending value.
        hint: what to do about it; may be empty.
        exit_code: the status with which the command line ends.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = self._shown(message)
        self.hint = printable(hint)

    @staticmethod
    def _shown(message: str) -> str:
        return printable(message)

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class ConfigError(HyperplugError):
    """A setting, URL or file argument is unusable."""

    exit_code = 2


class MissingExtraError(ConfigError):
    """An optional package is not installed."""

    exit_code = 1

    def __init__(self, package: str, *, extra: str) -> None:
        super().__init__(
            f"{package} is not installed",
            hint=f"run: pip install 'hyperplug[{extra}]'",
        )


class InvalidNameError(HyperplugError):
    """A task, adapter or namespace name breaks the grammar of `hyperplug.naming`."""

    exit_code = 2


class InvalidDescriptionError(HyperplugError):
    """A description is empty, too long or not text."""

    exit_code = 2


class InvalidTaskFileError(HyperplugError):
    """A task or examples file holds bad lines.

    Attributes:
        problems: one entry a bad line, "line 3: what is wrong".
    """

    def __init__(self, message: str, *, problems: tuple[str, ...] = (), hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.problems = tuple(map(printable, problems))


class NotFoundError(HyperplugError):
    """Something asked for by name does not exist."""


class TaskNotFoundError(NotFoundError):
    """No task of that name is registered."""


class AdapterNotFoundError(NotFoundError):
    """No adapter of that name is stored."""


class DuplicateTaskError(HyperplugError):
    """The name is taken by a task with another description."""


class NovelTaskError(HyperplugError):
    """No registered task is near and the caller asked for an error in that case."""


class RegistryError(HyperplugError):
    """The registry cannot be reached, read or written."""


class RegistryUnreachableError(RegistryError):
    """The database server does not answer, or broke off."""


class SchemaVersionError(RegistryError):
    """The registry's schema is older or newer than this code."""


class InvalidAdapterError(HyperplugError):
    """Adapter weights or their folder are unusable.

    Attributes:
        problems: everything found wrong, one line each.
    """

    def __init__(self, message: str, *, problems: tuple[str, ...] = (), hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.problems = tuple(map(printable, problems))


class CorruptAdapterError(InvalidAdapterError):
    """Stored adapter bytes no longer match their digest."""


class BaseModelError(HyperplugError):
    """The base model is missing, unreadable or of an unsupported shape."""


class BaseMismatchError(BaseModelError):
    """An adapter or hypernetwork was made for another base model."""


class CheckpointError(HyperplugError):
    """A hypernetwork checkpoint is missing, damaged or of a foreign format."""


class TrainingError(HyperplugError):
    """Training cannot start or go on."""


class ServerError(HyperplugError):
    """The model server did not start, died, or answered in an unexpected way.

    Its message may have further lines: the last ones of the server's log.
    """

    @staticmethod
    def _shown(message: str) -> str:
        return "\n".join(map(printable, message.split("\n")))


def no_such_task(name: str, *, namespace: str) -> TaskNotFoundError:
    """Returns the error for a name that no task has."""
    return TaskNotFoundError(
        f"no task {name!r} in namespace {namespace!r}", hint="run: hyperplug list-tasks"
    )

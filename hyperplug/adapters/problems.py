"""Collecting everything wrong with an adapter, to report it at once."""

from __future__ import annotations

from hyperplug.errors import InvalidAdapterError

_SHOWN = 3
_KEPT = 20


class Problems:
    """The faults found so far in one adapter."""

    def __init__(self, subject: str) -> None:
        self._subject = subject
        self._found: list[str] = []
        self._hint = ""
        self._count = 0

    def __bool__(self) -> bool:
        return self._count > 0

    def add(self, message: str, *, hint: str) -> None:
        """Notes one fault; the first one's hint becomes that of the error."""
        self._count += 1
        self._hint = self._hint or hint
        if len(self._found) < _KEPT:
            self._found.append(message)

    def add_each(self, label: str, names: list[str], *, hint: str) -> None:
        """Notes one fault shared by many modules or files, naming the first few."""
        if names:
            shown = ", ".join(name[:120] for name in names[:_SHOWN])
            rest = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            self.add(f"{label}: {shown}{rest}", hint=hint)

    def error(self) -> InvalidAdapterError:
        """Returns all that was noted as one error with a one-line message."""
        more = f"; and {self._count - _SHOWN} more problems" if self._count > _SHOWN else ""
        message = f"{self._subject} is not usable: {'; '.join(self._found[:_SHOWN])}{more}"
        return InvalidAdapterError(message, problems=tuple(self._found), hint=self._hint)

    def raise_any(self) -> None:
        """Raises what was noted.

        Raises:
            InvalidAdapterError: if anything was.
        """
        if self:
            raise self.error()

"""What a corpus holds, whatever format it was read from."""

from __future__ import annotations

from dataclasses import dataclass

from hyperplug.entities import Example


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusTask:
    """A task to train or evaluate on.

    Attributes:
        family: groups tasks that share an underlying dataset.
        descriptions: wordings of the same task, the preferred one first.
        metric: "exact_match" or "rougeL".
        licence_class: permissive, sharealike, noncommercial, custom or unknown.
        labels: the answers to choose among, if the task is a choice; else empty.
        category: classification, qa, generation, ...; "" if not known.
    """

    id: str
    family: str
    descriptions: tuple[str, ...]
    metric: str
    examples: tuple[Example, ...]
    source: str = ""
    licence_class: str = "unknown"
    labels: tuple[str, ...] = ()
    category: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """Tasks that were read, and what had to be left out ("file:line: why")."""

    tasks: tuple[CorpusTask, ...]
    skipped: tuple[str, ...]

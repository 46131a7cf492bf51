"""The lookup policy: what serves a request. Arithmetic only, no I/O."""

from __future__ import annotations

from hyperplug.entities import Decision, OnNovel, Thresholds
from hyperplug.errors import NovelTaskError


def decide(
    *,
    nearest: float | None,
    support: float | None,
    thresholds: Thresholds,
    on_novel: OnNovel,
) -> Decision:
    """Returns how to serve a description that no registered task has word for word.

    Args:
        nearest: cosine to the nearest registered task; None in an empty registry.
        support: cosine to the nearest training task of the hypernetwork; None if there
            is no hypernetwork.
        on_novel: what the caller wants if no registered task is near.

    Raises:
        NovelTaskError: if no task is near and `on_novel` is "error".
    """
    if nearest is not None and nearest >= thresholds.near:
        return Decision.NEAREST
    if on_novel is OnNovel.ERROR:
        shown = "no task is registered" if nearest is None else f"the nearest scores {nearest:.2f}"
        raise NovelTaskError(
            f"no registered task is near enough: {shown}, {thresholds.near:.2f} is needed",
            hint="register the task, or allow on_novel='generate'",
        )
    if on_novel is OnNovel.NEAREST and nearest is not None:
        return Decision.NEAREST
    if on_novel is OnNovel.GENERATE and support is not None and support >= thresholds.support:
        return Decision.NOVEL
    return Decision.BASE

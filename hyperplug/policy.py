"""The lookup policy: what serves a request. Arithmetic only, no I/O."""

from __future__ import annotations

from hyperplug.entities import Adapter, Decision, OnNovel, Thresholds
from hyperplug.errors import NovelTaskError

# What an adapter's metrics say of it. A gain is the base model's answer loss minus the
# adapter's, on the task's own examples, in nats a token.
GAIN = "gain"
LOSS_BASE = "loss_base"
LOSS_ADAPTER = "loss_adapter"
FORCED = "forced"
CHECKED_EXAMPLES = "checked_examples"
# Cosine of the task's description to the nearest one that the hypernetwork was trained on.
SUPPORT = "support"
# What calibration lets expect of an adapter of that support.
PREDICTED_GAIN = "predicted_gain"
CONFIDENCE = "confidence"


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


def harm(adapter: Adapter) -> str:
    """Returns why an adapter is not to be used, "" if it may: it was found to harm.

    An adapter that was never checked, or that was forced, may be used.
    """
    gain = adapter.metrics.get(GAIN, 0.0)
    if gain >= 0 or adapter.metrics.get(FORCED):
        return ""
    count = int(adapter.metrics.get(CHECKED_EXAMPLES, 0))
    return (
        f"adapter {adapter.name} makes answers worse than the base model's: "
        f"{-gain:.2f} nats a token on {count} of the task's examples"
    )

"""The lookup policy."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from hyperplug.entities import Adapter, Decision, OnNovel, Origin, Thresholds
from hyperplug.errors import NovelTaskError
from hyperplug.policy import decide, harm

THRESHOLDS = Thresholds(near=0.7, support=0.4)


@pytest.mark.parametrize(
    ("nearest", "support", "on_novel", "decision"),
    [
        (0.7, 0.0, OnNovel.GENERATE, Decision.NEAREST),
        (0.69, 0.4, OnNovel.GENERATE, Decision.NOVEL),
        (0.69, 0.39, OnNovel.GENERATE, Decision.BASE),
        (None, 0.9, OnNovel.GENERATE, Decision.NOVEL),
        (None, None, OnNovel.GENERATE, Decision.BASE),
        (0.1, 0.9, OnNovel.NEAREST, Decision.NEAREST),
        (None, 0.9, OnNovel.NEAREST, Decision.BASE),
        (0.69, 0.9, OnNovel.BASE, Decision.BASE),
        (0.9, 0.9, OnNovel.BASE, Decision.NEAREST),
        (0.9, None, OnNovel.ERROR, Decision.NEAREST),
    ],
)
def test_decisions(
    nearest: float | None, support: float | None, on_novel: OnNovel, decision: Decision
) -> None:
    found = decide(nearest=nearest, support=support, thresholds=THRESHOLDS, on_novel=on_novel)
    assert found is decision


@pytest.mark.parametrize(("nearest", "said"), [(None, "no task is registered"), (0.5, "0.50")])
def test_error_policy_says_how_near(nearest: float | None, said: str) -> None:
    with pytest.raises(NovelTaskError, match=said):
        decide(nearest=nearest, support=1.0, thresholds=THRESHOLDS, on_novel=OnNovel.ERROR)


@pytest.mark.parametrize(
    ("metrics", "harms"),
    [
        ({}, False),
        ({"gain": 0.0, "checked_examples": 4}, False),
        ({"gain": -0.01, "checked_examples": 4}, True),
        ({"gain": -0.01, "checked_examples": 4, "forced": 1.0}, False),
        ({"gain": -0.01, "checked_examples": 4, "forced": 0.0}, True),
    ],
)
def test_an_adapter_harms_if_its_check_says_so_and_nobody_forces_it(
    metrics: dict[str, float], harms: bool
) -> None:
    adapter = Adapter(
        id=2**20,
        namespace="default",
        name="task@01234567",
        task_name="task",
        digest="0" * 64,
        rank=1,
        alpha=1.0,
        target_modules=(),
        origin=Origin.GENERATED,
        base_fingerprint="",
        hypernet_fingerprint=None,
        size_bytes=0,
        metrics=metrics,
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
    )
    assert bool(harm(adapter)) is harms

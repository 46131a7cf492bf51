"""docs/observability.md says what a server really tells."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hyperplug_vllm.answers import BusyError
from hyperplug_vllm.logline import Ended, line
from hyperplug_vllm.lookups import Found
from hyperplug_vllm.metrics import SPECS, STAGES, Outcome, Spec
from hyperplug_vllm.targets import TargetKind

from tests.integrations.vllm.test_logline import RESOLUTION

pytest.importorskip("vllm")

TEXT = (Path(__file__).parents[3] / "docs" / "observability.md").read_text(encoding="utf-8")
_LISTED = 6  # labels with more values are described in words


def _rows(heading: str) -> list[list[str]]:
    """Returns the cells of the first table under a heading, without its head."""
    section = TEXT.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [row for row in section.splitlines() if row.startswith("|")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in lines[2:]]


def _row(spec: Spec) -> list[str]:
    labels = ", ".join(
        f"`{label}` ({', '.join(values)})" if len(values) <= _LISTED else f"`{label}`"
        for label, values in spec.labels.items()
    )
    return [f"`{spec.name}`", spec.kind.value, labels, spec.help]


def test_every_metric_is_described_and_no_other() -> None:
    assert _rows("Metrics") == [_row(spec) for spec in SPECS]


def test_metrics_in_examples_exist() -> None:
    known = {name for spec in SPECS for name in spec.samples}
    assert set(re.findall(r"hyperplug_[a-z_]+(?=[\[{)])", TEXT)) <= known


def test_every_field_of_the_log_is_described_and_no_other() -> None:
    ends = (
        Ended(
            outcome=Outcome.SERVED,
            found=Found(resolution=RESOLUTION, stale=True),
            named_by=TargetKind.TEXT,
            request_id="r",
            namespace="n",
            trace_id="t",
        ),
        Ended(outcome=Outcome.REFUSED, error=BusyError("x")),
    )
    written = {field.split("=")[0] for ended in ends for field in line(ended).split()[1:]}
    described = {name for row in _rows("Log") for name in re.findall(r"`(\w+)`", row[0])}
    assert described == written


def test_every_span_is_described() -> None:
    for name in ("resolve", *STAGES):
        assert f"`hyperplug.{name}`" in TEXT

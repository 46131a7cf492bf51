"""The dashboard for Grafana asks for metrics that exist, and shows all of them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hyperplug_vllm.metrics import SPECS

pytest.importorskip("vllm")

FILE = Path(__file__).parents[3] / "integrations" / "vllm" / "grafana" / "hyperplug.json"
DASHBOARD: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
VARIABLES = {each["name"]: each for each in DASHBOARD["templating"]["list"]}
OURS = {name: spec for spec in SPECS for name in spec.samples}
# What Prometheus itself adds to each series.
TARGET_LABELS = {"job", "instance"}
_SERIES = re.compile(r"\b(hyperplug_\w+)\{([^}]*)\}")
_MATCHER = re.compile(r'(\w+)(=~|!~|!=|=)"([^"]*)"')


def _expressions() -> list[str]:
    return [target["expr"] for panel in PANELS for target in panel["targets"]]


def test_grafana_can_load_it() -> None:
    """Without an id of its own, so that an import makes a new one, and with what it must have."""
    assert DASHBOARD["id"] is None
    assert re.fullmatch(r"[A-Za-z0-9_-]{1,40}", DASHBOARD["uid"])
    assert DASHBOARD["title"] and DASHBOARD["schemaVersion"] >= 36
    ids = [panel["id"] for panel in PANELS]
    assert len(set(ids)) == len(ids) and all(type(number) is int for number in ids)
    assert len({panel["title"] for panel in PANELS}) == len(PANELS)
    for panel in PANELS:
        assert panel["type"] in {"timeseries", "heatmap", "stat"}
        references = [target["refId"] for target in panel["targets"]]
        assert references and len(set(references)) == len(references)


def test_panels_lie_side_by_side_in_24_columns() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in PANELS:
        x, y, w, h = (panel["gridPos"][key] for key in "xywh")
        cells = {(column, row) for column in range(x, x + w) for row in range(y, y + h)}
        assert x + w <= 24 and not cells & taken, panel["title"]
        taken |= cells


def test_the_data_source_is_chosen_by_whoever_looks() -> None:
    assert VARIABLES["datasource"]["query"] == "prometheus"
    wanted = {"type": "prometheus", "uid": "${datasource}"}
    queries = [variable for variable in VARIABLES.values() if variable["type"] == "query"]
    targets = [target for panel in PANELS for target in panel["targets"]]
    for asking in (*PANELS, *targets, *queries):
        assert asking["datasource"] == wanted


def test_expressions_name_series_labels_and_values_that_exist() -> None:
    expressions = [
        *_expressions(),
        *(v["definition"] for v in VARIABLES.values() if "definition" in v),
    ]
    for expression in expressions:
        assert set(re.findall(r"\bhyperplug_\w+", expression)) <= set(OURS), expression
    for expression in _expressions():
        found = _SERIES.findall(expression)
        assert found, expression
        for name, matchers in found:
            labels = OURS[name].labels
            for label, _, value in _MATCHER.findall(matchers):
                if label not in TARGET_LABELS:
                    assert set(value.split("|")) <= set(labels[label]), expression
            known = TARGET_LABELS | set(labels) | {"le"}
            for group in re.findall(r"by \(([^)]*)\)", expression):
                assert {label.strip() for label in group.split(",")} <= known, expression
        assert expression.count("(") == expression.count(")")


def test_legends_name_labels_that_are_left() -> None:
    for panel in PANELS:
        for target in panel["targets"]:
            groups = re.findall(r"by \(([^)]*)\)", target["expr"])
            left = {label.strip() for group in groups for label in group.split(",")}
            assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= left, panel["title"]


def test_variables_are_all_defined() -> None:
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(PANELS)))
    assert {name for name in used if not name.startswith("__")} <= set(VARIABLES)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_every_metric_is_shown(spec: Any) -> None:
    shown = {name for text in _expressions() for name in re.findall(r"\bhyperplug_\w+", text)}
    assert shown & set(spec.samples)

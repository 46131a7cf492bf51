"""`hyperplug doctor`: one finding a check, each with a remedy where one is needed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Hyperplug, TinyModels

pytestmark = pytest.mark.slow

CHECKS = [
    "python",
    "packages",
    "torch",
    "sqlite",
    "home",
    "registry",
    "base model",
    "encoder",
    "hypernet",
    "vllm",
]


def findings(hyperplug: Hyperplug, *options: str) -> tuple[int, dict[str, Any]]:
    """Returns the exit status and the findings by name."""
    ran = hyperplug("doctor", "--json", *options)
    found = json.loads(ran.out)
    assert [finding["name"] for finding in found] == CHECKS
    assert all(finding["outcome"] in ("ok", "warn", "FAIL") for finding in found)
    assert all(finding["remedy"] for finding in found if finding["outcome"] != "ok")
    return ran.status, {finding["name"]: finding for finding in found}


def test_all_is_well_with_fitting_parts(hyperplug: Hyperplug, tiny: TinyModels, home: Path) -> None:
    status, found = findings(hyperplug, *tiny.options)
    assert status == 0
    for name in ("python", "packages", "sqlite", "registry", "base model", "encoder", "hypernet"):
        assert found[name]["outcome"] == "ok", found[name]
    assert not home.exists()  # looking changes nothing


def test_everything_that_is_broken_is_found_at_once(
    hyperplug: Hyperplug, tiny: TinyModels, home: Path
) -> None:
    home.mkdir()
    (home / "registry.db").write_text("not a database " * 100)
    status, found = findings(hyperplug, "--base", str(tiny.base))  # the shipped one fits another
    assert status == 1
    for name in ("registry", "hypernet"):
        assert found[name]["outcome"] == "FAIL"

"""docs/edge-cases.md tells of every case, and of the tests that there are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "edge-cases.md"
_LINE = re.compile(r"^\| (\d+) \| .+ \| (.+) \|$", re.MULTILINE)
_NAMED = re.compile(r"`(test_\w+)`")
_DEFINED = re.compile(r"^(?:async )?def (test_\w+)", re.MULTILINE)


@pytest.fixture(scope="module")
def lines() -> list[tuple[int, str]]:
    """The number and the tests of each case in the document."""
    return [(int(number), tests) for number, tests in _LINE.findall(DOCUMENT.read_text())]


@pytest.fixture(scope="module")
def defined() -> set[str]:
    """The names of all tests that there are."""
    files = (ROOT / "tests").rglob("test_*.py")
    return {name for file in files for name in _DEFINED.findall(file.read_text())}


def test_every_case_is_told_once(lines: list[tuple[int, str]]) -> None:
    assert [number for number, _ in lines] == list(range(1, 66))


def test_every_case_has_a_test_or_says_why_not(lines: list[tuple[int, str]]) -> None:
    for number, tests in lines:
        said = "does not apply" in tests or tests.strip() == "none"
        assert said or f"`test_edge_{number:02}_" in tests, number


def test_every_test_that_is_named_exists(defined: set[str]) -> None:
    for document in (DOCUMENT, ROOT / "docs" / "security.md"):
        assert set(_NAMED.findall(document.read_text())) <= defined, document


def test_every_test_of_a_case_is_named_in_its_line(
    lines: list[tuple[int, str]], defined: set[str]
) -> None:
    told = dict(lines)
    for name in sorted(defined):
        if found := re.match(r"test_edge_(\d\d)_", name):
            assert f"`{name}`" in told[int(found[1])]
        else:
            assert not name.startswith("test_edge_")

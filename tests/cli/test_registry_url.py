"""Registries that are wrong, out of reach, foreign, or of another version."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Hyperplug, only_line


@pytest.mark.parametrize(
    ("url", "status"),
    [
        ("nonsense", 2),
        ("mysql://somebody@localhost/x", 2),
        ("sqlite:////dev/null/registry.db", 1),
        ("postgresql://me:s3cret@127.0.0.1:1/none", 1),
    ],
)
def test_unusable_urls_are_one_line_and_a_remedy(
    url: str, status: int, hyperplug: Hyperplug
) -> None:
    for command in (("list-tasks",), ("db", "upgrade"), ("db", "current")):
        ran = hyperplug(*command, "--registry", url)
        assert ran.status == status
        assert only_line(ran.err, start="Error: ")
        assert only_line(ran.err, start="Hint: ")
        assert "s3cret" not in ran.err
        assert ran.out == ""


def test_schema_commands_tell_the_revision(hyperplug: Hyperplug) -> None:
    revision = hyperplug("db", "upgrade").out.strip()
    assert revision
    assert hyperplug("db", "current").out.strip() == revision
    assert json.loads(hyperplug("db", "current", "--json").out) == {
        "current": revision,
        "head": revision,
    }
    assert hyperplug("db", "check").status == 0


def test_newer_and_foreign_databases_are_refused(hyperplug: Hyperplug, home: Path) -> None:
    hyperplug("db", "upgrade")
    with sqlite3.connect(home / "registry.db") as connection:
        connection.execute("UPDATE hyperplug_schema SET version_num = '9999'")
    newer = hyperplug("list-tasks")
    assert newer.status == 1
    assert "pip install --upgrade hyperplug" in only_line(newer.err, start="Hint: ")
    with sqlite3.connect(home / "foreign.db") as connection:
        connection.execute("CREATE TABLE customers (id INTEGER)")
    foreign = hyperplug("db", "upgrade", "--registry", f"sqlite:///{home / 'foreign.db'}")
    assert foreign.status == 1
    assert "not a hyperplug registry" in only_line(foreign.err, start="Error: ")


def test_file_that_is_no_database_is_refused(hyperplug: Hyperplug, tmp_path: Path) -> None:
    file = tmp_path / "text.db"
    file.write_text("Not a database, but long enough to be looked at as if it were one. " * 20)
    ran = hyperplug("list-tasks", "--registry", f"sqlite:///{file}")
    assert ran.status == 1
    assert only_line(ran.err, start="Hint: ")


def test_output_may_be_cut_off(home: Path, hyperplug: Hyperplug) -> None:
    """A reader that leaves early, such as `head`, causes no complaint."""
    assert hyperplug("db", "upgrade").status == 0
    process = subprocess.Popen(
        [sys.executable, "-m", "hyperplug", "db", "current", "--json"],
        env={**os.environ, "HYPERPLUG_HOME": str(home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    process.wait(timeout=60)
    assert b"Traceback" not in err and b"Exception" not in err

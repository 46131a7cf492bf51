"""Many tasks from a file: the good ones are registered, the bad ones told by line."""

from __future__ import annotations

import gzip
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.conftest import Hyperplug, only_line

GOOD = {"name": "sentiment", "description": "Positive or negative?", "tags": ["classify"]}


def write(path: Path, *lines: object) -> Path:
    """Writes JSON lines; bytes go in as they are."""
    raw = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    path.write_bytes(b"\n".join(raw) + b"\n")
    return path


def test_bad_lines_are_told_at_the_end_and_stop_nothing(
    tmp_path: Path, hyperplug: Hyperplug
) -> None:
    file = write(
        tmp_path / "tasks.jsonl",
        GOOD,
        b"{not json",
        b"",
        {"name": "no-description"},
        {"name": "Bad/Name", "description": "x y"},
        {"name": "huge", "description": "x" * 1_100_000},
        b'{"name": "latin", "description": "caf\xe9"}',
        {"name": "sentiment", "description": "Something else."},
        {"name": "empty", "description": "   "},
        {"name": "odd", "description": "d", "examples": [{"input": "i", "output": 3}]},
        {"name": "last", "description": "Is it spam?", "examples": [{"input": "i", "output": "o"}]},
    )
    ran = hyperplug("register-task", "--from-file", str(file), "--no-generate", "--tag", "bulk")
    assert ran.status == 1
    assert "Traceback" not in ran.err
    told = [line for line in ran.err.splitlines() if line.startswith(f"{file}:")]
    assert [int(line.split(":")[1]) for line in told] == [2, 4, 5, 6, 7, 8, 9, 10]
    for line, word in zip(
        told,
        ("JSON", '"description"', "Bad/Name", "1,000,000", "UTF-8", "already", "empty", "output"),
        strict=True,
    ):
        assert word in line
    assert ran.err.splitlines()[-1] == "2 registered, 0 known before, 8 bad lines"
    tasks = json.loads(hyperplug("list-tasks", "--json").out)
    assert [task["name"] for task in tasks] == ["sentiment", "last"]
    assert tasks[0]["tags"] == ["classify", "bulk"]
    assert tasks[1]["examples"] == [{"input": "i", "output": "o"}]


def test_running_it_again_registers_nothing_twice(tmp_path: Path, hyperplug: Hyperplug) -> None:
    file = write(tmp_path / "tasks.jsonl", GOOD)
    command = ("register-task", "--from-file", str(file), "--no-generate", "--json")
    first, second = hyperplug(*command), hyperplug(*command)
    assert first.status == second.status == 0
    assert [task["new"] for task in json.loads(first.out)["tasks"]] == [True]
    assert [task["new"] for task in json.loads(second.out)["tasks"]] == [False]


def test_gzip_and_a_byte_order_mark_are_read(tmp_path: Path, hyperplug: Hyperplug) -> None:
    file = tmp_path / "tasks.jsonl.gz"
    file.write_bytes(gzip.compress(b"\xef\xbb\xbf" + json.dumps(GOOD).encode() + b"\r\n"))
    ran = hyperplug("register-task", "--from-file", str(file), "--no-generate")
    assert (ran.status, ran.out) == (0, "sentiment\n")


@pytest.mark.parametrize("content", [b"", b"\n \n\n"], ids=["empty", "blank"])
def test_a_file_without_tasks_is_an_error(
    content: bytes, tmp_path: Path, hyperplug: Hyperplug
) -> None:
    file = tmp_path / "tasks.jsonl"
    file.write_bytes(content)
    ran = hyperplug("register-task", "--from-file", str(file), "--no-generate")
    assert ran.status == 1
    assert "holds no tasks" in only_line(ran.err, start="Error: ")
    assert '"name"' in only_line(ran.err, start="Hint: ")


def test_a_file_out_of_reach_is_an_error(tmp_path: Path, hyperplug: Hyperplug) -> None:
    for file in (tmp_path / "absent.jsonl", tmp_path):
        for option in ("--from-file", "--examples"):
            name = () if option == "--from-file" else ("task", "Do it.")
            ran = hyperplug("register-task", *name, option, str(file), "--no-generate")
            assert ran.status == 2
            assert str(file) in only_line(ran.err, start="Error: ")


def test_bad_examples_are_listed_and_nothing_is_written(
    tmp_path: Path, hyperplug: Hyperplug
) -> None:
    file = write(tmp_path / "e.jsonl", {"input": "a", "output": "b"}, [1], {"input": "a"})
    ran = hyperplug("register-task", "t", "Do it.", "--examples", str(file), "--no-generate")
    assert ran.status == 1
    assert "line 2: a JSON list" in ran.err and 'line 3: "output" is missing' in ran.err
    assert hyperplug("show-task", "t").status == 1


def test_ctrl_c_ends_with_a_line_and_keeps_what_is_done(tmp_path: Path, home: Path) -> None:
    pipe = tmp_path / "tasks.fifo"
    os.mkfifo(pipe)
    command = [sys.executable, "-m", "hyperplug", "register-task", "--no-generate"]
    process = subprocess.Popen(
        [*command, "--from-file", str(pipe)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # A shell's background jobs ignore it, and hand that on.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    with pipe.open("wb") as file:  # opens when the command does
        # They are embedded 64 at a time: the command is at work, and will wait for more.
        for number in range(70):
            task = {"name": f"task-{number}", "description": f"Count to {number}."}
            file.write(json.dumps(task).encode() + b"\n")
        file.flush()
        database = home / "registry.db"
        deadline = time.monotonic() + 300
        while process.poll() is None and time.monotonic() < deadline and not _rows(database):
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=300)
    assert process.returncode == 130, err.decode()
    assert b"Interrupted" in err and b"Traceback" not in err
    assert b" of 0" not in err  # how many will come is not known
    (told,) = re.findall(rb"Interrupted after (\d+) tasks", err)
    # The last one may have been written when the interrupt came, and not yet been counted.
    assert 0 <= _rows(database) - int(told) <= 1
    assert 0 < _rows(database) <= 64
    assert out == b""


def _rows(database: Path) -> int:
    import sqlite3

    try:
        with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
            return int(connection.execute("SELECT count(*) FROM tasks").fetchone()[0])
    except sqlite3.Error:
        return 0

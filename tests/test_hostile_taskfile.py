"""Fuzzing task and example files: a bad line is named by its number and stops no other."""

from __future__ import annotations

import gzip
import json
import os
import random
import tempfile
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperplug.errors import ConfigError, InvalidTaskFileError
from hyperplug.taskfile import MAX_LINE_BYTES, Line, read_examples, read_tasks

FUZZ = settings(max_examples=150, deadline=None, derandomize=True)
GOOD_TASK = b'{"name": "sums", "description": "Add two numbers."}'
GOOD_EXAMPLE = b'{"input": "1+1", "output": "2"}'

# A line each that is neither a task nor an example, whatever stands around it.
BAD_LINES: dict[str, bytes] = {
    "not JSON": b"{",
    "not UTF-8": b'{"name": "\xff\xfe", "description": "x"}',
    "UTF-16": '{"name": "a", "description": "b"}'.encode("utf-16-le"),
    "NUL bytes": b"\x00" * 100,
    "a NaN": b"NaN",
    "infinity": b'{"name": Infinity, "description": -Infinity, "input": NaN, "output": NaN}',
    "a number": b"1" * 400,
    "a number of many digits": b"1" * 100_000,
    "many digits inside": b'{"name": ' + b"9" * 100_000 + b"}",
    "a list": b"[]",
    "null": b"null",
    "a text": b'"name"',
    "deep lists": b"[" * 500_000,
    "deep objects": b'{"name":' * 100_000,
    "deep examples": GOOD_TASK[:-1] + b', "examples": [' + b"[" * 5000 + b"]" * 5001 + b"}",
    "too long": b'{"name": "' + b"x" * MAX_LINE_BYTES + b'"}',
    "wrong types": b'{"name": 1, "description": true, "input": [], "output": {}}',
    "nothing in it": b"{}",
    "null in it": b'{"name": null, "description": null, "input": null, "output": null}',
    "a nested name": b'{"name": {"name": "a"}, "description": ["b"], "input": ["1"]}',
    "control characters": b'{"name": "a\x00\x1b[2J", "description": "b", "input": "\x00"}',
    "the last key wins": b'{"name": "a", "name": 1, "description": "b", "input": "", "input": 1}',
}
JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)
FIELDS = st.dictionaries(
    st.sampled_from(["name", "description", "examples", "tags", "input", "output"]), JSON
)


def tasks_of(content: bytes) -> list[Line]:
    """Returns the lines of a task file of this content, each problem checked to be one line."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tasks.jsonl"
        path.write_bytes(content)
        try:
            lines = list(read_tasks(path))
        except InvalidTaskFileError as error:
            assert error.hint and str(error).isprintable()
            return []
    for line in lines:
        assert (line.task is None) == bool(line.problem)
        assert line.problem == "" or (line.problem.isprintable() and len(line.problem) < 200)
    return lines


def example_problems(content: bytes) -> tuple[str, ...] | None:
    """Returns what is wrong with an example file's lines; None if all of it is taken."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "examples.jsonl"
        path.write_bytes(content)
        try:
            read_examples(path)
        except InvalidTaskFileError as error:
            assert error.hint and str(error).isprintable()
            assert all(problem.isprintable() and len(problem) < 200 for problem in error.problems)
            return error.problems
    return None


@given(st.binary(max_size=300))
@FUZZ
def test_arbitrary_bytes_never_crash(content: bytes) -> None:
    assert all(line.problem for line in tasks_of(content))
    assert example_problems(content) is not None


@given(st.binary(max_size=300))
@FUZZ
def test_arbitrary_bytes_after_gzips_mark_never_crash(content: bytes) -> None:
    assert tasks_of(b"\x1f\x8b\x08\x00" + content) == []
    assert example_problems(b"\x1f\x8b" + content) is not None


@given(st.lists(st.one_of(JSON, FIELDS), max_size=4))
@FUZZ
def test_arbitrary_json_lines_are_told_by_number(values: list[object]) -> None:
    content = b"\n".join([*(json.dumps(value).encode() for value in values), GOOD_TASK])
    lines = tasks_of(content)
    assert [line.number for line in lines] == list(range(1, len(values) + 2))
    assert lines[-1].task is not None and lines[-1].task.name == "sums"


@given(st.lists(st.sampled_from([None, *BAD_LINES]), min_size=1, max_size=6))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_bad_lines_are_numbered_and_stop_no_good_ones(kinds: list[str | None]) -> None:
    bad = {number for number, kind in enumerate(kinds, start=1) if kind is not None}

    def content(good: bytes) -> bytes:
        return b"\n".join(good if kind is None else BAD_LINES[kind] for kind in kinds)

    lines = tasks_of(content(GOOD_TASK))
    told = {line.number for line in lines if line.problem}
    assert {line.number for line in lines} == set(range(1, len(kinds) + 1))
    assert told == bad
    problems = example_problems(content(GOOD_EXAMPLE))
    assert (problems is None) == (not bad)
    assert [problem.split(":")[0] for problem in problems or ()] == [
        f"line {n}" for n in sorted(bad)
    ]


@pytest.mark.parametrize("kind", BAD_LINES)
def test_each_bad_line_is_told_between_good_ones(kind: str) -> None:
    first, bad, last = tasks_of(b"\n".join([GOOD_TASK, BAD_LINES[kind], GOOD_TASK]))
    assert (first.number, bad.number, last.number) == (1, 2, 3)
    assert first.task is not None and first.task == last.task
    assert bad.problem
    problems = example_problems(b"\n".join([GOOD_EXAMPLE, BAD_LINES[kind], GOOD_EXAMPLE]))
    assert problems is not None and len(problems) == 1 and problems[0].startswith("line 2: ")


@given(st.integers(0, 2**32))
@FUZZ
def test_changed_bytes_spoil_only_their_own_line(seed: int) -> None:
    choose = random.Random(seed)
    spoilt = bytearray(GOOD_TASK)
    for _ in range(choose.randint(1, 5)):
        spoilt[choose.randrange(len(spoilt))] = choose.choice([*range(10), *range(11, 256)])
    lines = tasks_of(b"\n".join([GOOD_TASK, bytes(spoilt), GOOD_TASK]))
    sound = [line for line in lines if line.number != 2]
    assert [line.number for line in sound] == [1, 3]
    assert all(line.task is not None and line.task.name == "sums" for line in sound)


@pytest.mark.parametrize("packed", [False, True])
def test_a_line_of_a_hundred_megabytes_takes_little_memory(tmp_path: Path, packed: bool) -> None:
    path = tmp_path / "tasks.jsonl"
    with gzip.open(path, "wb", compresslevel=1) if packed else path.open("wb") as file:
        for _ in range(100):
            file.write(b"x" * 2**20)
        file.write(b"\n" + GOOD_TASK)
    tracemalloc.start()
    lines = list(read_tasks(path))
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [bool(line.problem) for line in lines] == [True, False]
    assert peak_bytes < 8 * 2**20


@pytest.mark.parametrize("end", [3, 10, 20, -1, -8])
def test_cut_gzip_is_told(end: int) -> None:
    packed = gzip.compress(GOOD_EXAMPLE)
    assert example_problems(packed) is None
    assert example_problems(packed[:end]) == ()


@pytest.mark.parametrize("name", ["no\nsuch\x1b[2J", "a\0b", "x" * 1000, "\ud800", "", "folder"])
def test_a_path_that_is_no_file_is_told_on_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(ConfigError) as caught:
        list(read_tasks(tmp_path / name))
    assert str(caught.value).isprintable()
    with pytest.raises(ConfigError):
        read_examples(tmp_path / name)


def test_a_hostile_file_name_is_shown_escaped(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\nERROR forged\x1b[2J"))
    for content in (b"", b"{", b"\x1f\x8b"):
        path.write_bytes(content)
        with pytest.raises(InvalidTaskFileError) as caught:
            read_examples(path)
        assert str(caught.value).isprintable()

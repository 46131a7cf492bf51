"""Task files: what is written is read back, and no content breaks the reader."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperplug.entities import Example, TaskDraft
from hyperplug.errors import ConfigError, HyperplugError, InvalidTaskFileError
from hyperplug.taskfile import MAX_LINE_BYTES, read_examples, read_tasks

texts = st.text(max_size=40)
drafts = st.builds(
    TaskDraft,
    name=texts,
    description=texts,
    tags=st.lists(texts, max_size=2).map(tuple),
    examples=st.lists(st.builds(Example, input=texts, output=texts), max_size=2).map(tuple),
)


def as_line(draft: TaskDraft, *, ascii: bool) -> bytes:
    """Returns the draft as a line of a task file."""
    content = {
        "name": draft.name,
        "description": draft.description,
        "tags": draft.tags,
        "examples": [{"input": e.input, "output": e.output} for e in draft.examples],
        "comment": "passed over",
    }
    return json.dumps(content, ensure_ascii=ascii).encode("utf-8")


@given(tasks=st.lists(drafts, min_size=1, max_size=4), ascii=st.booleans(), packed=st.booleans())
@settings(max_examples=60, deadline=None)
def test_tasks_are_read_as_they_were_written(
    tasks: list[TaskDraft], ascii: bool, packed: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.mktemp("tasks") / "tasks.jsonl"
    data = b"\n\n".join(as_line(task, ascii=ascii) for task in tasks)
    file.write_bytes(gzip.compress(data) if packed else data)
    lines = list(read_tasks(file))
    assert [line.task for line in lines] == tasks
    assert [line.number for line in lines] == [1 + 2 * index for index in range(len(tasks))]
    assert lines[-1].bytes_read == file.stat().st_size


@given(
    data=st.binary(max_size=300) | st.text(alphabet='{}[]",:\n01ante', max_size=80).map(str.encode)
)
@settings(max_examples=200, deadline=None)
def test_no_content_breaks_the_reader(
    data: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.mktemp("junk") / "tasks.jsonl"
    file.write_bytes(data)
    try:
        for line in read_tasks(file):
            assert (line.task is None) == bool(line.problem)
    except InvalidTaskFileError as exc:
        assert exc.hint


def test_a_line_at_the_limit_is_read_and_one_over_it_is_not(tmp_path: Path) -> None:
    file = tmp_path / "tasks.jsonl"
    empty = len(json.dumps({"name": "n", "description": ""}))
    fits = json.dumps({"name": "n", "description": "x" * (MAX_LINE_BYTES - empty)})
    over = json.dumps({"name": "n", "description": "x" * (MAX_LINE_BYTES - empty + 1)})
    file.write_text("\n".join([fits, over, fits]))
    first, second, third = read_tasks(file)
    assert first.task is not None and third.task is not None
    assert second.number == 2 and "1,000,000 bytes" in second.problem


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"[" * 100_000, "not usable JSON"),
        (b"1" * 5_000, "not usable JSON"),
        (b"null", "a JSON null"),
        (b"true", "a JSON boolean"),
        (b'{"name": 3, "description": "d"}', '"name" is a number'),
        (b'{"name": "n", "description": "d", "tags": "t"}', '"tags" is a text, not a list'),
        (b'{"name": "n", "description": "d", "tags": [1]}', "a tag is a number"),
        (b'{"name": "n", "description": "d", "examples": ["e"]}', "example 1 is a text"),
        (b"\xff\xfe{}", "not UTF-8 at byte 1"),
    ],
)
def test_what_is_wrong_is_said(line: bytes, problem: str, tmp_path: Path) -> None:
    file = tmp_path / "tasks.jsonl"
    file.write_bytes(line)
    (read,) = read_tasks(file)
    assert problem in read.problem


def test_damaged_gzip_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "tasks.jsonl.gz"
    file.write_bytes(gzip.compress(b'{"input": "a", "output": "b"}\n' * 1000)[:-20])
    with pytest.raises(HyperplugError, match="gzip"):
        read_examples(file)


def test_a_path_with_a_nul_cannot_be_read() -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        read_examples(Path("a\0b"))

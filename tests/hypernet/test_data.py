"""Reading a corpus, and turning its tasks into tokens."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperplug.errors import InvalidTaskFileError, TrainingError
from hyperplug.hypernet.data import chat_prompt, read_corpus, shippable, tokenise
from hyperplug.hypernet.splits import read_training_tasks
from tests.miniature import byte_tokenizer, task_line, write_tasks

GOOD = task_line("good", answer="yes")


def test_plain_gzip_and_folder_give_the_same_tasks(tmp_path: Path) -> None:
    plain = write_tasks(tmp_path / "a.jsonl", [GOOD])
    packed = tmp_path / "packed" / "b.jsonl.gz"
    packed.parent.mkdir()
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    (packed.parent / "README.md").write_text("no tasks")
    tasks = read_corpus(plain).tasks
    assert tasks == read_corpus(packed).tasks == read_corpus(packed.parent).tasks
    assert (tasks[0].id, tasks[0].family, len(tasks[0].examples)) == ("good", "good", 24)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{", "JSONDecodeError"),
        ("[]", "AttributeError"),
        (json.dumps(GOOD | {"descriptions": [], "description": " "}), "empty description"),
        (json.dumps({"id": "x", "examples": []}), "KeyError: 'description'"),
        (json.dumps(GOOD | {"examples": []}), "no examples"),
        (json.dumps(GOOD | {"examples": [{"input": "a"}]}), "KeyError: 'output'"),
        (json.dumps(GOOD | {"examples": [{"input": "a", "output": 1}]}), "not text"),
        (json.dumps(GOOD | {"metric": "bleu"}), "metric 'bleu' is none of"),
    ],
)
def test_a_bad_line_is_named_and_skipped(tmp_path: Path, line: str, problem: str) -> None:
    path = tmp_path / "tasks.jsonl"
    path.write_text(f"{json.dumps(GOOD)}\n\n{line}\n{json.dumps(GOOD | {'id': 'z'})}\n")
    corpus = read_corpus(path)
    assert [task.id for task in corpus.tasks] == ["good", "z"]
    assert len(corpus.skipped) == 1
    assert corpus.skipped[0].startswith("tasks.jsonl:3: ") and problem in corpus.skipped[0]


def test_a_file_without_a_usable_task_lists_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "tasks.jsonl"
    path.write_text("nonsense\n{}\n")
    with pytest.raises(InvalidTaskFileError, match="no usable task") as caught:
        read_corpus(path)
    assert [problem.split(": ")[0] for problem in caught.value.problems] == [
        "tasks.jsonl:1",
        "tasks.jsonl:2",
    ]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("none.jsonl", None),
        ("empty.jsonl", b""),
        ("latin.jsonl", b"\xff\xfe{}\n"),
        ("cut.jsonl.gz", gzip.compress(b"x" * 100)[:-9]),
        ("plain.jsonl.gz", b"{}\n"),
    ],
)
def test_an_unreadable_file(tmp_path: Path, name: str, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidTaskFileError):
        read_corpus(tmp_path / name)


_TEXT = st.text(st.characters(codec="utf-8"), min_size=1).filter(str.strip)


@given(
    description=_TEXT,
    examples=st.lists(st.fixed_dictionaries({"input": _TEXT, "output": _TEXT}), min_size=1),
)
def test_any_text_survives(
    tmp_path_factory: pytest.TempPathFactory, description: str, examples: list[Any]
) -> None:
    line = {"id": "x", "description": description, "examples": examples}
    path = write_tasks(tmp_path_factory.mktemp("any") / "tasks.jsonl", [line])
    task = read_corpus(path).tasks[0]
    assert task.descriptions == (description,)
    assert [{"input": e.input, "output": e.output} for e in task.examples] == examples


def test_prompts_with_and_without_a_chat_template() -> None:
    chat, plain = byte_tokenizer(), byte_tokenizer(chat_template=None)
    assert chat_prompt(chat, "in") == "<|user|>in<|end|><|assistant|>"
    assert chat_prompt(chat, "in", description="Do.") == "<|user|>Do.\n\nin<|end|><|assistant|>"
    assert chat_prompt(plain, "in") == "in\n"


def test_an_answer_ends_with_the_end_token_and_long_ones_are_left_out(tmp_path: Path) -> None:
    line = GOOD | {
        "examples": [
            {"input": "a", "output": " yes "},
            {"input": "a" * 90, "output": "yes"},
            {"input": "a", "output": "y" * 20},
            {"input": "b", "output": "no"},
        ]
    }
    task = read_corpus(write_tasks(tmp_path / "tasks.jsonl", [line])).tasks[0]
    tokenizer = byte_tokenizer()
    sequences = tokenise(tokenizer, task, max_tokens=64, max_answer_tokens=8)
    assert [s.key for s in sequences] == ["good/0", "good/3"]
    assert tokenizer.decode(sequences[0].answer) == "yes<|end|>"
    assert sequences[0].answer[-1] == tokenizer.eos_token_id
    told = tokenise(tokenizer, task, max_tokens=128, max_answer_tokens=8, description="Do it.")
    assert "Do it." in tokenizer.decode(told[0].prompt)
    assert told[0].key != sequences[0].key  # their lower layers' outputs differ


def test_licences(tmp_path: Path) -> None:
    lines = [
        task_line("free", answer="a"),
        task_line("closed", answer="a") | {"licence_class": "noncommercial"},
        task_line("shell", answer="a") | {"source": "NL2Bash"},
    ]
    path = write_tasks(tmp_path / "tasks.jsonl", lines)
    assert [shippable(task) for task in read_corpus(path).tasks] == [True, False, False]
    assert [t.id for t in read_training_tasks(path).train] == ["free"]
    assert len(read_training_tasks(path, include_noncommercial=True).train) == 3
    write_tasks(path, lines[1:])
    with pytest.raises(TrainingError, match="none of the 2 tasks"):
        read_training_tasks(path)


def test_a_folder_of_splits_never_mixes_them(tmp_path: Path) -> None:
    for split in ("train", "validation", "test"):
        write_tasks(tmp_path / f"{split}.jsonl", [task_line(split, answer="a")])
    tasks = read_training_tasks(tmp_path)
    assert [t.id for t in tasks.train] == ["train"]
    assert [t.id for t in tasks.validation] == ["validation"]
    other = read_training_tasks(tmp_path, validation=tmp_path / "test.jsonl")
    assert [t.id for t in other.validation] == ["test"]


def test_whole_families_are_held_out_where_there_is_no_validation_file(tmp_path: Path) -> None:
    lines = [
        task_line(f"f{family}-t{task}", family=f"f{family}", answer="a", examples=1)
        for family in range(30)
        for task in range(3)
    ]
    path = write_tasks(tmp_path / "tasks.jsonl", lines)
    tasks = read_training_tasks(path)
    trained, held = {t.family for t in tasks.train}, {t.family for t in tasks.validation}
    assert len(held) == 3 and trained.isdisjoint(held)
    assert len(tasks.train) + len(tasks.validation) == 90
    assert read_training_tasks(path) == tasks != read_training_tasks(path, seed=1)
    assert len(read_training_tasks(path, limit_tasks=5).train) == 5
    write_tasks(path, lines[:9])
    assert read_training_tasks(path).validation == ()

"""Reading Super-NaturalInstructions as it is published."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperplug.errors import InvalidTaskFileError
from hyperplug.hypernet.data import read_corpus
from hyperplug.hypernet.sni import licence_class, read_task_file
from hyperplug.hypernet.splits import read_training_tasks, split_file
from tests.miniature import task_line, write_tasks


def native(
    *, source: Any = ("Fruit Reviews",), outputs: Any = ("sweet", "sour"), count: int = 40
) -> dict[str, Any]:
    """Returns a task in the native format; its outputs take turns."""
    return {
        "Contributors": ["somebody"],
        "Source": list(source),
        "URL": ["none"],
        "Categories": ["Taste Analysis"],
        "Definition": ["Say whether the fruit is sweet or sour."],
        "Input_language": ["English"],
        "Output_language": ["English"],
        "Domains": ["Reviews -> Fruit"],
        "Positive Examples": [{"input": "Honey", "output": "sweet", "explanation": "It is."}],
        "Negative Examples": [],
        "Instances": [
            {"id": f"t-{n}", "input": f"fruit {n}", "output": [outputs[n % len(outputs)]]}
            for n in range(count)
        ],
        "Instance License": ["Apache 2.0"],
    }


def write(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=4, ensure_ascii=False), encoding="utf-8")
    return path


def repository(root: Path, *, train: int = 20, test: int = 3) -> Path:
    """Writes task files of a dataset each, and the lists of a repository."""
    for number in range(train + test + 2):  # two stand in neither list
        write(root / "tasks" / f"task{number}_x.json", native(source=[f"set {number}"]))
    lists = root / "splits" / "default"
    lists.mkdir(parents=True)
    names = [f"task{number}_x" for number in range(train + test)]
    (lists / "train_tasks.txt").write_text("\r\n".join(names[:train]) + "\n\n")
    (lists / "test_tasks.txt").write_text("\n".join(names[train:]))
    return root


def test_a_native_file_becomes_a_task(tmp_path: Path) -> None:
    corpus = read_corpus(write(tmp_path / "task7_fruit.json", native()))
    (task,) = corpus.tasks
    assert corpus.skipped == ()
    assert (task.id, task.family, task.source) == ("task7_fruit", "fruit reviews", "Fruit Reviews")
    assert task.descriptions == ("Say whether the fruit is sweet or sour.",)
    assert (task.metric, task.labels) == ("exact_match", ("sweet", "sour"))
    assert (task.category, task.licence_class) == ("taste analysis", "permissive")
    assert len(task.examples) == 40
    assert {e.input: e.output for e in task.examples}["fruit 3"] == "sour"


def test_the_first_reference_that_says_something_is_the_answer(tmp_path: Path) -> None:
    content = native() | {
        "Instances": [
            {"input": "a", "output": ["", "  ", " first ", "second"]},
            {"input": "b", "output": "old style"},
            {"input": "b", "output": ["old style"]},
            {"input": "c", "output": [""]},
            {"input": 4, "output": ["four"]},
            {"input": "d", "output": [5, None]},
            {"input": "\ud800", "output": ["half a character"]},
            "e",
        ],
        "Definition": "One text, as in old files.",
        "Source": [],
        "Categories": None,
    }
    path = tmp_path / "old.json"
    path.write_text(json.dumps(content))
    corpus = read_corpus(path)
    (task,) = corpus.tasks
    assert {(e.input, e.output) for e in task.examples} == {("a", "first"), ("b", "old style")}
    assert (task.family, task.category) == ("old", "")
    assert corpus.skipped == (
        "old.json: 5 of 8 instances: the input is no text, or no output is a text that says "
        "something",
    )


@pytest.mark.parametrize(
    ("different", "count", "metric", "labels"),
    [
        (2, 20, "exact_match", 2),
        (12, 20, "exact_match", 12),
        (13, 20, "rougeL", 0),
        (2, 9, "rougeL", 0),
        (19, 100, "exact_match", 19),
        (20, 100, "rougeL", 0),
        (110, 600, "exact_match", 0),  # too many to be a list of labels
        (1, 20, "exact_match", 0),  # nothing to choose
    ],
)
def test_few_different_answers_make_a_choice(
    tmp_path: Path, different: int, count: int, metric: str, labels: int
) -> None:
    outputs = [f"answer {number}" for number in range(different)]
    path = write(tmp_path / "t.json", native(outputs=outputs, count=count))
    (task,) = read_corpus(path).tasks
    assert (task.metric, len(task.labels)) == (metric, labels)


def test_instances_are_drawn_by_seed_and_not_the_first(tmp_path: Path) -> None:
    path = write(tmp_path / "t.json", native(count=1000))
    (task,) = read_corpus(path).tasks
    assert len(task.examples) == 200
    assert max(int(e.input.split()[1]) for e in task.examples) > 900
    assert read_corpus(path).tasks == (task,)
    (fewer,) = read_corpus(path, instances_per_task=7).tasks
    assert len(fewer.examples) == 7 and fewer.labels == task.labels
    assert read_task_file(path, seed=1).tasks != (task,)


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["Apache 2.0"], "permissive"),
        (["MIT"], "permissive"),
        (["CC BY 4.0"], "permissive"),
        (["https://creativecommons.org/licenses/by/4.0/"], "permissive"),
        (["CC-BY-SA 3.0"], "sharealike"),
        (["Creative Commons Attribution-ShareAlike"], "sharealike"),
        (["CC BY-NC-SA 4.0"], "noncommercial"),
        (["For non-commercial use"], "noncommercial"),
        (["Research purposes only"], "noncommercial"),
        (["CC BY-ND 4.0"], "unknown"),
        (["Permitted by the authors"], "unknown"),
        (["Unknown"], "unknown"),
        ([], "unknown"),
        (["MIT", "Unknown"], "unknown"),
        (["MIT", "CC BY-SA 4.0"], "sharealike"),
        (["CC BY-SA 4.0", "CC BY-NC 4.0"], "noncommercial"),
    ],
)
def test_licences(texts: list[str], expected: str) -> None:
    assert licence_class(texts) == expected


BAD: list[tuple[bytes, str]] = [
    (b"", "broken JSON"),
    (b'{"Definition": [', "broken JSON"),
    (b"[" * 100_000, "nested too deeply"),
    (b"[]", "holds a JSON list"),
    (b"\xef\xbb\xbf{}", "byte order mark"),
    (b'{"Definition": ["\xff"]}', "not UTF-8 (byte 17)"),
    (b"{}", "Instances is missing or empty"),
    (json.dumps(native() | {"Instances": {}}).encode(), "Instances is not a list"),
    (json.dumps(native() | {"Instances": []}).encode(), "Instances is missing or empty"),
    (json.dumps(native() | {"Instances": [{}, 3]}).encode(), "2 of 2 instances"),
    (json.dumps(native() | {"Definition": []}).encode(), "Definition is missing or empty"),
    (json.dumps(native() | {"Definition": [" "]}).encode(), "Definition is missing or empty"),
    (json.dumps(native() | {"Definition": {"a": 1}}).encode(), "Definition is neither a text"),
    (json.dumps(native() | {"Source": [1]}).encode(), "Source is neither a text"),
    (json.dumps(native()).encode("utf-16"), "not UTF-8"),
]


@pytest.mark.parametrize(("content", "reason"), BAD, ids=[f"{n}" for n in range(len(BAD))])
def test_a_bad_file_is_named_with_the_reason(tmp_path: Path, content: bytes, reason: str) -> None:
    write(tmp_path / "good.json", native())
    (tmp_path / "bad.json").write_bytes(content)
    corpus = read_corpus(tmp_path)
    assert [task.id for task in corpus.tasks] == ["good"]
    assert len(corpus.skipped) == 1
    assert corpus.skipped[0].startswith("bad.json: ") and reason in corpus.skipped[0]
    with pytest.raises(InvalidTaskFileError, match="no usable task") as caught:
        read_corpus(tmp_path / "bad.json")
    assert caught.value.problems == corpus.skipped


def test_files_of_both_formats_lie_in_one_folder(tmp_path: Path) -> None:
    write(tmp_path / "b.json", native())
    write_tasks(tmp_path / "a.jsonl", [task_line("line", answer="yes")])
    (tmp_path / "broken.jsonl.gz").write_bytes(b"no gzip")
    (tmp_path / "folder.json").mkdir()
    corpus = read_corpus(tmp_path)
    assert [task.id for task in corpus.tasks] == ["line", "b"]
    assert ["broken.jsonl.gz" in corpus.skipped[0], "folder.json" in corpus.skipped[1]] == [1, 1]
    with pytest.raises(InvalidTaskFileError, match="cannot read"):
        read_corpus(tmp_path / "none.json")


def test_tasks_that_share_a_dataset_share_a_family(tmp_path: Path) -> None:
    sources = {"a": ["One"], "b": ["two", "Three"], "c": ["three", "ONE"], "d": ["four"]}
    for name, source in sources.items():
        write(tmp_path / f"{name}.json", native(source=source))
    families = {task.id: task.family for task in read_corpus(tmp_path).tasks}
    assert families == dict.fromkeys("abc", "one + three + two") | {"d": "four"}


@pytest.mark.parametrize("folder", [".", "tasks"])
def test_the_repositorys_lists_are_respected(tmp_path: Path, folder: str) -> None:
    root = repository(tmp_path / "repository") / folder
    tasks = read_training_tasks(root)
    assert len(tasks.train) == 18 and len(tasks.validation) == 2
    both = {task.id for task in (*tasks.train, *tasks.validation)}
    assert both == {f"task{number}_x" for number in range(20)}
    listed = split_file(root, "test")
    assert listed is not None
    assert [t.id for t in read_corpus(listed).tasks] == ["task20_x", "task21_x", "task22_x"]
    assert len(read_corpus(root).tasks) == 25


def test_a_list_may_name_what_is_not_there(tmp_path: Path, monkeypatch: Any) -> None:
    root = repository(tmp_path)
    lists = root / "splits" / "default"
    (lists / "other_tasks.txt").write_text("task1_x\n../../secret\ntask2_x.json\ntask1_x\n")
    monkeypatch.chdir(lists)
    corpus = read_corpus(Path("other_tasks.txt"))
    assert [task.id for task in corpus.tasks] == ["task1_x", "task2_x"]
    assert len(corpus.skipped) == 1
    assert "tasks/secret.json: No such file" in corpus.skipped[0]
    (lists / "other_tasks.txt").write_bytes(b"\xff\n")
    with pytest.raises(InvalidTaskFileError, match="cannot read"):
        read_corpus(lists / "other_tasks.txt")
    (lists / "other_tasks.txt").write_text("\n")
    with pytest.raises(InvalidTaskFileError, match="no usable task"):
        read_corpus(lists / "other_tasks.txt")


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
_FIELDS = ("Definition", "Instances", "Source", "Categories", "Instance License")


@given(fields=st.dictionaries(st.sampled_from(_FIELDS), _JSON))
def test_no_content_is_an_exception(
    tmp_path_factory: pytest.TempPathFactory, fields: dict[str, Any]
) -> None:
    path = tmp_path_factory.mktemp("any") / "task.json"
    path.write_text(json.dumps(native() | fields), encoding="utf-8")
    corpus = read_task_file(path)
    assert len(corpus.tasks) + len(corpus.skipped) >= 1

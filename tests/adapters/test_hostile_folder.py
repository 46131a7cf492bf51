"""Fuzzing adapter folders: links, pipes, pickles and arbitrary configurations."""

from __future__ import annotations

import json
import os
import pickle
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from hyperplug.adapters import validate_bytes, validate_folder
from hyperplug.adapters.peft_config import MAX_CONFIG_BYTES, parse_config
from hyperplug.adapters.peft_format import (
    CONFIG_FILE,
    PROVENANCE_FILE,
    WEIGHTS_FILE,
    adapter_config,
    tensor_name,
)
from hyperplug.adapters.problems import Problems
from hyperplug.entities import BaseModelSpec
from hyperplug.errors import BaseMismatchError, InvalidAdapterError
from tests.adapters.samples import BASE, MODULES, export, foreign, weights

PACKED = weights(rank=1)
CONFIG = adapter_config(PACKED, BASE.id)
FUZZ = settings(max_examples=150, deadline=None, derandomize=True)
FUZZ_ON_DISK = settings(max_examples=60, deadline=None, derandomize=True)
SETTINGS = sorted({*CONFIG, "exclude_modules", "layers_to_transform", "rank_pattern", "lora_bias"})

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.floats(),
    st.text(max_size=6),
    st.sampled_from([0, 1, -1, 64, 2**16, 2**63, 10**400, 0.5, 1e-320, "LORA", "none", "\ud800"]),
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=8,
)


def outcome(folder: Path, *, base: BaseModelSpec | None = BASE) -> str:
    """Returns the one-line refusal of `folder`, or "" if it passes; nothing else may leave."""
    try:
        validate_folder(folder, base=base)
    except (InvalidAdapterError, BaseMismatchError) as error:
        shown = str(error)
        assert error.hint
        assert shown.isprintable() and len(shown) < 2000
        return shown
    return ""


def parsed(raw: bytes) -> str:
    """Returns what is wrong with a configuration, or "" if it is taken."""
    problems = Problems("it")
    found = parse_config(raw, problems)
    if found is not None:
        # What is used later must not fail, whatever a refused one holds.
        assert found.scale >= 0
        found.select(BASE.module_shapes)
    if not problems:
        assert found is not None
        return ""
    shown = str(problems.error())
    assert shown.isprintable() and len(shown) < 2000
    return shown


def renamed(folder: Path, module: str, **config: Any) -> Path:
    """Returns an adapter folder whose only module, in tensors and targets, is `module`."""
    made = foreign(folder, PACKED, **{"target_modules": [module]} | config)
    tensors = {
        tensor_name(module, "A"): np.ones((1, 2), np.float16),
        tensor_name(module, "B"): np.ones((2, 1), np.float16),
    }
    (made / WEIGHTS_FILE).write_bytes(save(tensors))
    return made


def test_the_folder_that_is_broken_below_passes(tmp_path: Path) -> None:
    assert outcome(foreign(tmp_path / "a", PACKED)) == ""
    assert outcome(renamed(tmp_path / "b", "model.layers.0.any"), base=None) == ""
    assert parsed(json.dumps(CONFIG).encode()) == ""


@given(st.binary(max_size=200))
@FUZZ
def test_arbitrary_bytes_are_no_configuration(raw: bytes) -> None:
    assert parsed(raw)


@given(JSON)
@FUZZ
def test_arbitrary_json_is_no_configuration(value: object) -> None:
    assert parsed(json.dumps(value).encode())


@given(st.sampled_from(SETTINGS), JSON)
@settings(max_examples=400, deadline=None, derandomize=True)
def test_an_arbitrary_value_of_a_setting_never_crashes(key: str, value: object) -> None:
    parsed(json.dumps(CONFIG | {key: value}).encode())


@given(st.text(max_size=80), JSON.filter(lambda value: bool(value) and value != "none"))
@FUZZ
def test_an_unknown_setting_is_refused(key: str, value: object) -> None:
    assert "not supported" in parsed(json.dumps(CONFIG | {f"_{key}": value}).encode())


@given(st.dictionaries(st.sampled_from(SETTINGS), JSON, min_size=1, max_size=3), st.booleans())
@FUZZ_ON_DISK
def test_arbitrary_settings_of_a_folder_never_crash(config: dict[str, Any], known: bool) -> None:
    with tempfile.TemporaryDirectory() as parent:
        outcome(foreign(Path(parent) / "a", PACKED, **config), base=BASE if known else None)


@given(JSON)
@FUZZ_ON_DISK
def test_an_arbitrary_hyperplug_json_never_crashes(value: object) -> None:
    with tempfile.TemporaryDirectory() as parent:
        folder = foreign(Path(parent) / "a", PACKED)
        (folder / PROVENANCE_FILE).write_text(json.dumps(value))
        refused = outcome(folder)
        assert isinstance(value, dict) or refused


@given(
    st.sampled_from(["base_fingerprint", "sha256"]), JSON.filter(lambda value: value is not None)
)
@FUZZ_ON_DISK
def test_a_hyperplug_json_of_other_digests_is_refused(key: str, value: object) -> None:
    with tempfile.TemporaryDirectory() as parent:
        folder = export(Path(parent) / "a", PACKED)
        file = folder / PROVENANCE_FILE
        file.write_text(json.dumps(json.loads(file.read_text()) | {key: value}))
        assert outcome(folder)


def test_a_forged_fingerprint_cannot_write_to_the_log(tmp_path: Path) -> None:
    folder = foreign(tmp_path / "a", PACKED)
    for hostile in ("\nERROR forged", "\x1b[2J", "\u202e", "\ud800"):
        (folder / PROVENANCE_FILE).write_text(json.dumps({"base_fingerprint": hostile}))
        assert "made for the base model" in outcome(folder)


def link(path: Path, target: str) -> None:
    """Replaces `path` by a symbolic link."""
    path.unlink(missing_ok=True)
    path.symlink_to(target)


def to_fifo(path: Path) -> None:
    """Replaces `path` by a pipe that nobody writes to: opening it would wait for ever."""
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def to_folder(path: Path) -> None:
    """Replaces `path` by a folder."""
    path.unlink(missing_ok=True)
    path.mkdir()


@pytest.mark.parametrize("name", [CONFIG_FILE, WEIGHTS_FILE, PROVENANCE_FILE, "README.md", "x"])
@pytest.mark.parametrize(
    ("replace", "message"),
    [
        (lambda path: link(path, "/etc/passwd"), "symbolic link"),
        (lambda path: link(path, "/dev/zero"), "symbolic link"),
        (lambda path: link(path, "../../outside"), "symbolic link"),
        (lambda path: link(path, path.name), "symbolic link"),
        (lambda path: link(path, "/"), "symbolic link"),
        (to_fifo, "not a regular file"),
        (to_folder, "not a regular file"),
    ],
)
def test_only_regular_files_are_opened(
    tmp_path: Path, name: str, replace: Callable[[Path], None], message: str
) -> None:
    folder = export(tmp_path / "a", PACKED)
    replace(folder / name)
    shown = outcome(folder)
    assert message in shown and name in shown
    assert "root:" not in shown


@pytest.mark.parametrize("replace", [lambda path: link(path, "/etc/passwd"), to_folder])
def test_a_file_swapped_after_it_was_listed_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, replace: Callable[[Path], None]
) -> None:
    folder = export(tmp_path / "a", PACKED)

    def listed_before(_: Path, __: Problems) -> set[str]:
        replace(folder / CONFIG_FILE)
        return {CONFIG_FILE, WEIGHTS_FILE}

    monkeypatch.setattr("hyperplug.adapters.validate._list_files", listed_before)
    shown = outcome(folder)
    assert f"{CONFIG_FILE} cannot be read" in shown and "root:" not in shown


class _Bomb:
    """Runs code when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("name", ["adapter_model.bin", "optimizer.pt", "x.PT", "a.pkl", "a.ckpt"])
def test_a_pickle_beside_the_weights_is_refused_unopened(tmp_path: Path, name: str) -> None:
    mark = tmp_path / "executed"
    folder = foreign(tmp_path / "a", PACKED)
    (folder / name).write_bytes(pickle.dumps(_Bomb(mark)))
    assert name in outcome(folder)
    assert not mark.exists()


@pytest.mark.parametrize("name", [CONFIG_FILE, WEIGHTS_FILE, PROVENANCE_FILE])
def test_a_pickle_in_place_of_a_file_is_refused_unexecuted(tmp_path: Path, name: str) -> None:
    mark = tmp_path / "executed"
    folder = foreign(tmp_path / "a", PACKED)
    (folder / name).write_bytes(pickle.dumps(_Bomb(mark)))
    assert outcome(folder)
    assert not mark.exists()


@pytest.mark.parametrize("name", [b"\xff\xfe", b"a\nERROR forged", b"\x1b[2J", b"-rf", b"x" * 255])
def test_a_hostile_file_name_is_shown_escaped(tmp_path: Path, name: bytes) -> None:
    folder = foreign(tmp_path / "a", PACKED)
    Path(os.fsdecode(os.fsencode(folder) + b"/" + name)).write_bytes(b"")
    assert "not part of an adapter" in outcome(folder)


@pytest.mark.parametrize("path", ["", "a\0b", "x" * 1000, "\ud800", "no\nsuch\x1b[2J", "/dev/null"])
def test_a_path_that_is_no_adapter_folder_is_refused(tmp_path: Path, path: str) -> None:
    assert outcome(tmp_path / path)


def test_a_file_of_gigabytes_is_refused_unread(tmp_path: Path) -> None:
    for name in (CONFIG_FILE, PROVENANCE_FILE, WEIGHTS_FILE):
        folder = export(tmp_path / name, PACKED)
        os.truncate(folder / name, 2**33)  # sparse: takes no disk
        tracemalloc.start()
        assert "over the limit" in outcome(folder)
        peak_bytes = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak_bytes < 2**20


def test_a_good_folder_takes_memory_in_proportion_to_its_files(tmp_path: Path) -> None:
    folder = foreign(tmp_path / "a", PACKED)
    tracemalloc.start()
    assert outcome(folder) == ""
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 2**20


def test_matrices_of_a_huge_rank_are_refused_before_they_are_multiplied() -> None:
    # 200 kB on disk; the products of (rank, rank) would take 60 GB.
    tensors = {
        tensor_name(MODULES[0], "A"): np.zeros((50_000, 1), np.float16),
        tensor_name(MODULES[0], "B"): np.zeros((1, 50_000), np.float16),
    }
    data = save(tensors)
    tracemalloc.start()
    with pytest.raises(InvalidAdapterError, match="above the maximum"):
        validate_bytes(data, base=None)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 2**23


@pytest.mark.parametrize("pattern", ["(a+)+$", "(.*a){30}", "(?:m|mo|mod)*x", "(", "[", "*"])
def test_a_pattern_that_would_take_for_ever_is_not_run(tmp_path: Path, pattern: str) -> None:
    folder = foreign(tmp_path / "a", PACKED, target_modules=pattern)
    start = time.perf_counter()
    assert outcome(folder) == ""
    assert outcome(renamed(tmp_path / "b", "a" * 200, target_modules=pattern), base=None) == ""
    assert time.perf_counter() - start < 2


@pytest.mark.parametrize(
    "key", ["target_modules", "exclude_modules", "layers_to_transform", "rank_pattern", "_any"]
)
def test_a_hundred_thousand_entries_in_a_setting_are_quickly_dealt_with(
    tmp_path: Path, key: str
) -> None:
    count = 100_000
    value: object = [f"{n:x}" for n in range(count)]
    if key == "rank_pattern":
        value = {f"{n:x}": 1 for n in range(count)}
    if key == "layers_to_transform":
        value = list(range(count))
    start = time.perf_counter()
    outcome(renamed(tmp_path / "a", "model.layers.1.x", **{key: value}), base=None)
    outcome(foreign(tmp_path / "b", PACKED, **{key: value}))
    assert time.perf_counter() - start < 5


def test_a_configuration_over_its_limit_is_refused_unread(tmp_path: Path) -> None:
    folder = foreign(tmp_path / "a", PACKED, rank_pattern={"x" * MAX_CONFIG_BYTES: 1})
    assert "over the limit" in outcome(folder)


def test_a_module_path_of_a_hundred_thousand_parts_is_quickly_refused(tmp_path: Path) -> None:
    path = ".".join("a" * 100_000)
    start = time.perf_counter()
    assert outcome(foreign(tmp_path / "a", PACKED, target_modules=[path]), base=None)
    assert outcome(renamed(tmp_path / "b", path), base=None)
    assert outcome(renamed(tmp_path / "c", path, target_modules=["a"]), base=None)
    assert time.perf_counter() - start < 2


def test_a_layer_number_of_thousands_of_digits_is_refused(tmp_path: Path) -> None:
    layer = "9" * 5000
    folder = renamed(tmp_path / "a", f"a.{layer}", target_modules=["a"], layers_to_transform=[1])
    assert outcome(folder, base=None)


@pytest.mark.parametrize(
    "module",
    ["../../etc/passwd", "a/b", "a\\b", "a b", "a\0b", "a\nb", "a\rb", "\x1b[2J", "\u202ea", "é"],
)
@pytest.mark.parametrize("base", [BASE, None])
def test_a_module_name_that_is_no_python_path_is_refused(
    tmp_path: Path, module: str, base: BaseModelSpec | None
) -> None:
    assert "no LoRA matrices" in outcome(renamed(tmp_path / "a", module), base=base)


@given(st.text(min_size=1, max_size=30))
@FUZZ_ON_DISK
def test_any_module_name_is_taken_as_it_is_or_refused(module: str) -> None:
    with tempfile.TemporaryDirectory() as parent:
        try:
            folder = renamed(Path(parent) / "a", module)
        except UnicodeEncodeError:  # safetensors does not write unpaired surrogates
            return
        if outcome(folder, base=None) == "":
            report = validate_folder(folder, base=None)
            assert report.weights.target_modules == (module,)
            assert module.isascii() and module.isprintable() and not set(module) & set("/\\ ")


@pytest.mark.parametrize("opening", ["[", '{"a":'])
@pytest.mark.parametrize("depth", [900, 975, 990, 5000, 100_000])
def test_deep_nesting_never_crashes(opening: str, depth: int) -> None:
    assert parsed(opening.encode() * depth)
    value = "[" * depth + "]" * depth
    for key in SETTINGS:
        text = json.dumps({name: item for name, item in CONFIG.items() if name != key})
        refused = parsed(f'{text[:-1]}, "{key}": {value}}}'.encode())
        assert refused or depth < 1000

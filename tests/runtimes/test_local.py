"""The local runtime, on a real two-layer model: its answers, its adapters, its refusals."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hyperplug.adapters import Library, pack
from hyperplug.adapters.peft_format import WEIGHTS_FILE
from hyperplug.basemodel import BaseModel, read_spec
from hyperplug.entities import Adapter
from hyperplug.errors import (
    AdapterNotFoundError,
    BaseMismatchError,
    BaseModelError,
    ConfigError,
    HyperplugError,
    InvalidAdapterError,
    MissingExtraError,
)
from hyperplug.runtimes import Runtime
from hyperplug.runtimes.local import LocalRuntime
from tests.adapters.samples import BASE, pairs, stored, weights
from tests.adapters.tiny import build_model, save_model

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

PROMPT = "what is it?"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    """The tiny model, as it lies on disk."""
    torch.set_num_threads(2)
    folder = save_model(tmp_path_factory.mktemp("base"))
    return BaseModel(folder=folder, spec=read_spec(folder))


@pytest.fixture
def runtime(base: BaseModel) -> Iterator[LocalRuntime]:
    """A runtime that keeps two adapters."""
    opened = LocalRuntime(base, max_adapters=2, device="cpu")
    yield opened
    opened.close()


@pytest.fixture
def adapters(base: BaseModel, tmp_path: Path) -> list[Adapter]:
    """Four published adapters that change answers, for all modules of the model."""
    library = Library(tmp_path / "library")
    published = []
    for seed in range(4):
        packed = pack(pairs(seed, modules=BASE.module_shapes, scale=1.0), alpha=4)
        row = stored(packed, task=f"task-{seed}", base_fingerprint=base.spec.fingerprint)
        path = library.publish(row, packed.data, base_id=base.spec.id)
        published.append(dataclasses.replace(row, path=path))
    return published


def by_hand(base: BaseModel, adapter: Adapter | None, *, seed: int = 0) -> str:
    """Returns the answer to PROMPT by a plain greedy loop over a model with merged weights."""
    from transformers import AutoTokenizer

    model, tokenizer = build_model(), AutoTokenizer.from_pretrained(base.folder)
    if adapter is not None:
        for module, (a, b) in pairs(seed, modules=BASE.module_shapes, scale=1.0).items():
            model.get_submodule(module).weight.data += torch.from_numpy(np.float32(b @ a))
    ids = tokenizer(f"<user>{PROMPT}\n<assistant>", add_special_tokens=False)["input_ids"]
    answer: list[int] = []
    while len(answer) < 12 and 1 not in answer:
        with torch.no_grad():
            answer.append(int(model(torch.tensor([ids + answer])).logits[0, -1].argmax()))
    return str(tokenizer.decode(answer, skip_special_tokens=True))


def weights_of(runtime: LocalRuntime) -> dict[str, Any]:
    """Returns a copy of the base model's weights in a runtime, by their names on disk."""
    return {
        name.removeprefix("base_model.model.").replace(".base_layer", ""): values.clone()
        for name, values in runtime._model.state_dict().items()
        if "lora_" not in name
    }


def test_it_is_a_runtime(runtime: LocalRuntime) -> None:
    assert isinstance(runtime, Runtime)


def test_answers_are_those_of_a_plain_greedy_loop(
    base: BaseModel, runtime: LocalRuntime, adapters: list[Adapter]
) -> None:
    expected = [by_hand(base, adapter, seed=seed) for seed, adapter in enumerate(adapters)]
    plain = by_hand(base, None)
    assert len({plain, *expected}) > 3
    assert runtime.answer(PROMPT, max_tokens=12) == plain
    for adapter, text in zip(adapters, expected, strict=True):
        assert runtime.answer(PROMPT, adapter=adapter, max_tokens=12) == text
        assert runtime.answer(PROMPT, max_tokens=12) == plain
    assert runtime.answer(PROMPT, adapter=adapters[0], max_tokens=12) == expected[0]


def test_the_base_models_weights_never_change(
    runtime: LocalRuntime, adapters: list[Adapter]
) -> None:
    before = weights_of(runtime)
    for adapter in adapters:
        runtime.answer(PROMPT, adapter=adapter, max_tokens=2)
    after = weights_of(runtime)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any(values.requires_grad for values in runtime._model.parameters())


def test_the_adapter_used_longest_ago_goes_first(
    runtime: LocalRuntime, adapters: list[Adapter]
) -> None:
    def use(number: int) -> tuple[str, ...]:
        runtime.answer(PROMPT, adapter=adapters[number], max_tokens=1)
        return runtime.loaded

    names = [f"default/{adapter.name}" for adapter in adapters]
    assert use(0) == (names[0],)
    assert use(1) == (names[0], names[1])
    assert use(0) == (names[1], names[0])
    assert use(2) == (names[0], names[2])
    assert set(runtime._model.peft_config) == set(runtime.loaded)
    assert use(1) == (names[2], names[1])


def test_an_adapter_in_memory_is_not_read_again(
    runtime: LocalRuntime, adapters: list[Adapter]
) -> None:
    first = runtime.answer(PROMPT, adapter=adapters[0])
    assert adapters[0].path is not None
    (adapters[0].path / WEIGHTS_FILE).write_bytes(b"")
    assert runtime.answer(PROMPT, adapter=adapters[0]) == first


def test_messages_and_text_are_the_same_prompt(runtime: LocalRuntime) -> None:
    messages = [{"role": "user", "content": PROMPT}]
    assert runtime.answer(messages) == runtime.answer(PROMPT)
    with_system = [{"role": "system", "content": "be brief."}, *messages]
    assert runtime.answer(with_system) != runtime.answer(PROMPT)


def test_max_tokens_cuts_the_answer(runtime: LocalRuntime) -> None:
    long = runtime.answer(PROMPT, max_tokens=10)
    assert len(long) > 2
    assert long.startswith(runtime.answer(PROMPT, max_tokens=2))
    assert len(runtime.answer(PROMPT, max_tokens=2)) <= 2


def test_a_model_without_a_chat_template_reads_plain_text(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "base", template=None)
    runtime = LocalRuntime(BaseModel(folder=folder, spec=read_spec(folder)), device="cpu")
    assert runtime.answer([{"role": "user", "content": "ab"}]) == runtime.answer("ab")
    with pytest.raises(ConfigError, match="prompt is empty"):
        runtime.answer("")


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ([], "no message"),
        ([{"role": "user"}], "lacks its role or content"),
        ([{"role": "user", "content": 3}], "lacks its role or content"),
        ([{"role": "wizard", "content": "x"}], "refuses these messages: unknown role wizard"),
        ("x" * 250, "is over the 256"),
    ],
)
def test_bad_prompts(runtime: LocalRuntime, prompt: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        runtime.answer(prompt)
    assert caught.value.hint


def test_bad_numbers(base: BaseModel, runtime: LocalRuntime) -> None:
    with pytest.raises(ConfigError, match="max_tokens is 0"):
        runtime.answer(PROMPT, max_tokens=0)
    with pytest.raises(ConfigError, match="max_adapters is 0"):
        LocalRuntime(base, max_adapters=0)


def test_a_closed_runtime_says_so(base: BaseModel) -> None:
    runtime = LocalRuntime(base, device="cpu")
    runtime.close()
    runtime.close()
    with pytest.raises(ConfigError, match="closed"):
        runtime.answer(PROMPT)


def test_bad_adapters_are_refused_and_do_no_harm(
    runtime: LocalRuntime, adapters: list[Adapter]
) -> None:
    plain = runtime.answer(PROMPT)
    good = runtime.answer(PROMPT, adapter=adapters[0])
    damaged, swapped = adapters[1], adapters[2]
    assert damaged.path is not None
    (damaged.path / WEIGHTS_FILE).write_bytes(b"short")
    bad: list[tuple[Adapter, type[HyperplugError]]] = [
        (damaged, InvalidAdapterError),
        (dataclasses.replace(swapped, path=adapters[0].path), InvalidAdapterError),
        (dataclasses.replace(adapters[3], path=None), AdapterNotFoundError),
        (dataclasses.replace(adapters[3], path=damaged.path / "x"), AdapterNotFoundError),
        (dataclasses.replace(adapters[3], base_fingerprint="0" * 64), BaseMismatchError),
    ]
    for adapter, error in bad:
        with pytest.raises(error) as caught:
            runtime.answer(PROMPT, adapter=adapter)
        assert caught.value.hint
    assert runtime.loaded == (f"default/{adapters[0].name}",)
    assert runtime.answer(PROMPT) == plain
    assert runtime.answer(PROMPT, adapter=adapters[0]) == good


def test_threads_take_turns(runtime: LocalRuntime, adapters: list[Adapter]) -> None:
    choices = [None, *adapters]
    expected = [runtime.answer(PROMPT, adapter=choice, max_tokens=6) for choice in choices]
    wrong: list[str] = []

    def ask(offset: int) -> None:
        for step in range(5):
            index = (offset + step) % len(choices)
            answer = runtime.answer(PROMPT, adapter=choices[index], max_tokens=6)
            if answer != expected[index]:
                wrong.append(answer)

    threads = [threading.Thread(target=ask, args=(offset,)) for offset in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_folder_that_is_no_model(tmp_path: Path, base: BaseModel) -> None:
    broken = dataclasses.replace(base, folder=tmp_path)
    with pytest.raises(BaseModelError, match="cannot load") as caught:
        LocalRuntime(broken)
    assert caught.value.hint


@pytest.mark.parametrize("package", ["torch", "transformers", "peft"])
def test_a_missing_package_names_the_extra(
    base: BaseModel, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    class Absent:
        """Finds the package nowhere, as if it were not installed."""

        def find_spec(self, name: str, *_: object) -> None:
            if name == package:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.delitem(__import__("sys").modules, package)
    monkeypatch.setattr("sys.meta_path", [Absent(), *__import__("sys").meta_path])
    with pytest.raises(MissingExtraError, match=rf"{package} is not installed.*hyperplug\[local\]"):
        LocalRuntime(base)


def test_unpublished_weights_never_reach_the_model(runtime: LocalRuntime) -> None:
    foreign_row = stored(weights())
    with pytest.raises(BaseMismatchError):
        runtime.answer(PROMPT, adapter=foreign_row)
    assert runtime.loaded == ()

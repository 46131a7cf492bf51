"""What a header or a `model` names."""

from __future__ import annotations

import json
from urllib.parse import quote

import pytest
from hyperplug_vllm.targets import (
    TargetKind,
    body_for_vllm,
    header_target,
    model_target,
    parse_body,
)
from hypothesis import given
from hypothesis import strategies as st

from hyperplug.errors import InvalidDescriptionError


@pytest.mark.parametrize(
    ("model", "kind", "text"),
    [
        ("sentiment", TargetKind.TASK, "sentiment"),
        ("sentiment@0123abcd", TargetKind.ADAPTER, "sentiment@0123abcd"),
        ("sentiment@candidate", TargetKind.ADAPTER, "sentiment@candidate"),
        ("hyperplug:Translate to French.", TargetKind.TEXT, "Translate to French."),
        ("hyperplug:sentiment", TargetKind.TEXT, "sentiment"),
        ("hyperplug:", TargetKind.TEXT, ""),
    ],
)
def test_what_a_model_names(model: str, kind: TargetKind, text: str) -> None:
    target = model_target(model)
    assert target is not None
    assert (target.kind, target.text, target.explicit) == (kind, text, False)


@pytest.mark.parametrize(
    "model",
    [None, 7, "", "org/model", "GPT-4", "a@B", "sentiment@0123ABCD", "two words", "x" * 64],
)
def test_models_that_are_left_to_vllm(model: object) -> None:
    assert model_target(model) is None


@pytest.mark.parametrize(
    ("value", "kind", "text"),
    [
        (b"sentiment", TargetKind.TASK, "sentiment"),
        (b" sentiment ", TargetKind.TASK, "sentiment"),
        (b"sentiment%400123abcd", TargetKind.ADAPTER, "sentiment@0123abcd"),
        (b"Say yes or no.", TargetKind.TEXT, "Say yes or no."),
        (b"hyperplug:summarise", TargetKind.TEXT, "summarise"),
        (b"", TargetKind.TEXT, ""),
        (b"Add 50% to it", TargetKind.TEXT, "Add 50% to it"),
        ("Übersetze das".encode(), TargetKind.TEXT, "Übersetze das"),
        (quote("Übersetze das").encode(), TargetKind.TEXT, "Übersetze das"),
    ],
)
def test_what_the_header_names(value: bytes, kind: TargetKind, text: str) -> None:
    target = header_target(value)
    assert (target.kind, target.text, target.explicit) == (kind, text, True)


@pytest.mark.parametrize("value", [b"\xff\xfe", b"caf\xe9 and more", b"caf%E9"])
def test_a_header_that_is_no_utf8_is_refused(value: bytes) -> None:
    with pytest.raises(InvalidDescriptionError, match="not valid UTF-8"):
        header_target(value)


@given(st.text(min_size=1))
def test_any_text_survives_percent_encoding(text: str) -> None:
    description = f"Task: {text}.".strip()
    assert header_target(quote(description).encode()).text == description


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b"\xff", b"[" * 100_000, b'"text"', b"null"])
def test_a_body_that_is_no_object_is_left_to_vllm(body: bytes) -> None:
    assert parse_body(body) is None


@given(
    st.dictionaries(
        st.text(), st.recursive(st.none() | st.integers() | st.text(), st.lists, max_leaves=5)
    )
)
def test_only_the_model_of_a_body_changes(content: dict[str, object]) -> None:
    rewritten = parse_body(body_for_vllm(content, model="sentiment@0123abcd", strip_system=False))
    assert rewritten == {**content, "model": "sentiment@0123abcd"}


def test_unpaired_surrogates_survive() -> None:
    body = b'{"prompt": "\\ud83d", "model": "x"}'
    content = parse_body(body)
    assert content is not None
    assert json.loads(body_for_vllm(content, model="x", strip_system=False)) == json.loads(body)

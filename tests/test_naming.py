"""Names, descriptions and their digests."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperplug.drafts import check_examples
from hyperplug.entities import Example
from hyperplug.errors import InvalidDescriptionError, InvalidNameError
from hyperplug.naming import (
    adapter_name,
    auto_task_name,
    check_description,
    check_name,
    description_digest,
    generation_key,
    is_name,
    slugify,
    split_adapter_name,
)


@pytest.mark.parametrize("name", ["a", "sentiment", "sql-2", "a_b", "0", "x" * 63])
def test_legal_names(name: str) -> None:
    assert check_name(name) == name and is_name(name)


@pytest.mark.parametrize(
    "name",
    [
        *("", " ", "a/b", "a.b", "a,b", "a@b", "..", "-a", "a-", "A", "x" * 64, "x" * 300),
        *("sentiment\n", "ｓentiment", "sеntiment", "a\x00b", "a b", "naïve"),
    ],
)
def test_illegal_names(name: str) -> None:
    assert not is_name(name)
    with pytest.raises(InvalidNameError) as caught:
        check_name(name)
    assert "use 1-63 of" in caught.value.hint
    assert "\n" not in caught.value.message.replace("\\n", "") and len(caught.value.message) < 200


def test_suggestion_is_legal() -> None:
    with pytest.raises(InvalidNameError, match="'movie-reviews'"):
        check_name("Movie / Reviews")


@given(st.text())
def test_slug_is_legal_or_empty(text: str) -> None:
    slug = slugify(text)
    assert slug == "" or check_name(slug) == slug


@given(st.text(min_size=1))
def test_auto_name_is_legal(text: str) -> None:
    name = auto_task_name(text)
    assert check_name(name) == name == auto_task_name(text)


@given(st.from_regex(r"[a-z0-9][a-z0-9_-]{0,40}", fullmatch=True), st.binary())
def test_adapter_name_round_trip(task: str, content: bytes) -> None:
    digest = content.hex().ljust(64, "0")
    assert split_adapter_name(adapter_name(task, digest)) == (task, digest[:8])


def test_what_is_no_adapter_name() -> None:
    for name in ("a", "a@", "a@XYZ", "a@0123456", "a@012345678", "../a@01234567", "a@b@01234567"):
        assert split_adapter_name(name) is None


@given(st.text())
def test_checked_description_is_stable(text: str) -> None:
    try:
        checked = check_description(text)
    except InvalidDescriptionError:
        return
    assert check_description(checked) == checked


def test_digest_ignores_case_and_space_only() -> None:
    assert description_digest("Answer  YES or no.\n") == description_digest("answer yes or no.")
    assert description_digest("Answer yes or no.") != description_digest("Answer no or yes.")


def test_generation_key_depends_on_all_its_parts() -> None:
    def key(text: str = "t", example: str = "in", hypernet: str = "h", base: str = "b") -> str:
        examples = [Example(input=example, output="out")]
        return generation_key(text, examples, hypernet_fingerprint=hypernet, base_fingerprint=base)

    keys = {key(), key(text="u"), key(example="jn"), key(hypernet="i"), key(base="c")}
    assert len(keys) == 5 and key() == key()


def test_a_long_run_of_combining_marks_is_refused_before_it_is_normalised() -> None:
    with pytest.raises(InvalidDescriptionError, match="200,000 bytes"):
        check_description("\u0334\u0300" * 50_000)


def test_what_a_terminal_obeys_is_no_description() -> None:
    with pytest.raises(InvalidDescriptionError, match="control characters"):
        check_description("Answer \x9b2J yes or no.")


def test_an_example_with_an_unpaired_surrogate_is_refused() -> None:
    with pytest.raises(InvalidDescriptionError, match="example 1"):
        check_examples([Example(input="x", output="\ud800")])

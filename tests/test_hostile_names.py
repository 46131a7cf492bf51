"""Fuzzing names and descriptions: what passes is harmless anywhere, all else is refused."""

from __future__ import annotations

import re
import time
import unicodedata
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperplug.drafts import check_draft, check_examples
from hyperplug.entities import Example, TaskDraft
from hyperplug.errors import InvalidDescriptionError, InvalidNameError
from hyperplug.naming import (
    MAX_DESCRIPTION_BYTES,
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

FUZZ = settings(max_examples=300, deadline=None, derandomize=True)
ANY_TEXT = st.text(st.characters(), max_size=100)  # unpaired surrogates included
NEARLY_NAMES = st.text(st.sampled_from("aZ09-_.@/\\:, \n\0é~$"), max_size=70)
TEXTS = st.one_of(ANY_TEXT, NEARLY_NAMES)
# Letters that come back from upper case: not so the dotless i, for one.
WORDS = st.lists(st.text(st.sampled_from("abXYz09éÉñßΣσжЖ.,!"), min_size=1), min_size=1)
SPACES = st.sampled_from([" ", "  ", "\n", "\t", " \n ", "\u00a0", "\u2003", "\u3000"])
TERMINAL = ["\x1b[2J", "\x9b2J", "\x07", "\x08", "\x00", "\x7f", "\x0c", "\x85x", "\r"]


def name_refusal(text: str) -> InvalidNameError | None:
    """Returns the error for a name, checked to be one short line; None if it is legal."""
    try:
        assert check_name(text) == text
    except InvalidNameError as error:
        assert str(error).isprintable() and len(str(error)) < 700
        return error
    return None


def description_refusal(text: str) -> InvalidDescriptionError | None:
    """Returns the error for a description, checked to be one line; None if it is legal."""
    try:
        check_description(text)
    except InvalidDescriptionError as error:
        assert error.hint
        assert str(error).isprintable() and len(str(error)) < 300
        return error
    return None


@given(TEXTS)
@FUZZ
def test_what_passes_is_safe_as_a_file_name(text: str) -> None:
    refused = name_refusal(text)
    assert is_name(text) == (refused is None)
    if refused is None:
        assert 1 <= len(text) <= 63 and text.isascii()
        assert set(text) <= set("abcdefghijklmnopqrstuvwxyz0123456789-_")
        assert text[0] not in "-_" and text[-1] not in "-_"


@pytest.mark.parametrize(
    "text",
    [
        *("..", ".", "", "a/b", "a\\b", "a\n", "a\0", "\ud800", "a\u202e", "A", "a.b", "ａ", "٣"),
        *("a" * 64, "a" * 10**6, "é" * 10**6, "a@01234567", "a:b", "a,b", "a b", "a-", "~", "-rf"),
    ],
)
def test_these_are_no_names(text: str) -> None:
    assert name_refusal(text) is not None


@given(TEXTS)
@FUZZ
def test_the_suggestion_in_a_hint_is_itself_legal(text: str) -> None:
    error = name_refusal(text)
    if error is None:
        return
    suggested = re.search(r"for example '(.*)'\Z", error.hint)
    assert (suggested is None) == (slugify(text) == "")
    if suggested is not None:
        assert is_name(suggested[1])


@given(TEXTS, st.integers(1, 63))
@FUZZ
def test_a_slug_is_legal_or_empty(text: str, max_length: int) -> None:
    slug = slugify(text, max_length=max_length)
    assert slug == "" or (is_name(slug) and len(slug) <= max_length)
    assert slugify(slug) == slug


@given(st.one_of(TEXTS, st.from_regex(r"[a-z0-9_./-]{1,70}@[0-9a-f]{7,9}")))
@FUZZ
def test_an_adapter_name_has_one_reading_and_no_path(text: str) -> None:
    parts = split_adapter_name(text)
    if parts is not None:
        assert adapter_name(*parts) == text
        assert len(parts[0]) <= 63 and len(parts[1]) == 8
        assert not set(text) & set("/\\.: \n\0")
        assert not is_name(text)


def test_a_megabyte_is_no_adapter_name() -> None:
    assert split_adapter_name("a" * 10**6 + "@01234567") is None
    assert split_adapter_name("a" * 63 + "@01234567") is not None


@given(ANY_TEXT)
@FUZZ
def test_a_description_that_passes_can_be_stored_shown_and_named(text: str) -> None:
    if description_refusal(text) is not None:
        return
    checked = check_description(text)
    assert 0 < len(checked.encode("utf-8")) <= MAX_DESCRIPTION_BYTES
    assert check_description(checked) == checked
    assert unicodedata.is_normalized("NFC", checked)
    controls = {char for char in checked if unicodedata.category(char) in ("Cc", "Cs")}
    assert controls <= {"\n", "\t"}
    assert is_name(auto_task_name(checked))


@pytest.mark.parametrize("sequence", TERMINAL)
def test_what_a_terminal_obeys_is_refused(sequence: str) -> None:
    error = description_refusal(f"Answer{sequence} yes or no.")
    assert error is not None and "control characters" in error.message


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb", "", " \n\t ", "\u3000", "\x1f"])
def test_these_are_no_descriptions(text: str) -> None:
    assert description_refusal(text) is not None


def test_right_to_left_text_is_a_description() -> None:
    text = "\u202bأجب بنعم أو لا\u202c"
    assert check_description(text) == text
    assert is_name(auto_task_name(text))


@given(WORDS, st.lists(SPACES, min_size=1), st.sampled_from([str.upper, str.lower, str.title]))
@FUZZ
def test_a_digest_is_stable_under_case_and_space(
    words: list[str], spaces: list[str], case: Callable[[str], str]
) -> None:
    varied = "".join(spaces[number % len(spaces)] + word for number, word in enumerate(words))
    assert description_digest(case(varied) + spaces[0]) == description_digest(" ".join(words))


@given(WORDS, WORDS)
@FUZZ
def test_different_words_have_different_digests(one: list[str], other: list[str]) -> None:
    same = " ".join(one).casefold() == " ".join(other).casefold()
    assert (description_digest(" ".join(one)) == description_digest(" ".join(other))) == same


@pytest.mark.parametrize(
    "text", ["a" * 10**6, "\u0300\u0334" * 500_000, "a" + "\u0334\u0300" * 500_000, "ﷺ" * 10**6]
)
def test_a_megabyte_is_refused_at_once(text: str) -> None:
    start = time.perf_counter()
    assert description_refusal(text) is not None
    assert name_refusal(text) is not None
    assert not is_name(text)
    assert time.perf_counter() - start < 2


def test_a_megabyte_of_white_space_around_a_description_is_removed() -> None:
    assert check_description(" " * 10**6 + "Answer yes or no." + "\n" * 10**6).startswith("Answer")


@pytest.mark.parametrize("text", ["x", "é", "e\u0301", "가", "\u1112\u1161\u11ab", "😀"])
def test_the_limit_is_counted_in_bytes_of_the_normal_form(text: str) -> None:
    size = len(unicodedata.normalize("NFC", text).encode())
    count = MAX_DESCRIPTION_BYTES // size
    assert description_refusal(text * count) is None
    assert description_refusal(text * (count + 1)) is not None


@given(st.lists(st.tuples(ANY_TEXT, ANY_TEXT), max_size=3))
@FUZZ
def test_examples_that_pass_can_be_stored_and_digested(pairs: list[tuple[str, str]]) -> None:
    examples = [Example(input=given, output=wanted) for given, wanted in pairs]
    try:
        checked = check_examples(examples)
    except InvalidDescriptionError as error:
        assert str(error).isprintable() and error.hint
        return
    key = generation_key("a task", checked, hypernet_fingerprint="h", base_fingerprint="b")
    assert re.fullmatch("[0-9a-f]{64}", key)


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb", "\udcff"])
def test_an_example_that_has_no_digest_is_refused(text: str) -> None:
    for example in (Example(input=text, output="x"), Example(input="x", output=text)):
        with pytest.raises(InvalidDescriptionError, match="example 2"):
            check_examples([Example(input="x", output="y"), example])


@given(TEXTS, TEXTS, st.lists(TEXTS, max_size=2))
@FUZZ
def test_a_draft_of_arbitrary_texts_is_taken_or_refused(
    name: str, description: str, tags: list[str]
) -> None:
    try:
        task = check_draft(
            TaskDraft(name=name, description=description, tags=tuple(tags)), namespace="default"
        )
    except (InvalidNameError, InvalidDescriptionError) as error:
        assert str(error).isprintable()
        return
    assert is_name(task.name) and all(map(is_name, task.tags))

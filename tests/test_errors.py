"""Errors: what they quote from outside can forge no log line and write to no terminal."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hyperplug.errors import (
    HyperplugError,
    InvalidAdapterError,
    InvalidTaskFileError,
    ServerError,
    printable,
)


@given(st.text(st.characters(), max_size=50), st.text(st.characters(), max_size=50))
def test_every_text_of_an_error_is_one_printable_line(text: str, hint: str) -> None:
    for kind in (InvalidAdapterError, InvalidTaskFileError):
        error = kind(text, problems=(text, hint), hint=hint)
        for shown in (str(error), repr(error), error.message, error.hint, *error.problems):
            assert shown.isprintable()


@given(st.text(max_size=50))
def test_printable_text_stays_as_it_is(text: str) -> None:
    assert (printable(text) == text) == text.isprintable()


def test_unprintable_characters_are_written_as_escapes() -> None:
    shown = str(HyperplugError("a\nb\x1b[2J\x9b\u202e\ud800é…", hint="c\r"))
    assert shown == "a\\nb\\x1b[2J\\x9b\\u202e\\ud800é… (c\\r)"


def test_only_the_servers_own_lines_stay_lines() -> None:
    assert ServerError("it ended:\nlast \x1b[2J words").message == "it ended:\nlast \\x1b[2J words"

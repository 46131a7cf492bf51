"""Fuzzing settings, and the ways by which a user's text could reach a log."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperplug.config import Settings, load_settings
from hyperplug.drafts import check_draft
from hyperplug.entities import Example, TaskDraft
from hyperplug.errors import HyperplugError, NovelTaskError
from hyperplug.naming import is_name
from hyperplug.store import Store, open_store
from hyperplug.store.engine import parse_url
from tests.store.samples import EMBEDDER, new_task, vector

FUZZ = settings(max_examples=200, deadline=None, derandomize=True)
VARIABLES = ("HOME", "CACHE", "REGISTRY", "BASE", "HYPERNET", "EMBEDDER", "NAMESPACE")
# What an environment can hold: no NUL, and undecodable bytes as surrogates.
VALUES = st.one_of(
    st.binary(max_size=30).map(lambda raw: os.fsdecode(raw.replace(b"\0", b""))),
    st.text(st.sampled_from("~/.?@:%\n\x1b[2Ja$"), max_size=12),
)
HOSTILE = ["a\nERROR forged", "\x1b[2J", "\x9b2J", "a\r", "\u202e", "\ud800", "\u2028b", "\x00"]


def load(**variables: str) -> Settings | None:
    """Returns the settings under these variables; None after a refusal on one line."""
    environment = {f"HYPERPLUG_{key}": value for key, value in variables.items()}
    with mock.patch.dict(os.environ, environment):
        try:
            return load_settings()
        except HyperplugError as error:
            assert error.hint and str(error).isprintable()
            return None


@given(st.dictionaries(st.sampled_from(VARIABLES), VALUES))
@FUZZ
def test_arbitrary_variables_never_crash(variables: dict[str, str]) -> None:
    found = load(**variables)
    if found is not None:
        assert is_name(found.namespace)
        assert found.home.is_absolute() and found.cache.is_absolute()
        assert found.hypernet is None or found.hypernet.is_file()


@given(VALUES)
@FUZZ
def test_the_default_registry_lies_in_the_data_folder(home: str) -> None:
    found = load(HOME=home, REGISTRY="")
    if found is None or not str(found.home).isascii():
        return
    assert parse_url(found.registry_url).database == str(found.home / "registry.db")


@pytest.mark.parametrize("variable", ["HOME", "CACHE", "HYPERNET"])
def test_the_home_of_an_unknown_user_is_refused(variable: str) -> None:
    assert load(**{variable: "~nosuchuser/x"}) is None


@pytest.mark.parametrize(
    "value", ["x" * 5000, "no\nsuch\x1b[2J", "/", "/dev/null", "/proc/1/mem/x"]
)
def test_what_is_no_checkpoint_is_refused(value: str) -> None:
    assert load(HYPERNET=value) is None


def test_paths_with_a_nul_are_refused(tmp_path: Path) -> None:
    for path in ("a\0b", "\0"):
        with pytest.raises(HyperplugError):
            load_settings(home=path)
        with pytest.raises(HyperplugError):
            load_settings(hypernet=path)


def test_a_checkpoint_under_the_users_home_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "x.hyper").touch()
    found = load(HYPERNET="~/x.hyper")
    assert found is not None and found.hypernet == tmp_path / "x.hyper"


@pytest.mark.parametrize("value", ["../other", "a/b", "DEFAULT", "a b", "a\n", "'; --", "x" * 64])
def test_a_namespace_that_is_no_name_is_refused(value: str) -> None:
    assert load(NAMESPACE=value) is None


def test_settings_do_not_show_a_password() -> None:
    found = load(REGISTRY="postgresql://user:s3cret@host/db")
    assert found is not None and "s3cret" in found.registry_url
    assert "s3cret" not in f"{found!r} {found}"


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_text_reaches_no_error_or_log_record_raw(
    text: str, caplog: pytest.LogCaptureFixture
) -> None:
    drafts = [
        TaskDraft(name=text, description="x"),
        TaskDraft(name="x", description="x", tags=(text,)),
        TaskDraft(name="x", description=f"a{text}b" * 9000),
        TaskDraft(name="x", description="x", examples=(Example(input=text, output="\ud800"),)),
    ]
    log = logging.getLogger("hyperplug.test")
    for draft in drafts:
        with pytest.raises(HyperplugError) as caught:
            check_draft(draft, namespace="default")
        log.warning("refused: %s", caught.value)
    log.warning("unserved: %s", NovelTaskError(f"no task is near {text}", hint=text))
    assert len(caplog.messages) == len(drafts) + 1
    assert all(message.isprintable() for message in caplog.messages)


def test_a_stored_description_reaches_no_error_or_log_record_raw(
    sqlite_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    store: Store = open_store(sqlite_url)
    for number, description in enumerate(("Add.\nERROR forged", "Add \x1b[2J", "Add \u202e")):
        task = new_task("sums", description)
        try:
            store.add_task(task, embedder_id=EMBEDDER, embedding=vector(1, 0, 0))
            assert number == 0
        except HyperplugError as error:
            assert number > 0
            assert str(error).isprintable()
    store.close()
    assert all(message.isprintable() for message in caplog.messages)

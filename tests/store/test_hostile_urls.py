"""Fuzzing registry URLs and texts: no secret is shown, and SQL in a text is only text."""

from __future__ import annotations

import traceback
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sqlalchemy.engine import URL
from sqlalchemy.exc import OperationalError

from hyperplug.entities import Example
from hyperplug.errors import ConfigError, HyperplugError, RegistryError
from hyperplug.naming import DEFAULT_NAMESPACE, description_digest
from hyperplug.store import Store, open_store
from hyperplug.store.engine import open_engine, parse_url
from hyperplug.store.failures import masked, reported
from tests.store.samples import EMBEDDER, add, new_task, vector

FUZZ = settings(max_examples=200, deadline=None, derandomize=True)
# A core that stands nowhere else, in characters that upset the parsing of a URL.
AWKWARD = st.text(st.sampled_from("@:/?#&=%+ []'\"\\\n\té\u202e*!~$"), max_size=6)
SECRETS = st.builds(lambda head, tail: f"{head}zQ7z{tail}", AWKWARD, AWKWARD)
PLACES = st.sampled_from(
    [
        "postgresql://user:{}@host/db",
        "postgresql+psycopg://:{}@host:5432/db",
        "postgres://host/db?user=u&password={}",
        "postgresql://host/db?sslpassword={}&password={}",
        "postgresql://host/db?token={}",
        "postgresql://user:{}@[::1]:5432/db",
        "postgresql://user:{}@[::1/db",
        "postgresql://user:{}@host:port/db",
        "postgresql://user:{}",
        "postgresql:user:{}@host/db",
        "postgresql:/user:{}@host/db",
        "user:{}@host/db",
        "//user:{}@host/db",
        "mysql://user:{}@host/db",
        "mysql://host/db?pwd={}",
        "oracle+nothing://user:{}@host/db?password={}",
        "sqlite://user:{}@host/x.db",
        "://user:{}@host",
    ]
)
HOSTILE_TEXTS = [
    "100% of them",
    "a_b",
    "it's",
    "'; DROP TABLE task; --",
    '"; DELETE FROM task; --',
    "\\",
    "\\' OR 1=1 --",
    "$1 :name %s %(name)s ? {0} ${x}",
    "[a-z]*",
    "line\nbreak\tand tab",
    "\u202eright to left",
    "😀 é 漢",
    "/* comment */ -- comment",
]


def shown_by(url: str) -> str:
    """Returns all that is shown of a URL: its masked form, or its error with the traceback."""
    try:
        parsed = parse_url(url)
    except ConfigError as error:
        assert error.hint and str(error).isprintable()
        # A traceback shows lines of source, too, but no values of variables.
        return "".join(traceback.format_exception(error)) + repr(error)
    return masked(parsed) + repr(parsed.set(query={})) + str(parsed.set(query={}))


@given(st.text(st.characters(), max_size=60))
@FUZZ
def test_arbitrary_text_is_no_url(text: str) -> None:
    assume("sqlite" not in text and "postgres" not in text)
    with pytest.raises(ConfigError):
        parse_url(text)


@given(
    st.sampled_from(["sqlite://", "sqlite:///", "postgresql://", "postgresql+psycopg://u:p@"]),
    st.text(st.sampled_from("ab/:@?&=%[]~.#+ \n\0\ud800é;,*1"), max_size=40),
)
@FUZZ
def test_arbitrary_text_after_a_scheme_never_crashes(scheme: str, rest: str) -> None:
    shown_by(scheme + rest)


@given(PLACES, SECRETS)
@FUZZ
def test_a_password_is_never_shown_unescaped_or_not(place: str, secret: str) -> None:
    for written in (secret, quote(secret, safe=""), quote_plus(secret)):
        # A '?', '/' or '&' ends the password: the rest of it is then host or option, unknowably.
        if written != secret or not set("?/&#=") & set(secret):
            assert "zQ7z" not in shown_by(place.replace("{}", written))


@given(SECRETS)
@FUZZ
def test_a_raw_password_in_a_malformed_url_is_never_shown(secret: str) -> None:
    for place in ("user:{}@host/db", "postgresql:{}@host/db", "postgresql://u:{}@h:x", "//u:{}@h"):
        url = place.replace("{}", secret)
        try:
            parse_url(url)
        except ConfigError as error:
            if "malformed" in error.message:
                assert "zQ7z" not in "".join(traceback.format_exception(error))


@given(SECRETS, SECRETS)
@FUZZ
def test_what_a_driver_repeats_of_a_password_is_masked(one: str, other: str) -> None:
    url = URL.create(
        "postgresql+psycopg",
        "user",
        one,
        "host",
        database="db",
        query={"password": (one, other), "sslpassword": other + one},
    )
    said = f"x{'y' * 290} {one} {other} {other + one}"
    with pytest.raises(RegistryError) as caught, reported(url):
        raise OperationalError("SELECT 1", {}, OSError(said.replace("\n", " ")))
    single_line = [secret.replace("\n", " ") for secret in (one, other)]
    if single_line == [one, other]:
        assert "zQ7z" not in str(caught.value)
    assert "zQ7z" not in masked(url)
    assert len(str(caught.value)) < 600


def test_a_password_cut_off_by_the_limit_of_a_message_is_masked() -> None:
    url = parse_url("postgresql://user:s3cret-s3cret@host/db")
    for padding in range(280, 301):
        with pytest.raises(RegistryError) as caught, reported(url):
            raise OperationalError("", {}, OSError("x" * padding + "s3cret-s3cret"))
        assert "s3" not in str(caught.value)


@pytest.mark.parametrize(
    "rest",
    ["~nosuchuser/x.db", "a\0b", "{}/x.db?timeout=abc", "{}/x.db?check_same_thread=maybe"],
)
def test_an_unusable_path_or_option_is_a_config_error(tmp_path: Path, rest: str) -> None:
    with pytest.raises(ConfigError) as caught:
        open_store(f"sqlite:///{rest.format(tmp_path)}")
    assert caught.value.hint and str(caught.value).isprintable()


@pytest.mark.parametrize("name", ["x" * 300, "\ud800", "no\nsuch\x1b[2J/\0", "x" * 5000])
def test_a_hostile_file_name_never_crashes(tmp_path: Path, name: str) -> None:
    with pytest.raises(HyperplugError) as caught:
        open_store(f"sqlite:///{tmp_path}/{name}")
    assert str(caught.value).isprintable()


@given(st.dictionaries(st.text("abc_", min_size=1, max_size=4), st.text(max_size=5), max_size=2))
@settings(max_examples=60, deadline=None, derandomize=True)
@pytest.mark.filterwarnings("ignore:Query string")
def test_arbitrary_options_of_a_postgres_url_never_crash(options: dict[str, str]) -> None:
    url = URL.create("postgresql+psycopg", "u", "zQ7z", "h", database="d", query=options)
    engine = open_engine(url, create=False)
    assert "zQ7z" not in repr(engine) + masked(engine.url)
    engine.dispose()


@pytest.mark.postgres
def test_a_store_shows_no_secret(postgres_url: str) -> None:
    joint = "&" if "?" in postgres_url else "?"
    store = open_store(f"{postgres_url.replace(':@', ':zQ7z@')}{joint}sslpassword=zQ7z")
    assert "zQ7z" not in store.url + repr(store)
    store.close()


def test_sql_in_a_description_is_stored_and_found_as_text(store: Store) -> None:
    for number, text in enumerate(HOSTILE_TEXTS):
        store.add_task(
            new_task(f"task-{number}", text), embedder_id=EMBEDDER, embedding=vector(1, 0, 0)
        )
    assert store.count_tasks(namespace=DEFAULT_NAMESPACE) == len(HOSTILE_TEXTS)
    for number, text in enumerate(HOSTILE_TEXTS):
        found = store.find_task_by_text(description_digest(text), namespace=DEFAULT_NAMESPACE)
        assert found is not None and (found.name, found.description) == (f"task-{number}", text)


def test_sql_and_a_nul_in_an_example_are_stored_as_text(store: Store) -> None:
    examples = tuple(Example(input=text, output="a\0b") for text in HOSTILE_TEXTS)
    task = replace(new_task("sums"), examples=examples)
    store.add_task(task, embedder_id=EMBEDDER, embedding=vector(1, 0, 0))
    found = store.get_task("sums", namespace=DEFAULT_NAMESPACE)
    assert found is not None and found.examples == examples


def test_sql_in_a_name_tag_or_namespace_is_stored_and_found_as_text(store: Store) -> None:
    for text in HOSTILE_TEXTS:
        name, tag, namespace = (f"{kind}{text}"[:63] for kind in "abc")
        store.add_task(
            new_task(name, f"Do {text}", namespace=namespace, tags=(tag,)),
            embedder_id=EMBEDDER,
            embedding=vector(1, 0, 0),
        )
        found = store.get_task(name, namespace=namespace)
        assert found is not None and (found.name, found.tags) == (name, (tag,))
        assert store.count_tasks(namespace=namespace) == 1


@pytest.mark.parametrize("wildcard", ["%", "_", "s_ms", "s%", "*", "sums' OR '1'='1", "s?ms", ".*"])
def test_a_wildcard_matches_only_itself(store: Store, wildcard: str) -> None:
    add(store, "sums")
    assert store.get_task(wildcard, namespace=DEFAULT_NAMESPACE) is None
    assert store.get_task("sums", namespace=wildcard) is None
    assert store.list_adapters(namespace=DEFAULT_NAMESPACE, task_name=wildcard) == []
    assert store.get_adapter(wildcard, namespace=DEFAULT_NAMESPACE) is None
    nearest = store.nearest(
        vector(1, 0, 0), embedder_id=wildcard, namespace=DEFAULT_NAMESPACE, limit=1
    )
    assert nearest == []
    with pytest.raises(HyperplugError):
        store.remove_task(wildcard, namespace=DEFAULT_NAMESPACE)
    assert store.count_tasks(namespace=DEFAULT_NAMESPACE) == 1


@pytest.mark.parametrize("text", ["\ud800", "a\0b"])
def test_what_a_database_cannot_hold_never_crashes(store: Store, text: str) -> None:
    task = new_task(text, "x")
    try:
        store.add_task(task, embedder_id=EMBEDDER, embedding=vector(1, 0, 0))
        found = store.get_task(text, namespace=DEFAULT_NAMESPACE)
        assert found is not None and found.name == text
    except RegistryError as error:
        assert str(error).isprintable()
    add(store, "sums")
    assert store.get_task("sums", namespace=DEFAULT_NAMESPACE) is not None

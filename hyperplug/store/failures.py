"""Turns what a database driver says into one line and a remedy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from hyperplug.errors import RegistryError, RegistryUnreachableError

_BY_SQLSTATE = {
    "28P01": "check the user and password in the registry URL",
    "28000": "check the user and password in the registry URL",
    "3D000": "create the database first, or correct its name in the URL",
    "42501": "grant the URL's user the right to do that",
    "25006": "the server is a read-only replica; use the primary's URL",
    "53100": "free space on the database server",
    "53300": "too many connections; raise max_connections or run fewer servers",
    "55P03": "another process is writing; try again when it has ended",
    "40P01": "try again",
    "57P01": "the server is stopping; try again when it is back",
    "58P01": "install pgvector on the database server",
    "0A000": "install pgvector on the database server",
}
_SCHEMA_HINT = "the schema is damaged; run: hyperplug db check"
_BY_TEXT = (
    ("locked", "another process is writing; try again when it has ended"),
    ("readonly", "make the file and its folder writable, or choose another registry"),
    ("disk is full", "free space on the disk; nothing was half-written"),
    ("no space left", "free space on the disk; nothing was half-written"),
    ("disk i/o error", "check the disk; restore the file from a backup if it is damaged"),
    ("unable to open database file", "check that the folder exists and is writable"),
    ("not a database", "the file is something else or is damaged; give another path"),
    ("malformed", "the file is damaged; restore it from a backup"),
    ("no such table", _SCHEMA_HINT),
    ("no such column", _SCHEMA_HINT),
    ("does not exist", _SCHEMA_HINT),
    ("id_range", "no adapter id below 2^31 is left; start a new registry"),
    ("reached maximum value of sequence", "no adapter id is left; start a new registry"),
    ("foreign key", "store the base model and the hypernetwork before the adapter"),
    ("too big", "the value is larger than the database takes"),
)
_UNREACHABLE = (
    "check that the database server is running and that the URL's host and port are right"
)


@contextmanager
def reported(url: URL) -> Iterator[None]:
    """Raises RegistryError in place of whatever the database or its driver raises."""
    try:
        yield
    except SQLAlchemyError as exc:
        raise _registry_error(exc, url) from exc
    except UnicodeEncodeError as exc:
        raise RegistryError("the text is not valid UTF-8", hint="save it as UTF-8") from exc


def masked(url: URL) -> str:
    """Returns the URL for display, without a password in any place that takes one."""
    secrets = {key: "***" for key in url.query if _is_secret(key)}
    if secrets:
        url = url.update_query_dict(secrets)
    return url.render_as_string(hide_password=True).replace("%2A%2A%2A", "***")


def _registry_error(error: SQLAlchemyError, url: URL) -> RegistryError:
    cause = _one_line(error)
    hint = _hint(error, cause)
    # The longest first: one may be a part of another.
    for secret in sorted({str(url.password or ""), *_query_secrets(url)}, key=len, reverse=True):
        if secret:
            cause = cause.replace(secret, "***")
    kind = RegistryUnreachableError if _is_lost(error, hint) else RegistryError
    return kind(f"registry {masked(url)}: {cause[:300]}", hint=hint)


def _is_lost(error: SQLAlchemyError, hint: str) -> bool:
    """Returns whether the server was away, and may be back in a moment."""
    broke_off = isinstance(error, DBAPIError) and error.connection_invalidated
    sqlstate = getattr(getattr(error, "orig", None), "sqlstate", None) or ""
    return broke_off or hint == _UNREACHABLE or sqlstate.startswith(("08", "57P"))


def _one_line(error: SQLAlchemyError) -> str:
    """Returns the driver's own first line; SQLAlchemy's would hold statement and values."""
    if isinstance(error, PoolTimeoutError):
        return "all connections are in use"
    text = str(error.orig) if isinstance(error, DBAPIError) else str(error)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def _hint(error: SQLAlchemyError, cause: str) -> str:
    origin = getattr(error, "orig", None)
    sqlstate = getattr(origin, "sqlstate", None)
    if sqlstate in _BY_SQLSTATE:
        return _BY_SQLSTATE[sqlstate]
    # libpq gives no SQLSTATE for a refused connection, only the server's or its own words.
    lowered = cause.lower()
    if any(words in lowered for words in ("password authentication", "no password", 'role "')):
        return _BY_SQLSTATE["28P01"]
    if 'database "' in lowered and "does not exist" in lowered:
        return _BY_SQLSTATE["3D000"]
    if type(origin).__module__.startswith("psycopg") and sqlstate is None:
        return _UNREACHABLE
    for fragment, hint in _BY_TEXT:
        if fragment in lowered:
            return hint
    if isinstance(error, IntegrityError):
        return "another process changed the same rows; try again"
    if isinstance(error, PoolTimeoutError):
        return "use fewer threads, or try again"
    return "run: hyperplug doctor"


def _is_secret(key: str) -> bool:
    return any(word in key.lower() for word in ("pass", "pwd", "secret", "token"))


def _query_secrets(url: URL) -> Iterator[str]:
    for key, value in url.query.items():
        if _is_secret(key):
            yield from (value,) if isinstance(value, str) else value

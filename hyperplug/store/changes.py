"""Learning that somebody else has written to a registry."""

from __future__ import annotations

import contextlib
import time
from types import TracebackType
from typing import Any, Self

from sqlalchemy import Engine, text
from sqlalchemy.exc import SQLAlchemyError

from hyperplug.store.engine import CHANNEL

_POLL_SECONDS = 0.2
_COUNT = text("SELECT changes FROM registry")


class ChangeFeed:
    """Waits for writes by any process. For use by one thread.

    PostgreSQL says so by itself; SQLite is asked five times a second. While the database
    is away, waiting goes on.

    Attributes:
        away: whether the database did not answer the last time.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._listens = engine.dialect.name == "postgresql"
        self._connection: Any = None
        self._seen: int | None = None
        self.away = False
        self._refresh()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Gives the connection back; one that is lost is dropped."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(SQLAlchemyError):  # it may end a transaction in vain
                connection.close()

    def wait(self, seconds: float) -> bool:
        """Returns whether something was written since the last call, as soon as it is known."""
        deadline = time.monotonic() + seconds
        while True:
            if self._refresh():
                return True
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            self._pause(left)

    def _refresh(self) -> bool:
        """Returns whether the count of writes is another than it was."""
        try:
            if self._listens and self._connection is None:
                self._connection = self._listening()
            with self._engine.connect() as connection:
                count = connection.execute(_COUNT).scalar_one()
        except SQLAlchemyError:
            self.away = True
            self.close()
            return False
        self.away = False
        changed = self._seen is not None and count != self._seen
        self._seen = count
        return changed

    def _listening(self) -> Any:
        """Returns a connection of its own that PostgreSQL tells of writes."""
        connection = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        connection.execute(text(f"LISTEN {CHANNEL}"))
        connection.detach()
        return connection

    def _pause(self, left: float) -> None:
        """Waits until PostgreSQL says something, or for a moment."""
        if self._connection is None:
            time.sleep(min(left, _POLL_SECONDS))
            return
        import psycopg

        driver: psycopg.Connection = self._connection.connection.dbapi_connection
        try:
            for _ in driver.notifies(timeout=left, stop_after=1):
                return
        except psycopg.Error:  # the server has gone, maybe for long
            self.close()

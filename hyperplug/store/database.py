"""What the parts of the store share: the engine, and patience with a server that restarts."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Concatenate, ParamSpec, TypeVar

from sqlalchemy import Engine

from hyperplug.errors import RegistryUnreachableError
from hyperplug.store.failures import masked

P = ParamSpec("P")
T = TypeVar("T")
D = TypeVar("D", bound="Database")

_FIRST_PAUSE_SECONDS = 0.05
_LONGEST_PAUSE_SECONDS = 1.0


class Database:
    """An open database.

    Attributes:
        url: where it is, with the password masked.
        actor: who writes, for the record.
        patience_seconds: how long a call tries again while the server cannot be reached.
    """

    def __init__(self, engine: Engine, *, actor: str = "") -> None:
        self._engine = engine
        self.actor = actor[:255]
        self.url = masked(engine.url)
        self.patience_seconds = 10.0


def retried(method: Callable[Concatenate[D, P], T]) -> Callable[Concatenate[D, P], T]:
    """Lets a call be made again while the server is away: every call is one transaction.

    A transaction whose commit got no answer may be made twice; no call minds.
    """

    @functools.wraps(method)
    def call(self: D, /, *args: P.args, **kwargs: P.kwargs) -> T:
        pause = _FIRST_PAUSE_SECONDS
        deadline: float | None = None
        while True:
            try:
                return method(self, *args, **kwargs)
            except RegistryUnreachableError:
                now = time.monotonic()
                deadline = deadline or now + self.patience_seconds
                if now + pause > deadline:
                    raise
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    return call

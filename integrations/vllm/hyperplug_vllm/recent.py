"""Resolutions that still hold, because nothing was written to the registry since."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable

from hyperplug.entities import Resolution
from hyperplug.errors import NotFoundError
from hyperplug.store import Store

_MAX_KEPT = 4096
_MAX_UNKNOWN = 1024
_UNKNOWN_SECONDS = 5.0
_WAIT_SECONDS = 0.3


class RecentResolutions:
    """Answers for what was asked before, until any process writes to the registry.

    A thread of its own learns of writes; they count within a second. Should it end, nothing
    is kept any more. That a name means nothing is kept too, but for seconds only. Safe for
    threads.
    """

    def __init__(self, store: Store, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._clock = clock
        self._lock = threading.Lock()
        self._kept: OrderedDict[Hashable, Resolution] = OrderedDict()
        self._unknown: OrderedDict[Hashable, tuple[float, NotFoundError]] = OrderedDict()
        self._epoch = 0
        self._ended = threading.Event()
        self.away = False
        self._watching = True
        self._thread = threading.Thread(target=self._watch, name="hyperplug-watch", daemon=True)
        self._thread.start()

    @property
    def epoch(self) -> int:
        """Counts the times that something was written."""
        return self._epoch

    def get(self, key: Hashable) -> Resolution | None:
        """Returns what was kept, if it still holds."""
        with self._lock:
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
            return found

    def put(self, key: Hashable, resolution: Resolution, *, epoch: int) -> None:
        """Keeps a resolution that was begun in that epoch, unless that is over."""
        with self._lock:
            if epoch == self._epoch and self._watching:
                self._kept[key] = resolution
                self._kept.move_to_end(key)
                while len(self._kept) > _MAX_KEPT:
                    self._kept.popitem(last=False)

    def check_known(self, key: Hashable) -> None:
        """Raises again what was raised for a name a moment ago, if that still holds."""
        with self._lock:
            until, error = self._unknown.get(key, (0.0, None))
        if error is not None and self._clock() < until:
            raise _anew(error)

    def put_unknown(self, key: Hashable, error: NotFoundError, *, epoch: int) -> None:
        """Keeps what was raised for a name that was looked up in that epoch."""
        with self._lock:
            if epoch == self._epoch:
                self._unknown[key] = (self._clock() + _UNKNOWN_SECONDS, _anew(error))
                self._unknown.move_to_end(key)
                while len(self._unknown) > _MAX_UNKNOWN:
                    self._unknown.popitem(last=False)

    def forget(self) -> None:
        """Drops all that is kept: something was written."""
        with self._lock:
            self._epoch += 1
            self._kept.clear()
            self._unknown.clear()

    def close(self) -> None:
        """Ends the thread."""
        self._ended.set()

    def _watch(self) -> None:
        try:
            with self._store.watch() as feed:
                while not self._ended.is_set():
                    if feed.wait(_WAIT_SECONDS):
                        self.forget()
                    self.away = feed.away
        finally:
            self._watching = False
            self.forget()


def _anew(error: NotFoundError) -> NotFoundError:
    """Returns the same error without a traceback, which would hold on to what was at work."""
    return type(error)(error.message, hint=error.hint)

"""Resolutions that still hold, because nothing was written to the registry since."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable

from hyperplug.entities import Resolution
from hyperplug.store import Store

_MAX_KEPT = 4096
_WAIT_SECONDS = 0.3


class RecentResolutions:
    """Answers for what was asked before, until any process writes to the registry.

    A thread of its own learns of writes; they count within a second. Safe for threads.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._kept: OrderedDict[Hashable, Resolution] = OrderedDict()
        self._epoch = 0
        self._ended = threading.Event()
        self.away = False
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
            if epoch == self._epoch:
                self._kept[key] = resolution
                self._kept.move_to_end(key)
                while len(self._kept) > _MAX_KEPT:
                    self._kept.popitem(last=False)

    def forget(self) -> None:
        """Drops all that is kept: something was written."""
        with self._lock:
            self._epoch += 1
            self._kept.clear()

    def close(self) -> None:
        """Ends the thread."""
        self._ended.set()

    def _watch(self) -> None:
        with self._store.watch() as feed:
            while not self._ended.is_set():
                if feed.wait(_WAIT_SECONDS):
                    self.forget()
                self.away = feed.away

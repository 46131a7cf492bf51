"""How much of a server one tenant may take: new adapters a minute."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from hyperplug_vllm.answers import QuotaError


class Allowance:
    """So many in a minute, all at once if need be. Safe for threads."""

    def __init__(self, per_minute: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_minute = per_minute
        self._clock = clock
        self._lock = threading.Lock()
        self._left = float(per_minute)
        self._since = clock()

    def take(self) -> None:
        """Takes one.

        Raises:
            QuotaError: if there is none left; it says when there will be.
        """
        with self._lock:
            now = self._clock()
            rate = self._per_minute / 60
            self._left = min(self._per_minute, self._left + (now - self._since) * rate)
            self._since = now
            if self._left < 1:
                raise QuotaError(
                    f"over {self._per_minute} new tasks a minute",
                    hint="ask for registered tasks, or try again later",
                    retry_seconds=(1 - self._left) / rate,
                )
            self._left -= 1

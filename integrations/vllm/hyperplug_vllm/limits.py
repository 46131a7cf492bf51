"""How much of a server one tenant may take: new texts and new tasks a minute."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from hyperplug_vllm.answers import QuotaError

_FEW = 5


class Allowance:
    """So many in a minute, of which what comes in ten seconds at once. Safe for threads.

    Args:
        of: what is counted, as an error is to call it.
    """

    def __init__(
        self,
        per_minute: int,
        *,
        of: str = "new tasks",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._per_minute = per_minute
        self._of = of
        self._clock = clock
        self._lock = threading.Lock()
        self._at_once = float(min(per_minute, max(_FEW, per_minute // 6)))
        self._left = self._at_once
        self._since = clock()

    def take(self) -> None:
        """Takes one.

        Raises:
            QuotaError: if there is none left; it says when there will be.
        """
        with self._lock:
            now = self._clock()
            rate = self._per_minute / 60
            self._left = min(self._at_once, self._left + (now - self._since) * rate)
            self._since = now
            if self._left < 1:
                raise QuotaError(
                    f"over {self._per_minute} {self._of} a minute",
                    hint="ask for registered tasks, or try again later",
                    retry_seconds=(1 - self._left) / rate,
                )
            self._left -= 1

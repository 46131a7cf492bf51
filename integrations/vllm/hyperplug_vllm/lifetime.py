"""Ties the life of a process to that of its parent, so that no orphan keeps the memory.

vLLM's engine is a child of its API server, and stays for good if that is killed outright.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal

_PR_SET_PDEATHSIG = 1


def end_with_parent() -> None:
    """Has Linux kill this process when the one that started it through `multiprocessing` ends.

    vLLM calls it in each of its processes, as a general plugin. The first of them was started
    by a shell or a service manager, and may outlive that.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    if not parent.is_alive():
        os.kill(os.getpid(), signal.SIGKILL)
    if os.getppid() == parent.pid:  # not so if a fork server is in between
        signal_on_parent_death(signal.SIGKILL)


def signal_on_parent_death(number: signal.Signals) -> None:
    """Asks Linux to send this process a signal when its parent ends; elsewhere nothing can."""
    with contextlib.suppress(OSError, AttributeError):
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)

"""What is done in each of vLLM's processes as it starts.

Its life is tied to that of its parent, so that no orphan keeps the memory: vLLM's engine is a child
of its API server, and stays for good if that is killed outright. And vLLM is mended.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import sys

from hyperplug.errors import HyperplugError
from hyperplug_vllm.contract import MIDDLEWARE, PLUGIN_NAME, Way

_PR_SET_PDEATHSIG = 1


def enter_process() -> None:
    """What vLLM calls in each of its processes, as a general plugin."""
    from hyperplug_vllm import compat
    from hyperplug_vllm.mending import mend

    try:
        mend()
    except Exception:  # a vLLM that is laid out otherwise; the contract test would have told
        logging.getLogger(compat.LOGGER_NAME).exception("vLLM's known faults are not mended")
    end_with_parent()


def end_with_parent() -> None:
    """Has Linux kill this process when the one that started it through `multiprocessing` ends.

    The first of vLLM's processes was started by a shell or a service manager, and may outlive
    that; there the release is looked at, since one without endpoint plugins would serve no tasks
    and not say so.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        if PLUGIN_NAME in os.environ.get("VLLM_PLUGINS", "").split(","):
            _look_at_release()
        return
    if not parent.is_alive():
        os.kill(os.getpid(), signal.SIGKILL)
    if os.getppid() == parent.pid:  # not so if a fork server is in between
        signal_on_parent_death(signal.SIGKILL)


def _look_at_release() -> None:
    """Ends an unsupported release with one line, and names the flag that older ones need."""
    from hyperplug_vllm import compat

    compat.init_logging()
    log = logging.getLogger(compat.LOGGER_NAME)
    try:
        way = compat.require_supported()
    except HyperplugError as exc:
        log.error("hyperplug cannot start: %s", exc)
        raise SystemExit(exc.exit_code) from None
    if way is Way.MIDDLEWARE and MIDDLEWARE not in " ".join(sys.argv):
        log.warning("this vLLM serves no tasks without the flag --middleware %s", MIDDLEWARE)


def signal_on_parent_death(number: signal.Signals) -> None:
    """Asks Linux to send this process a signal when its parent ends; elsewhere nothing can."""
    with contextlib.suppress(OSError, AttributeError):
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)

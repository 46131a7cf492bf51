"""What a server does now and then: renews its lease, and keeps its library within bounds."""

from __future__ import annotations

import asyncio
import logging

from hyperplug.adapters.leases import HEARTBEAT_SECONDS, Lease
from hyperplug.adapters.library import Library
from hyperplug.errors import HyperplugError
from hyperplug_vllm.compat import LOGGER_NAME
from hyperplug_vllm.live import LiveAdapters

_log = logging.getLogger(LOGGER_NAME)


async def keep_house(live: LiveAdapters, library: Library, *, max_folders: int) -> None:
    """Renews the lease of what is loaded and trims the library, until it is cancelled."""
    lease = Lease(library.root)
    try:
        while True:
            await _once(live, library, lease, max_folders=max_folders)
            await asyncio.sleep(HEARTBEAT_SECONDS)
    finally:
        lease.release()


async def _once(live: LiveAdapters, library: Library, lease: Lease, *, max_folders: int) -> None:
    folders = live.folders()
    try:
        await asyncio.to_thread(lease.hold, folders)
        trimmed = await asyncio.to_thread(library.trim, keep=max_folders)
    except HyperplugError as exc:  # serving goes on
        _log.warning("%s", exc)
        return
    if trimmed:
        _log.info("deleted %d published folders, over the limit of %d", trimmed, max_folders)

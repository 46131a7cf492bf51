"""Runs an ASGI application's start and end, as uvicorn does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any


@asynccontextmanager
async def started(app: Any) -> AsyncIterator[str]:
    """Starts `app` and yields what it answered, "lifespan.startup.complete" if it runs."""
    to_app: asyncio.Queue[dict[str, str]] = asyncio.Queue()
    from_app: asyncio.Queue[Any] = asyncio.Queue()
    scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}
    running = asyncio.create_task(app(scope, to_app.get, from_app.put))
    await to_app.put({"type": "lifespan.startup"})
    answer = str((await from_app.get())["type"])
    try:
        yield answer
    finally:
        if answer.endswith("complete"):
            await to_app.put({"type": "lifespan.shutdown"})
        await running

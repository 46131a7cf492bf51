"""A reverse proxy in miniature: each request goes to the next server that takes it."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager

import httpx
import uvicorn
from hyperplug_vllm.process import free_port
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

SERVED_BY = "x-served-by"
_OWN_HEADERS = frozenset({"content-length", "transfer-encoding", "connection", "host"})


@contextmanager
def balanced(targets: Sequence[str]) -> Iterator[str]:
    """Yields the URL behind which the targets take turns; answers say whose they are.

    A server that cannot be reached is passed over. The header SERVED_BY holds the number of
    the one that answered.
    """
    server = uvicorn.Server(
        uvicorn.Config(_app(targets), port=free_port(), log_level="error", lifespan="on")
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.config.port}"
    finally:
        server.should_exit = True
        thread.join(timeout=30)


def _app(targets: Sequence[str]) -> Starlette:
    turns = itertools.count()

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with httpx.AsyncClient(timeout=300) as app.state.client:
            yield

    async def forward(request: Request) -> Response:
        turn = next(turns)
        body = await request.body()
        headers = [(k, v) for k, v in request.headers.items() if k not in _OWN_HEADERS]
        for number in ((turn + shift) % len(targets) for shift in range(len(targets))):
            url = f"{targets[number]}{request.url.path}"
            try:
                answer = await request.app.state.client.request(
                    request.method, url, params=request.query_params, content=body, headers=headers
                )
            except httpx.TransportError:
                continue
            kept = {k: v for k, v in answer.headers.items() if k not in _OWN_HEADERS}
            kept |= {SERVED_BY: str(number)}
            return Response(answer.content, status_code=answer.status_code, headers=kept)
        return Response("no server answers", status_code=502)

    methods = ["GET", "POST", "DELETE"]
    return Starlette(routes=[Route("/{path:path}", forward, methods=methods)], lifespan=lifespan)

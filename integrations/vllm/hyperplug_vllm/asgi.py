"""Small tools for pure ASGI middleware: read a body, replay it, add response headers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = Sequence[tuple[bytes, bytes]]


def path_of(scope: Scope) -> str:
    """Returns the request's path as routes know it, without the server's root path."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


def header_values(scope: Scope, name: bytes) -> list[bytes]:
    """Returns all values of a request header; `name` is in lower case."""
    return [value for key, value in scope["headers"] if key.lower() == name]


async def read_body(receive: Receive) -> bytes | None:
    """Returns the whole request body, or None if the client left before its end."""
    chunks: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        chunks.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(chunks)


def replaying(body: bytes, receive: Receive) -> Receive:
    """Returns a `receive` that yields `body` first, then what the server still has to say."""
    pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return pending.pop() if pending else await receive()

    return replay


def with_body(scope: Scope, body: bytes) -> Scope:
    """Returns a copy of `scope` whose headers fit a replaced body."""
    length = (b"content-length", str(len(body)).encode())
    kept = [
        (key, value)
        for key, value in scope["headers"]
        if key.lower() not in (b"content-length", b"transfer-encoding")
    ]
    return {**scope, "headers": [*kept, length]}


def adding_headers(send: Send, headers: Headers) -> Send:
    """Returns a `send` that adds headers to the response, streamed or not."""

    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), *headers]}
        await send(message)

    return send_with_headers


async def respond(send: Send, status: int, body: bytes, headers: Headers = ()) -> None:
    """Sends a whole JSON response."""
    start = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        *headers,
    ]
    await send({"type": "http.response.start", "status": status, "headers": start})
    await send({"type": "http.response.body", "body": body})

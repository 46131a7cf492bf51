"""vLLM's list of models, less what a tenant must not see."""

from __future__ import annotations

import json
from collections.abc import Callable

from hyperplug_vllm.asgi import Message, Send

PATH = "/v1/models"


def listing(send: Send, allowed: Callable[[str], bool]) -> Send:
    """Returns a `send` that takes models out of a JSON list, or hides a single one.

    Args:
        allowed: says of a model's name whether it may be shown.
    """
    start: list[Message] = []
    chunks: list[bytes] = []

    async def send_filtered(message: Message) -> None:
        if message["type"] == "http.response.start":
            start.append(message)
            return
        chunks.append(message.get("body", b""))
        if message.get("more_body", False):
            return
        begun, body = start[0], b"".join(chunks)
        if begun["status"] == 200:
            status, body = _filtered(body, allowed)
            begun = {**begun, "status": status}
        kept = [(k, v) for k, v in begun.get("headers", ()) if k.lower() != b"content-length"]
        headers = [*kept, (b"content-length", str(len(body)).encode())]
        await send({**begun, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return send_filtered


def _filtered(body: bytes, allowed: Callable[[str], bool]) -> tuple[int, bytes]:
    content = json.loads(body)
    if isinstance(content.get("data"), list):
        content["data"] = [one for one in content["data"] if allowed(str(one.get("id")))]
    elif not allowed(str(content.get("id"))):
        error = {"message": "no such model", "type": "NotFoundError", "code": 404}
        return 404, json.dumps({"error": error}).encode()
    return 200, json.dumps(content).encode()

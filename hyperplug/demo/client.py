"""A client of an OpenAI-compatible server, on the standard library."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field

from hyperplug.errors import ServerError

MAX_TOKENS = 40
STEPS = ("embed", "lookup", "generate", "publish", "load")
_TIMEOUT_SECONDS = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the server said, and what its headers tell about how.

    Attributes:
        model: the adapter's immutable name, or the base model's.
        decision: "" for a request that was not hyperplug's.
        step_ms: milliseconds by step; see `STEPS`.
        answer_ms: milliseconds from sending the request to having the answer.
    """

    text: str
    model: str
    decision: str
    score: float | None
    adapter: str
    answer_ms: float
    step_ms: Mapping[str, float] = field(default_factory=dict)


def ask(base_url: str, *, model: str, text: str) -> Answer:
    """Returns the greedy answer to one user message.

    Raises:
        ServerError: if the server is gone or refuses.
    """
    body = {
        "model": model,
        "messages": [{"role": "user", "content": text}],
        "temperature": 0,
        "max_tokens": MAX_TOKENS,
    }
    request = urllib.request.Request(
        f"{base_url}/v1/chat/completions",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    started = time.perf_counter()
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as response:
            content = json.load(response)
            headers = response.headers
    except urllib.error.HTTPError as exc:
        said = exc.read(2000).decode("utf-8", errors="replace")
        raise ServerError(f"the server answered {exc.code} to {model!r}: {said}") from exc
    except OSError as exc:
        raise ServerError(f"the server does not answer: {exc}") from exc
    score = headers.get("x-hyperplug-score")
    return Answer(
        text=str(content["choices"][0]["message"]["content"] or "").strip(),
        model=str(content["model"]),
        decision=headers.get("x-hyperplug-decision", ""),
        score=float(score) if score else None,
        adapter=headers.get("x-hyperplug-adapter", ""),
        answer_ms=(time.perf_counter() - started) * 1000,
        step_ms=parse_timing(headers.get("x-hyperplug-timing", "")),
    )


def parse_timing(header: str) -> dict[str, float]:
    """Returns milliseconds by step from "embed;dur=12.1, lookup;dur=0.4"."""
    steps = {}
    for part in header.split(","):
        name, _, duration = part.strip().partition(";dur=")
        if duration:
            steps[name] = float(duration)
    return steps

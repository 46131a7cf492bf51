"""A real vLLM server with a home of its own, which can be killed and started again in place."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
from hyperplug_vllm.process import ServerProcess, free_port
from hyperplug_vllm.serve import plan, with_port

from hyperplug.config import load_settings

PROMPT = "A wonderful, warm and funny film that I could watch again and again."
_ARGUMENTS = ("--max-model-len", "512", "--dtype", "float32")


class Replica:
    """One of several servers on a registry.

    Attributes:
        http: a client of this server alone.
        home: its folder; its adapters are published in it.
    """

    def __init__(self, home: Path, *, registry_url: str, arguments: tuple[str, ...] = ()) -> None:
        self.home = home
        settings = load_settings(home=home, registry_url=registry_url)
        planned = plan(None, (*_ARGUMENTS, *arguments), settings=settings)
        self._launch = with_port(planned, free_port())
        self._starts = 0
        self.process = self._new_process()
        self.http = httpx.Client(base_url=self.url, timeout=300)

    @property
    def url(self) -> str:
        """Its address, the same after a restart."""
        return self.process.base_url

    @property
    def library(self) -> Path:
        """The folder of its published adapters."""
        return self.home / "library"

    def start(self) -> None:
        """Starts it, also anew, and returns when it answers."""
        self.process.stop()
        self.process = self._new_process()
        self.process.__enter__()

    def published(self) -> dict[str, tuple[int, int]]:
        """Returns inode and time of every file of its adapters: what was written anew differs."""
        files = (file for file in self.library.rglob("adapter_*") if file.is_file())
        states = {str(file.relative_to(self.library)): file.stat() for file in files}
        return {name: (state.st_ino, state.st_mtime_ns) for name, state in states.items()}

    def stop(self) -> None:
        """Ends it."""
        self.http.close()
        self.process.stop()

    def kill(self, pid: int) -> None:
        """Kills one of its processes outright, and waits until none is left of the server."""
        group = self.process.pid
        os.kill(pid, signal.SIGKILL)
        until(lambda: not group_of(group), seconds=60)

    def ask(self, model: str, *, http: httpx.Client | None = None, **body: Any) -> httpx.Response:
        """Asks for a chat completion at temperature 0."""
        headers = body.pop("headers", None)
        content = {
            "model": model,
            "messages": [{"role": "user", "content": PROMPT}],
            "max_tokens": 6,
            "temperature": 0,
            **body,
        }
        return (http or self.http).post("/v1/chat/completions", json=content, headers=headers)

    def serving(self, task: str, *, http: httpx.Client | None = None) -> str:
        """Returns the adapter that serves a task just now; no text is generated for that."""
        answered = (http or self.http).post("/v1/hyperplug/warm-up", json={"tasks": [task]})
        assert answered.status_code == 200, answered.text
        name: str = answered.json()["data"][0]["model"]
        return name

    def health(self) -> httpx.Response:
        """Asks how it is."""
        return self.http.get("/v1/hyperplug/health")

    def ids_of(self, adapter: str) -> set[int]:
        """Returns the ids under which the engine was given an adapter, from the log."""
        digest = adapter.rpartition("@")[2]
        found: set[int] = set()
        for log in self.home.glob("server-*.log"):
            text = log.read_text("utf-8", errors="replace")
            found |= {int(i) for i in re.findall(rf"loaded adapter id (\d+) digest {digest}", text)}
        return found

    def _new_process(self) -> ServerProcess:
        self._starts += 1
        return ServerProcess(self._launch, log=self.home / f"server-{self._starts}.log")


def answer(response: httpx.Response) -> str:
    """Returns what the model said."""
    assert response.status_code == 200, response.text
    text: str = response.json()["choices"][0]["message"]["content"]
    return text


def facts(response: httpx.Response) -> tuple[str | None, str]:
    """Returns the adapter that served a request, and what the model said."""
    return response.headers.get("x-hyperplug-adapter"), answer(response)


def metric(http: httpx.Client, name: str, **labels: str) -> float:
    """Returns the sum of a metric's series that have these labels, whatever others they have."""
    from prometheus_client.parser import text_string_to_metric_families

    values = [
        sample.value
        for family in text_string_to_metric_families(http.get("/metrics").text)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    ]
    assert values, name
    return float(sum(values))


def until(condition: Callable[[], object], *, seconds: float = 30.0) -> float:
    """Waits until something holds, and returns after how many seconds it did."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < seconds, "it never came to that"
        time.sleep(0.05)
    return time.monotonic() - started


def group_of(leader: int) -> dict[int, str]:
    """Returns the running processes of a process group, by id with the name that they show."""
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, own_group = stat.read_text().rpartition(")")[2].split()[:3]
            if int(own_group) == leader and state != "Z":
                shown = stat.with_name("cmdline").read_bytes().replace(b"\0", b" ")
                found[int(stat.parent.name)] = shown.decode(errors="replace")
    return found

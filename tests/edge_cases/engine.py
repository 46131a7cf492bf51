"""vLLM's rules about adapters, as its release 0.32 has them, without a model."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from pathlib import Path
from typing import Any

from hyperplug.adapters.peft_format import WEIGHTS_FILE
from tests.integrations.vllm.engine import Client

_TOKENS = 3
_HALF_WRITTEN = "half-written"


class Rank:
    """One engine: it does one thing at a time, and reads what it lacks from the disk.

    An id that it holds is never read again. A load that fails halfway leaves its id behind.
    Where there is room for no more, what was used the longest ago goes, in use or not.

    Attributes:
        held: the digest of the weights of each id, the last used at the end.
        read: the ids that were read from the disk, in order.
        fail: ids whose loading breaks off halfway.
        stuck: whether removing fails.
        running: how many requests are answered with each id.
    """

    def __init__(self, room: int | None = None) -> None:
        self._room = room
        self.held: dict[int, str] = {}
        self.read: list[int] = []
        self.fail: set[int] = set()
        self.stuck = False
        self.running: Counter[int] = Counter()
        self._loop = asyncio.Lock()

    async def add(self, request: Any) -> bool:
        """Holds an adapter."""
        async with self._loop:
            await asyncio.sleep(0)
            number = request.lora_int_id
            if number not in self.held:
                self.read.append(number)
                data = (Path(request.lora_path) / WEIGHTS_FILE).read_bytes()
                self.held[number] = _HALF_WRITTEN
                if number in self.fail:
                    raise RuntimeError("the copy broke off")
                self.held[number] = hashlib.sha256(data).hexdigest()
            self.held[number] = self.held.pop(number)
            while self._room is not None and len(self.held) > self._room:
                del self.held[next(iter(self.held))]
            return True

    async def step(self, request: Any) -> str:
        """Returns the weights with which a token is computed."""
        await self.add(request)
        return self.held[request.lora_int_id]

    async def remove(self, number: int) -> bool:
        """Lets go of an adapter."""
        async with self._loop:
            await asyncio.sleep(0)
            if self.stuck:
                raise RuntimeError("no answer")
            return self.held.pop(number, None) is not None


class VllmRules(Client):
    """Stands for `EngineClient` before one engine or several data-parallel ones.

    Attributes:
        requests: all that was to be loaded.
        taken_away: ids that were removed while a request was answered with them.
        answered: how many requests were.
        most_loads: the most loads that went on at once.
        go_on: while it is not set, requests hold on to their adapters.
    """

    def __init__(self, *, ranks: int = 1, room: int | None = None) -> None:
        super().__init__()
        self.ranks = [Rank(room) for _ in range(ranks)]
        self.requests: list[Any] = []
        self.taken_away: list[int] = []
        self.answered = 0
        self.most_loads = 0
        self.go_on = asyncio.Event()
        self.go_on.set()
        self._loads = 0

    async def add_lora(self, request: Any) -> bool:
        """Loads an adapter everywhere; tells what the first engine says, as vLLM does."""
        self.calls.append(("add", request.lora_int_id))
        self.requests.append(request)
        self._loads += 1
        self.most_loads = max(self.most_loads, self._loads)
        try:
            await self.pause.wait()
            return (await asyncio.gather(*(rank.add(request) for rank in self.ranks)))[0]
        finally:
            self._loads -= 1

    async def remove_lora(self, lora_id: int) -> bool:
        """Removes an adapter everywhere."""
        self.calls.append(("remove", lora_id))
        if any(rank.running[lora_id] for rank in self.ranks):
            self.taken_away.append(lora_id)
        return (await asyncio.gather(*(rank.remove(lora_id) for rank in self.ranks)))[0]

    async def run(self, request: Any) -> str | None:
        """Answers with an adapter, by the engines in turn: they read what they lack."""
        rank = self.ranks[self.answered % len(self.ranks)]
        self.answered += 1
        number = getattr(request, "lora_int_id", None)
        if number is None:  # the base, or an adapter from the command line
            await self.go_on.wait()
            return None
        rank.running[number] += 1
        try:
            await self.go_on.wait()
            tokens = {await rank.step(request) for _ in range(_TOKENS)}
            return " and ".join(tokens)
        finally:
            rank.running[number] -= 1

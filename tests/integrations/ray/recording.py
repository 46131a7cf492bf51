"""A replica that writes down what it was asked, imported by Ray's processes as well."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hyperplug_ray.server import TaskServer
from ray import serve

FOLDER = "HYPERPLUG_TEST_RECORDS"
"""The variable that names the folder of records, one file a replica."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One request: the replica that answered, vLLM's name and id for what answered, the text."""

    replica: str
    pid: int
    model: str
    lora_id: int | None
    text: str


class RecordingServer(TaskServer):
    """Keeps a record of each chat that is not streamed."""

    async def chat(self, request: Any, raw_request_info: Any = None) -> AsyncIterator[Any]:
        """Answers as any replica does."""
        async for part in super().chat(request, raw_request_info):
            if hasattr(part, "choices"):
                self._write(part)
            yield part

    def _write(self, answer: Any) -> None:
        loaded = self.engine._oai_models.lora_requests.get(answer.model)
        replica = serve.get_replica_context().replica_id.unique_id
        line = {
            "replica": replica,
            "pid": os.getpid(),
            "model": answer.model,
            "lora_id": loaded.lora_int_id if loaded is not None else None,
            "text": answer.choices[0].message.content,
        }
        with (Path(os.environ[FOLDER]) / replica).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def records(folder: Path) -> list[Record]:
    """Returns what all replicas wrote so far."""
    return [
        Record(**json.loads(line))
        for file in folder.iterdir()
        for line in file.read_text("utf-8").splitlines()
    ]

"""What the layers below the adapters give for a sequence, computed once and kept in a file.

The lower layers have no adapters, so their output for given tokens never changes. Kept on
disk it also serves the next run on the same base model: comparators, curves, a resumed run.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import struct
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor

from hyperplug.errors import ConfigError
from hyperplug.hypernet.data import TokenSequence
from hyperplug.hypernet.frozen import FrozenBase

_RECORD = struct.Struct("<16sqq")  # digest of the tokens, offset, bytes


class LowerStates:
    """The lower layers' output by token sequence, within a budget of bytes.

    Args:
        base: whose lower layers are run for what is missing.
        budget_bytes: when it is used up, further sequences are computed each time.
        file: where to keep it; None for a file that is gone when the process ends. Two
            processes may not share one.
    """

    def __init__(self, base: FrozenBase, *, budget_bytes: int, file: Path | None = None) -> None:
        self._base = base
        self._budget = budget_bytes
        self._places: dict[bytes, tuple[int, int]] = {}
        self._end = 0
        self._data, self._index = _open(file)
        self._read_index()

    def batch(self, sequences: Sequence[TokenSequence], token_ids: Tensor) -> Tensor:
        """Returns the input of the first adapted layer, (rows, length, hidden).

        Args:
            token_ids: the sequences padded on the right, (rows, length).
        """
        digests = [_digest(sequence) for sequence in sequences]
        missing = [row for row, digest in enumerate(digests) if digest not in self._places]
        width = self._base.hidden_size
        out = torch.zeros(*token_ids.shape, width, dtype=self._base.dtype)  # (rows, length, hidden)
        for row, sequence in enumerate(sequences):
            if row not in missing:
                out[row, : len(sequence)] = self._get(digests[row]).view(-1, width)
        if missing:
            states = self._base.lower(token_ids[missing].to(self._base.device)).cpu()
            for row, state in zip(missing, states, strict=True):
                size = len(sequences[row])
                out[row, :size] = state[:size]
                self._put(digests[row], state[:size])
        return out.to(self._base.device)

    def close(self) -> None:
        """Lets go of the files."""
        self._data.close()
        self._index.close()

    def _get(self, digest: bytes) -> Tensor:
        offset, size = self._places[digest]
        raw = bytearray(os.pread(self._data.fileno(), size, offset))
        return torch.frombuffer(raw, dtype=self._base.dtype)

    def _put(self, digest: bytes, state: Tensor) -> None:
        raw = state.contiguous().view(torch.uint8).numpy().tobytes()
        if self._end + len(raw) > self._budget:
            return
        try:
            os.pwrite(self._data.fileno(), raw, self._end)
            self._index.write(_RECORD.pack(digest, self._end, len(raw)))
        except OSError:  # a full disk ends the caching, not the run
            self._budget = 0
            return
        self._places[digest] = (self._end, len(raw))
        self._end += len(raw)

    def _read_index(self) -> None:
        """Takes over what an earlier run kept; a record cut off by a kill is dropped."""
        raw = self._index.read()
        written = os.fstat(self._data.fileno()).st_size
        self._index.seek(len(raw) // _RECORD.size * _RECORD.size)
        for digest, offset, size in _RECORD.iter_unpack(raw[: self._index.tell()]):
            if offset + size <= written:
                self._places[digest] = (offset, size)
                self._end = max(self._end, offset + size)


def keep_states(frozen: FrozenBase, *, gib: float, file: Path | None = None) -> LowerStates | None:
    """Returns a store of so many GiB; None where it does not pay: a GPU is faster without."""
    if not frozen.can_split or not gib or frozen.device.type != "cpu":
        return None
    return LowerStates(frozen, budget_bytes=int(gib * 2**30), file=file)


def states_file(folder: Path, base: FrozenBase, *, fingerprint: str) -> Path:
    """Returns the file in `folder` for that base model, split and number format."""
    kind = str(base.dtype).removeprefix("torch.")
    return folder / f"{fingerprint[:16]}-{base.split}-{kind}.states"


def _open(file: Path | None) -> tuple[IO[bytes], IO[bytes]]:
    """Returns the open data and index files. Raises ConfigError if another run has them open."""
    if file is None:
        return tempfile.TemporaryFile(), tempfile.TemporaryFile()
    file.parent.mkdir(parents=True, exist_ok=True)
    index = file.with_suffix(".index")
    for path in (file, index):
        path.touch()
    opened = file.open("r+b", buffering=0), index.open("r+b", buffering=0)
    try:
        fcntl.flock(opened[1], fcntl.LOCK_EX | fcntl.LOCK_NB)  # released when it is closed
    except BlockingIOError as exc:
        for one in opened:
            one.close()
        raise ConfigError(
            f"another run uses the cache in {file.parent}",
            hint="wait for it, or name another folder with --cache-dir",
        ) from exc
    return opened


def _digest(sequence: TokenSequence) -> bytes:
    ids = np.array(sequence.prompt + sequence.answer, dtype=np.int64)
    return hashlib.blake2b(ids.tobytes(), digest_size=16).digest()

"""Reading safetensors that may be hostile: everything is checked before it is allocated."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hyperplug.errors import InvalidAdapterError

MAX_HEADER_BYTES = 2**20
MAX_DIMENSIONS = 32  # what every numpy can hold; an adapter's matrices have two
_ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2}
_HINT = "fetch or export the adapter again"


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorEntry:
    """Where one tensor lies in the file: `start` and `end` count from the file's begin."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def read_tensors(data: bytes) -> dict[str, NDArray[np.float32]]:
    """Returns the tensors of a safetensors file as float32, in the file's order.

    float32, float16 and bfloat16 are read; each widens to float32 without loss.

    Raises:
        InvalidAdapterError: if the bytes are not a complete, consistent safetensors file.
    """
    return {entry.name: _read(data, entry) for entry in read_header(data)}


def read_header(data: bytes) -> list[TensorEntry]:
    """Returns the entries of a safetensors header, checked to tile the file exactly.

    Raises:
        InvalidAdapterError: as `read_tensors`.
    """
    if len(data) < 8:
        raise _invalid(f"is truncated: {len(data)} bytes")
    (header_bytes,) = struct.unpack("<Q", data[:8])
    if header_bytes > MAX_HEADER_BYTES:
        raise _invalid(f"claims a header of {header_bytes:,} bytes, over {MAX_HEADER_BYTES:,}")
    begin = 8 + header_bytes
    if begin > len(data):
        raise _invalid(f"is truncated: its header ends at {begin:,} of {len(data):,} bytes")
    header = _parse_header(data[8:begin])
    entries = [
        _entry(name, value, begin) for name, value in header.items() if name != "__metadata__"
    ]
    _check_layout(entries, begin=begin, size_bytes=len(data))
    return entries


def _parse_header(raw: bytes) -> Mapping[str, Any]:
    try:
        header = json.loads(raw.decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as exc:
        raise _invalid("has a header that is not valid JSON") from exc
    if not isinstance(header, dict):
        raise _invalid("has a header that is not a JSON object")
    return header


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key occurs twice")
    return result


def _entry(name: str, value: Any, begin: int) -> TensorEntry:
    try:
        dtype, shape, (start, end) = value["dtype"], value["shape"], value["data_offsets"]
    except (TypeError, KeyError, ValueError) as exc:
        raise _invalid(f"describes tensor {name[:120]!r} in no known way") from exc
    if not isinstance(dtype, str) or dtype not in _ITEM_BYTES:
        raise _invalid(
            f"holds {str(dtype)[:20]!r} in tensor {name[:120]!r}; only F32, F16 and BF16 are read",
            hint="save the adapter in float16 or float32",
        )
    if not _is_shape(shape):
        raise _invalid(f"gives tensor {name[:120]!r} an impossible shape")
    if not _is_size(start) or not _is_size(end):
        raise _invalid(f"gives tensor {name[:120]!r} impossible offsets")
    expected_bytes = _ITEM_BYTES[dtype]
    for size in shape:
        expected_bytes *= size
    if end - start != expected_bytes:
        raise _invalid(f"gives tensor {name[:120]!r} {end - start:,} bytes, not {expected_bytes:,}")
    return TensorEntry(
        name=name, dtype=dtype, shape=tuple(shape), start=begin + start, end=begin + end
    )


def _is_shape(value: object) -> bool:
    """Returns whether `value` is a shape whose number of elements is cheap to compute."""
    return (
        isinstance(value, list)
        and len(value) <= MAX_DIMENSIONS
        and all(_is_size(size) and size > 0 for size in value)
    )


def _is_size(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _check_layout(entries: list[TensorEntry], *, begin: int, size_bytes: int) -> None:
    """Refuses tensors that overlap, leave gaps or lie outside of the file."""
    if not entries:
        raise _invalid("holds no tensor")
    ordered = sorted(entries, key=lambda entry: entry.start)
    last = ordered[-1].end
    if last > size_bytes:
        raise _invalid(f"is truncated: {size_bytes:,} bytes, where its header claims {last:,}")
    if ordered[0].start != begin or any(a.end != b.start for a, b in pairwise(ordered)):
        raise _invalid("has tensors that overlap or leave gaps")
    if last != size_bytes:
        raise _invalid(f"has {size_bytes - last:,} bytes after its last tensor")


def _read(data: bytes, entry: TensorEntry) -> NDArray[np.float32]:
    raw = memoryview(data)[entry.start : entry.end]
    if entry.dtype == "BF16":
        # bfloat16 is the upper half of a float32.
        wide = np.frombuffer(raw, dtype="<u2").astype(np.uint32) << 16
        return wide.view(np.float32).reshape(entry.shape)
    dtype = "<f4" if entry.dtype == "F32" else "<f2"
    return np.frombuffer(raw, dtype=dtype).astype(np.float32).reshape(entry.shape)


def _invalid(what: str, *, hint: str = _HINT) -> InvalidAdapterError:
    message = f"the safetensors file {what}"
    return InvalidAdapterError(message, problems=(message,), hint=hint)

"""Fuzzing the safetensors reader: whatever the bytes, one clear refusal and little memory."""

from __future__ import annotations

import json
import struct
import tracemalloc
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from hyperplug.adapters.safetensors_file import MAX_HEADER_BYTES, read_header, read_tensors
from hyperplug.errors import InvalidAdapterError
from tests.adapters.samples import raw_file, weights

VALID = weights(rank=1).data
FUZZ = settings(max_examples=150, deadline=None, derandomize=True)
ENTRY: dict[str, Any] = {"dtype": "F16", "shape": [1, 2], "data_offsets": [0, 4]}
BODY = b"1234"

# Values of every kind that JSON has, the awkward ones often.
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from([0, 1, 2, 4, -1, 2**31, 2**63 - 1, 2**63, 2**64, 10**300, 1.0, 4.0]),
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)


def outcome(data: bytes) -> str:
    """Returns the one-line refusal of `data`, or "" if it is read; nothing else may leave."""
    try:
        entries = read_header(data)
        tensors = read_tensors(data)
    except InvalidAdapterError as error:
        shown = str(error)
        assert error.hint and error.problems
        assert shown.isprintable() and len(shown) < 1000
        return shown
    read_bytes = sum(entry.end - entry.start for entry in entries)
    (header_bytes,) = struct.unpack("<Q", data[:8])
    assert read_bytes == len(data) - 8 - header_bytes
    assert [entry.name for entry in entries] == list(tensors)
    assert all(tensors[entry.name].shape == entry.shape for entry in entries)
    assert all(values.dtype == np.float32 for values in tensors.values())
    return ""


def peak_bytes(action: Callable[[], object]) -> int:
    """Returns the most memory that `action` held at once."""
    tracemalloc.start()
    try:
        action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@given(st.binary(max_size=200))
@FUZZ
def test_arbitrary_bytes_are_refused(noise: bytes) -> None:
    assert outcome(noise)


@given(st.binary(max_size=60), st.binary(max_size=10))
@FUZZ
def test_arbitrary_headers_of_the_right_length_are_refused(header: bytes, body: bytes) -> None:
    assert outcome(raw_file(header, body))


@given(JSON, st.binary(max_size=8))
@FUZZ
def test_arbitrary_json_as_the_header_is_refused(header: object, body: bytes) -> None:
    assert outcome(raw_file(header, body))


@given(st.dictionaries(st.text(max_size=5), JSON, max_size=3))
@FUZZ
def test_arbitrary_json_as_the_entries_is_refused(header: dict[str, object]) -> None:
    assert outcome(raw_file(header))


@given(st.sampled_from(["dtype", "shape", "data_offsets"]), JSON)
@FUZZ
def test_an_arbitrary_field_in_an_entry_never_crashes(field: str, value: object) -> None:
    refused = outcome(raw_file({"a": ENTRY | {field: value}}, BODY))
    assert refused or (ENTRY | {field: value})["data_offsets"] == [0, 4]


@given(st.lists(st.integers(0, 8 * len(VALID) - 1), min_size=1, max_size=8))
@FUZZ
def test_flipped_bits_never_crash(bits: list[int]) -> None:
    data = bytearray(VALID)
    for bit in bits:
        data[bit // 8] ^= 1 << bit % 8
    outcome(bytes(data))


@given(st.integers(0, len(VALID) - 1))
@FUZZ
def test_every_truncation_is_refused(end: int) -> None:
    assert outcome(VALID[:end])


@given(st.integers(0, len(VALID)), st.binary(min_size=1, max_size=12))
@FUZZ
def test_every_insertion_of_bytes_is_refused(position: int, inserted: bytes) -> None:
    assert outcome(VALID[:position] + inserted + VALID[position:])


@given(st.integers(0, len(VALID) - 1), st.integers(1, 40))
@FUZZ
def test_every_removal_of_bytes_is_refused(position: int, count: int) -> None:
    assert outcome(VALID[:position] + VALID[position + count :])


@given(
    st.dictionaries(
        st.text(min_size=1, max_size=20).filter(lambda name: name != "__metadata__"),
        st.lists(st.integers(1, 4), min_size=1, max_size=3),
        min_size=1,
        max_size=4,
    )
)
@FUZZ
def test_what_safetensors_writes_is_read_back_the_same(shapes: dict[str, list[int]]) -> None:
    tensors = {
        name: np.full(shape, number, np.float16)
        for number, (name, shape) in enumerate(shapes.items())
    }
    read = read_tensors(save(tensors))
    assert read.keys() == tensors.keys()
    for name, values in tensors.items():
        np.testing.assert_array_equal(read[name], values)


@given(st.integers(MAX_HEADER_BYTES + 1, 2**64 - 1))
@FUZZ
def test_a_header_length_over_the_limit_is_refused_unread(length: int) -> None:
    assert "claims a header" in outcome(struct.pack("<Q", length) + b"{" * 100)


@given(st.integers(2**30, 2**63 - 1), st.lists(st.integers(1, 2**63 - 1), max_size=40))
@FUZZ
def test_claimed_terabytes_are_refused_before_they_are_allocated(
    size: int, sizes: list[int]
) -> None:
    shape = [size, *sizes]
    count = int(np.prod(np.array(shape, dtype=object)))
    data = raw_file({"a": {"dtype": "F16", "shape": shape, "data_offsets": [0, 2 * count]}}, BODY)
    assert outcome(data)
    assert peak_bytes(lambda: outcome(data)) < 2**20


def test_a_shape_of_many_huge_sizes_is_refused_without_multiplying_them() -> None:
    shape = [2**62] * 40_000
    data = raw_file({"a": ENTRY | {"shape": shape}}, BODY)
    assert "impossible shape" in outcome(data)


@pytest.mark.parametrize("dimensions", [33, 64, 65, 1000])
def test_more_dimensions_than_numpy_has_are_refused(dimensions: int) -> None:
    shape = [1] * (dimensions - 1) + [2]
    assert "impossible shape" in outcome(raw_file({"a": ENTRY | {"shape": shape}}, BODY))


def test_as_many_dimensions_as_numpy_has_are_read() -> None:
    assert outcome(raw_file({"a": ENTRY | {"shape": [1] * 31 + [2]}}, BODY)) == ""


def test_a_million_tensors_are_refused_by_the_length_of_their_header() -> None:
    count = 2**20
    header = b"{" + b",".join(b'"%x":0' % number for number in range(count)) + b"}"
    data = raw_file(header)
    assert "claims a header" in outcome(data)
    assert peak_bytes(lambda: outcome(data)) < 2**20


def test_the_most_tensors_that_fit_take_memory_in_proportion_to_the_file() -> None:
    count = 13_000
    entries = {
        f"{n}": {"dtype": "F16", "shape": [1], "data_offsets": [2 * n, 2 * n + 2]}
        for n in range(count)
    }
    data = raw_file(entries, bytes(2 * count))
    assert outcome(data) == ""
    assert peak_bytes(lambda: read_tensors(data)) < 64 * len(data)


@pytest.mark.parametrize(
    "header",
    [
        b'{"a": %(entry)s, "a": %(entry)s}',
        b'{"a": {"dtype": "F16", "dtype": "F16", "shape": [1, 2], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F16", "shape": [1, 2], "shape": [2, 1], "data_offsets": [0, 4]}}',
        b'{"a": %(entry)s, "\\u0061": %(entry)s}',
        b'{"__metadata__": {}, "a": %(entry)s, "__metadata__": {}}',
        b'{"__metadata__": {"x": "1", "x": "2"}, "a": %(entry)s}',
    ],
)
def test_a_key_that_occurs_twice_is_refused(header: bytes) -> None:
    filled = header.replace(b"%(entry)s", json.dumps(ENTRY).encode())
    assert "not valid JSON" in outcome(raw_file(filled, BODY))


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(1, 12)), min_size=2, max_size=5))
@FUZZ
def test_overlaps_and_gaps_are_refused(spans: list[tuple[int, int]]) -> None:
    ordered = sorted((start, start + size) for start, size in spans)
    assume(any(first[1] != second[0] for first, second in pairwise(ordered)))
    header = {
        f"t{number}": {
            "dtype": "F16",
            "shape": [size],
            "data_offsets": [2 * start, 2 * (start + size)],
        }
        for number, (start, size) in enumerate(spans)
    }
    body = bytes(2 * max(end for _, end in ordered))
    assert "overlap or leave gaps" in outcome(raw_file(header, body))


@pytest.mark.parametrize("size", [-1, 0, True, False, 1.0, 1e300, 2**63, 10**400, "1", None, [1]])
def test_a_size_that_is_no_positive_whole_number_is_refused(size: object) -> None:
    assert "impossible shape" in outcome(raw_file({"a": ENTRY | {"shape": [size, 2]}}, BODY))


@pytest.mark.parametrize("offset", [-4, True, 4.0, 1e300, 2**63, 10**400, "4", None, [4]])
def test_an_offset_that_is_no_whole_number_is_refused(offset: object) -> None:
    for offsets in ([offset, 4], [0, offset]):
        assert outcome(raw_file({"a": ENTRY | {"data_offsets": offsets}}, BODY))


def test_a_number_of_half_a_million_digits_is_refused() -> None:
    shape = b'{"a": {"dtype": "F16", "shape": [' + b"9" * 500_000 + b'], "data_offsets": [0, 2]}}'
    assert "not valid JSON" in outcome(raw_file(shape, b"12"))


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'{"a":{"dtype":['])
@pytest.mark.parametrize("depth", [900, 5000, 60_000])
def test_deep_nesting_is_refused(opening: bytes, depth: int) -> None:
    assert outcome(raw_file(opening * depth))


@pytest.mark.parametrize("depth", range(850, 1001, 10))
def test_a_field_as_deep_as_the_parser_allows_is_refused(depth: int) -> None:
    nested = b"[" * depth + b"]" * depth
    for field in (b"dtype", b"shape", b"data_offsets"):
        entry = json.dumps(ENTRY).encode().replace(b'"' + field + b'":', b'"_":')
        header = b'{"a": ' + entry[:-1] + b', "' + field + b'": ' + nested + b"}}"
        assert outcome(raw_file(header, BODY))


@given(st.text(min_size=1, max_size=30))
@FUZZ
def test_names_and_types_are_never_shown_raw(text: str) -> None:
    for header in ({text: ENTRY | {"dtype": text}}, {text: 0}, {text: ENTRY | {"shape": text}}):
        outcome(raw_file(header, BODY))


def test_escapes_that_write_to_a_terminal_are_shown_as_text() -> None:
    for hostile in ("\x1b[2J", "a\nERROR forged line", "\u202e", "\ud800", "\x00"):
        shown = outcome(raw_file({hostile: ENTRY | {"dtype": hostile}}, BODY))
        assert shown and hostile not in shown

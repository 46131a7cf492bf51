"""Safetensors bytes: damaged, hostile or unfit ones are refused with one clear line."""

from __future__ import annotations

import json
import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from hyperplug.adapters import pack, validate_bytes
from hyperplug.adapters.safetensors_file import MAX_HEADER_BYTES, read_tensors
from hyperplug.errors import InvalidAdapterError
from tests.adapters.samples import BASE, MODULES, pairs, raw_file, weights

A, B = (f"base_model.model.{MODULES[0]}.lora_{factor}.weight" for factor in "AB")


def refusal(data: bytes, *, max_rank: int = 64) -> InvalidAdapterError:
    """Returns the error for these bytes; it must be one line, with a remedy."""
    with pytest.raises(InvalidAdapterError) as caught:
        validate_bytes(data, base=BASE, max_rank=max_rank)
    error = caught.value
    assert error.hint and error.problems
    assert "\n" not in str(error)
    assert len(str(error)) < 1500
    return error


def test_good_bytes_pass_unchanged() -> None:
    packed = weights()
    assert validate_bytes(packed.data, base=BASE) == packed
    assert validate_bytes(packed.data, base=None, alpha=8.0).alpha == 8.0


@pytest.mark.parametrize("end", [0, 7, 8, 100, -1])
def test_truncated_files(end: int) -> None:
    assert "truncated" in refusal(weights().data[:end]).message


@given(st.integers(0, len(weights().data) - 1), st.integers(1, 255))
@settings(max_examples=150, deadline=None)
def test_a_flipped_byte_never_crashes(position: int, change: int) -> None:
    data = bytearray(weights().data)
    data[position] ^= change
    try:
        validate_bytes(bytes(data), base=BASE)
    except InvalidAdapterError as error:
        assert error.hint


@given(st.binary(max_size=300))
@settings(max_examples=150, deadline=None)
def test_noise_is_refused(noise: bytes) -> None:
    assert refusal(noise)


def test_a_header_that_claims_terabytes_is_refused_before_allocation() -> None:
    claims = [
        struct.pack("<Q", 2**42) + b"{}",
        struct.pack("<Q", 2**64 - 1),
        raw_file({A: {"dtype": "F16", "shape": [2**20, 2**21], "data_offsets": [0, 2**42]}}, b"x"),
        raw_file({A: {"dtype": "F16", "shape": [2**62, 2**62], "data_offsets": [0, 2**125]}}),
    ]
    tracemalloc.start()
    for claim in claims:
        refusal(claim)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 10 * 2**20


def test_a_header_over_the_limit_is_not_parsed() -> None:
    padding = raw_file(b"{}" + b" " * MAX_HEADER_BYTES)
    assert "claims a header" in refusal(padding).message


@pytest.mark.parametrize(
    ("header", "body", "message"),
    [
        (b"\xff\xfe", b"", "not valid JSON"),
        (b"[" * 100_000, b"", "not valid JSON"),
        (b"[]", b"", "not a JSON object"),
        (b'{"a": 1, "a": 2}', b"", "not valid JSON"),
        ({}, b"", "no tensor"),
        ({"__metadata__": {"format": "pt"}}, b"", "no tensor"),
        ({A: 3}, b"", "no known way"),
        ({A: {"dtype": "F16", "shape": [1]}}, b"", "no known way"),
        ({A: {"dtype": "I64", "shape": [1, 1], "data_offsets": [0, 8]}}, b"12345678", "only F32"),
        ({A: {"dtype": ["F16"], "shape": [1, 1], "data_offsets": [0, 2]}}, b"12", "only F32"),
        ({A: {"dtype": "F16", "shape": [1, 0], "data_offsets": [0, 0]}}, b"", "impossible shape"),
        ({A: {"dtype": "F16", "shape": [1, True], "data_offsets": [0, 2]}}, b"12", "shape"),
        ({A: {"dtype": "F16", "shape": [1] * 65, "data_offsets": [0, 2]}}, b"12", "shape"),
        ({A: {"dtype": "F16", "shape": [2**62] * 9999, "data_offsets": [0, 2]}}, b"12", "shape"),
        ({A: {"dtype": "I\n8", "shape": [1], "data_offsets": [0, 1]}}, b"1", "'I\\n8'"),
        ({A: {"dtype": "F16", "shape": [1, 1], "data_offsets": [-2, 0]}}, b"12", "offsets"),
        ({A: {"dtype": "F16", "shape": [1, 1], "data_offsets": [0, 1]}}, b"1", "not 2"),
        ({A: {"dtype": "F16", "shape": [1, 1], "data_offsets": [2, 4]}}, b"1234", "gaps"),
        ({A: {"dtype": "F16", "shape": [1, 1], "data_offsets": [0, 2]}}, b"1234", "after its last"),
    ],
)
def test_inconsistent_headers(header: object, body: bytes, message: str) -> None:
    assert message in refusal(raw_file(header, body)).message


def test_overlapping_tensors() -> None:
    entry = {"dtype": "F16", "shape": [1, 2], "data_offsets": [0, 4]}
    other = {"dtype": "F16", "shape": [1, 2], "data_offsets": [2, 6]}
    assert "overlap" in refusal(raw_file({A: entry, B: other}, b"123456")).message


def test_bfloat16_is_read_exactly() -> None:
    values = np.array([[1.0, -2.5, 3.140625]], np.float32)
    body = (values.view(np.uint32) >> 16).astype("<u2").tobytes()
    header = {"x": {"dtype": "BF16", "shape": [1, 3], "data_offsets": [0, 6]}}
    np.testing.assert_array_equal(read_tensors(raw_file(header, body))["x"], values)


def test_half_a_pair() -> None:
    error = refusal(save({A: np.ones((4, 16), np.float16)}))
    assert "lora_A or lora_B is missing" in error.message


def test_foreign_tensors() -> None:
    tensors = {
        A: np.ones((4, 16), np.float16),
        B: np.ones((16, 4), np.float16),
        "base_model.model.lm_head.weight": np.ones((4, 4), np.float16),
    }
    assert "no LoRA matrices: base_model.model.lm_head.weight" in refusal(save(tensors)).message


def test_matrices_of_a_huge_rank_are_not_multiplied() -> None:
    data = save({A: np.zeros((2000, 16), np.float16), B: np.zeros((16, 2000), np.float16)})
    tracemalloc.start()
    assert "rank 2000 is above" in refusal(data).message
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 2**20  # the products would take 32 MB each


def test_a_vector_in_place_of_a_matrix() -> None:
    tensors = {A: np.ones(16, np.float16), B: np.ones((16, 4), np.float16)}
    assert "no LoRA matrices" in refusal(save(tensors)).message


def test_a_module_that_the_base_does_not_have() -> None:
    ones = np.ones((1, 16), np.float16)
    data = pack({"model.layers.7.self_attn.q_proj": (ones, ones.T)}, alpha=1).data
    assert "modules that example/tiny does not have" in refusal(data).message


@pytest.mark.parametrize(("size_in", "size_out"), [(8, 16), (16, 8), (32, 32), (8, 8)])
def test_a_narrower_or_wider_base(size_in: int, size_out: int) -> None:
    pair = (np.ones((2, size_in)), np.ones((size_out, 2)))
    error = refusal(pack({MODULES[0]: pair}, alpha=2).data)
    assert f"{MODULES[0]} is {size_in}->{size_out}, the base model has 16->16" in error.message
    assert "base model" in error.hint


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("factor", [A, B])
def test_values_that_are_not_finite(poison: float, factor: str) -> None:
    tensors = {A: np.ones((4, 16), np.float16), B: np.ones((16, 4), np.float16)}
    tensors[factor][1, 2] = poison
    assert "NaN or infinite" in refusal(save(tensors)).message


def test_huge_values() -> None:
    tensors = {A: np.full((4, 16), 3e38, np.float32), B: np.full((16, 4), 3e38, np.float32)}
    assert "absurdly large" in refusal(save(tensors)).message
    assert validate_bytes(pack(pairs(scale=1.0), alpha=4).data, base=BASE)


def test_two_ranks_in_one_file() -> None:
    tensors = {A: np.ones((4, 16), np.float16), B: np.ones((16, 2), np.float16)}
    assert "several ranks: [2, 4]" in refusal(save(tensors)).message


def test_a_rank_above_the_maximum_names_the_flag() -> None:
    error = refusal(weights(rank=8).data, max_rank=4)
    assert "rank 8 is above the maximum of 4" in error.message
    assert "--max-lora-rank 8" in error.hint


def test_every_problem_is_reported_and_the_line_stays_short() -> None:
    tensors = {
        f"base_model.model.model.layers.{layer}.x.lora_A.weight": np.full((65, 3), np.nan)
        for layer in range(400)
    }
    data = save({name: values.astype(np.float16) for name, values in tensors.items()})
    assert "and 397 more" in refusal(data).message


def test_an_adapter_too_large_to_be_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hyperplug.adapters.validate.MAX_WEIGHTS_BYTES", 100)
    assert "over the limit of 100" in refusal(weights().data).message


def test_metadata_is_allowed() -> None:
    data = weights().data
    (size,) = struct.unpack("<Q", data[:8])
    header = {"__metadata__": {"format": "pt"}} | json.loads(data[8 : 8 + size])
    assert validate_bytes(raw_file(header, data[8 + size :]), base=BASE).rank == 4
